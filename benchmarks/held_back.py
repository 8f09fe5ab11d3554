"""Mixing of cells that a model was not trained on, beside that of its training cells and of permuted conditions.

    python benchmarks/held_back.py kang_2k.h5ad --seeds 0 1 2 --set include_self=true --set floor=null

Of every seed 30 % of the cells are held back: neither trained nor validated on. A method that aligns by remembering its
cells mixes these alone. Scored are the share of the own condition among 15 neighbours and, within cell types of 60
cells and more, kBET at k = 30 (both among the held-back cells only, and beside 20 permutations of the conditions); the
same of as many training cells; cell types, told by 15 nearest training cells; the response of the held-back control
cells. With --types the stimulated cells of each type are also left out in turn and predicted. FILE holds raw counts,
obs stim (control, stimulated) and cell_type; without it cells are simulated. Finished rows are kept in the CSV.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import KNeighborsClassifier

import cellalign
from cellalign.engine.device import own_process
from cellalign.evaluation.metrics import mixing
from cellalign.tasks.options import key_values

K, LEAST, ALPHA = 30, 60, 0.1


def mixed(z: np.ndarray, obs: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Own share and m-kBET of latents among themselves, each beside its null."""
    codes, label = obs["stim"].astype("category").cat.codes.to_numpy(), obs["cell_type"].astype(str).to_numpy()
    over_all = mixing.mixed(mixing.neighbours(z, K), codes, k=K, alpha=ALPHA)
    scores, _ = mixing.by_label(z, codes, label, k=K, alpha=ALPHA, min_cells=LEAST)
    within = mixing.Mixed.mean(list(scores.values()))
    found: dict[str, float] = {}
    shown = ("own", over_all, "own share"), ("m-own", within, "own share"), ("m-kBET", within, "kBET")
    for name, scored, metric in shown:
        null, name = scored.null(metric), prefix + name
        assert null is not None
        found |= {name: scored.values[metric], f"{name} null": null.mean, f"{name} sd": null.sd}
    return found


def response(model: cellalign.Model, cells: anndata.AnnData, groups: list[str] | None = None) -> dict[str, float]:
    """r of the prediction of control cells, decoded and as residual transfer, mean over cell types."""
    found = {}
    for name, decoded in (("", False), (" decoded", True)):
        predicted = cellalign.counterfactual(cells, model, to="stimulated", decoded=decoded)
        scored = cellalign.evaluate(predicted, against=cells, panels=["response"], condition="stim", label="cell_type")
        for metric in ("r_all", "r_de", "r_change_de"):
            values = [scored.value(metric, system="prediction", group=group) for group in groups or ["mean"]]
            found[metric + name] = float(np.mean(values))
    return found


def run(cells: anndata.AnnData, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train on some cells, score the others."""
    rng = np.random.default_rng(seed)
    back = rng.random(cells.n_obs) < options.share
    old, new = cells[~back].copy(), cells[back].copy()
    plan = {"method": options.method, "condition": "stim", "seed": seed, "epochs": options.epochs}
    plan |= {"settings": key_values(options.set)}
    model = cellalign.train(old, **plan)
    z = {id(part): model.embed(part) for part in (old, new)}
    same_number = np.sort(rng.permutation(old.n_obs)[: new.n_obs])  # neighbours are then as far
    types = [part.obs["cell_type"].astype(str).to_numpy() for part in (old, new)]
    told = KNeighborsClassifier(15).fit(z[id(old)], types[0]).score(z[id(new)], types[1])
    found = mixed(z[id(new)], new.obs, "") | mixed(z[id(old)][same_number], old.obs.iloc[same_number], "trained ")
    found |= {"cell type": told} | response(model, new)
    if options.types:
        counts = pd.crosstab(cells.obs["cell_type"], cells.obs["stim"]).min(axis=1)
        rows = []
        for name in counts.index[counts >= 20]:
            held = cellalign.train(cells, holdout=[f"cell_type={name},stim=stimulated"], **plan)
            rows.append(response(held, cells, [name]))
        found |= {f"held-out type {metric}": value for metric, value in pd.DataFrame(rows).mean().items()}
    outcome = model.record.outcome
    assert outcome is not None
    return found | {"steps": outcome.steps, "seconds": outcome.seconds}


def main() -> None:
    """Run what is not finished; print mean and standard deviation over seeds."""
    own_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--method", default="comp")
    parser.add_argument("--cells", type=int, default=50_000, help="to simulate, without FILE")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.3, help="of the cells that is held back")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--types", action="store_true")
    parser.add_argument("--csv", type=Path, default=Path("held_back.csv"))
    options = parser.parse_args()
    made = anndata.read_h5ad(options.file) if options.file else None
    if made is None:
        made = cellalign.simulate.ifnb(options.cells, 3000, rare=0.002, batches=2, seed=3)
    cells = cellalign.preprocess(made, n_top_genes=options.genes)
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame()
    said = " ".join([*options.set, *([] if options.epochs is None else [f"epochs={options.epochs}"])]) or "-"
    for seed in options.seeds:
        key = {
            "method": options.method,
            "cells": cells.n_obs,
            "genes": options.genes,
            "set": said,
            "types": options.types,
            "seed": seed,
        }
        if len(done) and (done[list(key)] == pd.Series(key)).all(axis=1).any():
            continue
        row = pd.DataFrame([key | run(cells, seed, options)])
        done = pd.concat([done, row], ignore_index=True)
        done.to_csv(options.csv, index=False)
        print(row.round(3).to_string(index=False), flush=True)
    grouped = done.drop(columns="seed").groupby(["method", "cells", "genes", "set", "types"], sort=False)
    table = grouped.mean().round(3).astype(str) + " (" + grouped.std().round(3).astype(str) + ")"
    print("\nmean (standard deviation over seeds)\n" + table.T.to_string())
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
