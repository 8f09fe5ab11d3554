"""The graph from perturbations to latents, drawn as one: perturbations on the left, latents on the right."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cellalign.plots.palette import PALETTE
from cellalign.plots.targets import row_order

UP, DOWN = PALETTE[5], PALETTE[0]
LINE = 0.22  # inches of a name
MOST = 80  # perturbations that are drawn one by one; of more those with the same targets stand together
NAMED = 5  # perturbations of a group that are named


def draw(graph: AnnData) -> Figure:
    """Edges from each perturbation to the latents it targets: orange up, blue and dashed down, wider where stronger.

    Parameters
    ----------
    graph : AnnData [perturbations, latents]
        As `targets` returns it. Perturbations and latents without an edge are left out, and counted in the title.
    """
    edge = np.asarray(graph.layers["edge"]).astype(bool)
    effect = np.asarray(graph.X, dtype=float)
    kept, latents = np.flatnonzero(edge.any(1)), np.flatnonzero(edge.any(0))
    names, effects = _rows(graph, kept, edge, effect)
    effects = effects[:, latents]
    place = np.array([np.average(np.arange(len(names)), weights=np.abs(column) + 1e-9) for column in effects.T])
    order = np.argsort(place, kind="stable")
    height = LINE * max(len(names), len(latents), 6) + 0.7
    figure = Figure(figsize=(9.0, min(height, 200.0)), dpi=min(150.0, 30_000 / height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = np.linspace(1, 0, len(names)) if len(names) > 1 else np.array([0.5])
    right = np.empty(len(latents))
    right[order] = np.linspace(0.97, 0.03, len(latents)) if len(latents) > 1 else [0.5]
    reach = float(np.abs(effects).max(initial=0)) or 1.0
    for i, j in np.argwhere(effects != 0):
        size = effects[i, j]
        style: dict[str, Any] = {"color": UP, "linestyle": "-"} if size > 0 else {"color": DOWN, "linestyle": "--"}
        axes.plot([0, 1], [left[i], right[j]], linewidth=0.4 + 2.6 * abs(size) / reach, alpha=0.75, **style)
    small: dict[str, Any] = {"fontsize": 7.5, "va": "center", "parse_math": False}
    for y, name in zip(left, names, strict=True):
        axes.text(-0.015, y, name, ha="right", **small)
    for y, j in zip(right, latents, strict=True):
        axes.plot(1, y, "o", color="0.25", markersize=5)
        axes.text(1.02, y, _of_latent(graph, int(j)), ha="left", **small)
    axes.set(xlim=(-0.55, 1.75), ylim=(-0.03, 1.03))
    axes.axis("off")
    without = [f"{edge.shape[0] - len(kept)} perturbations", f"{edge.shape[1] - len(latents)} latents"]
    axes.set_title(
        f"effects: orange up, blue dashed down; without an edge: {', '.join(without)}", fontsize=9, loc="left"
    )
    return figure


def _rows(graph: AnnData, kept: np.ndarray, edge: np.ndarray, effect: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and effects of the rows: perturbations, or of very many those with the same targets, their mean."""
    if len(kept) <= MOST:
        rows = kept[row_order(edge[kept], effect[kept])]
        return [str(name)[:40] for name in graph.obs_names[rows]], effect[rows]
    sets, which = np.unique(edge[kept], axis=0, return_inverse=True)
    which = which.reshape(-1)
    names, effects = [], []
    for group in np.argsort(-np.bincount(which), kind="stable"):
        rows = kept[which == group]
        own = [str(name) for name in graph.obs_names[rows]]
        more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        names.append(", ".join(own[:NAMED]) + more)
        effects.append(effect[rows].mean(0))
    return names, np.array(effects).reshape(len(sets), effect.shape[1])


def _of_latent(graph: AnnData, j: int) -> str:
    """Its name, and the genes of its program where they are known."""
    program = str(graph.var["program"].iloc[j]).split()[:6] if "program" in graph.var else []
    return str(graph.var_names[j]) + (f": {' '.join(program)}" if program else "")
