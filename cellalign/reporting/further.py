"""Scores that have no picture of their own, and what every score on the page means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cellalign.reporting.blocks import Block, Section, Table
from cellalign.reporting.scores import Scores, number

DRAWN = ("response", "mixing", "probe", "bio", "screen")  # panels that have sections of their own
LONG = 30  # rows of a table that is shown opened


def further_section(scores: Scores, name: str, of: str) -> Section | None:
    """A table of every panel that has no section of its own; None where there is none."""
    blocks: list[Block] = [_table(scores, panel) for panel in scores.panels() if panel not in DRAWN]
    return Section(name, f"Further scores{of}", "", blocks) if blocks else None


def _table(scores: Scores, panel: str) -> Table:
    """What is scored as rows, metrics as columns; or the other way round where these are many."""
    rows = scores.panel(panel)
    values = {(row["system"], row["group"], row["metric"]): row["value"] for row in rows}
    scored = list(dict.fromkeys((row["system"], row["group"]) for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    names = [" / ".join(part for part in each if part != "all") or "all cells" for each in scored]
    cells = [[number(values.get((*each, metric))) for metric in metrics] for each in scored]
    columns, lines = ["", *metrics], [[name, *line] for name, line in zip(names, cells, strict=True)]
    if len(metrics) > 8 and len(scored) <= len(metrics):
        columns, *lines = [list(line) for line in zip(columns, *lines, strict=True)]
    about = _summaries().get(panel, "")
    caption = f"Panel {panel}{': ' if about else ''}{about}"
    return Table(columns, lines, caption, folded=f"Panel {panel}: all {len(lines)} rows" if len(lines) > LONG else "")


def glossary(scores: Sequence[Scores]) -> Section | None:
    """Every score on the page with its meaning, its direction, and its value where there is no signal."""
    from cellalign.evaluation.catalogue import catalogue

    there = {(row["panel"], row["metric"]) for each in scores for row in each.rows}
    lines = [
        [metric.name, metric.meaning, metric.better.in_words, metric.null]
        for panel, metric in catalogue()
        if (panel, metric.name) in there and metric.spread_of is None
    ]
    once = list({tuple(line): line for line in lines}.values())
    if not once:
        return None
    columns = ["score", "meaning", "better", "without any signal"]
    table = Table(columns, once, "", words=(0, 1, 2, 3), folded=f"All {len(once)} scores of this page")
    return Section("glossary", "What the scores mean", "", [table])


@cache
def _summaries() -> dict[str, str]:
    from cellalign.evaluation.panels import PANELS

    return {name: cls.summary for name, cls in PANELS.items()}
