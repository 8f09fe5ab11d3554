"""Two versions of cellalign, this and an older one: one training by both, each in a process of its own, in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ratios.measured import Measured, Run, compared

HERE = Path(__file__).resolve().parents[2]
TRAINING = Path(__file__).resolve().with_name("one_training.py")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def real_cells(run: Run) -> Measured:
    """Whole training of comp with all defaults, seconds; a pair has one seed."""
    epochs = ["--epochs", 2] if run.quick else []
    return _compared(run, ["comp", run.data, *epochs], "seconds", run.rounds(3))


def shifts(run: Run) -> Measured:
    """Whole training of svae+ with all defaults on one thread, seconds; a pair has one seed."""
    epochs = ["--epochs", 3] if run.quick else []
    return _compared(run, ["svae+", *epochs], "seconds", run.rounds(3), threads=1)


def _compared(run: Run, training: list[Any], figure: str, rounds: int, threads: int | None = None) -> Measured:
    assert run.before is not None
    trees = HERE, run.before
    for tree in trees:  # compiled loops are kept on disk from now on
        _trained(tree, [*training, "--epochs", 1], threads)
    found: dict[Path, list[dict[str, Any]]] = {tree: [] for tree in trees}
    for seed in range(rounds):
        for tree in trees[:: -1 if seed % 2 else 1]:
            found[tree].append(_trained(tree, [*training, "--seed", seed], threads))
    this, before = found.values()
    pairs = [(a[figure], b[figure]) for a, b in zip(this, before, strict=True)]
    row = compared(pairs, lambda value: f"{value:.2f} s")
    epochs = [f"{statistics.median(r['epochs'] for r in side):g} epochs" for side in (this, before)]
    return Measured(row.values, f"{row.this}, {epochs[0]}", f"{row.beside}, {epochs[1]}")


def _trained(tree: Path, training: list[Any], threads: int | None) -> dict[str, Any]:
    """What a training with the package of this tree prints."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    if threads is not None:
        environment |= dict.fromkeys(THREADS, str(threads))
    command = [sys.executable, TRAINING, *training]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tree}: {done.stderr.strip()[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not Path(found["package"]).is_relative_to(tree):
        raise RuntimeError(f"{found['package']} was imported, which is not of {tree}")
    return found
