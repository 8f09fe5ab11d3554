"""Mixing, cell types and response of a method with its defaults, per seed and mean.

    python benchmarks/response.py kang_2k.h5ad --seeds 0 1 2 --min-cells 150

FILE holds raw counts, obs stim (control, stimulated) and cell_type. With --set KEY=VALUE a default is changed: that is
how the table of what decides was made. `m-s, global neighbours` is the silhouette within types among the nearest of all
cells (CoMP eq. 58 to 60).
"""

from __future__ import annotations

import argparse
from typing import Any

import anndata
import pandas as pd
import torch

import cellalign
from cellalign.tasks.options import key_values


def run(cells: anndata.AnnData, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train, embed, predict and score once."""
    settings = key_values(options.set)
    model = cellalign.train(cells, method=options.method, condition="stim", seed=seed, settings=settings)
    scored: dict[str, Any] = {"condition": "stim", "label": "cell_type", "seed": seed}
    embedded = cellalign.embed(cells.copy(), model)
    mixed = cellalign.evaluate(embedded, panels=["mixing", "probe"], min_cells=options.min_cells, **scored)
    globally = cellalign.evaluate(
        embedded, panels=["mixing"], min_cells=options.min_cells, global_silhouette=True, **scored
    )
    responses = {
        name: cellalign.evaluate(
            cellalign.counterfactual(cells, model, to="stimulated", decoded=name != ""),
            against=cells,
            panels=["response"],
            **scored,
        )
        for name in ("", " decoded")
    }
    within = "mean within cell types"
    over_all: dict[str, tuple[str, str]] = {
        "kBET": ("kBET", "all"),
        "s": ("s", "all"),
        "m-kBET": ("kBET", within),
        "m-s": ("s", within),
    }
    scores = {name: mixed.row(metric, system="all", group=group) for name, (metric, group) in over_all.items()}
    scores["own share"] = mixed.row("own share", system="all")
    scores["validation own share"] = mixed.row("own share", system="validation cells")
    scores["m-s, global neighbours"] = globally.row("s", system="all", group=within)
    outcome = model.record.outcome
    assert outcome is not None
    return {
        **{name: row.value for name, row in scores.items()},
        **{f"{name} permuted": row.null.mean for name, row in scores.items() if row.null is not None},
        "cell type 15-NN": mixed.value("15-nearest-neighbour", system="cell_type"),
        "condition 15-NN": mixed.value("15-nearest-neighbour", system="stim"),
        **{
            m + name: response.value(m, system="prediction", group="mean")
            for name, response in responses.items()
            for m in ("r_all", "r_de", "r_change_de", "mse_change_all")
        },
        "seconds": outcome.seconds,
    }


def main() -> None:
    """Print one row per seed, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--method", default="comp")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--min-cells", type=int)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    cells = cellalign.preprocess(anndata.read_h5ad(options.file), n_top_genes=options.genes)
    table = pd.DataFrame({seed: run(cells, seed, options) for seed in options.seeds}).T
    table.loc["mean"] = table.mean()
    print(table.round(4).to_string())
    print(
        f"{options.method} {' '.join(options.set)}, {cells.n_obs} x {cells.n_vars}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
