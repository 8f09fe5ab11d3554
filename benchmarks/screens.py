"""Screens between their anchors: predictions of many conditions on real cells, three seeds, and the anchors themselves.

    python benchmarks/screens.py perturbench_devel.h5ad papalexi_thp1.h5ad
    python benchmarks/screens.py perturbench_devel.h5ad papalexi_thp1.h5ad --seeds 0 --methods linear

K562: the five doubles whose singles are among the cells, held out, predicted by an additive rule from models of the
others; and all 33 perturbations, whose own cells the models were trained on, which is a fit and no prediction. THP-1:
half of the cells of 25 targets as a prediction of the other half, with and without controls of the same replicate.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from typing import Any

import anndata as ad
import numpy as np

import cellalign
from cellalign.evaluation.metrics.screen import SCORES

KEY = "perturbation"
DOUBLES = ["KLF1+MAP2K6", "KLF1+TGFBR2", "MAPK1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2"]
SYSTEMS = ("prediction", "mean response", "split half", "anchored")


def scored(predicted: ad.AnnData, real: ad.AnnData, seed: int, **options: Any) -> dict[tuple[str, str], float]:
    """Every value and standard error of panel screen."""
    found = cellalign.evaluate(predicted, against=real, condition=KEY, panels=["screen"], seed=seed, **options)
    for note in found.notes:
        print("#", note)
    return {(row.system, row.metric): row.value for row in found.rows}


def table(title: str, runs: list[dict[tuple[str, str], float]]) -> None:
    """Means over seeds, their standard deviation, and the mean standard error over conditions."""
    print(f"\n{title}, {len(runs)} seeds: mean (sd over seeds) ± standard error over conditions\n")
    print("| | " + " | ".join(SYSTEMS) + " |\n|" + " --- |" * (len(SYSTEMS) + 1))
    for metric in SCORES:
        cells = []
        for system in SYSTEMS:
            values = np.array([run[system, metric.name] for run in runs])
            errors = np.array([run[system, f"{metric.name}_se"] for run in runs])
            if not np.isfinite(values).any():
                cells.append("-")
                continue
            cells.append(f"{np.nanmean(values):.3f} ({np.nanstd(values):.3f}) ± {np.nanmean(errors):.3f}")
        print(f"| {metric.name} | " + " | ".join(cells) + " |")


def without_change(real: ad.AnnData, asked: Iterable[str]) -> ad.AnnData:
    """Control cells under the name of every condition: a prediction of no change."""
    control = real[real.obs[KEY] == "control"]
    parts = []
    for name in asked:
        part = control.copy()
        part.obs[KEY] = name
        part.obs_names = [f"{cell}-{name}" for cell in part.obs_names]
        parts.append(part)
    return ad.concat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("k562")
    parser.add_argument("thp1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["linear", "cvae"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    cells = ad.read_h5ad(args.k562)
    cells = cells[cells.obs["cell_type"] == "k562"].copy()
    cells.obs_names_make_unique()
    cells.obs[KEY] = cells.obs[KEY].astype(str)
    table("K562, no change", [scored(without_change(cells, DOUBLES), cells, seed) for seed in args.seeds])
    for method in args.methods:
        held, fitted = [], []
        for seed in args.seeds:
            options = {"method": method, "condition": KEY, "control": "control", "seed": seed}
            model = cellalign.train(cells, holdout=[f"{KEY}={name}" for name in DOUBLES], **options)
            held.append(scored(model.counterfactual(cells, to=DOUBLES, seed=seed), cells, seed))
            model = cellalign.train(cells, **options)
            fitted.append(scored(model.counterfactual(cells, to="all", seed=seed), cells, seed))
        table(f"K562, five doubles held out, {method}", held)
        table(f"K562, 33 perturbations, fitted, {method}", fitted)

    cells = ad.read_h5ad(args.thp1)
    cells.obs_names_make_unique()
    cells.obs[KEY] = cells.obs[KEY].astype(str)
    control = (cells.obs[KEY] == "control").to_numpy()
    for within in (None, "bio_rep"):
        runs = []
        for seed in args.seeds:
            half = np.random.default_rng(seed).random(cells.n_obs) < 0.5
            guess, rest = cells[half & ~control].copy(), cells[~half | control].copy()
            guess.obs_names = [f"half-{name}" for name in guess.obs_names]
            runs.append(scored(guess, rest, seed, within=within))
        table(f"THP-1, half of the cells, within {within}", runs)


if __name__ == "__main__":
    main()
