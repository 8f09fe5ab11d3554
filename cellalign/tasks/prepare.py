"""What training starts from: the record of the model to be, its cells, plan and rows, before anything is fitted.

Whether a run on disk is the one that was asked for is seen by comparing records, not lists of options.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import TYPE_CHECKING, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError, option, spoken
from cellalign.tasks.paths import beside, looked_at
from cellalign.tasks.roles import Roles, check_roles
from cellalign.tasks.unheeded import unheeded

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from cellalign.data.counts import Place
    from cellalign.data.loader import Cells
    from cellalign.data.said import Note
    from cellalign.engine.plan import Plan
    from cellalign.methods.base import Method
    from cellalign.records import ModelRecord

MIN_TRAINING_CELLS = 4


@dataclass(frozen=True)
class Prepared:
    """A training that has not begun.

    Attributes
    ----------
    record : ModelRecord
        Of the model to be, without weights and outcome.
    cells : Cells
    plan : Plan
    train_rows, validation_rows : int array
    notes : list of (level, message)
        What is worth saying about roles and design.
    x : matrix [n, G]
        What is trained on, on its scale.
    counts : Place, optional
        The raw counts of all genes, where they were found.
    roles : Roles
        The columns that `cells` have their fields from.
    refits : int
        Further trainings of most of the cells, which calibrate.
    """

    record: ModelRecord
    cells: Cells
    plan: Plan
    train_rows: np.ndarray
    validation_rows: np.ndarray
    notes: list[Note]
    x: Any = None
    counts: Place | None = None
    roles: Roles = field(default_factory=Roles)
    refits: int = 0

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all cells that are not held out: those trained on, those validated on."""
        return self.train_rows, self.validation_rows


def prepare(
    adata: AnnData,
    *,
    method: str = "comp",
    condition: str | None = None,
    control: str | None = None,
    batch: Sequence[str] = (),
    covariate: Sequence[str] = (),
    label: str | None = None,
    numeric: Sequence[str] = (),
    unlabelled: str | None = None,
    kinds: Mapping[str, str] | None = None,
    continuous: bool = False,
    allow_missing_condition: bool = False,
    expression: str | None = None,
    layer: str | None = None,
    n_top_genes: int | None = None,
    rounded: bool = False,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    latent_dim: int | None = None,
    holdout: Sequence[str] = (),
    validation: float | None = None,
    early_stopping: bool | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    source: str | os.PathLike[str] | Reading | None = None,
    automatic: str | None = None,
    genes_by_all: bool = False,
) -> Prepared:
    """Check everything that `train` with these options would, and settle what it would do; parameters are `train`'s.

    Parameters
    ----------
    automatic : str, optional
        The precision that "auto" stands for: that of a run which is resumed.
    genes_by_all : bool
        Cells that are held out choose the genes of raw counts and their total too, as of models of before.

    Raises
    ------
    UsageError, InputError
        As `train`.
    """
    asked = dict(locals())  # by which roles and the plan are read
    from cellalign.data.design import check_design
    from cellalign.data.fields import field_records
    from cellalign.data.genes import second_name
    from cellalign.data.given import given_cells
    from cellalign.data.images import image_shape
    from cellalign.data.loader import make_cells
    from cellalign.data.matrices import check_names
    from cellalign.data.preprocess import notes_of_choice
    from cellalign.data.recipe import to_train_on
    from cellalign.engine.ranks import current
    from cellalign.engine.settings import resolve_settings
    from cellalign.methods.capabilities import Stacks, by_steps
    from cellalign.methods.registry import get
    from cellalign.records import CellNumbers, ModelRecord
    from cellalign.threads import limited

    cls, roles = get(method), Roles.of(asked)
    _check_needs(cls, roles, adata.obs)
    named = {name: asked[name] for name in PLANNED}
    pixels = image_shape(adata) is not None
    known: dict[str, Any] = {"images": pixels, "n_cells": adata.n_obs, "number": roles.of_number}
    settle = partial(resolve_settings, cls, preset, config, settings, named, expression, **known)
    hyperparameters, plan = settle(n_features=adata.n_vars)
    reads = what_is_read(cls, hyperparameters, expression)
    _check_condition(cls, roles, continuous)
    notes = check_roles(cls, roles, hyperparameters)
    plan = on_device(cls, hyperparameters, plan, device, threads, automatic)
    if issubclass(cls, Stacks) and not by_steps(cls, hyperparameters):
        plan = plan.model_copy(update={"validation": 0.0})  # closed forms learn of all cells, and say so

    adata = given_cells(adata)
    check_names(adata, "the input")
    trained_on = training_rows(adata, holdout, control)
    with limited(threads):  # scanpy would leave torch another number of them
        found = to_train_on(
            adata,
            reads,
            layer=layer,
            n_top_genes=n_top_genes,
            rounded=rounded,
            advice=spoken(python="cellalign.preprocess(adata)", command=_preprocess_command(source)),
            trained_on=None if genes_by_all else trained_on,
            often=partial(read_often_looked_at, cls=cls),
        )
    if len(found.var) != adata.n_vars:  # genes of raw counts were chosen, and a default may go by their number
        hyperparameters = settle(n_features=len(found.var))[0]
    if reads != "any" and found.recipe.genes_by is None and not genes_by_all:
        notes += notes_of_choice(adata, trained_on)
    fields = roles.fields(adata, trained_on, holdout)
    notes += check_design(adata[trained_on], fields)
    cells = make_cells(adata, to_read_often(found.x, cls), fields, ignore=~trained_on)
    train_rows, validation_rows = split_rows(cells, trained_on, plan, seed)
    notes += unheeded(cls, hyperparameters, asked, len(validation_rows))

    record = ModelRecord(
        format_version=ModelRecord.FORMAT,
        method=method,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        training=plan.model_dump(mode="json"),
        preset=preset,
        matrix=found.matrix,
        recipe=found.recipe,
        content=current().told(lambda: cells.content(found.made_of)),  # a pass over all cells: one rank makes it
        image_shape=image_shape(adata) if len(found.var) == adata.n_vars else None,
        fields=field_records(fields),
        holdout=list(holdout),
        seed=seed,
        cells=CellNumbers(all=adata.n_obs, trained=len(train_rows), validation=len(validation_rows)),
        other_names=second_name(found.var),
        genes=[str(gene) for gene in found.var.index],
        **made_by(source),
    )
    return Prepared(record, cells, plan, train_rows, validation_rows, notes, found.x, found.counts, roles)


def without(prepared: Prepared, adata: AnnData, holdout: Sequence[str]) -> Prepared:
    """The same training with other cells held out: checked as `prepare` does, its matrix not looked at again.

    Its record has the content of the cells before, and of raw counts their genes and total: to say how long it takes.

    Raises
    ------
    UsageError, InputError
        As `prepare`.
    """
    from cellalign.data.design import check_design
    from cellalign.data.fields import field_records

    trained_on = training_rows(adata, holdout, prepared.roles.control)
    fields = prepared.roles.fields(adata, trained_on, holdout)
    notes = check_design(adata[trained_on], fields)
    cells = prepared.cells.with_fields(adata, fields, ignore=~trained_on)
    train_rows, validation_rows = split_rows(cells, trained_on, prepared.plan, prepared.record.seed)
    record = prepared.record.model_copy(update={"holdout": list(holdout), "fields": field_records(fields)})
    return replace(
        prepared, record=record, cells=cells, notes=notes, train_rows=train_rows, validation_rows=validation_rows
    )


PREPARED = frozenset(signature(prepare).parameters) - {"adata"}
PLANNED = ("epochs", "batch_size", "lr", "latent_dim", "validation", "early_stopping", "precision")


def of_preparation(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `train`'s options that `prepare` takes."""
    return {name: value for name, value in options.items() if name in PREPARED}


def resolved(
    method: str, settings: Mapping[str, Any] | None, options: Mapping[str, Any], of: ModelRecord | None = None
) -> tuple[Any, Plan]:
    """Hyperparameters and plan of `train` with these options, of the precision that is asked for; errors as `train`.

    Without a record `of` a training of the same cells, no default is known that goes by how many genes and cells there
    are, or by whether they are images.
    """
    from cellalign.engine.settings import resolve_settings
    from cellalign.methods.registry import get

    named = {name: options.get(name) for name in PLANNED}
    kind, number = options.get("expression"), Roles.of(options).of_number
    given = options.get("preset"), options.get("config"), settings
    known: dict[str, Any] = {}
    if of is not None:
        known = {"n_features": len(of.genes), "images": of.image_shape is not None, "n_cells": of.cells.all}
    return resolve_settings(get(method), *given, named, kind, number=number, **known)


def what_is_read(cls: type[Method], hyperparameters: Any, expression: str | None) -> str:
    """What a method reads under these hyperparameters: "log", "counts", or any real values where they are asked for.

    Raises
    ------
    UsageError
        It reads counts, and values as they are are asked for; or something else is.
    """
    reads = cls.reads(hyperparameters)
    if expression is None:
        return reads
    if expression != "any":
        raise UsageError(
            f"{option('expression', expression)} is not any; without it a method reads what it is made for"
        )
    if reads == "counts":
        likelihood = getattr(hyperparameters, "likelihood", None)
        said = "" if likelihood is None else f" (likelihood {likelihood})"
        gaussian = spoken(python="settings={'likelihood': 'gaussian'}", command="--set likelihood=gaussian")
        mend = "use another method" if likelihood is None else f"add {gaussian}, or use another method"
        raise UsageError(
            f"method {cls.name!r} reads counts{said}, so it cannot take {option('expression', 'any')}; {mend}"
        )
    return expression


def _check_needs(cls: type[Method], roles: Roles, obs: pd.DataFrame) -> None:
    """Refuse a method without the column it cannot do without, with the columns that could be it."""
    from cellalign.data.columns import of_few_values

    asked = [key for keys in roles.named.values() for key in keys]
    for needed, given, what in (
        (cls.needs_condition, roles.condition, ("condition", "the obs column whose effect is modelled")),
        (cls.needs_label, roles.label, ("label", "the obs column of cell types; some may be missing")),
    ):
        if needed and given is None:
            name, said = what
            there = of_few_values(obs, asked)
            raise UsageError(f"method {cls.name!r} needs {option(name, hint='KEY')}, {said}; {there}")


def _check_condition(cls: type[Method], roles: Roles, continuous: bool) -> None:
    """Refuse an option about the condition that the method has no answer to."""
    from cellalign.methods.base import InfersCondition
    from cellalign.methods.registry import lacks, loadable

    missing = "allow_missing_condition"
    for asked, name in ((continuous, "continuous"), (roles.may_be_missing, missing)):
        if asked and roles.condition is None:
            raise UsageError(f"{option(name)} needs {option('condition', hint='KEY')}")
    kind = roles.kinds.get(roles.condition or "", "categorical")
    if kind not in cls.condition_kinds:
        able = ", ".join(name for name, other in loadable() if kind in other.condition_kinds) or "none"
        said = option("continuous") if kind == "number" else f"condition of the kind {kind!r}"
        raise UsageError(f"method {cls.name!r} has no {said}; these have: {able}")
    if roles.may_be_missing and not issubclass(cls, InfersCondition):
        raise UsageError(f"{lacks(cls.name, InfersCondition)} ({option(missing, True)})")


def on_device(
    cls: type[Method],
    hyperparameters: Any,
    plan: Plan,
    device: str,
    threads: int | None = None,
    automatic: str | None = None,
) -> Plan:
    """The plan with the precision that a device has, or `automatic` where "auto" is asked for."""
    from cellalign.engine.device import pick_device
    from cellalign.engine.precision import settled_plan

    torch_device = pick_device(device, threads)
    if automatic is not None and plan.precision == "auto":
        plan = plan.model_copy(update={"precision": automatic})
    return settled_plan(cls, hyperparameters, plan, torch_device)


def to_read_often(x: Any, cls: type[Method]) -> Any:
    """A matrix as a method reads it in every epoch: one on disk from a temporary file, of several ranks a machine's."""
    from cellalign.engine.copies import one_copy
    from cellalign.engine.ranks import current
    from cellalign.methods.capabilities import Stacks, Trains

    return one_copy(x, current()) if issubclass(cls, (Trains, Stacks)) else x


def read_often_looked_at(x: Any, cls: type[Method]) -> Any:
    """The same, and one rank has made the pass that finds what has to be known of all values."""
    return looked_at(to_read_often(x, cls))


def training_rows(adata: AnnData, holdout: Sequence[str], control: str | None) -> np.ndarray:
    """Mask [n] of the cells that are not held out; InputError where next to none is left."""
    from cellalign.data.split import rows_left

    if not adata.n_obs:
        raise InputError("the input has no cells")
    return rows_left(adata.obs, holdout, control=control, least=MIN_TRAINING_CELLS)


def made_by(source: str | os.PathLike[str] | Reading | None) -> dict[str, Any]:
    """What a model's record says of where it comes from."""
    from cellalign.model_directory import source_record

    return {
        "cellalign": package_version(),
        "source": source_record(source),
        "command": shlex.join(sys.argv) if source is not None else None,
        "command_hint": _preprocess_command(source),
        "versions": _library_versions(),
    }


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("cellalign")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _library_versions() -> dict[str, str]:
    names = ("torch", "numba", "anndata", "scanpy", "numpy", "scipy")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def split_rows(cells: Cells, trained_on: np.ndarray, plan: Plan, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows among those that are not held out."""
    import numpy as np

    from cellalign.data.split import stratified_split

    kept = np.flatnonzero(trained_on)
    train_rows, validation_rows = stratified_split(cells.condition.numpy()[kept], plan.validation, seed)
    return kept[train_rows], kept[validation_rows]


def _preprocess_command(source: str | os.PathLike[str] | Reading | None) -> str:
    if source is None:
        return "cellalign preprocess"
    reading = Reading.of(source)
    return shlex.join(["cellalign", "preprocess", *reading.words(), "-o", beside(reading, "pp")])
