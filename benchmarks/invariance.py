"""What integration removes and what it keeps: sites should go, donors and disease stay (the inVAE paper's comparison).

    python benchmarks/invariance.py --seeds 0 1 2 --csv invariance.csv

Cells of 6 donors, half of them diseased, measured at 4 sites that shift every gene; one site is held back and annotated
from the other three. Beside each method: a random forest's accuracy for site, donor and disease from its latents, the
scIB columns of the paper's figure 4 (--scib, which compiles first), annotation accuracy over cell types on the
held-back site (table 1), seconds per epoch (table 2). Where a method has a second block of latents the two joined are a
row of their own, of the same model. `--set KEY=VALUE` changes inVAE's settings and names its rows by them. Rows that
are in the CSV are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

import cellalign
from cellalign.annotation import score
from cellalign.evaluation import scib_scores
from cellalign.tasks.options import key_values

BIOLOGY = ["donor", "cell_type"]
SYSTEMS: dict[str, dict[str, Any]] = {
    "PCA": dict(method="pca", latent_dim=30),
    "scVI, site": dict(method="scvi", batch=["site"]),
    "scVI, site and donor": dict(method="scvi", batch=["site", "donor"]),
    "scANVI, site": dict(method="scanvi", batch=["site"], label="cell_type"),
    "iVAE": dict(method="nf-ivae", batch=["site"], covariate=BIOLOGY, settings={"prior": "factorised"}),
    "NF-iVAE": dict(method="nf-ivae", batch=["site"], covariate=BIOLOGY),
    "inVAE": dict(method="invae", batch=["site"], covariate=BIOLOGY),
    "inVAE, injected": dict(method="invae", batch=["site"], covariate=BIOLOGY, settings={"inject": True}),
}
JOINED = ", both blocks joined"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def cells_of(seed: int, n_cells: int, n_genes: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Cells of three sites to train on, and of a fourth."""
    made = cellalign.simulate.ifnb(n_cells, n_genes, sites=4, donors=6, diseased=0.5, stimulated=0, seed=seed)
    cells = cellalign.preprocess(made, n_top_genes=n_genes)
    new = cells.obs["site"] == "site4"
    return cells[~new].copy(), cells[new].copy()


def forest(z: np.ndarray, names: pd.Series, seed: int) -> float:
    """Accuracy of a random forest on the half of the cells it was not trained on."""
    y, order = np.asarray(names).astype(str), np.random.default_rng(seed).permutation(len(z))
    train, test = np.array_split(order, 2)
    return (
        RandomForestClassifier(100, min_samples_leaf=2, random_state=seed, n_jobs=-1)
        .fit(z[train], y[train])
        .score(z[test], y[test])
    )


def scores(z: np.ndarray, cells: anndata.AnnData, seed: int, scib: bool) -> dict[str, float]:
    """What is left of site and biology in latents [n, p], and the scIB columns."""
    row = {key: forest(z, cells.obs[key], seed) for key in ("site", "donor", "disease", "cell_type")}
    if scib:
        pca = cellalign.train(cells, method="pca", latent_dim=30, seed=seed).embed(cells)
        row |= scib_scores(z, cells.obs["site"].to_numpy(), cells.obs["cell_type"].to_numpy(), seed=seed, pca=pca)
    return row


def run(
    settings: dict[str, Any], seed: int, cells: anndata.AnnData, new: anndata.AnnData, scib: bool
) -> dict[str, dict[str, float]]:
    """Train, embed, annotate and score once: by what follows the system's name."""
    model = cellalign.train(cells, seed=seed, **settings)
    blocks = model.embeddings(cells)
    found = {"": scores(model.embed(cells), cells, seed, scib)}
    if len(blocks) > 1:
        found[JOINED] = scores(np.concatenate(list(blocks.values()), axis=1), cells, seed, scib)
    row = found[""]
    for classifier in ("auto", "knn"):
        table = cellalign.annotate(new, model, reference=cells, label="cell_type", classifier=classifier, seed=seed)
        annotated = score(new.obs, table, "cell_type")
        for name in ("all cells", "average", "minimum", "maximum", "median"):
            row[f"annotation {name}, {classifier}"] = annotated.value(name)
    outcome = model.record.outcome
    assert outcome is not None
    row |= {"epochs": outcome.epochs, "s/epoch": outcome.seconds / max(1, outcome.epochs)}
    return found


def changed(name: str, changes: list[str]) -> tuple[str, dict[str, Any]]:
    """A system's name and what it is trained with, inVAE's with these changes."""
    system = SYSTEMS[name]
    if not changes or system["method"] != "invae":
        return name, system
    settings = system.get("settings", {}) | key_values(changes)
    return ", ".join([name, *changes]), system | {"settings": settings}


def main() -> None:
    """Print mean and standard deviation over seeds, then the published tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=8000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--scib", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--csv", type=Path, default=Path("invariance.csv"))
    options = parser.parse_args()
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame(columns=["system", "seed"])
    for seed in options.seeds:
        cells, new = cells_of(seed, options.cells, options.genes)
        for name in options.systems:
            system, settings = changed(name, options.set)
            if ((done["system"] == system) & (done["seed"] == seed)).any():
                continue
            found = run(settings, seed, cells, new, options.scib)
            rows = pd.DataFrame([{"system": system + which, "seed": seed} | row for which, row in found.items()])
            done = pd.concat([done, rows], ignore_index=True) if len(done) else rows
            done.to_csv(options.csv, index=False)
            print(*rows.round(3).to_dict("records"), sep="\n", flush=True)
    ours = done.drop(columns="seed").groupby("system", sort=False)
    mean, spread = ours.mean().map("{:.3f}".format), ours.std().map("({:.3f})".format)
    print("\nmean (sd over seeds)\n" + (mean + " " + spread).T.to_string())
    for name in ("invae_integration", "invae_annotation_accuracy", "invae_seconds_per_epoch"):
        file = SHARED / "published" / f"{name}.csv"
        if file.is_file():
            print(f"\npublished, {name}\n" + pd.read_csv(file).to_string(index=False))


if __name__ == "__main__":
    main()
