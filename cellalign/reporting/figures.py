"""Arrays in, figures for the browser out: Plotly's `data` and `layout`, as plain dictionaries.

Colours are Okabe and Ito's, and never alone: systems differ by their symbol, curves by their dashes as well.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cellalign.plots.names import place
from cellalign.plots.palette import PALETTE
from cellalign.reporting.packed import indices, packed

BLUE, ORANGE, GREEN = PALETTE[:3]
PINK, SKY, RUST = PALETTE[3], PALETTE[4], PALETTE[5]
GREY, DARK, SOFT = "#8c959f", "#1b1f24", "#57606a"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "triangle-down")
ROW, TWO_LINES = 30, 38  # pixels of a row of names, of one line or two
FRAME, HIGHEST = 110, 2400  # pixels around all rows, and of a heat map
MOST_ROWS = 40  # of dots; tables have all
LONGEST, LINE = 40, 20  # letters of a name on an axis, and of a line of it
DRAWN_GENES = 2500  # of a scatter: more points are no more picture
ALL_GENES = 24_000  # of all scatters of a page, which has to stay small
VIOLIN_STEPS = 40
VIOLIN_WIDTH = 0.26


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def plain(name: str) -> str:
    """Text as Plotly shows it, which reads some HTML in labels: with nothing in it that it would take for markup."""
    return str(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def names_of(names: Sequence[str]) -> list[str]:
    """Names for an axis, each a different one."""
    found: dict[str, None] = {}
    for name in map(str, names):
        own, i = _lines(short(name)), 2
        while own in found:
            own, i = f"{_lines(short(name, LONGEST - 4))} ({i})", i + 1
        found[own] = None
    return list(found)


def _lines(name: str) -> str:
    """A name in two lines where it is long."""
    lines = textwrap.wrap(name, LINE, break_long_words=False) or [name]
    return "<br>".join(plain(line) for line in (lines if len(lines) < 3 else [lines[0], " ".join(lines[1:])]))


def rows_of_dots(
    names: Sequence[str],
    series: Sequence[Mapping[str, Any]],
    *,
    title: str,
    line: float | None = None,
    span: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """A row per name and a dot per series, with intervals where they are known.

    Parameters
    ----------
    names : sequence of str
        From the top.
    series : sequence of mappings
        name, values [rows], low and high [rows] (optional), colour, symbol.
    title : str
        Of the axis of values.
    line : float, optional
        Where a line is drawn across all rows.
    span : (low, high), optional
        Which part of the axis is shown at first.
    """
    shown = names_of(names)
    offsets = np.linspace(0.18, -0.18, len(series)) if len(series) > 1 else [0.0]
    data = []
    for i, (own, offset) in enumerate(zip(series, offsets, strict=True)):
        values = np.asarray(own["values"], dtype=float)
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": plain(own["name"]),
            "x": values.tolist(),
            "y": (np.arange(len(names))[::-1] + offset).tolist(),
            "text": [plain(f"{name}: {own['name']} {value:.3f}") for name, value in zip(names, values, strict=True)],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": own["colour"], "symbol": own.get("symbol", SYMBOLS[i]), "size": own.get("size", 10)},
        }
        if own.get("low") is not None:
            low, high = (np.asarray(own[end], dtype=float) for end in ("low", "high"))
            error = {"type": "data", "symmetric": False, "thickness": 1.6, "width": 0, "color": own["colour"]}
            up, down = np.nan_to_num(high - values).clip(0), np.nan_to_num(values - low).clip(0)
            trace["error_x"] = error | {"array": up.tolist(), "arrayminus": down.tolist()}
        data.append(trace)
    n = len(names)
    y = {"tickvals": list(range(n))[::-1], "ticktext": shown, "range": [-0.6, n - 0.4], "showgrid": True, "ticks": ""}
    x: dict[str, Any] = {"title": {"text": title}, "zeroline": line is None}
    if span is not None:
        x["range"] = list(span)
    row = TWO_LINES if any("<br>" in name for name in shown) else ROW
    layout: dict[str, Any] = {"height": FRAME + row * max(n, 2), "xaxis": x, "yaxis": y | {"zeroline": False}}
    if line is not None:
        mark = {"color": GREY, "width": 1.4, "dash": "dash"}
        layout["shapes"] = [
            {"type": "line", "x0": line, "x1": line, "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "line": mark}
        ]
    return {"data": data, "layout": layout}


def curves(x: Sequence[float], lines: Mapping[str, Sequence[float]], *, best: float | None = None) -> dict[str, Any]:
    """Lines over epochs, and where the best one was."""
    data = [
        {
            "type": "scatter",
            "mode": "lines" if len(x) > 1 else "markers",
            "name": plain(name),
            "x": list(x),
            "y": list(values),
            "line": {"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)], "width": 2},
        }
        for i, (name, values) in enumerate(lines.items())
    ]
    layout: dict[str, Any] = {
        "height": 330,
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "epoch"}, "zeroline": False},
        "yaxis": {"title": {"text": "loss"}, "zeroline": False, "range": _middle(lines)},
    }
    if best is not None:
        mark = {"color": GREY, "width": 1.2, "dash": "dot"}
        layout["shapes"] = [{"type": "line", "x0": best, "x1": best, "yref": "paper", "y0": 0, "y1": 1, "line": mark}]
        said = {"text": f"kept: epoch {best:g}", "showarrow": False, "font": {"size": 11, "color": SOFT}}
        layout["annotations"] = [said | {"x": best, "xanchor": "right", "y": 1, "yref": "paper", "yanchor": "top"}]
    return {"data": data, "layout": layout}


def _middle(lines: Mapping[str, Sequence[float]]) -> list[float] | None:
    """The range of most values: a first epoch or a spike may lie far above all others; None of few."""
    values = np.concatenate([np.asarray(v, dtype=float) for v in lines.values()])
    values = values[np.isfinite(values)]
    if len(values) < 10:
        return None
    low, most = float(values.min()), float(np.quantile(values, 0.8))
    high = min(float(values.max()), most + 1.5 * (most - low))
    room = 0.06 * ((high - low) or 1.0)
    return [low - room, high + room]


def response_scatter(
    predicted: np.ndarray,
    real: np.ndarray,
    de: np.ndarray,
    named: np.ndarray,
    genes: Sequence[str],
    *,
    to: str,
    among: int = 1,
) -> dict[str, Any]:
    """Predicted against real mean expression of genes [G]: all, the DE genes, and a few of these by name.

    The figure's texts refer to the shared list "genes". `among` is how many such pictures the page has: of very many
    genes those are drawn that are different or wrong, and others at random.
    """
    off = np.abs(predicted - real)
    kept = np.arange(len(real))
    most = min(DRAWN_GENES, ALL_GENES // among)
    if len(kept) > most:
        others = np.random.default_rng(0).permutation(len(real))[:most]
        kept = np.unique(np.concatenate([de, np.argsort(-off)[:200], others]))
    rest = np.setdiff1d(kept, de)
    parts = (
        ("other genes", rest, {"color": "#b8bfc6", "size": 5, "opacity": 0.75}),
        (f"{len(de)} most different", np.setdiff1d(de, named), {"color": BLUE, "size": 7, "symbol": "diamond"}),
        ("named", named, {"color": RUST, "size": 9, "symbol": "circle", "line": {"color": "#fff", "width": 1}}),
    )
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": packed(predicted[rows].astype(np.float32)),
            "y": packed(real[rows].astype(np.float32)),
            "text": {"of": "genes", "at": indices(rows)},
            "hovertemplate": "<b>%{text}</b><br>predicted %{x:.3f}<br>real %{y:.3f}<extra></extra>",
            "marker": marker,
        }
        for name, rows, marker in parts
        if len(rows)
    ]
    both = np.concatenate([predicted, real])
    low, high = float(min(0.0, both.min())), float(both.max()) or 1.0
    room = 0.05 * (high - low)
    line = {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "layer": "below"}
    notes = _named(predicted, real, named, genes, (low - room, high + room))
    layout = {
        "height": 500,
        "xaxis": {"title": {"text": plain(f"predicted mean, {to}")}, "range": [low - room, high + room]},
        "yaxis": {"title": {"text": plain(f"real mean, {to}")}, "range": [low - room, high + room]},
        "shapes": [{**line, "line": {"color": GREY, "width": 1, "dash": "dash"}}],
        "annotations": notes,
        "narrow": {"height": 420, "annotations": notes[:5]},
    }
    return {"data": data, "layout": layout}


WIDE, HIGH, LETTER, TALL = 690.0, 430.0, 6.6, 15.0  # pixels: of a scatter's frame, and of a letter


def _named(
    predicted: np.ndarray, real: np.ndarray, named: np.ndarray, genes: Sequence[str], span: tuple[float, float]
) -> list[dict[str, Any]]:
    """Names of points, each where it covers neither another nor a point, with a line to its own."""
    low, high = span
    scale = np.array([WIDE, HIGH]) / (high - low)
    pixels = (np.column_stack([predicted, real]) - low) * scale
    crowd = np.unique(np.round(pixels / 3), axis=0) * 3
    texts = [short(str(genes[gene]), 18) for gene in named]
    sizes = np.array([[LETTER * len(text) + 6, TALL] for text in texts]).reshape(-1, 2)
    frame = np.array([[4.0, 4.0], [WIDE - 4, HIGH - 4]])
    corner = np.array([[WIDE - 150, 0.0, WIDE, 40]])  # of the scores
    centres = place(pixels[named], sizes, frame, corner, crowd)
    return [
        {
            **{"x": float(predicted[gene]), "y": float(real[gene]), "text": plain(text), "font": {"size": 11}},
            **{"showarrow": True, "arrowwidth": 0.7, "arrowhead": 0, "arrowcolor": GREY, "standoff": 3},
            **{"ax": round(float(centre[0] - pixels[gene, 0])), "ay": -round(float(centre[1] - pixels[gene, 1]))},
        }
        for gene, text, centre in zip(named, texts, centres, strict=True)
    ]


def violins(
    genes: Sequence[str], cells: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> dict[str, Any]:
    """Expression of each gene in each kind of cells: its density, and the mean as a bar.

    Parameters
    ----------
    genes : sequence of str [k]
    cells : dict of arrays [n, k]
        By kind.
    means : dict of arrays [k]
        Over all cells.
    names : dict of str
        How a kind is called.
    """
    colours = dict(zip(names, (BLUE, ORANGE, GREEN), strict=False))
    data: list[dict[str, Any]] = []
    for i, (kind, called) in enumerate(names.items()):
        x, y = _outlines(cells[kind], 0.29 * (i - (len(names) - 1) / 2))
        data.append(
            {
                **{"type": "scatter", "mode": "lines", "name": plain(called), "legendgroup": kind, "fill": "toself"},
                **{"x": x, "y": y, "line": {"color": colours[kind], "width": 1}, "fillcolor": colours[kind]},
                **{"opacity": 0.85, "hoverinfo": "skip"},
            }
        )
    for i, (kind, called) in enumerate(names.items()):
        zero = (np.asarray(cells[kind]) == 0).mean(0) if len(cells[kind]) else np.zeros(len(genes))
        text = [
            plain(f"{gene}, {called}: mean {mean:.2f}, {share:.0%} of the cells at 0")
            for gene, mean, share in zip(genes, means[kind], zero, strict=True)
        ]
        bar = {"symbol": "line-ew-open", "size": 12, "color": DARK, "line": {"color": DARK, "width": 2.4}}
        data.append(
            {
                **{"type": "scatter", "mode": "markers", "legendgroup": kind, "showlegend": False, "marker": bar},
                **{"x": [g + 0.29 * (i - (len(names) - 1) / 2) for g in range(len(genes))]},
                **{"y": [float(mean) for mean in means[kind]], "text": text, "hovertemplate": "%{text}<extra></extra>"},
            }
        )
    ticks = {"tickvals": list(range(len(genes))), "ticktext": [plain(short(gene, 18)) for gene in genes]}
    return {
        "data": data,
        "layout": {
            "height": 360,
            "xaxis": ticks | {"range": [-0.6, len(genes) - 0.4], "showgrid": False, "zeroline": False, "ticks": ""},
            "yaxis": {"title": {"text": "expression"}, "zeroline": False},
        },
    }


def _outlines(x: np.ndarray, offset: float) -> tuple[list[float | None], list[float | None]]:
    """Outlines of the densities of columns, closed, with a gap between each."""
    from scipy.stats import gaussian_kde

    across: list[float | None] = []
    along: list[float | None] = []
    for gene, values in enumerate(np.asarray(x, dtype=float).T):
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        grid = np.linspace(low, high, VIOLIN_STEPS)
        if high - low < 1e-6 or len(values) < 3:
            grid, width = np.array([low - 0.01, high + 0.01]), np.full(2, VIOLIN_WIDTH / 2)
        else:
            density = gaussian_kde(values)(grid)
            width = density / density.max() * VIOLIN_WIDTH / 2
        middle = gene + offset
        across += [*np.round(middle - width, 3).tolist(), *np.round(middle + width, 3)[::-1].tolist(), None]
        along += [*np.round(grid, 3).tolist(), *np.round(grid, 3)[::-1].tolist(), None]
    return across, along


def heat_map(
    effect: np.ndarray, probability: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> dict[str, Any]:
    """Effects [rows, columns] as colour, white where there is none, and their probability at the pointer."""
    reach = float(np.abs(effect).max(initial=0)) or 1.0
    whole = min(22.0 * len(rows), max(900.0, min(7.0 * len(rows), HIGHEST)))
    height = whole / max(1, len(rows))
    trace = {
        "type": "heatmap",
        "z": packed(effect.astype(np.float32)),
        "x": names_of(columns),
        "y": names_of(rows),
        "zmin": -reach,
        "zmax": reach,
        "colorscale": [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#ffffff"], [0.75, "#f4a582"], [1, "#b2182b"]],
        "customdata": np.round(probability, 2).tolist(),
        "hovertemplate": "%{y} → %{x}<br>effect %{z:+.2f}, probability %{customdata:.2f}<extra></extra>",
        "xgap": 1,
        "ygap": 1 if height > 10 else 0,
        "colorbar": {"title": {"text": "effect", "side": "right"}, "thickness": 12, "outlinewidth": 0},
    }
    size = 90 + height * max(4, len(rows))
    y: dict[str, Any] = {"autorange": "reversed", "showgrid": False, "ticks": ""}
    if height > 10:
        y["tickvals"] = names_of(rows)
    return {
        "data": [trace],
        "layout": {
            "height": size,
            "xaxis": {"side": "bottom", "showgrid": False, "ticks": "", "tickangle": -90, "type": "category"},
            "yaxis": y | {"type": "category"},
            "plot_bgcolor": "#f6f8fa",
        },
    }
