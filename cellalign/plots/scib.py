"""The table of scIB scores, after figure 3 of Luecken et al. (2022): circles for scores, bars for their means.

scib-metrics draws one, too, but only from the object that computed it, and through pyplot. All sizes are in inches.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

COLUMN, ROW = 0.85, 0.55
HEAD, MARGIN, GAP = 1.0, 0.2, 0.25
LONGEST = 40  # letters of a name
SHADES = ("Greens", "Blues", "Greys")  # of the groups in turn
PALE, STRONG = 0.1, 0.75  # the part of a colour map that is used


def draw(scores: Mapping[str, Mapping[str, float]], groups: Mapping[str, Sequence[str]]) -> Figure:
    """Systems as rows, the highest last score of the last group on top; metrics as columns.

    Parameters
    ----------
    scores : mapping of system to mapping of metric to score
        Scores are from 0 to 1; NaN is drawn as a dash.
    groups : mapping of heading to metrics
        The columns; metrics that no system has are left out. The last group is drawn as bars.
    """
    columns = {name: [m for m in metrics if any(m in s for s in scores.values())] for name, metrics in groups.items()}
    columns = {name: metrics for name, metrics in columns.items() if metrics}
    last = list(columns)[-1]
    rows = sorted(scores, key=lambda system: -np.nan_to_num(scores[system].get(columns[last][-1], np.nan)))
    names = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in rows]
    left = 2 * MARGIN + 0.1 * max(len(name) for name in names)
    width = left + sum(len(metrics) * COLUMN + GAP for metrics in columns.values()) + MARGIN
    height = HEAD + len(rows) * ROW + MARGIN
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    middles = [HEAD + (i + 0.5) * ROW for i in range(len(rows))]
    for name, y in zip(names, middles, strict=True):
        axes.text(MARGIN, y, name, va="center", fontsize=10, fontweight="bold", parse_math=False)
        axes.plot([MARGIN, width - MARGIN], [y - ROW / 2] * 2, color="0.8", linewidth=0.8)
    x = left
    for (heading, metrics), shade in zip(columns.items(), SHADES, strict=False):
        end = x + len(metrics) * COLUMN
        axes.text((x + end) / 2, 0.25, heading, ha="center", va="center", fontsize=10, fontweight="bold")
        axes.plot([x + 0.05, end - 0.05], [0.4] * 2, color=colormaps[shade](STRONG), linewidth=1.5)
        for metric in metrics:
            axes.text(x + COLUMN / 2, 0.7, textwrap.fill(metric, 12), ha="center", va="center", fontsize=8)
            for system, y in zip(rows, middles, strict=True):
                (_bar if heading == last else _circle)(axes, x, y, scores[system].get(metric, np.nan), shade)
            x += COLUMN
        x += GAP
    return figure


def _circle(axes: Axes, x: float, y: float, score: float, shade: str) -> None:
    """A score in a circle that is darker the higher it is."""
    if np.isfinite(score):
        axes.add_patch(Circle((x + COLUMN / 2, y), 0.21, color=_colour(shade, score)))
    _number(axes, x + COLUMN / 2, y, score, "center", "white" if np.clip(score, 0, 1) > 0.7 else "black")


def _bar(axes: Axes, x: float, y: float, score: float, shade: str) -> None:
    """A score at the foot of a bar that is longer and darker the higher it is."""
    if np.isfinite(score):
        length = (COLUMN - 0.1) * float(np.clip(score, 0, 1))
        axes.add_patch(Rectangle((x + 0.05, y - 0.17), length, 0.34, color=_colour(shade, score)))
    _number(axes, x + 0.1, y, score, "left", "white" if np.clip(score, 0, 1) > 0.7 else "black")


def _colour(shade: str, score: float) -> tuple[float, float, float, float]:
    return colormaps[shade](PALE + (STRONG - PALE) * float(np.clip(score, 0, 1)))


def _number(axes: Axes, x: float, y: float, score: float, side: str, colour: str) -> None:
    text = f"{score:.2f}" if np.isfinite(score) else "–"
    axes.text(x, y, text.replace("-0.00", "0.00"), ha=side, va="center", fontsize=9, color=colour)
