"""Cells as points, coloured by obs columns or genes: a panel each, as scanpy's pl.umap draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.plots.umap import GREY, _colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3  # panels beside each other
PANEL = 3.6  # inches
LISTED = 24  # names of a legend; more are left out, and that is said


def draw(xy: np.ndarray, colours: Mapping[str, Any], *, axes_are: str = "UMAP") -> Figure:
    """A panel for each colouring.

    Parameters
    ----------
    xy : array [n, 2]
    colours : mapping of name to Categorical [n] or numbers [n]
        With none, all cells are grey.
    axes_are : str
        What the coordinates are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = max(1, len(colours))
    columns = min(n, 2 if n == 4 else COLUMNS)
    rows = -(-n // columns)
    figure = Figure(figsize=(PANEL * 1.5 * columns, PANEL * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # in random order: cells of one value do not always lie on top
    order = np.random.default_rng(0).permutation(len(xy))
    size = float(np.clip(12_000 / max(1, len(xy)), 0.5, 12))
    for axes, (name, values) in zip(grid, (colours or {"": None}).items(), strict=False):
        shades: Any = GREY if values is None else _shades(values)[order]
        points = axes.scatter(*xy[order].T, s=size, c=shades, linewidths=0, rasterized=True)
        axes.set(xticks=[], yticks=[], xlabel=f"{axes_are} 1", ylabel=f"{axes_are} 2")
        axes.set_title(name, parse_math=False)
        axes.set_aspect("equal", "datalim")
        axes.spines[["top", "right"]].set_visible(False)
        if values is not None and not hasattr(values, "categories"):
            figure.colorbar(points, ax=axes, shrink=0.7)
        elif values is not None:
            _legend(axes, values)
    for axes in grid[n:]:
        axes.set_axis_off()
    return figure


def _shades(values: Any) -> np.ndarray:
    """A colour of every cell, or its number; the last colour is of cells without a value."""
    if not hasattr(values, "categories"):
        return np.asarray(values, dtype=float)
    return np.append(_colours(values), GREY)[np.asarray(values.codes)]


def _legend(axes: Any, values: Any) -> None:
    named = list(zip(map(str, values.categories), _colours(values), strict=False))
    handles = [axes.scatter([], [], s=24, color=colour, label=name) for name, colour in named[:LISTED]]
    absent = int((np.asarray(values.codes) < 0).sum())
    if absent:
        handles.append(axes.scatter([], [], s=24, color=GREY, label=f"no value ({absent} cells)"))
    if len(named) > LISTED:
        handles.append(axes.scatter([], [], s=0, label=f"and {len(named) - LISTED} more"))
    style: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False, "fontsize": 8}
    legend = axes.legend(handles=handles, **style)
    for text in legend.get_texts():
        text.set_parse_math(False)
