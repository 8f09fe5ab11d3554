"""Intervals of a prediction: the groups of its cells, their predicted means, and what the model's calibration says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.calibration import OVER, Asked, TooFewGroups, interval, why_abstain
from cellalign.data.columns import with_value
from cellalign.data.said import tell
from cellalign.data.stored import means_of
from cellalign.errors import InputError, ModelError, UsageError, option, spoken
from cellalign.methods.observed import rules

if TYPE_CHECKING:
    import pandas as pd

    from cellalign.calibration import Groups
    from cellalign.data.interventions import Intervention
    from cellalign.model import Model
    from cellalign.prediction import How


@dataclass(frozen=True)
class Intervals:
    """Intervals of the groups of a prediction's cells.

    Attributes
    ----------
    key : str
        The obs column of the groups.
    level : float
    over : str
    codes : int array [n]
        Each cell's group.
    lower, upper : float32 arrays [groups, G]
    abstain : bool array [groups]
    """

    key: str
    level: float
    over: str
    codes: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    abstain: np.ndarray

    def of(self, first: int, n: int) -> dict[str, np.ndarray]:
        """The layers "lower" and "upper" [n, G] of the n cells from `first` on: those of each cell's group."""
        own = self.codes[first : first + n]
        return {"lower": self.lower[own], "upper": self.upper[own]}


def check_interval(model: Model, asked: Intervention, how: How) -> None:
    """Refuse an interval that the model's calibration does not tell.

    Raises
    ------
    UsageError
        The level is no share, or what is asked for is not what was calibrated.
    ModelError
        The model has no calibration, or of other conditions.
    """
    level, over = float(how.interval or 0), how.interval_over
    shown = option("interval", level)
    if not 0.5 <= level < 1:
        raise UsageError(f"{shown} is no share from 0.5 up to below 1, such as 0.9")
    if over not in OVER:
        raise UsageError(f"{option('interval_over', over)} is none of {', '.join(OVER)}")
    if model.continuous:
        raise UsageError(
            f"{shown}: intervals are of conditions that are categories, and {model.condition!r} is a number"
        )
    known = model.record.calibration
    if known is None or model.calibration is None:
        mend = spoken(python="train(..., calibrate='cell_type')", command="cellalign train ... --calibrate cell_type")
        raise ModelError(
            f"{shown}: the model knows no errors of held-out groups, by which intervals are calibrated; train it with "
            f"the obs column of the groups: {mend} (of a donor, a replicate or a cell type)"
        )
    method: Any = model.method
    if how.decoded and method.keeps_residual:
        raise UsageError(f"{shown} is calibrated without {option('decoded', True)}; leave one of them out")
    if how.combine not in ("auto", default := rules(method)[0]):
        raise UsageError(f"{shown} is calibrated with {option('combine', default)}; leave it out")
    if len(asked.fields) > 1 or asked.fields[0].name != model.condition or asked.origin != model.control:
        raise UsageError(f"{shown} is calibrated from {model.condition}={model.control} to another {model.condition}")
    several, combined = isinstance(asked.values[0], tuple), known.key == model.condition
    if several != combined or (not combined and asked.said[0] not in known.targets):
        there = ", ".join(dict.fromkeys(known.targets[:10]))
        what = "combinations that were not trained on, as these were" if combined else f"{model.condition}"
        raise ModelError(f"{shown}: the model is calibrated for {what}: {there}; not for {asked.said[0]}")


def intervals(
    model: Model,
    obs: pd.DataFrame,
    asked: Intervention,
    observed: Any,
    predicted: Callable[[], Iterator[dict[str, np.ndarray]]],
    how: How,
) -> Intervals:
    """Intervals of the groups of some source cells.

    Parameters
    ----------
    obs : DataFrame
        Of the source cells.
    observed : matrix [n, G]
    predicted : callable
        Gives the predicted mean of every cell as "X", batch by batch.
    how : How
        Level, which genes, and of how many cells.

    Raises
    ------
    InputError
        A cell has no group.
    ModelError
        Too few other groups were held out.
    """
    known, held_out = model.record.calibration, model.calibration
    assert known is not None and held_out is not None and how.interval is not None
    level, over = how.interval, how.interval_over
    combined, target = known.key == model.condition, asked.said[0]
    none = model.missing_label if known.key == model.label else None
    codes, names = _groups_of(obs, known.key, combined, none)
    means = np.zeros((len(names), observed.shape[1]))
    at = 0
    for part in predicted():
        own = codes[at : at + len(part["X"])]
        at += len(own)
        for i in np.unique(own):
            means[i] += part["X"][own == i].sum(0, dtype=np.float64)
    lower, upper = np.zeros_like(means, dtype=np.float32), np.zeros_like(means, dtype=np.float32)
    abstain = np.zeros(len(names), dtype=bool)
    for i, name in enumerate(names):
        group = _asked(name, target, means[i], observed[np.flatnonzero(codes == i)])
        at_least = None if model.expression == "any" else 0.0
        more: dict[str, Any] = {"over": over, "cells": how.interval_cells, "by_target": combined, "at_least": at_least}
        try:
            lower[i], upper[i] = interval(held_out, group, level, **more)
        except TooFewGroups as error:
            raise ModelError(f"{option('interval', level)}: {error}; train on more groups") from error
        why = why_abstain(_same_kind(held_out, group, combined), group)
        abstain[i] = bool(why)
        if why:
            tell(logging.WARNING, f"{name}: predictions of held-out groups like it are {why}; obs abstain is true")
    return Intervals(known.key, level, over, codes, lower, upper, abstain)


def _groups_of(obs: pd.DataFrame, key: str, combined: bool, none: str | None) -> tuple[np.ndarray, list[str]]:
    """Each cell's group [n] and the groups; one group of all where a combination is what is held out."""
    if combined:
        return np.zeros(len(obs), dtype=int), [f"all cells under {key}"]
    values = with_value(obs, key, none, purpose="calibration")
    absent = int((values.codes < 0).sum())
    if absent:
        raise InputError(
            f"{absent} source cells have no {key!r}, the column of the groups that intervals are of; leave them out "
            f"with {option('where', hint=f'{key}=VALUE')}, or fill it in"
        )
    return np.asarray(values.codes), [str(name) for name in values.categories]


def _asked(name: str, target: str, total: np.ndarray, observed: Any) -> Asked:
    """A group of these source cells [n, G] and sum of predictions [G]."""
    n = observed.shape[0]
    mean, squares = means_of(observed)
    variance = squares - mean**2
    return Asked(name, target, total / n, mean, np.maximum(variance, 0) * n / max(n - 1, 1), n)


def _same_kind(held_out: Groups, asked: Asked, combined: bool) -> Groups:
    """The held-out groups whose errors speak for a group: of combinations all, whatever they are called."""
    if not combined:
        return held_out
    return held_out.of([i for i, name in enumerate(held_out.targets) if name != asked.target])
