"""Blood cells by three chemistries, log expression alone: integration, and cell types carried from one to another.

    python benchmarks/technologies.py pbmc_3tech.h5ad --seeds 0 1 2 --scib --csv technologies.csv

Every method that reads log expression integrates the three; a random forest learns cell types from the latents of one
chemistry's cells and tells those of another's (accuracy, mean of six directions, and the mean of the types' recalls),
beside scIB's means with --scib (which compiles first). Finished rows are kept.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from finished import mean_and_spread, rows
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score

import cellalign
from cellalign.evaluation import scib_scores

CONDITION = {"condition": "donor"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "PCA, 30": dict(method="pca", latent_dim=30),
    "vae": dict(method="vae"),
    "cvae": dict(method="cvae", **CONDITION),
    "vfae": dict(method="vfae", **CONDITION),
    "trvae": dict(method="trvae", **CONDITION),
    "mmd-ae": dict(method="mmd-ae", **CONDITION),
    "comp": dict(method="comp", **CONDITION),
    "stgan": dict(method="stgan", **CONDITION),
    "celligner": dict(method="celligner", **CONDITION),
    "lemur": dict(method="lemur", **CONDITION),
    "scgen (no integration)": dict(method="scgen", label="cell_type", **CONDITION),
}


def carried(z: np.ndarray, cells: anndata.AnnData, seed: int) -> dict[str, float]:
    """Cell types of one chemistry told by a forest of another's cells, all directions."""
    technology, kind = (np.asarray(cells.obs[key]).astype(str) for key in ("donor", "cell_type"))
    accuracy, recall = [], []
    for learned, told in permutations(np.unique(technology), 2):
        a, b = technology == learned, (technology == told) & np.isin(kind, kind[technology == learned])
        found = RandomForestClassifier(200, random_state=seed, n_jobs=1).fit(z[a], kind[a]).predict(z[b])
        accuracy.append(np.mean(found == kind[b]))
        recall.append(balanced_accuracy_score(kind[b], found))
    return {"transfer": float(np.mean(accuracy)), "transfer, mean of types": float(np.mean(recall))}


def main() -> None:
    """Print mean and standard deviation over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scib", action="store_true")
    parser.add_argument("--csv", type=Path, default=Path("technologies.csv"))
    options = parser.parse_args()
    cells = anndata.read_h5ad(options.file)
    pca = cellalign.train(cells, method="pca", latent_dim=30, seed=0).embed(cells)
    batch, label = (cells.obs[key].to_numpy() for key in ("donor", "cell_type"))

    def run(system: str, seed: int) -> dict[str, float]:
        z = cellalign.train(cells, seed=seed, **SYSTEMS[system]).embed(cells)
        scib = scib_scores(z, batch, label, seed=seed, pca=pca) if options.scib else {}
        return carried(z, cells, seed) | scib

    done = rows(options.csv, options.systems, options.seeds, run)
    print("\nmean (sd over seeds)\n\n" + mean_and_spread(done))


if __name__ == "__main__":
    main()
