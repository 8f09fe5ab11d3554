"""UMAP of latents, and the picture of the cells before and after integration."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import InputError
from cellalign.plots.palette import colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#c8c8c8"
EXACT = 50_000  # cells up to which all are compared: above, compiling the search that compares fewer is worth its 5 s


def umap(z: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP coordinates [n, 2], float32, of latents z [n, p] (as scanpy computes them: 15 neighbours).

    Raises
    ------
    InputError
        Fewer than 4 cells, of which UMAP makes no picture.
    """
    if len(z) < 4:
        raise InputError(f"UMAP needs at least 4 cells, not {len(z)}")
    from cellalign.nn.kernels.packages import compiled_elsewhere, keep_packages_on_disk  # imports numba

    z = np.asarray(z, dtype=np.float32)
    with compiled_elsewhere(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of coordinates that new cells cannot be given: there will be none
        from umap import UMAP

        keep_packages_on_disk("umap", "pynndescent")
        n_neighbors = min(15, max(2, len(z) - 1))
        found = _neighbours(z, n_neighbors, seed)
        return UMAP(
            n_neighbors=n_neighbors, min_dist=0.5, random_state=seed, n_jobs=1, precomputed_knn=found
        ).fit_transform(z)


def _neighbours(z: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances [cells, n] of the cells nearest to each, itself the first."""
    if len(z) > EXACT:
        from pynndescent import NNDescent

        return NNDescent(z, n_neighbors=n, random_state=seed).neighbor_graph
    from sklearn.neighbors import NearestNeighbors

    distance, rows = NearestNeighbors(n_neighbors=n - 1, algorithm="brute").fit(z).kneighbors()
    # exactly 0 from itself: the least distance over 0 is what UMAP measures others by
    return np.insert(rows, 0, np.arange(len(z)), axis=1), np.insert(distance, 0, 0.0, axis=1)


def unintegrated_umap(x: Any, seed: int = 0) -> np.ndarray:
    """UMAP [n, 2] of the first 50 principal components of expression x [n, G]."""
    return umap(unintegrated_pca(x, seed), seed)


def unintegrated_pca(x: Any, seed: int = 0) -> np.ndarray:
    """First 50 principal components [n, at most 50] of expression x [n, G]; sparse input stays sparse.

    Raises
    ------
    InputError
        Fewer than 3 cells or genes, or expression that does not differ between cells.
    """
    from scipy.sparse.linalg import ArpackError
    from sklearn.decomposition import PCA

    if min(x.shape) < 3:
        raise InputError(f"there are no principal components of {x.shape[0]} cells and {x.shape[1]} genes")
    n_components = min(50, min(x.shape) - 1)
    try:
        found = PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(x)
    except ArpackError as error:
        raise InputError(f"expression has no principal components, it is alike in all cells ({error})") from error
    return found.astype(np.float32, copy=False)


def before_after(before: np.ndarray, after_: np.ndarray, columns: Mapping[str, Any], *, after: str = "after") -> Figure:
    """Draw two embeddings side by side, one row per obs column.

    Parameters
    ----------
    before, after_ : arrays [n, 2]
    columns : mapping of name to Categorical [n] or numbers [n]
        What to colour by; cells without a value are grey.
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
        # the code of a cell without a value is -1, the last colour
        shades = np.asarray(values) if numeric else np.append(_colours(values), GREY)[np.asarray(values.codes)]
        for axis, xy, title in zip(row, (before, after_), ("unintegrated", after), strict=True):
            points = axis.scatter(*xy[order].T, s=size, c=shades[order], linewidths=0, rasterized=True)
            axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title=title)
        if numeric:
            figure.colorbar(points, ax=row[1]).ax.set_ylabel(name, parse_math=False)
            continue
        handles = [
            row[1].scatter([], [], s=30, c=colour, label=str(value))
            for value, colour in zip(values.categories, _colours(values), strict=False)
        ]
        absent = int((np.asarray(values.codes) < 0).sum())
        if absent:
            handles.append(row[1].scatter([], [], s=30, c=GREY, label=f"no value ({absent} cells)"))
        legend = row[1].legend(handles=handles, title=name, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        for text in (legend.get_title(), *legend.get_texts()):
            text.set_parse_math(False)
    return figure


def _colours(values: Any) -> np.ndarray:
    """A colour for every category."""
    return np.array(colours(len(values.categories)))
