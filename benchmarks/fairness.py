"""The fairness experiment of the CoMP paper (table 2) on its own data: what is left of sex, what is kept of income.

    python benchmarks/fairness.py adult_income.h5ad --csv fairness.csv
    python benchmarks/fairness.py adult_income.h5ad --methods comp --preset --csv published.csv

Of posterior means (what the paper scored) and of draws (what the penalty is about): accuracy on held-out people of a
linear and of a forest classifier of sex, beside the floor of guessing; of a linear one of income; the local silhouette
of men (k 1000) and kBET (k 100, alpha 0.01), beside what kBET is where sexes are dealt out at random. Beside them stand
the published values. Neighbours of 10,000 people, drawn once, are sought among all. Finished rows are kept in the CSV.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cellalign
from cellalign.evaluation.metrics import mixing as mix

METHODS = ["original data", "vae", "cvae", "vfae", "trvae", "comp"]
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
K, ALPHA, K_SILHOUETTE, QUERIES, TREES = 100, 0.01, 1000, 10_000, 100
COLUMNS = ["sex linear", "sex forest", "income linear", "s", "kBET", "kBET null", "seconds"]


def scores(z: np.ndarray, sex: np.ndarray, income: np.ndarray, seed: int) -> dict[str, float]:
    """What one representation [n, p] tells, of the codes [n] of sex (1 is male) and income."""
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    forest = RandomForestClassifier(TREES, random_state=seed)
    learns, tested = train_test_split(np.arange(len(z)), test_size=1 / 3, random_state=seed, stratify=sex)

    def accuracy(model: Any, y: np.ndarray) -> float:
        return model.fit(z[learns], y[learns]).score(z[tested], y[tested])

    found = {
        "sex linear": accuracy(linear, sex),
        "sex forest": accuracy(forest, sex),
        "income linear": accuracy(linear, income),
    }
    rng = np.random.default_rng(0)
    asked = np.sort(rng.permutation(len(z))[:QUERIES])
    distance, index = NearestNeighbors(n_neighbors=K_SILHOUETTE + 1).fit(z).kneighbors(z[asked])
    near = mix.Neighbours(distance[:, 1 : K + 1], index[:, 1 : K + 1])
    found["s"] = local_silhouette(distance[:, 1:], sex[index[:, 1:]] == sex[asked][:, None])[sex[asked] == 1].mean()
    found["kBET"] = mix.kbet(near, sex, ALPHA)
    found["kBET null"] = mix.kbet(near, rng.permutation(sex), ALPHA)
    return {name: float(value) for name, value in found.items()}


def local_silhouette(distance: np.ndarray, same: np.ndarray) -> np.ndarray:
    """(b - a) / max(a, b) of people [q], a and b the mean distances [q, k] to neighbours of the same and other sex."""
    n_same, n_other = same.sum(1), (~same).sum(1)
    a, b = (distance * same).sum(1) / np.maximum(n_same, 1), (distance * ~same).sum(1) / np.maximum(n_other, 1)
    s = (b - a) / np.maximum(np.maximum(a, b), 1e-12)
    return np.where(n_other == 0, 1.0, np.where(n_same == 0, -1.0, s))


def run(
    cells: anndata.AnnData, method: str, seed: int, settings: dict, preset: str | None, epochs: int | None
) -> list[dict]:
    """Rows of means and draws of one training."""
    sex, income = (cells.obs["sex"] == "Male").to_numpy(), (cells.obs["income"] == ">50K").to_numpy()
    sex, income = sex.astype(int), income.astype(int)
    if method == "original data":
        return [{"of": "features", "seconds": 0.0, **scores(np.asarray(cells.X), sex, income, seed)}]
    began = time.perf_counter()
    model = cellalign.train(
        cells,
        method=method,
        condition="sex",
        expression="any",
        preset=preset,
        epochs=epochs,
        settings=settings,
        seed=seed,
    )
    seconds = time.perf_counter() - began
    embeddings = {"means": model.embed(cells), "draws": model.embed(cells, draw=True, seed=seed)}
    return [{"of": of, "seconds": seconds, **scores(z, sex, income, seed)} for of, z in embeddings.items()]


def published() -> pd.DataFrame:
    """Table 2 of the paper, where it lies."""
    path = SHARED / "published" / "comp_adult.csv"
    if not path.is_file():
        return pd.DataFrame()
    names = {"gender_acc": "sex linear", "income_acc": "income linear", "s_k1000_male": "s", "kbet_k100_a0.01": "kBET"}
    return pd.read_csv(path, index_col=0).rename(columns=names)


def main() -> None:
    """Print mean and standard deviation over seeds, then what they stand beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default=str(SHARED / "data" / "adult_income.h5ad"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of every method")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--preset", action="store_true", help="the published settings of a method")
    parser.add_argument("--csv", type=Path, default=Path("fairness.csv"))
    options = parser.parse_args()
    from cellalign.tasks.options import key_values

    cells, settings = anndata.read_h5ad(options.file), key_values(options.set)
    key = " ".join([*options.set, *(["preset"] if options.preset else []), f"epochs={options.epochs}"])
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame(columns=["method", "seed", "settings"])
    for seed in options.seeds:
        for method in options.methods:
            if ((done["method"] == method) & (done["seed"] == seed) & (done["settings"] == key)).any():
                continue
            preset = f"{method}-adult-income" if options.preset else None
            found = pd.DataFrame(run(cells, method, seed, settings, preset, options.epochs))
            rows = found.assign(method=method, seed=seed, settings=key)
            done = pd.concat([done, rows], ignore_index=True) if len(done) else rows
            done.to_csv(options.csv, index=False)
            print(found.round(3).to_string(index=False), flush=True)
    own = done[(done["settings"] == key) & done["method"].isin(options.methods)]
    by = own.groupby(["method", "of"], sort=False)[COLUMNS]
    print((by.mean().round(3).astype(str) + " +- " + by.std().round(3).astype(str)).to_string())
    floor = max((cells.obs["sex"] == "Male").mean(), (cells.obs["sex"] != "Male").mean())
    print(f"\nfloor of sex {floor:.3f}, of income {(cells.obs['income'] == '<=50K').mean():.3f}\n")
    print(published().to_string())


if __name__ == "__main__":
    main()
