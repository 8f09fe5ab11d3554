"""A training alone, and beside a process that keeps one core busy, under settings of how idle threads wait.

    python benchmarks/beside_busy.py --settings "" GOMP_SPINCOUNT=1000 OMP_WAIT_POLICY=passive --repeats 3

Seconds of training alone (start-up is not counted), medians of runs in turn. Without `--settings` what the command line
sets by itself, and what torch does when it is left alone. Needs a machine on which nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
EPOCHS = {"comp": 15, "cvae": 30, "scvi": 30}
BUSY = "while True: pass"
UNSET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
AS_TORCH = "KMP_BLOCKTIME=200"  # of another OpenMP: it changes nothing, but the command leaves alone who set it


def cells(folder: Path) -> Path:
    """2,000 simulated cells of 2,000 genes, preprocessed."""
    made = folder / "cells.h5ad"
    if not made.exists():
        command("simulate", "ifnb", "--cells", "2000", "--genes", "2500", "-o", str(folder / "raw.h5ad"))
        command("preprocess", str(folder / "raw.h5ad"), "-o", str(made))
    return made


def command(*words: str, setting: Mapping[str, str] | None = None) -> None:
    """Run cellalign of this checkout in a process of its own."""
    env = {key: value for key, value in os.environ.items() if key not in UNSET}
    env |= {"PYTHONPATH": str(HERE.parent)} | dict(setting or {})
    done = subprocess.run([sys.executable, "-m", "cellalign", *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def seconds(folder: Path, method: str, setting: Mapping[str, str], busy: int) -> float:
    """Of one training, beside so many busy processes."""
    model = folder / "model"
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        asked = ["--method", method, "--condition", "stim", "--epochs", str(EPOCHS[method]), "--no-early-stopping"]
        command("train", str(cells(folder)), *asked, "-m", str(model), "--force", setting=setting)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return float(yaml.safe_load((model / "model.yaml").read_text())["outcome"]["seconds"])


def compare(
    folder: Path, method: str, settings: Sequence[Mapping[str, str]], repeats: int
) -> dict[tuple[int, int], list[float]]:
    """Seconds by (place of the setting, busy processes), all in turn."""
    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(repeats):
        for place, setting in enumerate(settings):
            for busy in (0, 1):
                found.setdefault((place, busy), []).append(seconds(folder, method, setting, busy))
    return found


def measure(run: Any, method: str = "comp") -> list[Any]:
    """Rows of bench.py: beside a busy process to alone, and alone to what torch does by itself."""
    from ratios.measured import Bound, Measured

    with tempfile.TemporaryDirectory() as place:
        found = compare(Path(place), method, [{}, parsed(AS_TORCH)], 1 if run.quick else 3)
    alone, busy, left_alone = found[0, 0], found[0, 1], found[1, 0]

    def row(top: list[float], bottom: list[float], what: str, named: str, most: float) -> Measured:
        ratios = [a / b for a, b in zip(top, bottom, strict=True)]
        this, beside = (f"{statistics.median(each):.2f} s" for each in (top, bottom))
        return Measured(ratios, this, beside, what=what, named=named, bound=Bound("<=", most))

    said = f"`{method}`, {EPOCHS[method]} epochs"
    return [
        row(busy, alone, f"{said}, beside one busy process", "alone", 2.2),
        row(alone, left_alone, f"{said}, alone", "with threads that wait as torch has them wait", 1.05),
    ]


def parsed(text: str) -> dict[str, str]:
    """Of KEY=VALUE,KEY=VALUE."""
    return dict(item.split("=", 1) for item in text.split(",") if item)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=["", AS_TORCH], metavar="KEY=VALUE,KEY=VALUE")
    parser.add_argument("--methods", default=",".join(EPOCHS))
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    print("| method | setting | alone, s | beside one busy process, s | ratio |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        for method in asked.methods.split(","):
            found = compare(Path(place), method, [parsed(text) for text in asked.settings], asked.repeats)
            for i, text in enumerate(asked.settings):
                alone, busy = (statistics.median(found[i, each]) for each in (0, 1))
                print(
                    f"| {method} | {text or 'the command'} | {alone:.2f} | {busy:.2f} | {busy / alone:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
