"""Coverage and width of calibrated intervals, each group left out: types of kang_2k, replicates, doubles of Norman.

    python benchmarks/intervals.py --method linear --over all --over de

Each group is held out of a training, which calibrates itself by groups that are left, and scored as `evaluate` does.
Closed forms have no seed, so each seed takes other 90 % of the cells.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import cellalign

DATA = Path(os.environ.get("CELLALIGN_TEST_DATA") or Path(__file__).resolve().parents[1] / "shared" / "data")
SHOWN = ("coverage_all", "coverage_top", "coverage_de", "width_all", "width_de")


def some(adata: ad.AnnData, seed: int) -> ad.AnnData:
    """Nine in ten of the cells."""
    rng = np.random.default_rng(seed)
    return adata[np.sort(rng.permutation(adata.n_obs)[: int(0.9 * adata.n_obs)])].copy()


def scored(
    model: cellalign.Model,
    adata: ad.AnnData,
    to: str,
    level: float,
    over: Any,
    condition: str,
    label: str | None,
    where: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Rows of panel intervals of one held-out group."""
    predicted = model.counterfactual(adata, to=to, where=where, interval=level, interval_over=over)
    options: dict[str, Any] = {"against": adata, "condition": condition, "label": label, "panels": ["intervals"]}
    found = pd.DataFrame([row.record() for row in cellalign.evaluate(predicted, **options).rows])
    kept = found[found["group"] != "mean"]
    return kept.assign(abstain=bool(predicted.obs["abstain"].any()))


def kang(method: str, seed: int, level: float, overs: list[str], options: dict) -> Iterator[pd.DataFrame]:
    """Every cell type of kang_2k."""
    adata = some(cellalign.preprocess(ad.read_h5ad(DATA / "kang_2k.h5ad")), seed)
    for kind in [k for k in sorted(adata.obs["cell_type"].unique()) if k != "Mk"]:
        held = [f"cell_type={kind},stim=stimulated"]
        known: dict[str, Any] = {"condition": "stim", "label": "cell_type", "holdout": held, "calibrate": "cell_type"}
        model = cellalign.train(adata, method=method, seed=seed, **known, **options)
        for over in overs:
            found = scored(model, adata, "stimulated", level, over, "stim", "cell_type", {"cell_type": kind})
            yield found.assign(data="kang_2k types", over=over)


def papalexi(method: str, seed: int, level: float, overs: list[str], options: dict) -> Iterator[pd.DataFrame]:
    """Every perturbation of every replicate of the CRISPR screen of THP-1 cells."""
    adata = some(cellalign.preprocess(ad.read_h5ad(DATA / "papalexi_thp1.h5ad"), n_top_genes=0), seed)
    targets = [t for t in sorted(adata.obs["perturbation"].unique()) if t != "control"]
    for replicate in sorted(adata.obs["bio_rep"].unique()):
        held = [f"bio_rep={replicate},perturbation={target}" for target in targets]
        known: dict[str, Any] = {
            "condition": "perturbation",
            "label": "bio_rep",
            "holdout": held,
            "calibrate": "bio_rep",
        }
        model = cellalign.train(adata, method=method, seed=seed, **known, **options)
        for target in targets:
            for over in overs:
                found = scored(model, adata, target, level, over, "perturbation", "bio_rep", {"bio_rep": replicate})
                yield found.assign(data="Papalexi replicates", over=over, group=f"{target}, {replicate}")


def norman(method: str, seed: int, level: float, overs: list[str], options: dict) -> Iterator[pd.DataFrame]:
    """Every double of which both singles are there."""
    adata = ad.read_h5ad(DATA / "perturbench_devel.h5ad")
    adata = some(adata[adata.obs["cell_type"] == "k562"].copy(), seed)
    there = set(adata.obs["perturbation"].unique())
    for double in [d for d in sorted(there) if "+" in d and set(d.split("+")) <= there]:
        known: dict[str, Any] = {
            "condition": "perturbation",
            "holdout": [f"perturbation={double}"],
            "calibrate": "perturbation",
        }
        model = cellalign.train(adata, method=method, seed=seed, **known, **options)
        for over in overs:
            found = scored(model, adata, double, level, over, "perturbation", None)
            yield found.assign(data="Norman doubles", over=over)


SETS = {"kang": kang, "papalexi": papalexi, "norman": norman}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="linear")
    parser.add_argument("--data", action="append", choices=list(SETS))
    parser.add_argument("--over", action="append", choices=["all", "de"])
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--folds", type=int)
    parser.add_argument("--rows", help="write every row here (.csv)")
    asked = parser.parse_args()
    options = {k: v for k, v in {"epochs": asked.epochs, "calibrate_folds": asked.folds}.items() if v is not None}
    found = pd.concat(
        part.assign(seed=seed)
        for name in asked.data or SETS
        for seed in asked.seeds
        for part in SETS[name](asked.method, seed, asked.level, asked.over or ["all", "de"], options)
    )
    if asked.rows:
        found.to_csv(asked.rows, index=False)
    found = found[found["metric"].isin(SHOWN)]
    groups = found.pivot_table(index=["data", "over", "system", "group"], columns="metric", values="value")[list(SHOWN)]
    with pd.option_context("display.width", 160, "display.max_rows", 400):
        small = groups.groupby(level="data").filter(lambda part: len(part) < 100)
        print(small.round(3).to_string(), end="\n\n")
        each = found.groupby(["data", "over", "system", "seed", "metric"])["value"].mean()
        table = each.groupby(["data", "over", "system", "metric"]).agg(["mean", "std"]).round(4)
        print(
            table.apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}", axis=1).unstack()[list(SHOWN)].to_string()
        )


if __name__ == "__main__":
    main()
