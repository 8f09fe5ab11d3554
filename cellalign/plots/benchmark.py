"""Picture of a benchmark: methods by held-out groups, between the best baseline and what halves of real cells reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cellalign.plots.palette import colours

NAME = 28  # letters of a group that are written


def draw(
    groups: Sequence[str],
    methods: Sequence[str],
    values: np.ndarray,
    errors: np.ndarray,
    *,
    baseline: tuple[str, np.ndarray] | None = None,
    ceiling: tuple[str, np.ndarray] | None = None,
    heading: str = "",
) -> Figure:
    """One place per group, one point per method; the baseline and the ceiling as a line across each place.

    Parameters
    ----------
    groups, methods : sequence of str
    values, errors : arrays [methods, groups]
        Scores, and their standard errors (NaN where not known).
    baseline, ceiling : (name, array [groups]), optional
    heading : str
        The metric, and which way is better.
    """
    n = len(groups)
    figure = Figure(figsize=(max(5.0, 1.8 + 0.25 * n * (1 + 0.35 * len(methods))), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(n, dtype=float)
    for line, colour, style in ((baseline, "0.35", "-"), (ceiling, "0.35", ":")):
        if line is not None:
            axes.hlines(line[1], places - 0.42, places + 0.42, color=colour, linestyle=style, label=line[0], zorder=1)
    for i, (method, colour) in enumerate(zip(methods, colours(len(methods)), strict=False)):
        at = places + 0.7 * ((i + 0.5) / len(methods) - 0.5)
        axes.errorbar(at, values[i], np.nan_to_num(errors[i]), fmt="o", markersize=5, color=colour, label=method)
    said = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in map(str, groups)]
    axes.set_xticks(places, said, rotation=30, ha="right", fontsize=8, parse_math=False)
    axes.set_xlim(-0.6, n - 0.4)
    axes.set_ylabel(heading, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
