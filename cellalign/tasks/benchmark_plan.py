"""What a benchmark will do, settled before it begins: its trainings, what each predicts, what is done already."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellalign.errors import InputError, UsageError, option
from cellalign.tasks.benchmark_file import Identity, finished
from cellalign.tasks.grid import of_each, said, warn_overruled
from cellalign.tasks.made_of import MadeOf, made_of
from cellalign.tasks.prepare import resolved
from cellalign.tasks.reads import expression_for
from cellalign.tasks.roles import roles_used

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellalign.records import BenchmarkRow

log = logging.getLogger("cellalign")
Case = tuple[str, str]  # a group that is left out, and the condition it is predicted under


@dataclass(frozen=True)
class OneTraining:
    """One model, and the cases that it predicts.

    Attributes
    ----------
    name : str
        Of its row: a method, with its combination of a grid.
    seed : int
    held : list of str
        What it is trained without, as `train` takes it.
    cases : tuple of Case
        Of one group.
    """

    name: str
    seed: int
    held: list[str]
    cases: tuple[Case, ...]

    @property
    def group(self) -> str:
        """The group that is left out."""
        return self.cases[0][0]


@dataclass
class BenchmarkPlan:
    """All that a benchmark will train and predict.

    Attributes
    ----------
    adata : AnnData
    condition, control : str
    holdout_each : str, optional
    together : bool
        Whether a group is held out under all conditions at once.
    methods : int
        How many.
    asked : dict
        What `train` is asked for, by the name of a row.
    keys : dict
        Digests of what the scores depend on, by the same.
    cases : list of Case
    trainings : list of OneTraining
        In their order.
    done : dict
        Rows that are there, of this benchmark and of others; those that are computed are added.
    """

    adata: AnnData
    condition: str
    control: str
    holdout_each: str | None
    together: bool
    methods: int
    asked: dict[str, dict[str, Any]]
    keys: dict[str, MadeOf]
    cases: list[Case]
    trainings: list[OneTraining]
    done: dict[Identity, BenchmarkRow] = field(default_factory=dict)

    def left(self, training: OneTraining) -> list[Case]:
        """What of a training is not in the table yet."""
        scores = self.keys[training.name].scores
        return [case for case in training.cases if (training.name, training.seed, *case, scores) not in self.done]

    def options_of(self, training: OneTraining) -> dict[str, Any]:
        """All that `train` is asked for of it."""
        return self.asked[training.name] | {"holdout": training.held, "seed": training.seed, "calibrate": "none"}

    def said(self, training: OneTraining) -> str:
        """In words."""
        what = f"{training.name}, seed {training.seed}"
        if self.holdout_each is None:
            return what
        under = "all conditions" if self.together else f"{self.condition}={training.cases[0][1]}"
        return f"{what}: {self.holdout_each}={training.group} under {under} held out"


def planned(
    adata: AnnData,
    *,
    methods: Sequence[str],
    condition: str,
    control: str | None,
    holdout_each: str | None,
    holdout_conditions: str,
    grid: Mapping[str, Sequence[Any]] | None,
    label: str | None,
    groups: Sequence[str] | None,
    seeds: Sequence[int],
    settings: Mapping[str, Mapping[str, Any]] | None,
    min_cells: int | None,
    results: str | os.PathLike[str] | None,
    **options: Any,
) -> BenchmarkPlan:
    """Check what a benchmark was asked for, and settle what it does; parameters and errors are `benchmark`'s."""
    from cellalign.data.columns import of_few_values
    from cellalign.data.fields import fit_fields
    from cellalign.data.given import given_cells
    from cellalign.tasks.benchmark_fitted import NOTHING

    done, adata = finished(results), given_cells(adata)
    of: Any = fit_fields(adata, condition=condition, control=control)[0]
    if of.reference is None:
        raise UsageError(f"{option('control', hint='VALUE')} is needed: the condition that predictions start from")
    if not methods:
        raise UsageError(f"{option('methods')} names no method")
    for method in settings or {}:
        if method not in methods:
            raise UsageError(f"{option('settings', f'{method}...')} is of none of the {option('methods')}")
    for method in methods:
        given, kind = (settings or {}).get(method), options.get("expression")
        expression_for(method, settings=given, expression=kind)
    for name, is_given in (("groups", groups), ("holdout_conditions", holdout_conditions != "each")):
        if holdout_each is None and is_given:
            raise UsageError(f"{option(name)} needs {option('holdout_each', hint='KEY')}, the column they are of")
    if holdout_each is not None and min_cells is not None:
        raise UsageError(
            f"{option('min_cells', min_cells)} is of mixing, which is scored where nothing is held out; leave out "
            f"it or {option('holdout_each')}"
        )
    if holdout_each == condition:
        raise UsageError(
            f"{option('holdout_each', condition)} is the condition itself; name a column of groups, such as cell types "
            f"or donors; {of_few_values(adata.obs, [condition])}"
        )
    together = holdout_conditions == "all"
    options |= {"condition": condition, "control": of.reference, "label": label or holdout_each}
    asked = _asked(methods, settings or {}, grid, options)
    if holdout_each is None:
        cases = [(NOTHING, to) for to in of.categories if to != of.reference]
    else:
        cases = _cases(adata, of, holdout_each, groups, together=together)
    more = {"min_cells": min_cells, "holdout_conditions": holdout_conditions}
    keys = {name: made_of(adata, holdout_each, own | more) for name, own in asked.items()}
    _say_others(done, keys, results)
    trainings: list[OneTraining] = []
    held: dict[Case, list[str]] = {}
    for name, seed, of_one in _in_order(list(asked), seeds, cases, at_once=holdout_each is None or together):
        group, to = of_one[0]
        if of_one[0] not in held:
            at_once = None if together else to
            held[of_one[0]] = [] if holdout_each is None else _held(adata, of, holdout_each, group, at_once)
        trainings.append(OneTraining(name, seed, held[of_one[0]], tuple(of_one)))
    return BenchmarkPlan(
        adata, condition, of.reference, holdout_each, together, len(methods), asked, keys, cases, trainings, done
    )


def _asked(
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    grid: Mapping[str, Sequence[Any]] | None,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What `train` is asked for by the name of its row: each method, or each combination of the grid of it.

    Raises
    ------
    UsageError
        A method or setting is unknown.
    """
    asked = {}
    for method, tried in of_each(grid, methods).items():
        warn_overruled(settings.get(method, {}), tried[0])
        for combination in tried:
            own = dict(settings.get(method, {})) | combination
            expression_for(method, settings=own)
            name = f"{method} {said(combination)}".rstrip()
            used = roles_used(method, options, resolved(method, own, options)[0])
            asked[name] = used | {"method": method, "settings": own}
    return asked


def _in_order(
    names: Sequence[str], seeds: Sequence[int], cases: Sequence[Case], *, at_once: bool
) -> Iterator[tuple[str, int, list[Case]]]:
    """Trainings with their cases: methods beside each other, and of each case, or of all conditions of a group."""
    groups = list(dict.fromkeys(group for group, _ in cases))
    sets = [[case for case in cases if case[0] == group] for group in groups] if at_once else [[case] for case in cases]
    for seed, of_one, name in itertools.product(seeds, sets, names):
        yield name, seed, of_one


def _held(adata: AnnData, of: Any, holdout_each: str, group: str, to: str | None) -> list[str]:
    """A group under a condition, or under all but the control that it has cells of, as `train` takes it."""
    from cellalign.data.split import held_out
    from cellalign.data.terms import term

    conditions = [name for name in of.categories if name != of.reference] if to is None else [to]
    items = [f"{term(holdout_each, group)},{term(of.name, name)}" for name in conditions]
    there = [held_out(adata.obs, [item], must_exist=False, control=of.reference, quiet=True) for item in items]
    return [item for item, cells in zip(items, there, strict=True) if cells.any()]


def of_these(done: Mapping[Any, BenchmarkRow], keys: Mapping[str, MadeOf]) -> list[BenchmarkRow]:
    """Rows whose scores depend on what this benchmark's do."""
    ours = {digest for own in keys.values() for digest in (own.scores, own.baselines)}
    return [row for row in done.values() if row.made_of in ours]


def _say_others(
    done: Mapping[Any, BenchmarkRow], keys: Mapping[str, MadeOf], results: str | os.PathLike[str] | None
) -> None:
    """Say which rows of the file are not of this run."""
    old = sum(row.made_of is None for row in done.values())
    other = len(done) - len(of_these(done, keys)) - old
    kept = "they are kept there, and left out here"
    if old:
        unsaid = "do not say of which cells and settings they are"
        log.warning("%s: %d rows of an earlier version %s: %s", results, old, unsaid, kept)
    if other:
        log.info("%s: %d rows are of other cells, settings or scores: %s", results, other, kept)


def _cases(
    adata: AnnData, of: Any, holdout_each: str, groups: Sequence[str] | None, *, together: bool
) -> list[tuple[str, str]]:
    """Groups and conditions that can be held out: 5 cells under it and under control, and another group as well."""
    import numpy as np

    from cellalign.data.columns import column
    from cellalign.data.values import known, listed
    from cellalign.errors import nearest
    from cellalign.evaluation.panels.response import MIN_CELLS_PER_GROUP

    values = column(adata.obs, holdout_each, purpose="group", missing=True)
    there = known(tuple(values.categories))
    absent = int((values.codes < 0).sum())
    if absent:
        log.info("%d cells have no %r and are in no group: trained on, and never held out", absent, holdout_each)
    wanted = list(range(len(there.names)))
    if groups:
        wanted = [there.find(group) for group in groups]
        for group, code in zip(groups, wanted, strict=True):
            if code < 0:
                near = nearest(group, there.names)
                raise InputError(f"{holdout_each} has no {group!r}.{near} There: {listed(there.names)}")
    under = of.encode(adata)
    table = np.zeros((len(there.names) + 1, len(of.categories)), dtype=np.int64)  # the last row is of cells in no group
    np.add.at(table, (values.codes, under), 1)
    control = of.categories.index(of.reference)
    found = [
        (group, code)
        for group in dict.fromkeys(wanted)
        for code in range(len(of.categories))
        if code != control and min(table[group, code], table[group, control]) >= MIN_CELLS_PER_GROUP
    ]
    cases = [case for case in found if _is_left(of, table, *case, together=together)]
    lost = [f"{there.names[group]} under {of.categories[code]}" for group, code in found if (group, code) not in cases]
    if not cases or len(there.names) < 2:
        raise InputError(
            f"no group of {holdout_each!r} has {MIN_CELLS_PER_GROUP} cells under the control and under a condition "
            "that other cells are under too"
        )
    if lost:
        log.info("not held out, for no other cell is under the condition: %s", listed(lost, 8))
    return [(there.names[group], of.categories[code]) for group, code in cases]


def _is_left(of: Any, table: np.ndarray, group: int, code: int, *, together: bool) -> bool:
    """Whether a condition, or of a combination every part, is known without a group's cells.

    Parameters
    ----------
    table : int array [groups, conditions]
        Cells of each.
    together : bool
        Whether the group is held out under all conditions.
    """
    elsewhere = table.sum(0) - table[group]
    parts = of.parts(of.categories[code]) or ()
    known = [not together or bool(elsewhere[of.code(part)]) for part in parts]
    return bool(elsewhere[code]) or (bool(known) and all(known))
