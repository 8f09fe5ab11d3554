"""Columns of obs at the door: as categories or numbers, and cells chosen by their values.

Values are compared as `data.values` does. Every error says what was found, where, and what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cellalign.data.controls import find_control
from cellalign.data.said import tell
from cellalign.data.terms import split_terms
from cellalign.data.values import (
    Known,
    check_combination,
    doubles,
    in_order,
    known,
    listed,
    means_missing,
    number_of,
    text_of,
    texts_of,
)
from cellalign.errors import InputError, UsageError, nearest, option, takes

__all__ = [
    "column",
    "find_control",
    "having",
    "no_column",
    "numbers",
    "of_few_values",
    "parse_where",
    "select",
    "text_that_is_missing",
    "with_value",
]

Where = Mapping[str, str | Sequence[str]] | Sequence[str]
MEMBERS, SHOWN = 10, 8  # cells of each value of a column of few, on average; how many such columns are named


def column(
    obs: pd.DataFrame,
    key: str,
    *,
    purpose: str = "condition",
    missing: bool = False,
    named: Collection[str] = (),
) -> pd.Categorical:
    """A column as a categorical of strings, whatever its type.

    Parameters
    ----------
    obs : DataFrame
    key : str
        A categorical, string, boolean or integer column.
    missing : bool
        Whether values may be missing: their code is -1. Text that means missing ('', 'NA', 'nan', ...) is.
    named : collection of str
        Values that are ones even if they look like missing: a model's categories, what a user names.

    Returns
    -------
    Categorical
        Only categories in use; a categorical's own order is kept, others are sorted, numbers by value.

    Raises
    ------
    InputError
        No such column (the nearest is named), missing or infinite values, or continuous numbers.
    """
    values = _present(obs, key, purpose)
    if values.dtype.kind == "f" and np.isinf(values.to_numpy(dtype=np.float64, na_value=np.nan)).any():
        raise InputError(f"{purpose} column {key!r} has infinite values; fill them in or drop those cells")
    continuous = values.dtype.kind == "f" and purpose != "selection" and values.nunique() > 50
    if continuous and (missing or values.notna().all()):
        raise InputError(
            f"{purpose} column {key!r} is continuous ({values.nunique()} different numbers); "
            f"{_as_number(key, purpose)}bin it into categories"
        )
    every = _categorical(values)
    absent = [name for name in every.categories if means_missing(name) and name not in named]
    found = every.remove_categories(absent) if absent else every
    n_missing = int((found.codes < 0).sum())
    if n_missing and not missing:
        infer = (
            f", or infer them with {option('allow_missing_condition', True)}, if the method can"
            if purpose == "condition" and takes("allow_missing_condition")
            else ""
        )
        raise InputError(
            f"{purpose} column {key!r} has {n_missing} missing values{_as_text(every, absent)}; fill them in or drop "
            f"those cells{infer}"
        )
    return found


def with_value(obs: pd.DataFrame, key: str, none: str | None, *, purpose: str) -> pd.Categorical:
    """As `column`, values that are missing, or that mean there is none, having the code -1."""
    found = column(obs, key, purpose=purpose, missing=True)
    name = None if none is None else known(tuple(found.categories)).name(none)
    return found if name is None else found.remove_categories([name])


def _as_number(key: str, purpose: str) -> str:
    """How the verb that runs is told that a column is of numbers, if it can be."""
    if purpose == "condition" and takes("continuous"):
        return f"name it with {option('continuous', True)}, or "
    if purpose in ("batch", "covariate") and takes("numeric"):
        return f"add {option('numeric', [key])}, or "
    return ""


def text_that_is_missing(obs: pd.DataFrame, key: str, named: Collection[str] = ()) -> dict[str, int]:
    """Text of a column that stands for no value, with the number of its cells."""
    every = _categorical(_present(obs, key, "obs"))
    sizes = np.bincount(every.codes[every.codes >= 0], minlength=len(every.categories))
    both = zip(every.categories, sizes, strict=True)
    return {name: int(n) for name, n in both if means_missing(name) and name not in named}


def _as_text(every: pd.Categorical, absent: Sequence[str]) -> str:
    """How many of the missing values are text that means it."""
    if not absent:
        return ""
    sizes = [f"{name!r}: {int((every == name).sum())}" for name in absent]
    return f" (text that means missing among them: {', '.join(sizes)}; rename what does not)"


def _categorical(values: pd.Series) -> pd.Categorical:
    """The values as text, those in use, -1 where there is none."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        used = values.cat.remove_unused_categories()
        codes, names = used.cat.codes.to_numpy(), texts_of(used.cat.categories, used.cat.categories.dtype)
        # text that was made categorical by being written is in alphabetical order, which numbers have by accident
        own_order = names != sorted(names)
    else:
        try:
            codes, found = pd.factorize(values.to_numpy(object) if values.dtype.kind == "O" else values)
        except TypeError as error:  # what cannot be told apart, such as lists
            kind = pd.api.types.infer_dtype(values)
            raise InputError(
                f"obs column {values.name!r} holds values that are neither text nor numbers ({kind}, the first "
                f"{text_of(values.iloc[0])}); make text of them"
            ) from error
        names, own_order = texts_of(found, values.dtype), False
    order = list(dict.fromkeys(names if own_order else in_order(names)))
    place = {name: code for code, name in enumerate(order)}
    table = np.array([*(place[name] for name in names), -1], dtype=np.int64)
    return pd.Categorical.from_codes(table[codes], order)


def numbers(obs: pd.DataFrame, key: str, *, purpose: str = "condition", missing: bool = False) -> np.ndarray:
    """Return a numeric column, float64 [n], also one of numbers as text; NaN where a value is missing and may be.

    Raises
    ------
    InputError
        No such column, not numeric, or values missing or infinite.
    """
    values = _present(obs, key, purpose)
    if values.dtype.kind in "iuf":
        found = doubles(values)
    else:
        found = _numbers_of_text(values, key, purpose)
    bad = np.isinf(found) if missing else ~np.isfinite(found)
    if bad.any():
        n = int(bad.sum())
        raise InputError(
            f"{purpose} column {key!r} has {n} missing or infinite values; fill them in or drop those cells"
        )
    return found


def _numbers_of_text(values: pd.Series, key: str, purpose: str) -> np.ndarray:
    """Numbers that are categories or text; InputError for the first that is none."""
    asked = option("continuous" if purpose == "condition" else "numeric")
    every = _categorical(values)
    table = np.full(len(every.categories) + 1, np.nan)
    for code, name in enumerate(every.categories):
        if means_missing(name):
            continue
        try:
            table[code] = float(name.replace("_", "x"))  # Python takes 1_000 for a number
        except ValueError:
            raise InputError(
                f"{purpose} column {key!r} is not numeric, as {asked} needs (it holds {name!r}); leave that option out"
            ) from None
    return table[every.codes]


def _present(obs: pd.DataFrame, key: str, purpose: str) -> pd.Series:
    if key not in obs:
        raise no_column(key, purpose, list(map(str, obs.columns)))
    values = obs[key]
    if isinstance(values, pd.DataFrame):
        raise InputError(f"obs has {values.shape[1]} columns {key!r}; rename all but one")
    return values


def of_few_values(obs: pd.DataFrame, but: Collection[str] = ()) -> str:
    """Columns that could be a condition or groups, in words: those that hold a control's name first."""
    likely: list[str] = []
    possible: list[str] = []
    for key in (key for key in map(str, obs.columns) if key not in but):
        values = obs[key]
        try:
            n = 0 if values.dtype.kind == "f" else values.nunique()
        except TypeError:  # of lists
            n = 0
        if not 2 <= n <= max(2, min(len(obs) // MEMBERS, 1000)):
            continue
        names = [str(value) for value in values.dropna().unique()]
        (likely if find_control(names) is not None else possible).append(f"{key} ({n} values)")
    return f"columns of a few values: {listed([*likely, *possible], SHOWN) or 'none'}"


def no_column(key: str, purpose: str, there: Sequence[str]) -> InputError:
    """The error of a column that is not among those of obs; the nearest one is named."""
    table = "" if there else f"; give the cells' metadata as a table with {option('obs', hint='FILE.csv')}"
    listed_ = ", ".join(there) or "none"
    return InputError(f"no {purpose} column {key!r} in obs.{nearest(key, there)} Columns: {listed_}{table}")


def parse_where(items: Sequence[str], obs: pd.DataFrame | None = None, of: str = "where") -> dict[str, str]:
    """{"key": "value"} from "key=value" or "key=value,key=value", read with the columns and values of obs.

    Parameters
    ----------
    of : str
        The parameter that they were given to.

    Raises
    ------
    UsageError
    """
    terms: dict[str, str] = {}
    for key, value in _terms(items, obs, of=of):
        if terms.get(key, value) != value:
            raise UsageError(f"{option(of)}: {key} is asked to be both {terms[key]!r} and {value!r}; choose one")
        terms[key] = value
    return terms


def _terms(
    items: Sequence[str], obs: pd.DataFrame | None, *, several: bool = False, of: str = "where"
) -> Iterator[tuple[str, str]]:
    """Columns and values of "key=value,key=value" items; with `several` "key=value,value" too."""
    there: dict[str, Known | None] = {}

    def is_known(key: str | None, value: str) -> bool:
        assert obs is not None and key is not None
        if key not in there:
            there[key] = _known(obs, key)
        names = there[key]
        if names is None:
            return number_of(value) is not None
        return bool(names.all(value)) or means_missing(value)

    columns = [] if obs is None else [str(name) for name in obs.columns]
    for item in items:
        for key, value in split_terms(item, columns, is_known, several=several, of=of):
            assert key is not None
            yield key, value


def _any_of_each(where: Where, obs: pd.DataFrame) -> dict[str, list[Any]]:
    """The values of each column of which a cell has to have one."""
    found: dict[str, list[Any]] = {}
    if isinstance(where, Mapping):
        for key, value in where.items():
            found[key] = [value] if isinstance(value, (str, bytes)) or not np.iterable(value) else list(value)
    else:
        for key, value in _terms([where] if isinstance(where, str) else where, obs, several=True):
            found.setdefault(key, []).append(value)
    for key, values in found.items():
        if not values:
            raise UsageError(f"{option('where')} names no value of {key!r}; name one, or leave the column out")
    return found


def _known(obs: pd.DataFrame, key: str) -> Known | None:
    """The values of a column, None where it holds numbers, which have no names."""
    values = _present(obs, key, "selection")
    return None if values.dtype.kind in "iuf" else known(tuple(_categorical(values).categories))


def select(obs: pd.DataFrame, where: Where, *, control: str | None = None, quiet: bool = False) -> np.ndarray:
    """Mask [n] of the cells whose columns have the given values: of several of one column any.

    Parameters
    ----------
    where : mapping of column to value or values, or sequence of "key=value,value,key=value"
    control : str, optional
        Where a column is the condition: what adds nothing in "a+control".
    quiet : bool
        Whether cells that have no value, and so are not chosen, go unsaid.

    Raises
    ------
    InputError
        No such column or value; the nearest and the known ones are named.
    UsageError
        An item is not KEY=VALUE.
    """
    mask = np.ones(len(obs), dtype=bool)
    for key, values in _any_of_each(where, obs).items():
        mask &= np.logical_or.reduce([_having_some(obs, key, value, control) for value in values])
        if not quiet and not any(means_missing(text_of(value)) for value in values):
            absent = int(np.sum(column(obs, key, purpose="selection", missing=True).codes < 0))
            if absent:
                those = ",".join(text_of(value) for value in values)
                tell(logging.INFO, f"{absent} cells have no {key!r}, so they are not among {key}={those}")
    return mask


def _having_some(obs: pd.DataFrame, key: str, value: Any, control: str | None) -> np.ndarray:
    """As `having`; InputError where no cell has the value."""
    if "+" in text_of(value) and (there := _known(obs, key)) is not None:
        check_combination(text_of(value), there.names, control, f"{key}={value}")
    chosen = having(obs, key, value, control=control)
    if not chosen.any():
        names = list(column(obs, key, purpose="selection", missing=True).categories)
        raise InputError(f"no cell has {key}={value}.{nearest(text_of(value), names)} Values: {listed(names)}")
    return chosen


def having(obs: pd.DataFrame, key: str, value: str, *, control: str | None = None) -> np.ndarray:
    """Mask [n] of the cells whose column has a value; of a text that means missing, those that have none.

    Raises
    ------
    InputError
        No such column.
    """
    values, text = _present(obs, key, "selection"), text_of(value)
    if values.dtype.kind in "iuf":
        return _equal(doubles(values), text)
    every = _categorical(values)
    codes = known(tuple(every.categories), control).all(text)
    if not codes and means_missing(text):
        codes = [-1, *(code for code, name in enumerate(every.categories) if means_missing(name))]
    return np.isin(every.codes, codes)


def _equal(values: np.ndarray, text: str) -> np.ndarray:
    """Mask [n] of the numbers that a text means."""
    if means_missing(text):
        return np.isnan(values)
    number = number_of(text)
    if number is None:
        return np.zeros(len(values), dtype=bool)
    value = float(number)
    if value.is_integer():
        return values == value
    return values.astype(np.float32) == np.float32(value)
