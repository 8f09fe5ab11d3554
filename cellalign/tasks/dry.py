"""What several trainings would take, and what is said of them where they are only tried (`--dry-run`).

Every training that is left is prepared, so that what is wrong with one is said now; of each name one is timed by a few
steps, and what follows it (predicting, scoring) once on the networks that took them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cellalign.tasks.estimate import Estimate, in_words, tried, work_of
from cellalign.tasks.prepare import Prepared, of_preparation, prepare, without

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.tasks.declaration import Call

SHORT = 5.0  # seconds
Row = tuple[str, str, Any]  # what, how, and for programs the number


@dataclass
class Expected:
    """What the trainings of one name would take.

    Attributes
    ----------
    first : Estimate
        Of the one that was timed.
    trainings : int
    training, scoring : float
        Seconds of all of them, and of what follows them; NaN where they could not be timed.
    """

    first: Estimate
    trainings: int = 0
    training: float = 0.0
    scoring: float = 0.0

    @property
    def seconds(self) -> float:
        """All together."""
        return self.training + self.scoring

    @property
    def said(self) -> str:
        """In words."""
        how = self.first.how
        return f"about {in_words(self.seconds / self.trainings)} each ({how})" if self.seconds == self.seconds else how


@dataclass(frozen=True)
class Asked:
    """A training that is left.

    Attributes
    ----------
    name : str
    options : dict
        Of `train`.
    scored : int
        How often what follows it is done.
    """

    name: str
    options: Mapping[str, Any]
    scored: int = 1


def expected(
    adata: AnnData,
    asked: Iterable[Asked],
    device: torch.device,
    score: Callable[[Asked, Model], object],
    otherwise: Mapping[str, Any],
) -> tuple[dict[str, Expected], list[tuple[int, str]], Prepared]:
    """What trainings would take, by their names; what is worth saying about roles and design; the first prepared.

    Parameters
    ----------
    adata : AnnData
    asked : iterable of Asked
    device : torch.device
    score : callable
        Does once what follows a training; is given a model that took a few steps.
    otherwise : mapping
        Options of `train`, to prepare where no training is left.

    Raises
    ------
    UsageError, InputError
        As `train`, of any of them.
    """
    found: dict[str, Expected] = {}
    notes: dict[tuple[int, str], None] = {}
    each: dict[tuple[str, tuple[str, ...]], float] = {}  # work
    earliest: Prepared | None = None
    rates: dict[str, tuple[float, float, float]] = {}  # seconds of preparing, for a unit of work, of scoring once
    by_name: dict[str, list[Asked]] = {}
    for one in asked:
        by_name.setdefault(one.name, []).append(one)
    for one in itertools.chain.from_iterable(by_name.values()):  # one name after the other: one matrix is held
        key = (one.name, tuple(one.options.get("holdout") or ()))
        if key not in each:
            if one.name not in found:
                began = time.monotonic()
                prepared = prepare(adata, **of_preparation(one.options))
                preparing = time.monotonic() - began
                earliest = earliest or prepared
                first, scoring = _timed(prepared, device, one, score)
                found[one.name] = Expected(first)
                seconds = float("nan") if first.seconds is None else first.seconds
                rates[one.name] = (preparing, seconds / work_of(prepared), scoring)
            else:
                prepared = without(prepared, adata, key[1])
            each[key] = work_of(prepared)
            notes |= dict.fromkeys(prepared.notes)
        of_name, (preparing, rate, scoring) = found[one.name], rates[one.name]
        of_name.trainings += 1
        of_name.training += preparing + rate * each[key]
        of_name.scoring += scoring * one.scored
    return found, list(notes), earliest or prepare(adata, **of_preparation(otherwise))


def _timed(
    prepared: Prepared, device: torch.device, one: Asked, score: Callable[[Asked, Model], object]
) -> tuple[Estimate, float]:
    """A training's estimate, and the seconds of what follows; NaN where that cannot be told by a part of the cells."""
    from cellalign.data.said import untold
    from cellalign.model import Model
    from cellalign.tasks.estimate import memory_of

    trial = tried(prepared, device, seed=one.options["seed"], always=True)
    scoring = float("nan")
    if trial.module is not None:
        model = Model(trial.module, prepared.record, [], None)
        with suppress(Exception), untold():  # whatever is wrong with a model of a part of the cells
            scoring = _seconds(lambda: score(one, model))
            if scoring < SHORT:  # again, without what the first of a process takes
                scoring = min(scoring, _seconds(lambda: score(one, model)))
    return replace(trial.estimate, bytes=memory_of(trial.estimate.weights, device)), scoring


def _seconds(function: Callable[[], object]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def rows_of(found: Mapping[str, Expected]) -> list[Row]:
    """What all trainings together take."""
    if not found:
        return [("estimate", "nothing is left to train", 0)]
    seconds, training = (sum(getattr(each, name) for each in found.values()) for name in ("seconds", "training"))
    rows: list[Row] = []
    if seconds == seconds:
        rest = f", of which {in_words(seconds - training)} to predict and score" if seconds - training >= 1 else ""
        rows.append(("estimate", f"at most about {in_words(seconds)}{rest}", round(seconds, 1)))
    else:
        rows.append(("estimate", "not all of it can be timed by a part of the cells", None))
    largest = max((each.first for each in found.values()), key=lambda first: first.bytes or 0)
    return [*rows, ("memory", f"{largest.memory} at the peak", largest.bytes)] if largest.memory else rows


def print_plan(call: Call, verb: str, rows: Sequence[Row], format: str) -> None:
    """Print what would be done: two columns for people; for programs a third of numbers."""
    title = f"{verb} would do this (nothing was written)"
    if format == "table":
        two = [(what, how) for what, how, _ in rows]
        call.print_rows(title, ["what", "how"], two, format, headings=["", ""], prose=True)
        return
    three: list[Any] = [[what, how, value] for what, how, value in rows]  # JSON keeps numbers
    call.print_rows(title, ["what", "how", "value"], three, format)
