"""Fields: the columns a method is given, one class per kind, each fitted once and applied to every later file.

A field reads its column (`fit`, `encode`), says what a network is given of it (`context`), how cells are set to
another value of it (`parsed`, `filled`, `replaced`), and what model.yaml keeps (`record`). A new kind is one file in
this folder. Methods see the protocol in `nn.minibatch` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from cellalign.data.controls import find_control
from cellalign.data.fields.categorical import Categorical, together
from cellalign.data.fields.column import Column, as_number
from cellalign.data.fields.number import Number
from cellalign.data.values import Known, listed, means_missing, text_of, value_of
from cellalign.errors import InputError, UsageError, nearest, option
from cellalign.nn.minibatch import BATCH, CONDITION, COVARIATE, LABEL, Fields
from cellalign.records import FieldRecord, RecordError
from cellalign.records.base import first_fault

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Categorical", "Column", "Number", "as_number", "field_records", "fit_fields", "read_fields", "together"]

for _module in iter_modules(__path__):  # each makes its kinds known
    import_module(f"{__name__}.{_module.name}")


def read_fields(records: Iterable[FieldRecord]) -> Fields:
    """The fields that records stand for.

    Raises
    ------
    RecordError
        Of a kind this version does not know, or damaged.
    """
    fields = []
    for record in records:
        if record.kind not in Column.KINDS:
            raise RecordError(f"field {record.name!r} is of the unknown kind {record.kind!r}")
        try:
            fields.append(Column.KINDS[record.kind].model_validate(record.model_dump()))
        except ValidationError as error:
            raise RecordError(f"field {record.name!r}: {first_fault(error)}") from error
    return Fields(cast(Any, fields))


def field_records(fields: Iterable[Any]) -> list[FieldRecord]:
    """What model.yaml keeps of them; the inverse of `read_fields`."""
    return [field.record() for field in fields]


def fit_fields(
    cells: AnnData,
    *,
    condition: str | None,
    control: str | None = None,
    batches: Sequence[str] = (),
    covariates: Sequence[str] = (),
    label: str | None = None,
    kinds: Mapping[str, str] | None = None,
    condition_may_be_missing: bool = False,
    unlabelled: str | None = None,
) -> Fields:
    """The fields of the training cells.

    Labels and covariates may be missing.

    Parameters
    ----------
    cells : AnnData
    condition, batches, covariates, label
        obs columns by role.
    control : str, optional
        Reference of the condition; by default found by its name.
    kinds : mapping of column to kind, optional
        Of the columns that are not categorical: "number", "vector", "multi-label".
    condition_may_be_missing : bool
    unlabelled : str, optional
        The label's value that means there is none.

    Raises
    ------
    InputError
        A column does not exist or is not fit, there is one condition only, or the control is unknown.
    UsageError
        A kind of a column that has no role, or of a name that is none.
    """
    kinds, control = dict(kinds or {}), None if control is None else text_of(control)
    named = [*batches, *covariates, *([condition] if condition else [])]
    for key, kind in kinds.items():
        if key not in named:
            raise UsageError(
                f"{key} is said to be a {kind}, but is neither a {option('batch')} nor a {option('covariate')}"
            )
        if kind not in Column.KINDS:
            raise UsageError(f"unknown kind {kind!r}.{nearest(kind, Column.KINDS)} Kinds: {', '.join(Column.KINDS)}")
    fields: list[Column] = []
    if condition is not None:
        fields.append(_condition(cells, condition, control, kinds.get(condition), condition_may_be_missing))
    elif control is not None:
        raise InputError(f"{option('control', control)} needs {option('condition')}")
    for role, keys in ((BATCH, batches), (COVARIATE, covariates)):
        # categorical ones first: the order of the weights in models of the first format
        for key in sorted(keys, key=lambda key: kinds.get(key, "categorical") != "categorical"):
            cls = Column.KINDS[kinds.get(key, "categorical")]
            fields.append(cls.fit(cells, key, role, may_be_missing=role == COVARIATE))
    if label is not None:
        fields.append(_label(cells, label, unlabelled))
    return Fields(cast(Any, fields))


def _condition(cells: AnnData, key: str, control: str | None, kind: str | None, may_be_missing: bool) -> Column:
    """The condition: categories with a reference, or a number."""
    if kind is not None and kind != "categorical":
        if control is not None or may_be_missing:
            asked = f"a {option('condition')} with {option('continuous', True)}"
            raise InputError(f"{asked} has no {option('control')}, and none of its values may be missing")
        return Column.KINDS[kind].fit(cells, key, CONDITION, may_be_missing=False)
    named = () if control is None else (control,)
    field = Categorical.fit(cells, key, CONDITION, may_be_missing=may_be_missing, named=named)
    known = list(field.categories)
    found = find_control(known) if control is None else Known(known, control).name(control)
    reference = None if found is None else _alone(found)
    categories = together(known, reference)
    if len(categories) < 2:
        held = f"one condition only ({categories[0]!r})" if categories else "no condition"
        raise InputError(f"condition column {key!r} holds {held}; at least two are needed")
    if control is not None and found is None:
        raise InputError(
            f"control {control!r} is no value of {key!r}.{nearest(control, known)} Values: {listed(known)}"
        )
    return field.model_copy(update={"categories": tuple(categories), "reference": reference})


def _alone(control: str) -> str:
    """The control of "ctrl+ctrl"; others are as they are."""
    parts = control.split("+")
    return parts[0] if parts[0].strip() and len({value_of(part) for part in parts}) == 1 else control


def _label(cells: AnnData, key: str, unlabelled: str | None) -> Categorical:
    """The label, but for the value that means none."""
    field = Categorical.fit(cells, key, LABEL, may_be_missing=True, named=() if unlabelled is None else (unlabelled,))
    none = None if unlabelled is None else Known(field.categories).name(unlabelled)
    if unlabelled is not None and none is None and not means_missing(unlabelled):
        near = nearest(unlabelled, field.categories)
        raise InputError(f"no cell has {key}={unlabelled}.{near} Values: {listed(field.categories)}")
    known = tuple(name for name in field.categories if name != none)
    if not known:
        raise InputError(f"label column {key!r} has no labelled cell")
    return field.model_copy(update={"categories": known, "missing_value": none})
