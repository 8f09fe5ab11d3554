"""Methods of a benchmark beside the best baseline, group by group: differences, their interval and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import counted
from cellalign.tasks.benchmark_table import beside_others, metric_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CEILINGS = ("split half", "attainable")
COLUMNS = ("best baseline", "difference", "difference low", "difference high", "p", "groups")


@dataclass(frozen=True)
class Row:
    """A method beside the best baseline by one metric; differences are positive where the method is better."""

    method: str
    best: str
    difference: float
    low: float
    high: float
    p: float
    groups: int

    def values(self) -> list[Any]:
        """Of `COLUMNS`, for programs."""
        return [self.best, self.difference, self.low, self.high, self.p, self.groups]

    def cells(self) -> list[str]:
        """As it is printed, without the method."""
        numbers = (self.difference, self.low, self.high)
        said = ["-" if not np.isfinite(each) else f"{each:+.3f}" for each in numbers]
        return [self.best, *said, "-" if not np.isfinite(self.p) else f"{self.p:.2g}", str(self.groups)]


def values_of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric by method (rows) and held-out group and condition (columns), the mean over seeds.

    Without what predictions may owe to the noise of their own control. Groups that cannot be measured are left out,
    where some can.
    """
    keys = ["held_out", "to"]
    if "measurable" in table:
        known = table.dropna(subset=["measurable"])
        kept = set(known[known["measurable"] > 0].set_index(keys).index)
        if kept:
            table = table[[pair in kept for pair in zip(table["held_out"], table["to"], strict=True)]]
    if metric not in table:
        return table.iloc[:0].set_index("method")[[]]
    values = table.assign(value=beside_others(table, metric))
    return values.pivot_table(index="method", columns=keys, values="value", aggfunc="mean", observed=True)


def paired(table: pd.DataFrame, metric: str, seed: int = 0) -> list[Row]:
    """Every method beside the best baseline: the interval is Student's t over groups, for p their signs are flipped.

    Parameters
    ----------
    table : DataFrame
        As `benchmark` returns it.
    metric : str
    seed : int

    Returns
    -------
    list of Row
        Best first, those that lack a group last; none where no baseline has this metric, or it has no better end.
    """
    from cellalign.evaluation.baselines import NAMES
    from cellalign.evaluation.intervals import mean_interval, sign_flip

    better = metric_of(metric).better
    if better.way not in ("up", "down"):
        return []
    wide = values_of(table, metric) * (1.0 if better.way == "up" else -1.0)
    baselines = [name for name in ("no change", *NAMES) if name in wide.index and wide.loc[name].notna().all()]
    methods = [name for name in wide.index if name not in ("no change", *NAMES, *CEILINGS)]
    if not baselines or not methods:
        return []
    best = wide.loc[baselines].mean(axis=1).idxmax()
    found = []
    for method in methods:
        difference = (wide.loc[method] - wide.loc[best]).dropna().to_numpy(dtype=float)
        if not len(difference):
            continue
        mean, interval, p = float(difference.mean()), mean_interval(difference), sign_flip(difference, seed)
        found.append(Row(str(method), str(best), mean, interval.low, interval.high, p, len(difference)))
    return sorted(found, key=lambda row: (row.groups < len(wide.columns), -row.difference))


def sentence(rows: list[Row], metric: str) -> str:
    """In words which methods are better than the best baseline, and which are not."""
    if not rows:
        return ""
    by = {"better": [], "worse": [], "no better": []}  # type: dict[str, list[str]]
    most = max(row.groups for row in rows)
    for row in rows:
        fewer = f" (over {row.groups})" if row.groups < most else ""
        by["better" if row.low > 0 else "worse" if row.high < 0 else "no better"].append(row.method + fewer)
    said = [f"{how} than it: {', '.join(names)}" for how, names in by.items() if names]
    return f"best baseline by {metric}: {rows[0].best}; {'; '.join(said)} ({counted(most, 'group')})"


def picture(table: pd.DataFrame, metric: str) -> Figure:
    """Methods by held-out groups, with the best baseline and what halves of the real cells reach.

    Raises
    ------
    InputError
        No method has this metric.
    """
    from cellalign.errors import InputError
    from cellalign.plots.benchmark import draw

    wide, rows = values_of(table, metric), paired(table, metric)
    methods = [row.method for row in rows] or [name for name in wide.index if name not in CEILINGS]
    if not len(wide.columns) or not methods:
        raise InputError(f"there is nothing to draw: no method has {metric}")
    groups = [group if len({to for _, to in wide.columns}) == 1 else f"{group}, {to}" for group, to in wide.columns]
    scored = table.assign(value=beside_others(table, metric))[table["method"].isin(methods)]
    sem = scored.groupby(["method", "held_out", "to"], observed=True)["value"]
    errors = sem.sem().unstack(["held_out", "to"]).reindex(index=methods, columns=wide.columns)

    def line(name: str, called: str) -> tuple[str, np.ndarray] | None:
        return (called, wide.loc[name].to_numpy(dtype=float)) if name in wide.index else None

    best = rows[0].best if rows else ""
    return draw(
        groups,
        methods,
        wide.loc[methods].to_numpy(dtype=float),
        errors.to_numpy(dtype=float),
        baseline=line(best, f"best baseline: {best}"),
        ceiling=line("split half", "halves of the real cells"),
        heading=metric_of(metric).heading,
    )
