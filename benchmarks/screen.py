"""A real CRISPR screen (Papalexi et al. 2021): which latents does `svae+` open for each target, seed by seed?

    python benchmarks/screen.py papalexi_thp1.h5ad                       # ten seeds, and permuted labels on three
    python benchmarks/screen.py papalexi_thp1.h5ad --seeds 0 1 2 --permuted --set alpha=10

The known answer is the interferon-gamma pathway: without IFNGR1, IFNGR2, JAK2 or STAT1 a cell does not answer, so the
four have to share a latent, and SMAD4 (TGF-beta) another. Permuted labels, within a replicate, have to open nothing.
For all targets the table says how far their cells move along their best latent (mu, in standard deviations of the
prior) and what an edge there would gain, n mu^2 / 2 nats, beside what the prior asks for.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import cellalign
from cellalign.tasks.options import key_values

PATHWAY = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
OTHER = "SMAD4"
CONDITION, REPLICATE, CONTROL = "perturbation", "bio_rep", "control"


def permuted(cells: ad.AnnData, seed: int) -> ad.AnnData:
    """The same cells, their perturbations exchanged within each replicate."""
    cells, rng = cells.copy(), np.random.default_rng(seed)
    labels = cells.obs[CONDITION].astype(str).to_numpy()
    for _, rows in cells.obs.groupby(REPLICATE, observed=True).indices.items():
        labels[rows] = labels[rng.permutation(rows)]
    cells.obs[CONDITION] = pd.Categorical(labels)
    return cells


def asked(alpha: float) -> float:
    """Nats that an edge has to gain to count, under a Beta(1, alpha) prior.

    With the mask open in a share pi of the draws, n cells that move by mu gain pi n mu^2 / 2 and pay
    -(alpha - 1) log(1 - pi): best is 1 - pi = (alpha - 1) / (n mu^2 / 2), which is 0.5 at twice alpha - 1.
    """
    return 2 * max(alpha - 1, 0)


def gains(model: cellalign.Model, cells: ad.AnnData) -> pd.DataFrame:
    """Of every target: cells, how far they move along their best latent, and what an edge there would gain in nats."""
    z, labels = model.embed(cells), cells.obs[CONDITION].astype(str).to_numpy()
    start = z[labels == CONTROL].mean(0)
    trained = model.record.cells.trained / model.record.cells.all
    rows = {}
    for name in model.conditions:
        if name != CONTROL:
            own = z[labels == name]
            shift = float(np.abs(own.mean(0) - start).max())
            rows[name] = {"cells": len(own), "shift": shift, "nats": trained * len(own) * shift**2 / 2}
    return pd.DataFrame(rows).T


def describe(graph: ad.AnnData, pathway: list[str]) -> dict[str, object]:
    """Whether the pathway shares a latent that SMAD4's is not, and what else is open."""
    edge, names = graph.layers["edge"], list(graph.obs_names)
    rows = [names.index(name) for name in pathway]
    shared = np.flatnonzero(edge[rows].all(0))
    own = np.flatnonzero(edge[names.index(OTHER)])
    apart = sorted(set(own) - set(shared))
    others = [
        f"{names[i]}:z{j}" for i, j in zip(*np.nonzero(edge), strict=True) if i not in (*rows, names.index(OTHER))
    ]
    least = graph.layers["probability"][np.ix_(np.asarray(rows), shared)].min(0).max() if len(shared) else math.nan
    return {
        "pathway": " ".join(f"z{j}" for j in shared) or "-",
        "least p": least,
        OTHER: " ".join(f"z{j}" for j in own) or "-",
        "p": graph.layers["probability"][names.index(OTHER)].max(),
        "as known": bool(len(shared) == 1 and apart),
        "other edges": " ".join(others) or "-",
        "edges": int(edge.sum()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print a row per seed, then the targets' mean shifts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells")
    parser.add_argument("--method", default="svae+")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--permuted", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args(arguments)
    cells = cellalign.read(options.cells)
    settings = {"latent_dim": options.latents} | key_values(options.set)
    asked_of_train: dict[str, Any] = dict(
        method=options.method, condition=CONDITION, control=CONTROL, settings=settings, epochs=options.epochs
    )
    found, of_targets = [], []
    for seed in options.seeds:
        model = cellalign.train(cells, seed=seed, **asked_of_train)
        graph = cellalign.targets(model)
        found.append({"seed": seed} | describe(graph, PATHWAY))
        print(found[-1], flush=True)
        probability = pd.Series(graph.layers["probability"].max(1), graph.obs_names, name="p")
        of_targets.append(gains(model, cells).join(probability))
    if found:
        print(f"\n{pd.DataFrame(found).round(2).to_string(index=False)}")
        print(f"as known on {sum(row['as known'] for row in found)} of {len(found)} seeds\n")
        mean = sum(of_targets) / len(of_targets)
        alpha = float(model.method.alpha)  # type: ignore[arg-type]
        print(f"targets, mean over seeds; an edge counts from about {asked(alpha):.0f} nats (alpha {alpha:g}):")
        print(mean.sort_values("nats", ascending=False).round(2).to_string(), flush=True)
    for seed in options.permuted:
        graph = cellalign.targets(cellalign.train(permuted(cells, seed), seed=seed, **asked_of_train))
        print(f"permuted {seed}: {int(graph.layers['edge'].sum())} of {graph.layers['edge'].size} edges", flush=True)


if __name__ == "__main__":
    main()
