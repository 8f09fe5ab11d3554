"""Heat map of the graph from perturbations to latents; perturbations with like targets stand together."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

ROW_INCHES, COLUMN_INCHES = 0.13, 0.22
NAMED_ROWS = 400  # above that names would overlap


def heat_map(graph: AnnData) -> Figure:
    """Effects as colour: rows perturbations, columns latents, white where there is no edge.

    Parameters
    ----------
    graph : AnnData [perturbations, latents]
        As `targets` returns it.
    """
    effect = np.asarray(graph.X)
    rows = row_order(np.asarray(graph.layers["edge"]), effect)
    columns = np.argsort(-np.asarray(graph.layers["edge"]).sum(0), kind="stable")
    n_rows, n_columns = effect.shape
    per_row = min(ROW_INCHES, 60 / max(1, n_rows))
    figure = Figure(figsize=(2.4 + COLUMN_INCHES * n_columns, 1.2 + per_row * max(n_rows, 8)), layout="constrained")
    axes = figure.subplots()
    reach = float(np.abs(effect).max()) or 1.0
    image = axes.imshow(
        effect[np.ix_(rows, columns)], aspect="auto", cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest"
    )
    axes.set_xticks(range(n_columns), graph.var_names[columns], rotation=90, fontsize=7, parse_math=False)
    if n_rows <= NAMED_ROWS:
        axes.set_yticks(range(n_rows), graph.obs_names[rows], fontsize=min(7, 60 * per_row), parse_math=False)
    else:
        axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_xlabel("latent")
    axes.set_ylabel(f"{n_rows} perturbations")
    axes.set_xticks(np.arange(-0.5, n_columns), minor=True)
    axes.grid(which="minor", axis="x", color="0.9", linewidth=0.4)
    figure.colorbar(image, ax=axes, label="effect (prior s.d.)", shrink=min(1.0, 30 / max(1, n_rows)))
    return figure


def row_order(edge: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """Perturbations ordered so that those with the same or like targets are neighbours.

    Average linkage on the Jaccard distance of the target sets, optimally ordered; equal sets by effect.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    if len(edge) < 3:
        return np.arange(len(edge))
    targeted = np.flatnonzero(edge.any(1))
    without = np.flatnonzero(~edge.any(1))
    if len(targeted) < 3:
        return np.concatenate([targeted, without])
    # a little of the effects' own distance sets apart rows with the same targets
    scaled = effect[targeted] / (np.abs(effect).max() or 1.0)
    distance = pdist(edge[targeted], "jaccard") + 1e-3 * pdist(scaled)
    order = leaves_list(linkage(distance, "average", optimal_ordering=len(targeted) <= 1000))
    return np.concatenate([targeted[order], without])
