"""Of embedded cells: the map before and after, mixing beside its null, what latents tell, and the scIB panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cellalign.evaluation.metrics.probe import REGRESSIONS
from cellalign.reporting.blocks import Block, CellMap, Chart, Finding, Section, Table
from cellalign.reporting.figures import BLUE, GREY, MOST_ROWS, rows_of_dots
from cellalign.reporting.parts import Embedded
from cellalign.reporting.scores import Scores, listed, number, value_of

VALIDATION, ALL = "validation cells", "all"
FAR = 3  # standard deviations of permutations, from which mixing is not that of permuted conditions
MIXING = "mixing"
SHARES = ("kBET", "own share")  # from 0 to 1
METRICS = {
    "kBET": "share of neighbourhoods whose conditions a test tells from a random draw",
    "s": "how far apart conditions lie; 0 is nothing",
    "own share": "share of a cell's 15 nearest neighbours of its own condition",
}


def finding(scores: Scores, of: str) -> Finding | None:
    """Whether conditions mix, of cells that were not trained on where they are known; None where it was not scored."""
    row = _main(scores)
    if row is None or math.isnan(row["null"]):
        return None
    share, null = row["value"], row["null"]
    far = (share - null) / max(row["null_sd"], 1e-9)
    how = "as well as shuffled ones do" if abs(far) <= FAR else "nearly as shuffled ones do"
    if share - null > 0.1:
        how = "less than shuffled ones do" if share < 0.5 else "hardly at all"
    elif far < -FAR:
        how = "more evenly than shuffled ones do, which no data does by itself"
    which = "cells that were not trained on" if row["system"] == VALIDATION else "all cells"
    text = (
        f"among each cell's neighbours conditions mix {how}: kBET {number(share)}, where shuffled conditions give "
        f"{number(null)} ± {number(row['null_sd'])} ({which})"
    )
    explained = (
        "kBET is the share of cells whose neighbourhood a test tells from a random draw of conditions. Mixing alone is "
        "no merit: what mixes cell types as well has lost them, so read it beside how well types are kept."
    )
    return Finding(text, "integration", "plain", of, explained)


def _main(scores: Scores) -> Mapping[str, Any] | None:
    rows = scores.panel(MIXING)
    found = value_of(rows, system=VALIDATION, group="all", metric="kBET")
    return found or value_of(rows, system=ALL, group="all", metric="kBET")


def map_section(own: Embedded, name: str, of: str) -> Section | None:
    """The cells before and after; None where there is no picture of them."""
    if own.after is None:
        return None
    maps = ({"before: unintegrated expression": own.before} if own.before is not None else {}) | {
        f"after: {own.method}": own.after
    }
    n = len(own.after)
    drawn = f"{n:,} cells" if n == own.n_cells else f"{n:,} of {own.n_cells:,} cells, drawn at random"
    caption = (
        f"UMAP of {drawn}. Point at a cell to see what it is; click a name to hide it, double-click to see it alone. "
        "Distances and sizes of clusters in a UMAP mean little: the scores below count."
    )
    if own.left_out:
        caption += f" Not offered as colours: {listed(list(own.left_out), 6)}."
    lead = "Each point is a cell; alike cells lie together."
    if own.before is None and own.why_no_before:
        lead += f" There is no picture before integration: {own.why_no_before}."
    return Section(name, f"Cells before and after{of}", lead, [CellMap(maps, own.columns, caption)])


def mixing_section(scores: Scores, name: str, of: str) -> Section | None:
    """Mixing beside its null, and what the latents tell; None where neither was scored."""
    blocks: list[Block] = []
    rows = scores.panel(MIXING)
    if rows:
        blocks += [_dots(rows), _table(rows)]
    told = scores.panel("probe")
    if told:
        blocks.append(_probe(told))
    if not blocks:
        return None
    lead = (
        "Whether conditions mix among each cell's neighbours as shuffled conditions do: the grey band, not zero, is "
        "what to compare with."
    )
    return Section(name, f"Mixing of conditions{of}", lead, blocks)


def _dots(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Each metric over all cells and cell types, with the values of shuffled conditions."""
    figures = {}
    for metric in dict.fromkeys(row["metric"] for row in rows if row["metric"] in METRICS):
        own = [row for row in rows if row["metric"] == metric and not math.isnan(row["null"])]
        own = sorted(own, key=lambda row: "=" in row["group"] and len(own) > MOST_ROWS)[:MOST_ROWS]  # types first
        if not own:
            continue
        names = [_named(row) for row in own]
        null = [row["null"] for row in own]
        ends = [[row["null"] + side * 2 * row["null_sd"] for row in own] for side in (-1, 1)]
        if metric in SHARES:
            ends = [[min(1.0, max(0.0, end)) for end in each] for each in ends]
        figures[metric] = rows_of_dots(
            names,
            [
                {"name": "cells", "values": [row["value"] for row in own], "colour": BLUE},
                {
                    **{"name": "shuffled conditions (± 2 s.d.)", "colour": GREY, "symbol": "line-ns-open", "size": 14},
                    **{"values": null, "low": ends[0], "high": ends[1]},
                },
            ],
            title=metric,
        )
    said = "; ".join(f"{name}: {METRICS[name]}" for name in figures)
    return Chart(figures, f"Best where the dot lies on the grey mark. {said}.", choose="Score")


def _named(row: Mapping[str, Any]) -> str:
    group = "all cells" if row["group"] == "all" else row["group"]
    return f"{group} (not trained on)" if row["system"] == VALIDATION else group


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines = []
    for system, group in dict.fromkeys((row["system"], row["group"]) for row in rows):
        own = {row["metric"]: row for row in rows if (row["system"], row["group"]) == (system, group)}
        first = next(iter(own.values()))
        line = [_named(first), str(first["n_cells"])]
        for metric in metrics:
            row = own.get(metric)
            line += [number(row["value"]), _null(row)] if row else ["", ""]
        lines.append(line)
    columns = ["", "cells", *(name for metric in metrics for name in (metric, "shuffled"))]
    return Table(columns, lines, "Mixing, and the same with conditions shuffled", folded="All numbers of mixing")


def _null(row: Mapping[str, Any]) -> str:
    return "" if math.isnan(row["null"]) else f"{number(row['null'])} ± {number(row['null_sd'])}"


def _probe(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What can be told from the latents, and what a guess reaches."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines = []
    for system, group in dict.fromkeys((row["system"], row["group"]) for row in rows):
        own = {row["metric"]: row for row in rows if (row["system"], row["group"]) == (system, group)}
        name = " / ".join(part for part in (system, group) if part != "all") or "all cells"
        lines.append([name, *(number(own[metric]["value"]) if metric in own else "" for metric in metrics)])
    number_too = any(metric in REGRESSIONS for metric in metrics)
    of_condition = "a condition that is a number an R2 of 0" if number_too else "the condition the majority's share"
    caption = (
        f"What classifiers tell from the latents (accuracy{', or R2' if number_too else ''}): of {of_condition} and no "
        "more, of cell types as much as can be"
    )
    return Table(["", *metrics], lines, caption)


def scib_section(scores: Scores, name: str, of: str) -> Section | None:
    """The scIB panel; None where it was not run."""
    rows = scores.panel("bio")
    if not rows:
        return None
    systems = list(dict.fromkeys(row["system"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    own = {(row["system"], row["metric"]): row["value"] for row in rows}
    lines = [[metric, *(number(own.get((s, metric)), 2) for s in systems)] for metric in metrics]
    lead = (
        "Scores of Luecken et al. (2022), from 0 to 1, higher is better: how well types are kept, and batches removed."
    )
    table = Table(["", *systems], lines, "scIB", bars=True)
    return Section(name, f"scIB panel{of}", lead, [table])
