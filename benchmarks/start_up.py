"""What a command costs before its first own work: CPU seconds on example_data, beside importing torch and anndata.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --repeats 5 --only train embed

Every command runs in a process of its own, in turn with one that imports torch and anndata, on one thread; the table
holds medians. First work is the first call of a function that computes: a training step, a batch embedded, a score.
Cells are read and checked by then. What is imported later still is told apart. The goal is at most half a second above
torch and anndata, and one second for what needs no torch. UMAP is compiled at its first use on a machine: run twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "example_data" / "ifnb.h5ad"
GOAL, GOAL_WITHOUT_TORCH = 0.5, 1.0
IMPORTS = "import torch, anndata"

# made once for the commands that read them
PREPARED = [
    "preprocess {example} -o pp.h5ad",
    "train pp.h5ad --method comp --condition stim --epochs 1 -m comp",
    "train pp.h5ad --method svae+ --condition stim --epochs 1 -m graph",
    "embed pp.h5ad -m comp -o emb.h5ad",
    "counterfactual pp.h5ad -m comp --to stimulated -o predicted.h5ad",
    "simulate sparse-shift --interventions 6 --heldout 2 --cells 200 -o shifts.h5ad",
    "train shifts.h5ad --method svae+ --condition perturbation --holdout split=heldout --epochs 1 -m shifts",
]
STEP, EMBEDDED, SCORED = "engine.fit:_Run.step", "engine.predict:embeddings", "evaluation.run:_run"
# its words, where its first work is done, whether it needs torch
COMMANDS = [
    ("--help", "", False),
    ("methods", "cli.tables:print_rows", False),
    ("methods --metrics", "cli.tables:print_rows", False),
    ("methods comp", "cli.tables:print_rows", True),  # its settings are its class's, which is a torch module
    ("simulate ifnb --cells 200 --genes 500 -o o.h5ad", "simulate._ifnb_draws:draw_genes", False),
    ("simulate sparse-shift --interventions 4 --heldout 1 -o o.h5ad", "simulate._sparse_shift:_draw_graph", False),
    ("preprocess {example} -o o.h5ad", "data.preprocess:preprocess", False),
    ("preprocess {example} --n-top-genes 500 -o o.h5ad", "data.preprocess:preprocess", False),
    ("train pp.h5ad --condition stim --epochs 1 -m o", STEP, True),
    ("train pp.h5ad --method scvi --condition stim --epochs 1 -m o", STEP, True),
    ("train pp.h5ad --method pca --condition stim -m o", "methods.pca:PCA.fit_closed_form", True),
    ("embed pp.h5ad -m comp -o o.h5ad", EMBEDDED, True),
    ("embed pp.h5ad -m comp -o o.h5ad --umap", EMBEDDED, True),
    ("embed pp.h5ad -m comp -o o.h5ad --plot o.png", EMBEDDED, True),
    ("counterfactual pp.h5ad -m comp --to stimulated -o o.h5ad", "engine.predict:predictions", True),
    ("evaluate emb.h5ad --condition stim --label cell_type", SCORED, True),
    ("evaluate predicted.h5ad --against pp.h5ad --condition stim --label cell_type", SCORED, True),
    ("targets -m graph -o o.csv", "graph:targets", True),
    ("annotate pp.h5ad --label cell_type -m comp -o o.h5ad", EMBEDDED, True),
    ("transfer shifts.h5ad -m shifts -o o", EMBEDDED, True),
    ("tune pp.h5ad --condition stim --grid gamma=0.5 --seeds 1 --epochs 1 -m o", STEP, True),
    (
        "benchmark pp.h5ad --methods comp --epochs 1 --holdout-each cell_type --group NK --condition stim -o {new}.csv",
        STEP,
        True,
    ),
]


class Watch(MetaPathFinder):
    """Within the command's process: notes the CPU time at its first work, and that of imports from then on."""

    def __init__(self, where: str) -> None:
        module, _, self.attribute = where.partition(":")
        self.module = f"cellalign.{module}"
        self.first: float | None = None
        self.later, self.depth = 0.0, 0

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The module as any other finder finds it; its loader is wrapped."""
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Timed(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    def note(self, holder: Any, name: str) -> None:
        """Note when a function is first called."""
        function = getattr(holder, name)

        @wraps(function)
        def noting(*arguments: Any, **named: Any) -> Any:
            if self.first is None:
                self.first = time.process_time()
            return function(*arguments, **named)

        setattr(holder, name, noting)


class _Timed:
    """A loader that tells the watch how long it took."""

    def __init__(self, loader: Any, watch: Watch) -> None:
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, module: Any) -> None:
        watch = self.watch
        module.__loader__ = module.__spec__.loader = self.loader
        outermost = watch.first is not None and not watch.depth
        watch.depth += outermost
        started = time.process_time()
        try:
            self.loader.exec_module(module)
        finally:
            if outermost:
                watch.depth -= 1
                watch.later += time.process_time() - started
        if module.__name__ == watch.module:
            *holders, name = watch.attribute.split(".")
            holder = module
            for step in holders:
                holder = getattr(holder, step)
            watch.note(holder, name)


def within(report: str, where: str, words: Sequence[str]) -> None:
    """Run a command in this process and write what the watch saw."""
    watch = Watch(where)
    sys.meta_path.insert(0, watch)
    sys.argv = ["cellalign", *words]
    from cellalign.cli.app import main

    try:
        main()
    finally:
        first = time.process_time() if watch.first is None and not where else watch.first
        Path(report).write_text(json.dumps([first, watch.later]))


def measured(command: Sequence[str], folder: Path) -> float:
    """CPU seconds of a process, user and system."""
    nowhere, one_thread = subprocess.DEVNULL, _environment()
    process = subprocess.Popen(command, cwd=folder, stdout=nowhere, stderr=subprocess.PIPE, env=one_thread)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said.decode()}")
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return os.environ | one | {"PYTHONPATH": str(EXAMPLE.parent.parent)}


def baseline(folder: Path) -> float:
    """CPU seconds until torch and anndata are imported."""
    code = f"{IMPORTS}, pathlib, time; pathlib.Path('imports').write_text(str(time.process_time()))"
    measured([sys.executable, "-c", code], folder)
    return float((folder / "imports").read_text())


def run(words: str, where: str, folder: Path, number: int) -> tuple[float, float, float]:
    """CPU seconds at the first work of a command, of later imports, and of the whole process."""
    given = [word.format(example=EXAMPLE, new=f"new{number}") for word in words.split()]
    replaced = [] if given[0] in ("--help", "methods", "evaluate", "benchmark") else ["--force"]
    report = folder / "report.json"
    whole = measured([sys.executable, __file__, "--within", str(report), where, "--", *given, *replaced], folder)
    first, later = json.loads(report.read_text())
    if first is None:
        raise SystemExit(f"{words}: {where} was never called")
    return first, later, whole


def rows(repeats: int, only: Sequence[str] | None = None) -> Iterator[tuple[str, bool, float, float, float, float]]:
    """Of each command its words, whether it needs torch, and CPU seconds, medians.

    Those are of importing torch and anndata, until its first work, of later imports, and of the whole process.
    """
    chosen = [row for row in COMMANDS if only is None or set(only) & set(row[0].split())]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in PREPARED:
            measured([sys.executable, "-m", "cellalign", *words.format(example=EXAMPLE).split()], folder)
        for words, where, needs_torch in chosen:
            imports, found = [], []
            for number in range(repeats):
                imports.append(baseline(folder))
                found.append(run(words, where, folder, number))
            own = (statistics.median(column) for column in zip(*found, strict=True))
            said = words.format(example="ifnb.h5ad", new="scores")
            yield said, needs_torch, statistics.median(imports), *own  # type: ignore[misc]


def measure(repeats: int = 3) -> Iterator[tuple[str, float, float]]:
    """Of each command its words, CPU seconds that the goal is about, and the most they may be."""
    for words, needs_torch, beside, first, _, _ in rows(repeats):
        yield (words, first - beside, GOAL) if needs_torch else (words, first, GOAL_WITHOUT_TORCH)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="commands that hold one of these words")
    parser.add_argument("--within", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        report, where = options.within
        within(report, where, options.words)
        return
    print("CPU seconds, median of", options.repeats)
    print("| command | torch, anndata | first work | above | imported later | whole | |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for words, needs_torch, beside, first, later, whole in rows(options.repeats, options.only):
        missed = first - beside > GOAL if needs_torch else first > GOAL_WITHOUT_TORCH
        print(
            f"| `{words}` | {beside:.2f} | {first:.2f} | {first - beside:+.2f} | {later:.2f} | {whole:.2f} |"
            f" {'missed' if missed else ''} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
