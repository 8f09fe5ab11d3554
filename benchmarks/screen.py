"""A real CRISPR screen (Papalexi et al. 2021): which latents does `svae+` open for each target, seed by seed?

    python benchmarks/screen.py papalexi_thp1.h5ad                       # ten seeds, and permuted labels on three
    python benchmarks/screen.py papalexi_thp1.h5ad --seeds 0 1 2 --permuted --set alpha=10

The known answer is the interferon-gamma pathway: without IFNGR1, IFNGR2, JAK2 or STAT1 a cell does not answer, so the
four have to share a latent, and SMAD4 (TGF-beta) another. Permuted labels, within a replicate, have to open nothing.
For the other targets the table says how far they move the latents (length of mu, in standard deviations of a cell),
and what the prior asks for: an edge of n cells gains n mu^2 / 2 nats and costs what Beta(1, alpha) takes to open it.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import pandas as pd

import cellalign
from cellalign.tasks.options import key_values

PATHWAY = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
OTHER = "SMAD4"
CONDITION, REPLICATE, CONTROL = "perturbation", "bio_rep", "control"


def permuted(cells, seed: int):
    """The same cells, their perturbations exchanged within each replicate."""
    cells, rng = cells.copy(), np.random.default_rng(seed)
    labels = cells.obs[CONDITION].astype(str).to_numpy()
    for _, rows in cells.obs.groupby(REPLICATE, observed=True).indices.items():
        labels[rows] = labels[rng.permutation(rows)]
    cells.obs[CONDITION] = pd.Categorical(labels)
    return cells


def least_shift(n: np.ndarray, alpha: float) -> np.ndarray:
    """The |mu| from which opening an edge of n cells pays: max over pi of pi n mu^2 / 2 + (alpha - 1) log(1 - pi) > 0.

    Of q(m) = Bernoulli(pi), which fits mu to the cells with the mask open in a share pi of the draws.
    """
    # the gain n mu^2 / 2 = g: pi g + (alpha - 1) log(1 - pi) is largest at 1 - pi = (alpha - 1) / g, and above 0 only
    # where g > alpha - 1; an edge counts from pi = 0.5, that is g = 2 (alpha - 1)
    return np.sqrt(2 * 2 * max(alpha - 1, 0) / n)


def describe(graph, pathway: list[str]) -> dict[str, object]:
    """Whether the pathway shares a latent that SMAD4's is not, and what else is open."""
    edge, names = graph.layers["edge"], list(graph.obs_names)
    rows = [names.index(name) for name in pathway]
    shared = np.flatnonzero(edge[rows].all(0))
    own = np.flatnonzero(edge[names.index(OTHER)])
    apart = sorted(set(own) - set(shared))
    others = [
        f"{names[i]}:z{j}" for i, j in zip(*np.nonzero(edge), strict=True) if i not in (*rows, names.index(OTHER))
    ]
    least = graph.layers["probability"][np.ix_(rows, shared)].min(0).max() if len(shared) else math.nan
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
    asked = dict(method=options.method, condition=CONDITION, control=CONTROL, settings=settings, epochs=options.epochs)
    found, shifts = [], []
    for seed in options.seeds:
        graph = cellalign.targets(cellalign.train(cells, seed=seed, **asked))
        row = {"seed": seed} | describe(graph, PATHWAY)
        print(row, flush=True)
        found.append(row)
        shifts.append(pd.Series(np.linalg.norm(graph.layers["effect"], axis=1), graph.obs_names))
    for seed in options.permuted:
        graph = cellalign.targets(cellalign.train(permuted(cells, seed), seed=seed, **asked))
        print(f"permuted {seed}: {int(graph.layers['edge'].sum())} of {graph.layers['edge'].size} edges", flush=True)
