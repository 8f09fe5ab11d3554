"""A benchmark's table: its columns, and means with standard errors over seeds, best first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import UsageError, option
from cellalign.evaluation.metrics.metric import NULL
from cellalign.tasks.benchmark_fitted import LEANING, null_of
from cellalign.tasks.benchmark_fitted import METRICS as OF_MIXING

if TYPE_CHECKING:
    import pandas as pd

    from cellalign.evaluation import Metric
    from cellalign.records import BenchmarkRow


def as_table(rows: Collection[BenchmarkRow]) -> pd.DataFrame:
    """One row each, a column for every metric that one of them has."""
    import pandas as pd

    from cellalign.evaluation.panels.response import PredictedResponse
    from cellalign.records import BenchmarkRow

    found = {name for row in rows for name in row.scores}
    of_mixing = [each for metric in OF_MIXING for each in (metric.name, null_of(metric.name))]
    known = [*of_mixing, *(metric.name for metric in PredictedResponse.metrics)]
    columns = dict.fromkeys([*BenchmarkRow.COLUMNS, *(name for name in known if name in found), *sorted(found)])
    return pd.DataFrame([row.flat() for row in rows], columns=list(columns))


def metric_of(name: str) -> Metric:
    """The metric of that name among those a benchmark has.

    Raises
    ------
    UsageError
        There is none.
    """
    from cellalign.errors import nearest
    from cellalign.evaluation.metrics.metric import by_name
    from cellalign.evaluation.panels.response import PredictedResponse

    known = by_name((*PredictedResponse.metrics, *OF_MIXING))
    if name not in known:
        raise UsageError(
            f"unknown metric {name!r}.{nearest(name, known)} Metrics of panel {PredictedResponse.name}: "
            f"{', '.join(metric.name for metric in PredictedResponse.metrics)}; where nothing is held out also of "
            f"mixing: {', '.join(metric.name for metric in OF_MIXING)}"
        )
    return known[name]


def metrics_of(names: Sequence[str], holdout_each: str | None) -> list[Metric]:
    """The metrics of the printed table.

    Raises
    ------
    UsageError
        There is none, or one of mixing where groups are held out.
    """
    metrics = [metric_of(name) for name in names]
    if not metrics:
        raise UsageError(f"{option('metric')} names no metric")
    mixed = next((each.name for each in metrics if each in OF_MIXING), None)
    if mixed is not None and holdout_each is not None:
        raise UsageError(
            f"{option('metric', mixed)} is scored where nothing is held out; leave out {option('holdout_each')}"
        )
    return metrics


def beside_others(table: pd.DataFrame, metric: str) -> pd.Series:
    """A metric's values, a prediction's without what they may owe to the noise of its own control."""
    values, owed = table[metric].astype(float), f"{metric} {LEANING}"
    if owed not in table:
        return values
    return values - table[owed].astype(float).fillna(0) * (-1 if metric_of(metric).better.way == "down" else 1)


def summary(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric: methods as rows (best mean first, whichever way is better), held-out groups as columns, their mean.

    What is best at its value under permuted conditions is ordered by the distance to that. A method that lacks a group
    which another has stands behind all that lack none: what it failed at may have been the hard one.

    Raises
    ------
    UsageError
        There is no such metric.
    """
    better = metric_of(metric).better
    wide = _by_group(table, metric).groupby(level="method").mean()
    wide = wide.reindex(table["method"].unique())  # no change has no change to correlate, but its row
    null = None
    if null_of(metric) in table:
        null = _by_group(table, null_of(metric))["mean"].groupby(level="method").mean().reindex(wide.index)
    elif better.target == NULL:  # which the table lacks
        return wide
    lacks = of_groups(table, metric).reindex(wide.index)["lacks"].to_numpy()
    return wide.iloc[np.lexsort((better.loss(wide["mean"], null), lacks))]  # NaN last


def of_groups(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """By method: how many values of the metric it `has`, of groups and seeds; whether it `lacks` one others have."""
    import pandas as pd

    wide = _by_group(table, metric).drop(columns="mean").unstack("seed")
    has = wide.loc[:, wide.notna().any()].notna().sum(axis=1)
    return pd.DataFrame({"has": has, "lacks": has < has.max()})


def errors(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Standard errors over seeds of what `summary` gives, of the same shape; NaN with one seed."""
    wide = _by_group(table, metric).groupby(level="method").sem()
    return wide.reindex(summary(table, metric).index)


def _by_group(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric by method and seed (rows) and held-out group (columns): mean over conditions, and over groups."""
    from cellalign.evaluation.group_names import as_group
    from cellalign.records import BenchmarkRow

    values = table.reindex(columns=[*BenchmarkRow.KEYS, metric])
    values["held_out"] = values["held_out"].astype(object).map(as_group, na_action="ignore")
    values[metric] = beside_others(table, metric) if metric in table else float("nan")
    wide = values.pivot_table(
        index=["method", "seed"], columns="held_out", values=metric, aggfunc="mean", dropna=False, observed=True
    )
    wide["mean"] = wide.mean(axis=1)
    return wide


def printed(table: pd.DataFrame, metrics: Sequence[str], *, people: bool) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the printed table, the method first; numbers are text for people alone.

    Of one metric the held-out groups are columns, of several the metrics, and methods are ordered by the first. With
    several seeds a standard error stands with each mean: for people behind it, for programs in a column of its own. A
    mean over fewer values than others have says so to people.
    """
    means = {metric: summary(table, metric) for metric in metrics}
    first = means[metrics[0]]
    sems = {metric: errors(table, metric).reindex(first.index) for metric in metrics}
    if len(metrics) == 1:
        shown = {str(group): (first[group], sems[metrics[0]][group]) for group in first.columns}
    else:
        shown = {}
        for metric in metrics:
            shown[metric] = (means[metric]["mean"].reindex(first.index), sems[metric]["mean"])
            if null_of(metric) in table:
                null = _by_group(table, null_of(metric))["mean"].groupby(level="method")
                shown[null_of(metric)] = (null.mean().reindex(first.index), null.sem().reindex(first.index))
    several = table["seed"].nunique() > 1
    columns: list[str] = ["method"]
    rows: list[list[Any]] = [[str(method)] for method in first.index]
    for name, (mean, sem) in shown.items():
        columns += [name] if people or not several else [name, f"{name} se"]
        fewer = _fewer(table, name if name in metrics else metrics[0]) if people and name in ("mean", *metrics) else {}
        for row, value, error in zip(rows, mean, sem, strict=True):
            if people:
                row.append(_said(value, error if several else None) + fewer.get(row[0], ""))
            else:
                row += [value, error] if several else [value]
    return columns, rows


def _fewer(table: pd.DataFrame, metric: str) -> dict[str, str]:
    """By method whose mean is over fewer values than others have, over how many it is."""
    of = of_groups(table, metric)
    most = of["has"].max()
    return {str(method): f" (of {n} of {most})" for method, n in of["has"].items() if 0 < n < most}


def _said(value: float, error: float | None) -> str:
    """A mean and its standard error as they are shown; "-" of what is not there."""
    said = ["-" if each != each else f"{each:.3f}" for each in (value, *(() if error is None else (error,)))]
    return said[0] if "-" in said else " ± ".join(said)
