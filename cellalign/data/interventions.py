"""What a counterfactual asks: which columns are set to which values, and of which cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import Where, select
from cellalign.data.fields import Column
from cellalign.data.terms import split_terms
from cellalign.data.values import number_of, text_of
from cellalign.errors import InputError, ModelError, UsageError, option
from cellalign.nn.minibatch import BATCH, CONDITION, Fields

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Intervention:
    """An intervention on some cells.

    Attributes
    ----------
    fields : tuple of Column
        What is set; the first decides which cells are meant.
    values : tuple
        To what: a category, several at once as a tuple, or a number.
    said : tuple of str
        The values as they were asked for.
    origin : str
        The value of the first field that the source cells have, empty where they have several.
    rows : int array
        The source cells.
    """

    fields: tuple[Column, ...]
    values: tuple[Any, ...]
    said: tuple[str, ...]
    origin: str
    rows: np.ndarray

    @property
    def changes(self) -> dict[str, Any]:
        """By column name, as `Minibatch.do` takes them."""
        return {field.name: value for field, value in zip(self.fields, self.values, strict=True)}

    def applied(self, obs: pd.DataFrame) -> pd.DataFrame:
        """`obs` of the source cells with the columns set; what they were is kept as `<column>_source`."""
        changed: dict[str, Any] = {}
        for field, value in zip(self.fields, self.values, strict=True):
            if field.name in obs:
                before = obs[field.name]
                changed[f"{field.name}_source"] = (
                    before if field.kind == "number" else before.astype(str).astype("category")
                )
            changed[field.name] = field.replaced(obs, value)
        return obs.assign(**changed)


def intervention(
    cells: AnnData,
    fields: Fields,
    to: str | float | Mapping[str, Any],
    *,
    from_: str | float | None = None,
    where: Where | None = None,
) -> Intervention:
    """What is asked of these cells.

    Parameters
    ----------
    to : str, number or mapping
        A value of the condition; "key=value" of a batch; several of these separated by commas; or a mapping of
        columns to values.
    from_ : str, optional
        The source cells' value of the first column that is set; default the control, or every other one.
    where : mapping of column to value, or sequence of "key=value", optional
        Further restricts the source cells.

    Raises
    ------
    InputError
        Unknown value, or no source cell is left.
    UsageError
        `to` equals `from_`, or is no finite number where the column holds numbers.
    ModelError
        The model was trained without a condition, and `to` is no batch.
    """
    from_ = None if from_ is None else str(from_)
    asked = _asked(fields, to)
    chosen = tuple(field for field, _ in asked)
    if len({field.name for field in chosen}) < len(chosen):
        raise UsageError(f"{option('to', to)} sets a column twice")
    values = tuple(field.parsed(text) for field, text in asked)
    # a category under the name it has, others as they were asked for
    said = tuple(v if isinstance(v, str) else text for v, (_, text) in zip(values, asked, strict=True))
    if from_ is not None and _same(chosen[0], from_, said[0]):
        raise UsageError(f"{option('to')} and {option('from_')} are both {from_!r}; choose two")
    mask, origin = chosen[0].sources(cells, values[0], from_)
    if where:
        mask = mask & select(cells.obs, where, control=_control(fields))
    if not mask.any():
        raise InputError(_nothing_left(cells, chosen[0], said[0], origin, bool(where)))
    return Intervention(chosen, values, said, origin, np.flatnonzero(mask))


def _nothing_left(cells: AnnData, field: Column, to: str, origin: str, restricted: bool) -> str:
    """Why there is no source cell, with the values that there are."""
    source = origin or ("any value" if field.kind == "number" else f"other than {to}")
    said = f"no source cell is left: none has {field.name}={source}"
    if restricted:
        return f"{said} and what {option('where')} asks"
    if field.name not in cells.obs:
        return said
    there = list(map(str, cells.obs[field.name].dropna().unique()[:10]))
    return f"{said}; values: {', '.join(there) or 'none'}"


def _same(field: Any, one: str, other: str) -> bool:
    """Whether both are the same value of a field."""
    if field.categories:
        return one == other or (field.knows(one) and field.parsed(one) == other)
    number = number_of(one)
    return one == other or (number is not None and number == number_of(other))


def _control(fields: Fields) -> str | None:
    """The reference of the condition."""
    condition = fields.one(CONDITION)
    return None if condition is None else condition.reference


def _asked(fields: Fields, to: str | float | Mapping[str, Any]) -> list[tuple[Column, str]]:
    """Fields and the values asked for, as text."""
    by_name: dict[str, Column] = {f.name: f for f in reversed(fields) if f.role in (CONDITION, BATCH)}  # type: ignore[misc]
    condition: Any = fields.one(CONDITION)
    if not isinstance(to, Mapping):
        return [_field_of(key, value, by_name, condition) for key, value in _terms(str(to), by_name, condition)]
    asked = []
    for name, value in to.items():
        field = condition if name == CONDITION and name not in by_name else by_name.get(str(name))
        if field is None:
            raise UsageError(f"{name!r} is neither the condition nor a batch; these are: {', '.join(by_name)}")
        asked.append((field, _text(value)))
    if not asked:
        raise UsageError(f"{option('to')} names no value")
    return asked


def _text(value: Any) -> str:
    """A value as a user would type it: a vector is numbers separated by semicolons, several categories are joined."""
    if isinstance(value, (str, bytes, int, float)) or not hasattr(value, "__iter__"):
        return text_of(value)
    parts = list(value)
    return ("+" if parts and isinstance(parts[0], str) else ";").join(map(str, parts))


def _terms(text: str, by_name: Mapping[str, Column], condition: Any) -> list[tuple[str | None, str]]:
    """The terms of "a,key=value": all of known columns, but for one at most, which is the condition's."""

    def is_known(key: str | None, value: str) -> bool:
        field = condition if key is None else by_name[key]
        return field is not None and field.knows(value)

    terms = split_terms(text, list(by_name), is_known, bare=True)
    return terms if sum(key is None for key, _ in terms) < 2 else [(None, text)]


def _field_of(key: str | None, value: str, by_name: Mapping[str, Column], condition: Any) -> tuple[Column, str]:
    """The field that a term is about, and the value."""
    if key is not None:
        return by_name[key], value
    if condition is None:
        batches = [name for name, field in by_name.items() if field.role == BATCH]
        how = f"; predict a batch with {option('to', f'{batches[0]}=VALUE')}" if batches else ""
        raise ModelError(f"the model was trained without a condition, so it has no counterfactual of one{how}")
    return condition, value
