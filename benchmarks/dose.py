"""A dose as the condition, on simulated cells whose truth is known: does z forget it, do dose curves follow the truth?

    python benchmarks/dose.py

For each method, how well the dose follows from z (R^2 on held-out cells; VAE knows no condition), and for each dose
the correlation over genes of the predicted and the true mean change of the untreated cells, with the slope between
them. Slopes are of X and of decoded means: of what falls, X loses what a cell has none of. The truth is the mean log
expression of counts drawn at that dose: the logarithm of expected counts changes more, and by it a perfect prediction
has a slope of 0.88.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import cellalign
from cellalign import simulate

DOSES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SMALL: dict[str, Any] = {"hidden": [128, 128], "latent_dim": 10, "epochs": 120, "batch_size": 256}
DRAWS = 20  # of every cell's counts at a dose


def mean_at(cells: AnnData, dose: float, rows: np.ndarray, library: float) -> np.ndarray:
    """Mean log expression [G] of these cells at a dose, over draws of their counts."""
    rng, dispersion = np.random.default_rng(0), cells.var["truth_dispersion"].to_numpy()
    expected = simulate.expected(cells, dose, rows)
    total = np.zeros(cells.n_vars)
    for _ in range(DRAWS):
        counts = rng.poisson(expected * rng.gamma(1 / dispersion, dispersion, expected.shape))
        total += np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * library).mean(0)
    return total / DRAWS


def run(cells: AnnData, method: str, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Train, embed, predict every dose and score."""
    condition: dict[str, Any] = {} if method == "vae" else {"condition": "dose", "continuous": True}
    model = cellalign.train(cells, method=method, seed=seed, settings=settings, **condition)
    embedded = cellalign.embed(cells.copy(), model)
    embedded.uns["cellalign"]["embedding"][model.embedding_key] |= {"condition": "dose", "continuous": True}
    scored = cellalign.evaluate(embedded, condition="dose", label="cell_type", panels=["probe"], seed=seed)
    row = {
        f"dose from z, {kind}": scored.value(f"{kind} R2", system="dose")
        for kind in ("linear regression", "random forest")
    }
    row["cell type 15-NN"] = scored.value("15-nearest-neighbour", system="cell_type")
    if method == "vae":
        return row
    rows = np.flatnonzero(cells.obs["dose"] == 0)
    library = float(np.median(np.asarray(cells.layers["counts"].sum(1))))
    start = mean_at(cells, 0.0, rows, library)
    untreated = cells[rows].copy()
    for dose in DOSES:
        true = mean_at(cells, dose, rows, library) - start
        for name, decoded in (("", False), (", decoded", True)):
            at_none, at_dose = (
                cellalign.counterfactual(untreated, model, to=to, decoded=decoded).X.mean(0) for to in (0.0, dose)
            )
            found = at_dose - at_none
            row[f"r at {dose:g}{name}"] = float(np.corrcoef(true, found)[0, 1])
            row[f"slope at {dose:g}{name}"] = float(true @ found / (true @ true))
    return row


def main() -> None:
    """Print one row per method and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=["vae", "cvae", "comp"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-seed", type=int, default=0, help="of the simulated cells")
    parser.add_argument("--small", action="store_true", help="a small network, seconds per model")
    options = parser.parse_args()
    settings = SMALL if options.small else {}
    cells = cellalign.preprocess(
        simulate.ifnb(options.cells, options.genes, doses=True, seed=options.data_seed), n_top_genes=options.genes
    )
    rows = {(m, seed): run(cells, m, seed, settings) for m in options.methods for seed in options.seeds}
    table = pd.DataFrame(rows)
    print(table.round(3).to_string())
    if len(options.seeds) > 1:
        over = table.T.groupby(level=0, sort=False)
        print(pd.concat({"mean": over.mean().T, "sd": over.std().T}, axis=1).round(3).to_string())


if __name__ == "__main__":
    main()
