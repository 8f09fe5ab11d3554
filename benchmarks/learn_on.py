"""A model learns on from the cells of a new site: are they mixed with the old ones, and do those stay where they were?

    python benchmarks/learn_on.py kang_2k.h5ad --methods cvae comp scvi invae --seeds 0 1 2

The cells are dealt to three sites at random; the counts of the second and third are multiplied by factors of each
site's own (log normal by gene, sd --effect). A model is trained on two sites and meets the third as it is, with the
weights of the new site learned (`train --from`) from its cells alone or with the old ones along, with all weights
learned (`--learn all`), and beside one that is trained on all three from the start. Among 15 neighbours of a cell of
the third site, the share of that site, beside 20 permutations of the sites within cell types (mean, sd); cell types
of the third site's cells from the old cells; how far old cells moved.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

import cellalign
from cellalign.engine.device import own_process

NEIGHBOURS, PERMUTATIONS = 15, 20
COLUMNS: dict[str, dict[str, Any]] = {
    "cvae": {"condition": "site"},
    "comp": {"condition": "site"},
    "scvi": {"condition": "stim", "batch": ["site"]},
    "invae": {"batch": ["site"], "covariate": ["stim"]},
}


def at_sites(cells: anndata.AnnData, effect: float, rng: np.random.Generator) -> anndata.AnnData:
    """Raw counts as three sites would have them: of a factor below 1 a part is lost, above 1 more are drawn."""
    site = rng.permutation(cells.n_obs) % 3
    factors = np.exp(effect * rng.normal(size=(3, cells.n_vars)))
    factors[0] = 1
    x = sparse.coo_matrix(cells.X)
    factor, n = factors[site[x.row], x.col], x.data.astype(int)
    kept = np.where(factor < 1, rng.binomial(n, np.minimum(factor, 1)), n + rng.poisson(n * np.maximum(factor - 1, 0)))
    made = cells.copy()
    made.X = sparse.csr_matrix((kept.astype(np.float32), (x.row, x.col)), shape=cells.shape)
    made.X.eliminate_zeros()
    made.obs["site"] = np.array(["s0", "s1", "s2"])[site]
    return made


def scores(z: np.ndarray, obs: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Of the cells of the third site: how much they keep to themselves, and their types by those of the others."""
    kind, new = obs["cell_type"].astype(str).to_numpy(), (obs["site"] == "s2").to_numpy()
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(z).kneighbors(z, return_distance=False)[:, 1:]
    permuted = []
    for _ in range(PERMUTATIONS):
        other = new.copy()
        for name in np.unique(kind):
            rows = np.flatnonzero(kind == name)
            other[rows] = new[rng.permutation(rows)]
        permuted.append(other[near[other]].mean())
    among = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(z[~new]).kneighbors(z[new], return_distance=False)
    votes = pd.DataFrame(kind[~new][among]).mode(axis=1)[0].to_numpy()
    return {
        "own site": float(new[near[new]].mean()),
        "own site, null": float(np.mean(permuted)),
        "sd of null": float(np.std(permuted)),
        "cell type": float((votes == kind[new]).mean()),
    }


def run(cells: anndata.AnnData, method: str, seed: int, epochs: int | None, effect: float) -> Iterator[dict[str, Any]]:
    """A row for each way of dealing with the new cells."""
    made = at_sites(cells, effect, np.random.default_rng(seed))
    old, new = (made[rows].copy() for rows in (made.obs["site"] != "s2", made.obs["site"] == "s2"))
    options: dict[str, Any] = {"method": method, "seed": seed, "epochs": epochs} | COLUMNS[method]
    parent = cellalign.train(old, **options)
    before = parent.embed(old)

    def row(how: str, model: cellalign.Model, seconds: float, unseen: bool = False) -> dict[str, Any]:
        z = model.embed(old), model.embed(new, unseen=unseen)
        obs = pd.concat([old.obs, new.obs])
        found = scores(np.concatenate(z), obs, np.random.default_rng(seed))
        moved = np.nan if how == "from the start" else float(np.abs(z[0] - before).max())
        return {"method": method, "how": how, "seed": seed} | found | {"old cells moved": moved, "seconds": seconds}

    yield row("as it is", parent, 0.0, unseen=True)
    both = anndata.concat([old, new])
    ways: list[tuple[str, Any, anndata.AnnData]] = [
        ("new weights", "new", new),
        ("new weights, old cells along", "new", both),
        ("all weights, old cells along", "all", both),
    ]
    for how, learn, given in ways:
        start = time.perf_counter()
        yield row(
            how,
            cellalign.train(given, from_=parent, learn=learn, seed=seed, epochs=epochs),
            time.perf_counter() - start,
        )
    start = time.perf_counter()
    yield row("from the start", cellalign.train(both, **options), time.perf_counter() - start)


def main() -> None:
    """Print every row, then means and standard deviations over seeds."""
    own_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--methods", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--effect", type=float, default=0.5, help="how far sites differ: sd of a gene's log factor")
    options = parser.parse_args()
    logging.getLogger("cellalign").setLevel(logging.ERROR)
    cells = anndata.read_h5ad(options.file)
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        for seed in options.seeds:
            for row in run(cells, method, seed, options.epochs, options.effect):
                print(pd.Series(row).to_frame().T.to_string(header=not rows, index=False), flush=True)
                rows.append(row)
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["method", "how"], sort=False)
    print(table.agg(["mean", "std"]).round(4).to_string())


if __name__ == "__main__":
    main()
