"""What a counterfactual asks: which columns are set to which values, and of which cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellalign.data.columns import Where, column, having, select
from cellalign.data.fields import Column
from cellalign.data.said import tell
from cellalign.data.terms import split_terms
from cellalign.data.values import check_combination, listed, number_of, text_of, texts_of, value_of
from cellalign.errors import CellalignError, InputError, ModelError, UsageError, option
from cellalign.nn.minibatch import BATCH, CONDITION, Fields

if TYPE_CHECKING:
    from anndata import AnnData

ALL = "all"  # every value of a column, where none is called so
To = str | float | Mapping[str, Any]
Asked = list[tuple[Column, str]]


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
                if field.kind != "number":  # what is missing stays missing, whatever pandas it is
                    before = before.map(str, na_action="ignore").astype("category")
                changed[f"{field.name}_source"] = before
            changed[field.name] = field.replaced(obs, value)
        return obs.assign(**changed)


def intervention(
    cells: AnnData,
    fields: Fields,
    to: To,
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
    where : mapping of column to value or values, or sequence of "key=value,value", optional
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
    return _settled(cells, fields, _asked(fields, to), option("to", to), from_, where)


def _settled(
    cells: AnnData, fields: Fields, asked: Asked, spelt: str, from_: str | float | None, where: Where | None
) -> Intervention:
    """`intervention` of columns and values; `spelt` is how they were asked for."""
    from_ = None if from_ is None else str(from_)
    chosen = tuple(field for field, _ in asked)
    if len({field.name for field in chosen}) < len(chosen):
        raise UsageError(f"{spelt} sets a column twice")
    for field, text, how in [*((*each, spelt) for each in asked), (chosen[0], from_, option("from_", from_))]:
        if text is not None:
            _check_combination(cells, field, text, how)
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


def _check_combination(cells: AnnData, field: Any, text: str, said: str) -> None:
    """Refuse conditions a+control and a+a, unless the model or the cells have such a name; errors as the function's."""
    if field.role != CONDITION or field.kind != "categorical" or "+" not in text:
        return
    there = column(cells.obs, field.name, missing=True).categories if field.name in cells.obs else ()
    check_combination(text, [*field.categories, *map(str, there)], field.reference, said)


def asks_for_several(fields: Fields, to: Any) -> bool:
    """Whether a list of conditions is asked for, or all of them."""
    if _is_list(to):
        return True
    try:
        return any(_means_all(field, text) for field, text in _asked(fields, to))
    except CellalignError:  # said where it is settled
        return False


def interventions(
    cells: AnnData,
    fields: Fields,
    to: To | Sequence[To],
    *,
    from_: str | float | None = None,
    where: Where | None = None,
) -> list[Intervention]:
    """What is asked of these cells, of several conditions one after the other, none of them twice.

    Parameters
    ----------
    to : as of `intervention`, or a sequence of these
        "all" stands for every value that the model knows, and of a condition also for those a+b among the cells that
        it knows the parts of; a value that is called so is meant first. What source cells have already is left out.

    Raises
    ------
    InputError, UsageError, ModelError
        As `intervention`; nothing is left; or they set other columns.
    """
    every: list[Any] = list(to) if _is_list(to) else [to]  # type: ignore[arg-type]
    if not every:
        raise UsageError(f"{option('to', [])} names no condition")
    spelt = option("to", every if len(every) > 1 else every[0])
    found: dict[Any, Intervention] = {}
    missing: list[str] = []
    for each in every:
        for asked, of_all in _expanded(cells, fields, each, from_):
            if from_ is not None and _same(asked[0][0], str(from_), asked[0][1]):
                if not of_all:
                    tell(logging.INFO, f"{asked[0][1]} is what the source cells have already, and is left out")
                continue
            try:
                settled = _settled(cells, fields, asked, spelt, from_, where)
            except InputError as error:
                if not of_all:
                    raise
                missing.append(f"{asked[0][1]}: {error}")
                continue
            found.setdefault(tuple(map(_key, settled.values)), settled)
    if not found:
        raise InputError(missing[0] if missing else f"{spelt} names no condition but that of the source cells")
    if missing:
        tell(logging.WARNING, f"{len(missing)} conditions are left out, the first {missing[0]}")
    together = list(found.values())
    if len({tuple(field.name for field in one.fields) for one in together}) > 1:
        raise UsageError(f"{spelt} sets other columns in one prediction than in another; ask for them one by one")
    return together


def _is_list(to: Any) -> bool:
    """Whether several things are asked for, each of which is one."""
    return not isinstance(to, (str, bytes, Mapping)) and hasattr(to, "__iter__")


def _key(value: Any) -> Any:
    """By which two values are the same: a+b is b+a."""
    return value_of("+".join(sorted(value))) if isinstance(value, tuple) else value


def _means_all(field: Any, text: str) -> bool:
    """Whether a text stands for every value of a field."""
    return text == ALL and bool(field.categories) and not field.knows(ALL)


def _expanded(cells: AnnData, fields: Fields, to: To, from_: str | float | None) -> list[tuple[Asked, bool]]:
    """Columns and values of what is asked, of "all" each of its values (and True)."""
    asked = _asked(fields, to)
    places = [i for i, (field, text) in enumerate(asked) if _means_all(field, text)]
    field: Any
    for field, text in asked:
        if text == ALL and field.categories and field.knows(ALL):
            tell(
                logging.INFO,
                f"{field.name}={ALL} is a value of its own, and is what is predicted; name others one by one",
            )
    if not places:
        return [(asked, False)]
    if len(places) > 1:
        raise UsageError(f"{option('to', to)} asks for all of two columns; name the values of one")
    [place] = places
    field = asked[place][0]
    return [([*asked[:place], (field, value), *asked[place + 1 :]], True) for value in _all_of(cells, field, from_)]


def _all_of(cells: AnnData, field: Any, from_: str | float | None) -> list[str]:
    """Every value of a field, and those of the cells that are several known ones at once.

    Without the reference, unless the source cells are told to be others.
    """
    known = [name for name in field.categories if name != field.reference or from_ is not None]
    if field.role != CONDITION or field.name not in cells.obs:
        return known
    found = column(cells.obs, field.name, purpose=field.role, missing=True, named=field.categories).categories
    more = [name for name in found if isinstance(field.parsed(name) if field.knows(name) else None, tuple)]
    unknown = [name for name in found if not field.knows(name)]
    if unknown:
        said = f"{len(unknown)} conditions of these cells were never trained on and are left out: {listed(unknown, 10)}"
        tell(logging.WARNING, said)
    return [*known, *more]


def within_groups(cells: AnnData, asked: Intervention, key: str) -> Intervention:
    """The same from those source cells that have a value of `key` under which the condition was observed.

    All of them where it was not observed at all.

    Raises
    ------
    InputError
        No such column, or no source cell is left.
    """
    codes = column(cells.obs, key, purpose=option("within"), missing=True).codes
    field: Any = asked.fields[0]
    said = asked.said[0]
    real = having(cells.obs, field.name, said, control=field.reference) if field.name in cells.obs else None
    there = np.unique(codes[real & (codes >= 0)]) if real is not None else np.empty(0, dtype=int)
    if not len(there):
        return asked
    rows = asked.rows[np.isin(codes[asked.rows], there)]
    if not len(rows):
        raise InputError(
            f"no source cell has a {key} under which {field.name}={said} was observed; leave {option('within')} out"
        )
    return replace(asked, rows=rows)


def some_of(cells: AnnData, asked: Intervention, n: int, key: str | None, rng: np.random.Generator) -> Intervention:
    """The same from `n` of its source cells, or all where there are fewer, drawn at random.

    With `key` from each of its values as many in proportion as real cells of the condition have.
    """
    rows = asked.rows
    if len(rows) <= n:
        return asked
    order, field = rng.permutation(len(rows)), _first(asked)
    turn = np.arange(len(rows), dtype=np.float64)  # which comes first
    if key is not None and field.name in cells.obs:
        codes = column(cells.obs, key, purpose=option("within"), missing=True).codes.astype(np.int64)
        real = codes[having(cells.obs, field.name, asked.said[0], control=field.reference)]
        wanted = np.bincount(real[real >= 0], minlength=int(codes.max()) + 1)
        own = codes[rows[order]]
        if wanted.any() and (own >= 0).all():
            place = pd.Series(own).groupby(own).cumcount().to_numpy()
            with np.errstate(divide="ignore"):
                turn = (place + rng.uniform(size=len(own))) / wanted[own]
    return replace(asked, rows=np.sort(rows[order[np.argsort(turn, kind="stable")[:n]]]))


def _first(asked: Intervention) -> Any:
    """The field that decides which cells are meant."""
    return asked.fields[0]


def _nothing_left(cells: AnnData, field: Column, to: str, origin: str, restricted: bool) -> str:
    """Why there is no source cell, with the values that there are."""
    source = origin or ("any value" if field.kind == "number" else f"other than {to}")
    said = f"no source cell is left: none has {field.name}={source}"
    if restricted:
        return f"{said} and what {option('where')} asks"
    if field.name not in cells.obs:
        return said
    values = cells.obs[field.name]
    there = texts_of(values.dropna().unique()[:10], values.dtype)
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


def _asked(fields: Fields, to: To) -> Asked:
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
        return field is not None and (field.knows(value) or _means_all(field, value))

    terms = split_terms(text, list(by_name), is_known, bare=True, of="to")
    return terms if sum(key is None for key, _ in terms) < 2 else [(None, text)]


def _field_of(key: str | None, value: str, by_name: Mapping[str, Column], condition: Any) -> tuple[Column, str]:
    """The field that a term is about, and the value."""
    if key is not None:
        return by_name[key], value
    if condition is None:
        batches = [name for name, field in by_name.items() if field.role == BATCH]
        how = f"; predict a batch with {option('to', f'{batches[0]}=VALUE')}" if batches else ""
        raise ModelError(f"the model was trained without a condition, so it has no counterfactual of one{how}")
    name = next((term.partition("=")[0] for term in value.split(",") if "=" in term), "").strip()
    if name and name not in by_name and condition.categories and not condition.knows(value):
        raise InputError(
            f"{option('to', value)}: {name!r} is neither the condition nor a batch of the model; these are: "
            f"{', '.join(by_name)}. Nor is {value!r} a condition; known: {listed(condition.categories)}"
        )
    return condition, value
