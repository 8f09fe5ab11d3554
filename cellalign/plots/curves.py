"""Training curves: every loss over epochs, of the cells that were trained on and of validation cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cellalign.plots.palette import PALETTE

COLUMNS = 3
PARTS = (("train", "trained on", "-"), ("validation", "validation", "--"))


def draw(history: Sequence[Mapping[str, float]], *, best: int | None = None) -> Figure:
    """A panel for each loss.

    Parameters
    ----------
    history : sequence of mappings
        A row per epoch, as `Model.history`; at least one.
    best : int, optional
        The epoch whose weights were kept: a line across.
    """
    names = [key.removeprefix("train_") for key in history[0] if key.startswith("train_")]
    epochs = [float(row.get("epoch", i + 1)) for i, row in enumerate(history)]
    columns = 2 if len(names) == 4 else min(COLUMNS, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        for i, (prefix, called, style) in enumerate(PARTS):
            values = np.array([_float(row.get(f"{prefix}_{name}")) for row in history])
            if np.isfinite(values).any():
                marker = "o" if len(values) == 1 else None
                axes.plot(epochs, values, style, color=PALETTE[i], label=called, linewidth=1.4, marker=marker)
        if best:
            axes.axvline(best, color="0.6", linewidth=0.8, linestyle=":", label=f"kept: epoch {best}")
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.set_xlabel("epoch")
        axes.set_ylim(_middle(axes))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure


def _float(value: float | str | None) -> float:
    return np.nan if value is None or value == "" else float(value)


def _middle(axes: object) -> tuple[float, float] | tuple[None, None]:
    """Limits that hold most values: a first epoch or a spike may lie far above all others."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]  # type: ignore[attr-defined]
    values = np.concatenate([np.empty(0), *(line for line in lines if len(line) > 2)])
    values = values[np.isfinite(values)]
    if len(values) < 10:
        return None, None
    low, most = float(values.min()), float(np.quantile(values, 0.8))
    high = min(float(values.max()), most + 1.5 * (most - low))
    room = 0.06 * ((high - low) or 1.0)
    return low - room, high + room
