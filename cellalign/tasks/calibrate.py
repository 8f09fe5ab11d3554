"""Calibration of a training: refits without some groups predict these, and their errors are kept.

What is refitted is the network or closed form on the cells, genes and settings of the training itself. Highly variable
genes and the total of raw counts are not chosen again: they are those of all cells trained on, of which a refit leaves
some out. So a refit knows of these which genes vary, and nothing else. Cells that `--holdout` names are not looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import InputError, UsageError, option

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from cellalign.calibration import Groups
    from cellalign.data.loader import Cells
    from cellalign.data.said import Note
    from cellalign.engine.checkpoint import Checkpoint
    from cellalign.methods.base import Method
    from cellalign.model import Model
    from cellalign.records import CalibrationRecord
    from cellalign.tasks.prepare import Prepared

log = logging.getLogger("cellalign")
NONE = "none"  # of `--calibrate`
MIN_CELLS = 5  # of a group, under the control and under the condition
FOLDS = 5  # of a method that trains; in closed form as many as there are groups, up to
MOST_FOLDS = 25
AUTOMATIC = 50_000  # cells up to which a method in closed form is calibrated unasked


@dataclass(frozen=True)
class Held:
    """A group of cells under a condition, to be predicted from its control cells.

    Attributes
    ----------
    name, target : str
    rows, controls : int arrays
    parts : tuple of str
        The conditions of which the target is a combination, that is predicted of them; empty of one that is not.
    more : int array
        Further cells that a refit is without: those of the group under any other condition but the control, also where
        they are too few to be predicted.
    """

    name: str
    target: str
    rows: np.ndarray
    controls: np.ndarray
    parts: tuple[str, ...] = ()
    more: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def unit(self) -> str:
        """What is left out at once: a combination, or the group under all conditions."""
        return self.target if self.parts else self.name


@dataclass(frozen=True)
class Calibrating:
    """Which groups are left out of which refit.

    Attributes
    ----------
    key : str
        The obs column of the groups.
    folds : list of list of Held
    """

    key: str
    folds: list[list[Held]]

    @property
    def groups(self) -> list[Held]:
        """All of them."""
        return [held for fold in self.folds for held in fold]

    def is_of(self, model: Model) -> bool:
        """Whether this is how a model was calibrated."""
        known = model.record.calibration
        return known is not None and known.model_copy(update={"checksum": ""}) == self.record

    @property
    def record(self) -> CalibrationRecord:
        """What the model keeps of it."""
        from cellalign.records import CalibrationRecord

        names, targets = [held.name for held in self.groups], [held.target for held in self.groups]
        return CalibrationRecord(key=self.key, folds=len(self.folds), groups=names, targets=targets)


def calibrating(
    prepared: Prepared, adata: AnnData, method: type[Method], key: str | None, folds: int | None
) -> Calibrating | None:
    """What is to be left out; None where nothing is asked for, and unasked where the method is not fitted at once.

    Parameters
    ----------
    key : str, optional
        The obs column of the groups: a label, a donor; or the condition, of which combinations are left out. "none"
        for no calibration; by default, of methods in closed form, the label.
    folds : int, optional
        Refits; by default one for each group in closed form, else 5; more where each leaves out all groups of a
        condition.

    Raises
    ------
    UsageError
        The method, or its condition, has no such intervals.
    InputError
        Not enough groups have cells under both conditions.
    """
    from cellalign.calibration import FEWEST, enough
    from cellalign.data.columns import of_few_values
    from cellalign.data.fields import read_fields
    from cellalign.methods.base import CONDITION, LABEL, FitsInClosedForm, Trains
    from cellalign.methods.capabilities import by_steps

    fields = read_fields(prepared.record.fields)
    condition: Any = fields.one(CONDITION)
    label, unasked = fields.one(LABEL), key is None
    if key == NONE and NONE not in adata.obs:
        return None
    if key is None:
        if (
            not issubclass(method, FitsInClosedForm)
            or issubclass(method, Trains)
            or label is None
            or len(prepared.train_rows) > AUTOMATIC
        ):
            return None
        key = label.name
    shown, combined = option("calibrate", key), condition is not None and key == condition.name
    fault = _fault(prepared, method, condition)
    if fault and not unasked:
        raise UsageError(f"{shown}: {fault}; leave it out")
    none = getattr(label, "missing_value", None) if label is not None and key == label.name else None
    if fault:
        found = []
    else:
        found = _combinations(prepared, condition) if combined else _groups(prepared, adata, condition, key, none)
    names = list(dict.fromkeys(held.unit for held in found))
    if not enough(len(names), len(found)):
        if unasked:
            return None
        if combined:
            raise InputError(
                f"{shown} is the condition, of which only combinations (a+b) of others trained on can be left out: "
                f"{len(names)} {'is' if len(names) == 1 else 'are'} there, at least {FEWEST} are needed; name a column "
                f"of groups, such as cell types or donors; {of_few_values(adata.obs, [key])}"
            )
        have = "group has" if len(names) == 1 else "groups have"
        raise InputError(
            f"{shown}: {len(names)} {have} {MIN_CELLS} cells under the control and under a condition that others "
            f"are under too; at least {FEWEST} are needed"
        )
    n = min(folds or (FOLDS if by_steps(method, _settings(method, prepared)) else MOST_FOLDS), len(names))
    places = _places(found, names, n)
    return Calibrating(
        key, [[held for held in found if places[held.unit] == i] for i in range(1 + max(places.values()))]
    )


def how_to_calibrate(prepared: Prepared, adata: AnnData, method: type[Method]) -> Iterator[Note]:
    """How a method without steps that is not calibrated unasked would be: who wants intervals learns it before."""
    from cellalign.data.fields import read_fields
    from cellalign.methods.base import LABEL
    from cellalign.methods.capabilities import by_steps

    label: Any = read_fields(prepared.record.fields).one(LABEL)
    if label is None or by_steps(method, _settings(method, prepared)):
        return
    with suppress(UsageError, InputError):  # it cannot be
        planned = calibrating(prepared, adata, method, label.name, None)
        assert planned is not None
        yield (
            logging.INFO,
            f"no intervals of predictions: {option('calibrate', label.name)} gives them, by {len(planned.folds)} "
            "refits, each as long as the training",
        )


def _places(found: Sequence[Held], names: Sequence[str], n: int) -> dict[str, int]:
    """In which of n refits each unit is left out: in turn, but so that each still learns from every condition.

    A unit goes to the next refit where it is the last of a condition whose others are all left out of this one; to one
    more refit where that holds of all of them.
    """
    units: dict[str, set[str]] = {}
    for held in found:
        if not held.parts:  # a combination is told by its parts, which stay
            units.setdefault(held.target, set()).add(held.unit)
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        rest = [{places.get(other) for other in own - {name}} for own in units.values() if name in own]
        full = {place for at in rest if len(at) == 1 for place in at}
        free = (place for place in [*((i + j) % n for j in range(n)), *range(n, len(names))] if place not in full)
        places[name] = next(free)
    return places


def _fault(prepared: Prepared, method: type[Method], condition: Any) -> str:
    """Why a method has no intervals; empty where it has."""
    from cellalign.methods.base import Predicts

    if not issubclass(method, Predicts):
        return f"method {method.name!r} predicts no expression"
    if condition is None or not condition.categories or condition.reference is None:
        return f"it needs {option('condition', hint='KEY')} of categories, and its control"
    if method.reads(_settings(method, prepared)) == "counts":
        return f"intervals are of log expression, and method {method.name!r} predicts counts"
    return ""


def _settings(method: type[Method], prepared: Prepared) -> Any:
    return method.Hyperparameters(**prepared.record.hyperparameters)


def _groups(prepared: Prepared, adata: AnnData, condition: Any, key: str, none: str | None) -> list[Held]:
    """Groups by a column, under each condition that other groups are under too; `none` is a value that means none."""
    from cellalign.data.columns import with_value

    values = with_value(adata.obs, key, none, purpose="calibration")
    codes, under = np.asarray(values.codes), prepared.cells.condition.numpy()
    used = _used(prepared)
    start = condition.code(condition.reference)
    treated = used & (under != start)
    more = [np.flatnonzero(treated & (codes == group)) for group in range(len(values.categories))]
    found = []
    for code, target in enumerate(condition.categories):
        if code == start:
            continue
        own = []
        for group, name in enumerate(values.categories):
            rows, controls = (np.flatnonzero(used & (codes == group) & (under == c)) for c in (code, start))
            if min(len(rows), len(controls)) >= MIN_CELLS:
                own.append(Held(str(name), target, rows, controls, more=more[group]))
        found += own if len(own) > 1 else []  # of one group alone nothing is left to learn from
    return found


def _combinations(prepared: Prepared, condition: Any) -> list[Held]:
    """Conditions that are combinations of others that were trained on too."""
    used, under = _used(prepared), prepared.cells.condition.numpy()
    start = condition.reference
    controls = np.flatnonzero(used & (under == condition.code(start)))
    found = []
    for code, target in enumerate(condition.categories):
        rows = np.flatnonzero(used & (under == code))
        parts = condition.parts(target)
        if parts is None or min(len(rows), len(controls)) < MIN_CELLS:
            continue
        found.append(Held(start, target, rows, controls, parts))
    return found


def _used(prepared: Prepared) -> np.ndarray:
    """Mask [n] of the cells that are not held out."""
    used = np.zeros(prepared.record.cells.all, dtype=bool)
    for rows in prepared.rows:
        used[rows] = True
    return used


def calibrate_later(
    model: Model, path: Path, prepared: Prepared, planned: Calibrating, *, device: torch.device, seed: int
) -> None:
    """Calibrate a model that is complete, and write it again; errors as `calibrated`."""
    log.info("%s is not calibrated by %s: its weights stay, the refits are made", path, planned.key)
    began = time.monotonic()
    model.calibration = calibrated(prepared, planned, device=device, seed=seed)
    outcome = model.record.outcome
    if outcome is not None:
        outcome = outcome.model_copy(update={"seconds_calibrating": round(time.monotonic() - began, 2)})
    model.record = model.record.model_copy(update={"calibration": planned.record, "outcome": outcome})
    model.save(path, force=True)


def calibrated(
    prepared: Prepared,
    planned: Calibrating,
    *,
    device: torch.device,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> Groups:
    """Refit without each fold's groups, and predict these from their control cells.

    Each refit that trains leaves its state in a part of the checkpoint of the training that it belongs to, and is taken
    up from there.

    Raises
    ------
    TrainingError
        As the training itself.
    """
    import torch

    from cellalign.calibration import Groups
    from cellalign.engine.fit import fit
    from cellalign.engine.observed import observe_cells
    from cellalign.methods.base import Trains
    from cellalign.methods.capabilities import Stacks
    from cellalign.model_directory import build_to_train

    predicted: dict[int, np.ndarray] = {}
    n = len(planned.folds)
    log.info("calibrating intervals of predictions by %d refits, without groups of %r in turn", n, planned.key)
    for number, fold in enumerate(planned.folds):
        of_units = {held.unit: held.more for held in fold}  # one for all conditions of a group
        left_out = np.concatenate([*(held.rows for held in fold), *of_units.values()])
        shown = list(dict.fromkeys(held.unit for held in fold))
        torch.manual_seed(seed)
        method = build_to_train(prepared.record)
        level = logging.INFO if isinstance(method, Trains | Stacks) else logging.DEBUG
        this = f"refit {number + 1} of {n}"
        log.log(level, "calibrating, %s without %s", this, ", ".join(shown))
        train, validation = (torch.from_numpy(np.setdiff1d(rows, left_out)) for rows in prepared.rows)
        part = checkpoint.part(f"refit-{number + 1}") if checkpoint is not None else None
        fit(
            method,
            prepared.cells,
            train,
            validation,
            prepared.plan,
            device=device,
            seed=seed,
            checkpoint=part,
            more_follows=True,
            part_of=this,
        )
        observe_cells(method, prepared.cells, [train, validation])
        for held in fold:
            predicted[id(held)] = _predicted_mean(prepared, method, held, device)
    groups = planned.groups
    after = [_moments(prepared.cells, held.rows) for held in groups]
    before = [_moments(prepared.cells, held.controls) for held in groups]
    return Groups(
        names=[held.name for held in groups],
        targets=[held.target for held in groups],
        predicted=np.stack([predicted[id(held)] for held in groups]),
        real=np.stack([mean for mean, _ in after]),
        variance=np.stack([variance for _, variance in after]),
        control=np.stack([mean for mean, _ in before]),
        control_variance=np.stack([variance for _, variance in before]),
        cells=np.array([[len(held.rows), len(held.controls)] for held in groups], dtype=np.int64),
    )


def _predicted_mean(prepared: Prepared, method: Any, held: Held, device: torch.device) -> np.ndarray:
    """Mean [G] of what the group's control cells are predicted to be, as `counterfactual` predicts by default."""
    import torch

    from cellalign.engine.predict import predictions
    from cellalign.methods.observed import rules

    cells = prepared.cells.part(torch.from_numpy(held.controls))
    key = method.layout.condition.name
    together: list[dict[str, Any]] = []
    do: dict[str, Any] = {key: held.parts or held.target}
    observed: tuple[int, ...] = ()
    if held.parts:  # as `counterfactual --combine auto`
        rule = rules(method)[0]
        if rule == "observed":
            do, observed = {}, method.layout.targets(do)
        elif rule == "expression":
            do, together = {key: held.name}, [{key: part} for part in held.parts]
    batches = predictions(
        method,
        cells,
        do,
        together=together,
        observed=observed,
        device=device,
        residual=method.keeps_residual,
        at_least=None if prepared.record.recipe.expression == "any" else 0.0,
    )
    total = np.sum([batch["X"].sum(0, dtype=np.float64) for batch in batches], 0)
    return np.asarray(total / len(cells), dtype=np.float32)


def _moments(cells: Cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [G] of some cells, block by block."""
    import torch

    total = squares = np.zeros(cells.matrix.n_columns)
    part = cells.part(torch.from_numpy(rows))
    for batch in part.in_order(1024):
        x = batch.x.numpy().astype(np.float64)
        total, squares = total + x.sum(0), squares + (x**2).sum(0)
    mean = total / len(rows)
    variance = np.maximum(squares - len(rows) * mean**2, 0) / max(len(rows) - 1, 1)
    return mean.astype(np.float32), variance.astype(np.float32)
