"""UMAP of latents, and the picture of the cells before and after integration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.plots.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def umap(z: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP coordinates [n, 2], float32, of latents z [n, p] (scanpy's defaults: 15 neighbours)."""
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(obs={"i": range(len(z))}, obsm={"X_z": np.asarray(z, dtype=np.float32)})
    sc.pp.neighbors(cells, n_neighbors=min(15, max(2, len(z) - 1)), use_rep="X_z", random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def unintegrated_umap(x: Any, seed: int = 0) -> np.ndarray:
    """UMAP [n, 2] of the first 50 principal components of expression x [n, G]."""
    return umap(unintegrated_pca(x, seed), seed)


def unintegrated_pca(x: Any, seed: int = 0) -> np.ndarray:
    """First 50 principal components [n, at most 50] of expression x [n, G]; sparse input stays sparse."""
    import scanpy as sc

    n_comps = max(2, min(50, min(x.shape) - 1))
    return sc.pp.pca(x, n_comps=n_comps, random_state=seed)


def before_after(before: np.ndarray, after_: np.ndarray, columns: Mapping[str, Any], *, after: str = "after") -> Figure:
    """Draw two embeddings side by side, one row per obs column.

    Parameters
    ----------
    before, after_ : arrays [n, 2]
    columns : mapping of name to Categorical [n] or numbers [n]
        What to colour by.
    after : str
        Title of the right-hand column.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, len(columns))
    figure = Figure(figsize=(10.5, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False)
    # every cell in random order: none of a condition always lies on top
    order = np.random.default_rng(0).permutation(len(before))
    size = float(np.clip(12_000 / max(1, len(before)), 0.5, 12))
    for row, (name, values) in zip(axes, columns.items(), strict=False):
        numeric = not hasattr(values, "categories")
        shades = np.asarray(values) if numeric else _colours(values)[np.asarray(values.codes)]
        for axis, xy, title in zip(row, (before, after_), ("unintegrated", after), strict=True):
            points = axis.scatter(*xy[order].T, s=size, c=shades[order], linewidths=0, rasterized=True)
            axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title=title)
        if numeric:
            figure.colorbar(points, ax=row[1], label=name)
            continue
        handles = [
            row[1].scatter([], [], s=30, c=colour, label=str(value))
            for value, colour in zip(values.categories, _colours(values), strict=False)
        ]
        row[1].legend(handles=handles, title=name, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _colours(values: Any) -> np.ndarray:
    """A colour for every category."""
    return np.array([PALETTE[i % len(PALETTE)] for i in range(max(1, len(values.categories)))])
