"""What a prediction's X is worth: the decoded mean, the residual transfer and draws, fitted and held out.

    python benchmarks/prediction.py kang.pp.h5ad                 # comp, scgen, trvae; seeds 0, 1, 2
    python benchmarks/prediction.py kang.pp.h5ad --methods comp --seeds 0 --part fitted
    python benchmarks/prediction.py kang.pp.h5ad --methods scgen --part held-out --set beta=0.01

Fitted: trained on all cells; energy distance to the real stimulated cells of each type with 80 of each or more, and
correlation of the change from control over all genes and over the 50 most different. Held out: every type in turn is
predicted by a model that never saw it stimulated; the predicted change starts from one half of its control cells, the
real one from the other, five splits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import cellalign

try:
    from cellalign.evaluation.metrics.response import de_genes, energy_distance, pearson
except ImportError:  # run in an earlier version, for comparison
    from cellalign.evaluation.metrics.response import de_genes, energy_distance, pearson

CONDITION, CONTROL, TARGET, LABEL = "stim", "control", "stimulated", "cell_type"
WRITTEN: dict[str, dict[str, Any]] = {"decoded": {"decoded": True}, "residual transfer": {}, "draw": {"draws": 1}}
SPLITS = 5


def dense(x: object) -> np.ndarray:
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float64)


def trained(cells: ad.AnnData, method: str, seed: int, device: str, **options: Any) -> cellalign.Model:
    return cellalign.train(cells, method=method, condition=CONDITION, label=LABEL, seed=seed, device=device, **options)


def masks(cells: ad.AnnData, kind: str) -> tuple[np.ndarray, np.ndarray]:
    own = (cells.obs[LABEL] == kind).to_numpy()
    under = cells.obs[CONDITION].astype(str).to_numpy()
    return own & (under == CONTROL), own & (under == TARGET)


def fitted(cells: ad.AnnData, kinds: list[str], method: str, seed: int, device: str, **how: Any) -> Iterator[dict]:
    model = trained(cells, method, seed, device, **how)
    x = dense(cells.X)
    for name, options in {"no change": None, **WRITTEN}.items():
        if options is not None:
            predicted = model.counterfactual(cells, to=TARGET, from_=CONTROL, seed=seed, device=device, **options)
        for kind in kinds:
            control, target = masks(cells, kind)
            de = de_genes(x[control], x[target])
            p = x[control] if options is None else dense(predicted[(predicted.obs[LABEL] == kind).to_numpy()].X)
            change, true = p.mean(0) - x[control].mean(0), x[target].mean(0) - x[control].mean(0)
            scores = {"energy": energy_distance(p, x[target]), "r": pearson(change, true)}
            scores["r of 50 DE"] = pearson(change[de], true[de])
            yield {"method": method, "seed": seed, "X": name, "type": kind, **scores}


def held_out(cells: ad.AnnData, kinds: list[str], method: str, seed: int, device: str, **how: Any) -> Iterator[dict]:
    x = dense(cells.X)
    rng = np.random.default_rng(seed)
    shifts = {k: x[masks(cells, k)[1]].mean(0) - x[masks(cells, k)[0]].mean(0) for k in kinds}
    for kind in kinds:
        control, target = masks(cells, kind)
        model = trained(cells, method, seed, device, holdout=[f"{LABEL}={kind},{CONDITION}={TARGET}"], **how)
        rows = np.flatnonzero(control)
        others = {
            name: dense(
                model.counterfactual(cells, to=TARGET, from_=CONTROL, where={LABEL: kind}, device=device, **options).X
            )
            for name, options in WRITTEN.items()
            if name != "draw"
        }
        shift = np.mean([shifts[other] for other in kinds if other != kind], axis=0)
        others["mean shift"] = x[rows] + shift
        de = de_genes(x[control], x[target])
        halves = [np.array_split(rng.permutation(len(rows)), 2) for _ in range(SPLITS)]
        for name, predicted in others.items():
            found = []
            for a, b in halves:
                change = predicted[a].mean(0) - x[rows[a]].mean(0)
                true = x[target].mean(0) - x[rows[b]].mean(0)
                found.append((pearson(change, true), pearson(change[de], true[de]), np.mean((change - true) ** 2)))
            r, r_de, mse = np.mean(found, axis=0)
            scores = {"r": r, "r of 50 DE": r_de, "mse x 1000": 1000 * mse}
            yield {"method": method, "seed": seed, "X": name, "type": kind, **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="kang_2k as `cellalign preprocess` writes it")
    parser.add_argument("--methods", default="comp,scgen,trvae")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--part", choices=["fitted", "held-out", "both"], default="both")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all methods")
    options = parser.parse_args()
    how: dict[str, Any] = {"settings": {k: json.loads(v) for k, v in (item.split("=") for item in options.set)}}
    how |= {"preset": options.preset} if options.preset else {}
    cells = ad.read_h5ad(options.input)
    kinds = [str(k) for k in cells.obs[LABEL].cat.categories if min(m.sum() for m in masks(cells, k)) >= 5]
    large = [k for k in kinds if min(m.sum() for m in masks(cells, k)) >= 80]
    rows: dict[str, list[dict]] = {"fitted": [], "held out": []}
    for seed in map(int, options.seeds.split(",")):
        for method in options.methods.split(","):
            if options.part != "held-out":
                rows["fitted"] += fitted(cells, large, method, seed, options.device, **how)
            if options.part != "fitted":
                rows["held out"] += held_out(cells, kinds, method, seed, options.device, **how)
            print(f"# {method}, seed {seed} done", flush=True)
    for title, found in rows.items():
        if found:
            table = pd.DataFrame(found)
            scores = [c for c in table.columns if c not in ("method", "seed", "X", "type")]
            by_seed = table.groupby(["method", "X", "seed"])[scores].mean()
            print(f"\n{title}: mean over types, then mean and s.d. over seeds")
            print(by_seed.groupby(["method", "X"]).agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
