"""Genes that differ in drawn cells beside those that differ in the real ones (Wilcoxon, BH 0.05), type by type.

    python benchmarks/drawn_de.py kang_2k.h5ad --methods local linear              # each type held out
    python benchmarks/drawn_de.py kang_2k.h5ad --methods local comp --fitted       # models of all cells
    python benchmarks/drawn_de.py kang_2k.h5ad --methods oracle                    # the observed mean as prediction

A row of genes called per type and seed, and in how many of these cases they are as many as of the real cells within a
factor of 1.5. `oracle` moves each type's control cells to the observed mean of its stimulated ones: what is still
amiss then is the draws' fault, what is not is the prediction's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from closed_forms import dense

import cellalign
from cellalign.engine.draws import moved

CONDITION, TO, LABEL, LEAST = "stim", "stimulated", "cell_type", 10
FACTOR = 1.5


def at_observed_mean(predicted: ad.AnnData, cells: ad.AnnData, kind: str, seed: int) -> ad.AnnData:
    """The cells that were predicted, moved to the mean of the real ones: what falls, falls in proportion."""
    real = cells[(cells.obs[LABEL] == kind) & (cells.obs[CONDITION] == TO)]
    before, mean = dense(cells[predicted.obs_names]), dense(real).mean(0)
    rise = mean - before.mean(0)
    part = np.minimum(mean / np.maximum(before.mean(0), 1e-9), 1)
    torch.manual_seed(seed)
    change = np.where(rise < 0, before * (part - 1), rise)
    found = predicted.copy()
    found.X = moved(torch.tensor(before), torch.tensor(change)).numpy()
    return found


def counted(predicted: ad.AnnData, cells: ad.AnnData, kind: str) -> tuple[float, float]:
    """Genes called of the drawn cells, and of the real ones."""
    found = cellalign.evaluate(predicted, against=cells, label=LABEL, panels=["de"], differential=True)
    predicted_genes, real = (
        next(row.value for row in found.rows if row.metric == m) for m in ("de_predicted", "de_real")
    )
    return predicted_genes, real


def main() -> None:
    """Print a row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--methods", nargs="+", default=["oracle", "local", "linear"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fitted", action="store_true", help="models of all cells, in place of types held out")
    options = parser.parse_args()
    cells = cellalign.preprocess(ad.read_h5ad(options.file))
    sizes = cells.obs.groupby([LABEL, CONDITION], observed=True).size().unstack(fill_value=0)
    kinds = [kind for kind in sorted(sizes.index) if sizes.loc[kind].min() >= LEAST]
    known: dict[str, Any] = {"condition": CONDITION, "label": LABEL}
    table, within = {}, {}
    for method in options.methods:
        trained = "linear" if method == "oracle" else method
        whole = cellalign.train(cells, method=trained, **known) if options.fitted or method == "oracle" else None
        cases = []
        for kind in kinds:
            held = [f"{LABEL}={kind},{CONDITION}={TO}"]
            model = whole or cellalign.train(cells, method=trained, holdout=held, **known)
            called = []
            for seed in options.seeds:
                drawn = model.counterfactual(cells, to=TO, where={LABEL: kind}, draws=1, seed=seed)
                if method == "oracle":
                    drawn = at_observed_mean(drawn, cells, kind, seed)
                called.append(counted(drawn, cells, kind))
            cases += called
            table[method, kind] = " ".join(f"{n:.0f}" for n, _ in called)
            table["real cells", kind] = f"{called[0][1]:.0f}"
            print(f"# {method}, {kind}: {table[method, kind]} of {table['real cells', kind]}", flush=True)
        within[method] = f"{sum(1 / FACTOR <= n / real <= FACTOR for n, real in cases)} of {len(cases)}"
    print(pd.Series(table).unstack().assign(**{f"within {FACTOR} times": pd.Series(within)}).fillna("").to_string())


if __name__ == "__main__":
    main()
