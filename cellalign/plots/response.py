"""Pictures of a predicted response beside the real one (after figures 5 and 6 of the trVAE paper).

Every size here is in inches and every panel has its place before anything is drawn: only so can names be laid
where they cover neither each other nor the points.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from cellalign.plots.names import place
from cellalign.plots.palette import PALETTE

if TYPE_CHECKING:
    from cellalign.evaluation.table import Response

GREY, BLUE, RED = "0.72", PALETTE[4], PALETTE[5]
COLOURS = {"control": PALETTE[0], "predicted": PALETTE[1], "real": PALETTE[2]}
LARGEST = 1e8  # pixels; a picture of more cell types than fit gets coarser
ONE_COLUMN = 12  # rows of violins that still fit under each other
FLAT = 0.1  # a violin that spans less shows its colour as a bar, or the mean would hide it
GENE, CONDITION = 18, 24  # letters that are written; Ensembl's numbers have 15


def scatter(responses: Sequence[Response]) -> Figure:
    """Predicted against real mean expression: one panel per cell type, one point per gene.

    The genes that differ most between the conditions are named; R^2 is over all genes and over the DE genes.

    Parameters
    ----------
    responses : sequence of Response
        As `evaluate` returns them; at least one.
    """
    n = len(responses)
    square = int(np.ceil(np.sqrt(n)))
    columns = min(square, square + 1, key=lambda c: -n % c)  # with fewer empty places
    panel = 4.4 if n == 1 else 2.9
    figure, panels = _grid(n, columns, (panel, panel), left=0.75, gap=(0.55, 0.75), top=0.75, bottom=0.75)
    several = _several(responses)
    for axes, response in zip(panels, responses, strict=True):
        _means(axes, response, several)
    width, height = figure.get_size_inches()
    to = "" if several else f", {_conditions(responses[0])[1]}"
    small: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": False}
    figure.text(0.5, 0.25 / height, f"predicted mean {_values(responses[0])}{to}", **small)
    figure.text(0.22 / width, 0.5, f"real mean {_values(responses[0])}{to}", rotation=90, **small)
    n_de, n_named = len(responses[0].de), _named(responses[0]).size
    labels = ["all genes", f"{n_de} most different genes (DE)", f"{n_named} most different, named"]
    handles = [panels[0].collections[i] for i in range(3)]
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False, markerscale=2,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return figure


def violin(responses: Sequence[Response]) -> Figure:
    """The genes that differ most: real cells before, predicted cells and real cells after, one row per cell type.

    A black bar is the mean over all cells; the outline is of the cells that were kept.

    Parameters
    ----------
    responses : sequence of Response
        As `evaluate` returns them; at least one.
    """
    n = len(responses)
    columns = 1 if n <= ONE_COLUMN else int(np.ceil(np.sqrt(n / 6)))
    most = max(_named(response).size for response in responses)
    figure, panels = _grid(n, columns, (max(6.5, most), 1.35), left=0.75, gap=(0.6, 0.7), top=0.7, bottom=0.4)
    several = _several(responses)
    for axes, response in zip(panels, responses, strict=True):
        _violins(axes, response, most, several)
    origin, to = _conditions(responses[0])
    if several:  # which ones stands above each row
        origin, to = "before", "after"
    labels = {"control": f"{origin}, real", "predicted": f"{to}, predicted", "real": f"{to}, real"}
    handles: list[Any] = [Patch(color=COLOURS[kind], label=label) for kind, label in labels.items()]
    handles.append(Line2D([], [], color="black", label="mean"))
    legend = figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _grid(
    n: int,
    columns: int,
    size: tuple[float, float],
    *,
    left: float,
    gap: tuple[float, float],
    top: float,
    bottom: float,
    right: float = 0.2,
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels of one size in rows; all lengths in inches."""
    rows = -(-n // columns)
    width = left + columns * size[0] + (columns - 1) * gap[0] + right
    height = top + rows * size[1] + (rows - 1) * gap[1] + bottom
    figure = Figure(figsize=(width, height), dpi=min(150, np.sqrt(LARGEST / (width * height))))
    FigureCanvasAgg(figure)  # to measure names
    panels = []
    for i in range(n):
        row, column = divmod(i, columns)
        x = left + column * (size[0] + gap[0])
        y = height - top - row * (size[1] + gap[1]) - size[1]
        axes = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        panels.append(axes)
    return figure, panels


def _several(responses: Sequence[Response]) -> bool:
    """Whether they are under different conditions, so that each has to say its own."""
    return len({response.to for response in responses}) > 1


def _values(response: Response) -> str:
    """What is drawn."""
    return "log expression" if response.is_log else "value"


def _title(response: Response, width: int, several: bool) -> str:
    """The cell type in at most two lines, marked where the model never saw what it predicts."""
    name = "all cells" if response.group == "all" else response.group
    name = f"{response.to}, {name}" if several else name
    return textwrap.fill(name + (" (held out)" if response.held_out else ""), width, max_lines=2, placeholder=" …")


def _conditions(response: Response) -> tuple[str, str]:
    """Names of the conditions that cells come from and are predicted under."""
    to = _short(response.to, CONDITION)
    return _short(response.origin, CONDITION) or f"not {to}", to


def _named(response: Response) -> np.ndarray:
    """Columns of the genes that are named."""
    return response.de[: response.cells["real"].shape[1]]


def _names(response: Response) -> list[str]:
    return [_short(str(gene), GENE) for gene in response.genes[_named(response)]]


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _means(axes: Axes, response: Response, several: bool) -> None:
    """One panel of the scatter."""
    xy = np.column_stack([response.means["predicted"], response.means["real"]])
    low, high = min(0.0, float(xy.min())), float(xy.max()) or 1.0
    margin = 0.05 * (high - low)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axes.axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle="--", zorder=0)
    named = _named(response)
    for genes, size, colour in ((slice(None), 5, GREY), (response.de, 7, BLUE), (named, 14, RED)):
        axes.scatter(xy[genes, 0], xy[genes, 1], s=size, c=colour, linewidths=0, rasterized=True)
    axes.set_title(_title(response, 36, several), fontsize=9, fontweight="bold", loc="left", parse_math=False)
    off = (xy[:, 1] - xy[:, 0]) / (high - low)  # the scores go into the emptier corner off the diagonal
    above = np.sum(off > 0.4) <= np.sum(off < -0.4)
    scores = axes.text(
        0.03 if above else 0.98,
        0.98 if above else 0.02,
        f"R² {response.r2_all:.3f} all genes\nR² {response.r2_de:.3f} DE genes",
        ha="left" if above else "right",
        va="top" if above else "bottom",
        transform=axes.transAxes,
        fontsize=7.5,
    )
    _name_points(axes, xy, named, _names(response), scores.get_window_extent())


def _name_points(axes: Axes, xy: np.ndarray, named: np.ndarray, names: list[str], taken: Bbox) -> None:
    """Write the names of genes beside their points, with a line to those further away."""
    frame, unit, back = axes.bbox, axes.figure.dpi / 72, axes.transData.inverted()  # unit: pixels in a point
    pixels, diagonal = axes.transData.transform(xy), np.linspace(frame.p0, frame.p1, 60)
    # many genes lie on one spot: one stands for all
    crowd = np.unique(np.round(np.concatenate([pixels, diagonal]) / (2 * unit)), axis=0) * 2 * unit
    style: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center", "parse_math": False}
    labels = [axes.text(xy[gene, 0], xy[gene, 1], name, **style) for gene, name in zip(named, names, strict=True)]
    sizes = np.array([label.get_window_extent().size for label in labels]) + 2 * unit
    inner = np.array([frame.p0 + 2 * unit, frame.p1])  # off the axes' lines
    centres = place(pixels[named], sizes, inner, np.array([taken.extents]), crowd)
    lines = []
    for label, centre, size, point in zip(labels, centres, sizes, pixels[named], strict=True):
        label.set_position(tuple(back.transform(centre)))
        near = np.clip(point, centre - size / 2, centre + size / 2)
        if np.linalg.norm(near - point) > 4 * unit:
            lines.append(back.transform([point, near]))
    axes.add_collection(LineCollection(lines, colors="0.35", linewidths=0.5, zorder=1.5))


def _violins(axes: Axes, response: Response, most: int, several: bool) -> None:
    """One row of violins: of every gene the three kinds of cells."""
    genes = _named(response)
    places = np.arange(len(genes))
    for i, (kind, colour) in enumerate(COLOURS.items()):
        at = places + 0.28 * (i - 1)
        drawn: Any = axes.violinplot(list(response.cells[kind].T), at, widths=0.26, showextrema=False)
        for body in drawn["bodies"]:
            body.set(facecolor=colour, edgecolor=colour, alpha=0.85, linewidth=0.5)
        means = response.means[kind][genes]
        flat = np.ptp(response.cells[kind], axis=0) < FLAT
        axes.hlines(means[flat], at[flat] - 0.13, at[flat] + 0.13, color=colour, linewidth=3)
        axes.hlines(means, at - 0.11, at + 0.11, color="black", linewidth=1.2)
    axes.set_xticks(places, _names(response), fontsize=8, parse_math=False)
    axes.set_xlim(-0.5, most - 0.5)
    for edge in places[:-1] + 0.5:
        axes.axvline(edge, color="0.9", linewidth=0.6, zorder=0)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(_values(response), fontsize=8)
    axes.set_title(_title(response, 40, several), fontsize=9, fontweight="bold", loc="left", parse_math=False)
    n, (origin, to) = response.n_cells, _conditions(response)
    said = f"{n['control']} {origin}, {n['predicted']} predicted, {n['real']} {to} cells"
    axes.set_title(said, fontsize=7, loc="right", parse_math=False)
