"""What products in bfloat16 change: the figures of each family beside float32, three seeds each.

    python benchmarks/precision.py kang_2k.h5ad
    python benchmarks/precision.py kang_2k.h5ad --methods comp scvi --csv precision.csv

comp, cvae, trvae and scgen on real cells as in response.py, scvi on their counts, svae+ on simulated shifts
(sparse_shift.py), invae on simulated sites and donors (invariance.py). Finished rows are kept in the CSV: a second run
goes on from it. The last columns of the table are the change and the spread of the seeds in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata
import invariance
import pandas as pd
import response
import sparse_shift
import torch

import cellalign

METHODS = ["comp", "cvae", "trvae", "scgen", "scvi", "svae+", "invae"]
PRECISIONS = ["float32", "bfloat16"]


def of_scvi(cells: anndata.AnnData, seed: int, precision: Any, options: argparse.Namespace) -> dict[str, float]:
    """Mixing, cell types and the bound of cells it was not trained on."""
    model = cellalign.train(cells, method="scvi", batch=["stim"], seed=seed, precision=precision)
    embedded = cellalign.embed(cells.copy(), model)
    scored = cellalign.evaluate(
        embedded, condition="stim", label="cell_type", seed=seed, panels=["mixing", "probe"], min_cells=150
    )
    outcome = model.record.outcome
    assert outcome is not None
    return {
        "kBET": scored.value("kBET", system="all"),
        "m-kBET": scored.value("kBET", system="all", group="mean within cell types"),
        "cell type 15-NN": scored.value("15-nearest-neighbour", system="cell_type"),
        "validation ELBO": -float(model.nelbo(cells[model.validation_rows(cells)]).mean()),
        "seconds": outcome.seconds,
    }


def of_sites(seed: int, precision: Any) -> dict[str, float]:
    """inVAE as in invariance.py."""
    cells, new = invariance.cells_of(seed, 8000, 1000)
    system = invariance.SYSTEMS["inVAE"] | {"precision": precision}
    return invariance.run(system, seed, cells, new, scib=False)[""]


def of_shifts(seed: int, precision: Any, options: argparse.Namespace) -> dict[str, float]:
    """sVAE+ as in sparse_shift.py, on data as the authors' code makes it."""
    options.variant, options.particles, options.set = "code", 0, [f"precision={precision}"]
    options.interventions, options.cells = 100, 500
    return sparse_shift.run("svae+", sparse_shift.TABLES["1"][0], None, seed, options)


def run(
    method: str, cells: anndata.AnnData, seed: int, precision: Any, options: argparse.Namespace
) -> dict[str, float]:
    """The figures of one method, seed and precision."""
    if method == "scvi":
        return of_scvi(cells, seed, precision, options)
    if method == "invae":
        return of_sites(seed, precision)
    if method == "svae+":
        return of_shifts(seed, precision, options)
    options.method, options.set, options.min_cells = method, [f"precision={precision}"], 150
    return response.run(cells, seed, options)


def table(done: pd.DataFrame) -> pd.DataFrame:
    """A row per method and figure: mean (sd) of both precisions, the change, and the spread of seeds."""
    long = done.melt(["method", "seed", "precision"], var_name="figure").dropna()
    mean = long.pivot_table(index=["method", "figure"], columns="precision", values="value", aggfunc="mean", sort=False)
    spread = long.pivot_table(
        index=["method", "figure"], columns="precision", values="value", aggfunc="std", sort=False
    )
    shown = mean.map("{:.4f}".format) + spread.map(" ({:.4f})".format)
    if set(PRECISIONS) <= set(mean):
        shown["change"] = (mean["bfloat16"] - mean["float32"]).map("{:+.4f}".format)
    return shown


def main() -> None:
    """Run what is not finished, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--csv", type=Path, default=Path("precision.csv"))
    options = parser.parse_args()
    cells = cellalign.preprocess(anndata.read_h5ad(options.file), n_top_genes=2000)
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame(columns=["method", "seed", "precision"])
    for method in options.methods:
        for seed in options.seeds:
            for precision in options.precisions:
                key = {"method": method, "seed": seed, "precision": precision}
                if (done[list(key)] == pd.Series(key)).all(axis=1).any():
                    continue
                row = pd.DataFrame([key | run(method, cells, seed, precision, options)])
                done = row if done.empty else pd.concat([done, row], ignore_index=True)
                done.to_csv(options.csv, index=False)
                print(row.round(4).to_string(index=False), flush=True)
    print("\nmean (sd over seeds)\n" + table(done).to_string())
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
