"""What larger batches, and fewer steps, give: mixing on cells held back, cell types, response, seconds.

    python benchmarks/batches.py --cells 50000 --sizes 512 1024 2048 4096

Without FILE, which needs some 10,000 cells for mixing to be scored, cells are simulated (`simulate ifnb`). A tenth of
them is held back: neither trained nor validated on, and all scores are theirs. Epochs are those of the default batch
size unless said: with larger batches fewer steps.
Finished rows are kept in the CSV: a second run goes on from it.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

import cellalign
from cellalign.engine.device import own_process
from cellalign.engine.plan import Plan
from cellalign.tasks.options import key_values


def run(
    train: anndata.AnnData, new: anndata.AnnData, method: str, size: int, epochs: int, seed: int, settings: list[str]
) -> dict[str, float]:
    """Train on some cells, score others."""
    model = cellalign.train(
        train, method=method, condition="stim", batch_size=size, epochs=epochs, seed=seed, settings=key_values(settings)
    )
    embedded = cellalign.embed(new.copy(), model)
    scored: dict[str, Any] = {"condition": "stim", "label": "cell_type", "seed": seed}
    mixed = cellalign.evaluate(embedded, panels=["mixing", "probe"], **scored)
    predicted = cellalign.counterfactual(new, model, to="stimulated")
    response = cellalign.evaluate(predicted, against=new, panels=["response"], **scored)
    outcome = model.record.outcome
    assert outcome is not None
    return {
        "kBET": mixed.value("kBET", system="all"),
        "s": mixed.value("s", system="all"),
        "m-kBET": mixed.value("kBET", system="all", group="mean within cell types"),
        "cell type 15-NN": mixed.value("15-nearest-neighbour", system="cell_type"),
        "r_all": response.value("r_all", system="prediction", group="mean"),
        "r_de": response.value("r_de", system="prediction", group="mean"),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
    }


def main() -> None:
    """Run what is not finished; print every row, then mean and standard deviation over seeds."""
    own_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--method", default="comp")
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[Plan().batch_size])
    parser.add_argument("--epochs", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--csv", type=Path, default=Path("batches.csv"))
    options = parser.parse_args()
    if options.file:
        made = anndata.read_h5ad(options.file)
    else:
        made = cellalign.simulate.ifnb(options.cells * 10 // 9, 3000, rare=0.002, batches=2, seed=3)
    cells = cellalign.preprocess(made, n_top_genes=2000)
    held_back = np.random.default_rng(0).random(cells.n_obs) < 0.1
    train, new = cells[~held_back].copy(), cells[held_back].copy()
    default = Plan().resolve_epochs(round(0.9 * train.n_obs))
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame(columns=["set"])
    for size, epochs, seed in itertools.product(options.sizes, options.epochs or [default], options.seeds):
        key = {"method": options.method, "cells": train.n_obs, "size": size, "epochs": epochs, "seed": seed}
        key |= {"set": " ".join(options.set) or "-"}
        if len(done) and (done[list(key)] == pd.Series(key)).all(axis=1).any():
            continue
        row = pd.DataFrame([key | run(train, new, options.method, size, epochs, seed, options.set)])
        done = pd.concat([done, row], ignore_index=True) if len(done) else row
        done.to_csv(options.csv, index=False)
        print(row.round(4).to_string(index=False), flush=True)
    grouped = done.drop(columns="seed").groupby(["method", "cells", "set", "size", "epochs"], sort=False)
    print(
        "\nmean (sd over seeds)\n"
        + (grouped.mean().round(4).astype(str) + " (" + grouped.std().round(4).astype(str) + ")").to_string()
    )
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
