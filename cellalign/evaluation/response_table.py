"""The scores of a predicted response as tables for people: narrow, one system or one group a row.

Programs read all of it as rows (`Evaluation.frame`); people read the means first, then each group beside its best
baseline. All fit 100 columns unless names are long.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cellalign.evaluation.table import Row

Table = tuple[str, list[str], list[list[str]]]
MEAN = "mean"
PANEL, PREDICTION, HALVES, MAIN = "response", "prediction", "split half", "r_change_de"
CHANGES = (MAIN, "r_change_all", "r_change_de10", "r_change_de100")
ERRORS = ("direction_de", "mse_change_all", "mse_change_de", "mse_all", "mse_de")
LEVELS = ("r_all", "r_de", "r_de10", "r_de100", "r2_means", "r2_variances", "energy")
ALWAYS = (PREDICTION, "no change", "mean shift", "mean response", HALVES, "attainable")  # beside the best baseline


def tables(rows: Sequence[Row], measurable: tuple[int, int]) -> list[Table]:
    """Means over groups by system, groups beside their best baselines, and other scores of the systems that matter."""
    rows = [row for row in rows if row.panel == PANEL]
    groups = [group for group in dict.fromkeys(row.group for row in rows) if not _is_mean(group)]
    means = [row for row in rows if row.group == MEAN or (_is_mean(row.group) and row.system == PREDICTION)]
    of = f"mean over {'these' if measurable[0] else 'all'}" if len(groups) > 1 else groups[0]
    title = f"{PANEL}: measurable groups: {measurable[0]} of {measurable[1]}; {of}"
    best = {row.evidence.best for row in means if row.metric == MAIN and row.evidence}
    few = [row for row in means if row.system in {*ALWAYS, *best}]
    return [
        (title, *_by_system(means, CHANGES, with_worth=True)),
        (f"{PANEL}: {MAIN} of each group", *_by_group(rows, groups)),
        (f"{PANEL}: errors", *_by_system(few, ERRORS, with_worth=False)),
        (f"{PANEL}: levels of expression", *_by_system(few, LEVELS, with_worth=False)),
    ]


def _is_mean(group: str) -> bool:
    return group == MEAN or group.startswith(f"{MEAN} of ")


def _named(row: Row) -> str:
    """The system, and of the prediction what it is."""
    status = row.evidence.status if row.evidence is not None else ""
    return f"{row.system} ({status})" if row.system == PREDICTION and status else row.system


def _by_system(rows: Sequence[Row], metrics: Sequence[str], *, with_worth: bool) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a system each, its scores; behind the first its interval and its anchored value."""
    there = {(row.system, row.group, row.metric): row for row in rows}
    arrows = {row.metric: row.declared.heading for row in rows}
    spread = {(row.system, row.group, row.declared.spread_of): row.value for row in rows if row.declared.spread_of}
    shown = [metric for metric in metrics if metric in arrows]
    columns = [""]
    for metric in shown:
        columns += [arrows[metric], *(["95 %", "anchored"] if with_worth and metric == MAIN else [])]
    lines = []
    for system, group in dict.fromkeys((row.system, row.group) for row in rows):
        own = [there.get((system, group, metric)) for metric in shown]
        if all(row is None for row in own):
            continue
        line = [_named(next(row for row in own if row is not None))]
        for metric, row in zip(shown, own, strict=True):
            sd = spread.get((system, group, metric))
            number = _small if metric in ERRORS else _number
            line.append("" if row is None else number(row.value) + (f" ± {sd:.3f}" if sd is not None else ""))
            if with_worth and metric == MAIN:
                line += [_interval(row), _number(row.evidence.anchored) if row and row.evidence else ""]
        lines.append(line)
    return columns, lines


def _by_group(rows: Sequence[Row], groups: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a group each, its halves, its prediction, its best baseline and their difference."""
    main = {(row.system, row.group): row for row in rows if row.metric == MAIN}
    status = {row.group: row.evidence.status for row in rows if row.system == PREDICTION and row.evidence}
    mixed = len({status.get(group) for group in groups}) > 1
    lines = []
    for group in groups:
        row, half = main.get((PREDICTION, group)), main.get((HALVES, group))
        name = f"{group} ({status[group]})" if mixed and status.get(group) else group
        line = [name, _number(half.value) if half else ""]
        worth = None if row is None else row.evidence
        if half is not None and half.evidence is not None and half.evidence.measurable is False:
            line += ["not measurable", "", "", ""]
        elif row is None or worth is None:
            line += ["no change", "", "", ""]
        else:
            between = _between(worth.difference_low, worth.difference_high, sign=True)
            line += [_number(row.value), worth.best, _number(worth.difference, sign=True), between]
        lines.append(line)
    return ["", "halves", "prediction", "best baseline", "better by", "95 %"], lines


def _interval(row: Row | None) -> str:
    return "" if row is None or row.evidence is None else _between(row.evidence.low, row.evidence.high)


def _between(low: float, high: float, *, sign: bool = False) -> str:
    return f"{_number(low, sign=sign)} to {_number(high, sign=sign)}" if np.isfinite([low, high]).all() else ""


def _small(value: float) -> str:
    """A number of which two digits are shown however small it is: squared errors of log expression are."""
    return f"{value:.{1 - floor(log10(abs(value)))}f}" if 0 < abs(value) < 0.01 else _number(value)


def _number(value: float, *, sign: bool = False) -> str:
    """Three digits behind the point; nothing of what is not there."""
    return "" if not np.isfinite(value) else f"{value:+.3f}" if sign else f"{value:.3f}"
