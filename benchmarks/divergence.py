"""Trainings with learning rates that are far too high: what they end with, beside the default's.

    python benchmarks/divergence.py --methods vae,comp,scvi --rates 0.1,0.3,1 --seeds 3

1,000 simulated cells of 500 genes, 100 epochs. Of each run: the lowest validation loss (of methods without one
the last training loss), how often it went back, and the largest epoch's training loss over the first step's.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import cellalign  # noqa: E402
from cellalign.errors import TrainingError  # noqa: E402

METHODS = "vae,cvae,trvae,comp,svae+,scvi,scanvi,nf-ivae"


def run(cells: object, method: str, rate: float | None, seed: int) -> tuple[float, int, float] | None:
    """Loss, setbacks and the highest training loss over the first epoch's; None of a run that failed."""
    label = "cell_type" if method in ("scanvi", "scgen") else None
    try:
        model = cellalign.train(
            cells, method=method, condition="stim", label=label, lr=rate, epochs=100, early_stopping=False, seed=seed
        )
    except TrainingError:
        return None
    outcome, history = model.record.outcome, model.history
    assert outcome is not None
    loss = history[-1]["train_loss"] if outcome.validation_loss is None else outcome.validation_loss
    return loss, len(outcome.setbacks), max(row["train_loss"] for row in history) / abs(history[0]["train_loss"])


def said(found: list[tuple[float, int, float] | None]) -> str:
    """A cell of the table."""
    done = [each for each in found if each is not None]
    if not done:
        return "failed"
    losses = [loss for loss, _, _ in done]
    shown = f"{statistics.median(losses):.4g} ({min(losses):.4g} - {max(losses):.4g})"
    back = "/".join(str(setbacks) for _, setbacks, _ in done)
    failed = f", {len(found) - len(done)} failed" if len(done) < len(found) else ""
    return f"{shown}; back {back}{failed}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--rates", default="0.01,0.1,0.3,1")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    logging.getLogger("cellalign").setLevel(logging.ERROR)
    cells = cellalign.preprocess(cellalign.simulate.ifnb(n_cells=1000, n_genes=600, seed=0), n_top_genes=500)
    rates = [None, *(float(rate) for rate in asked.rates.split(","))]
    print("| method | " + " | ".join("default" if rate is None else f"{rate:g}" for rate in rates) + " | highest |")
    print("| --- |" + " --- |" * (len(rates) + 1))
    for method in asked.methods.split(","):
        found = [[run(cells, method, rate, seed) for seed in range(asked.seeds)] for rate in rates]
        highest = max(each[2] for each in found[0] if each is not None)
        print(f"| `{method}` | " + " | ".join(said(each) for each in found) + f" | {highest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
