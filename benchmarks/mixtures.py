"""RNA of three cell lines mixed in known proportions, by two protocols: does integration keep the proportions?

    python benchmarks/mixtures.py mixology_rnamix.h5ad --seeds 0 1 2 --csv mixtures.csv

Tian et al. 2019 (GSE118767): 636 samples whose latent truth is known. Every method embeds all without seeing the
proportions (scanvi, marked, sees the mixture); ridge regression tells the proportions from the embedding, as R^2 of
samples it was not fitted on: of random halves (within), and of one protocol by a regression fitted on the other
(across, mean of both directions). Integration should raise the second without losing the first. Finished rows are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from finished import mean_and_spread, rows
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cellalign

PROPORTIONS = ["H2228_prop", "H1975_prop", "HCC827_prop"]
CONDITION, BATCH = {"condition": "protocol"}, {"batch": ["protocol"]}
SYSTEMS: dict[str, dict[str, Any]] = {
    "PCA, 10": dict(method="pca", latent_dim=10),
    "vae": dict(method="vae"),
    "cvae": dict(method="cvae", **CONDITION),
    "vfae": dict(method="vfae", **CONDITION),
    "trvae": dict(method="trvae", **CONDITION),
    "mmd-ae": dict(method="mmd-ae", **CONDITION),
    "comp": dict(method="comp", **CONDITION),
    "comp, 10 latents": dict(method="comp", latent_dim=10, **CONDITION),
    "scgen (no integration)": dict(method="scgen", **CONDITION),
    "stgan": dict(method="stgan", **CONDITION),
    "celligner": dict(method="celligner", **CONDITION),
    "lemur": dict(method="lemur", **CONDITION),
    "scvi": dict(method="scvi", **BATCH),
    "nf-ivae": dict(method="nf-ivae", covariate=["mRNA_amount"], **BATCH),
    "invae": dict(method="invae", covariate=["mRNA_amount"], **BATCH),
    "scanvi (sees mixtures)": dict(method="scanvi", label="mix", **BATCH),
}


def r2_of(z: np.ndarray, truth: np.ndarray, fitted: np.ndarray) -> float:
    """R^2, mean over the proportions, of the cells that the regression was not fitted on."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
    return float(model.fit(z[fitted], truth[fitted]).score(z[~fitted], truth[~fitted]))


def scores(z: np.ndarray, cells: anndata.AnnData) -> dict[str, float]:
    """R^2 of both regressions."""
    truth, protocol = cells.obs[PROPORTIONS].to_numpy(float), np.asarray(cells.obs["protocol"]).astype(str)
    within = []
    for split in range(10):
        half = np.zeros(len(z), dtype=bool)
        half[np.random.default_rng(split).permutation(len(z))[: len(z) // 2]] = True
        within.append(r2_of(z, truth, half))
    across = [r2_of(z, truth, protocol == name) for name in np.unique(protocol)]
    return {"within": float(np.mean(within)), "across": float(np.mean(across))}


def main() -> None:
    """Print mean and standard deviation over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--csv", type=Path, default=Path("mixtures.csv"))
    options = parser.parse_args()
    cells = cellalign.preprocess(anndata.read_h5ad(options.file))

    def run(system: str, seed: int) -> dict[str, float]:
        return scores(cellalign.train(cells, seed=seed, **SYSTEMS[system]).embed(cells), cells)

    done = rows(options.csv, options.systems, options.seeds, run)
    print("\nmean (sd over seeds)\n\n" + mean_and_spread(done))


if __name__ == "__main__":
    main()
