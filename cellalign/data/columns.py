"""Columns of obs at the door: as categories or numbers, the control among them, and cells chosen by their values.

Every error says what was found, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cellalign.errors import InputError, UsageError, nearest, option

CONTROLS = {"control", "ctrl", "unperturbed", "untreated", "non-targeting", "dmso", "vehicle"}


def column(obs: pd.DataFrame, key: str, *, purpose: str = "condition", missing: bool = False) -> pd.Categorical:
    """A column as a categorical of strings, whatever its type.

    Parameters
    ----------
    obs : DataFrame
    key : str
        A categorical, string, boolean or integer column.
    missing : bool
        Whether values may be missing: their code is -1.

    Returns
    -------
    Categorical
        Only categories in use; a categorical's own order is kept, others are sorted.

    Raises
    ------
    InputError
        No such column (the nearest is named), missing values, or continuous numbers.
    """
    values = _present(obs, key, purpose)
    n_missing = int(values.isna().sum())
    if n_missing and not missing:
        infer = f", or infer them with {option('allow_missing_condition', True)}" if purpose == "condition" else ""
        raise InputError(
            f"{purpose} column {key!r} has {n_missing} missing values; fill them in or drop those cells{infer}"
        )
    if values.dtype.kind == "f" and values.nunique() > 50:
        number, numeric = option("continuous", True), f"add {option('numeric', [key])}, or "
        mends = {"condition": f"name it with {number}, or ", "batch": numeric, "covariate": numeric}
        raise InputError(
            f"{purpose} column {key!r} is continuous ({values.nunique()} different numbers); "
            f"{mends.get(purpose, '')}bin it into categories"
        )
    if isinstance(values.dtype, pd.CategoricalDtype):
        used = values.cat.remove_unused_categories()
        names = [str(c) for c in used.cat.categories]
        return pd.Categorical.from_codes(used.cat.codes.to_numpy(), names)
    codes, found = pd.factorize(values.to_numpy(), sort=True)
    return pd.Categorical.from_codes(codes, [str(v) for v in found])


def numbers(obs: pd.DataFrame, key: str, *, purpose: str = "condition", missing: bool = False) -> np.ndarray:
    """Return a numeric column, float64 [n]; NaN where a value is missing and may be.

    Raises
    ------
    InputError
        No such column, not numeric, or values missing or infinite.
    """
    values = _present(obs, key, purpose)
    asked = option("continuous" if purpose == "condition" else "numeric")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{purpose} column {key!r} is not numeric, as {asked} needs; leave that option out")
    found = values.to_numpy(dtype=np.float64)
    bad = np.isinf(found) if missing else ~np.isfinite(found)
    if bad.any():
        n = int(bad.sum())
        raise InputError(
            f"{purpose} column {key!r} has {n} missing or infinite values; fill them in or drop those cells"
        )
    return found


def _present(obs: pd.DataFrame, key: str, purpose: str) -> pd.Series:
    if key not in obs:
        there = ", ".join(map(str, obs.columns)) or "none"
        raise InputError(f"no {purpose} column {key!r} in obs.{nearest(key, map(str, obs.columns))} Columns: {there}")
    return obs[key]


def find_control(categories: Sequence[str]) -> str | None:
    """The reference level, if exactly one category is called control, ctrl, DMSO, ... in any case."""
    found = [category for category in categories if category.lower() in CONTROLS]
    return found[0] if len(found) == 1 else None


def parse_where(items: Sequence[str]) -> dict[str, str]:
    """{"key": "value"} from "key=value" or "key=value,key=value".

    Raises
    ------
    UsageError
    """
    terms: dict[str, str] = {}
    for item in items:
        for term in item.split(","):
            key, equals, value = term.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise UsageError(f"{item!r} is not KEY=VALUE")
            terms[key.strip()] = value.strip()
    return terms


def select(obs: pd.DataFrame, where: Mapping[str, str]) -> np.ndarray:
    """Mask [n] of the cells whose columns have the given values.

    Raises
    ------
    InputError
        No such column or value; the nearest and the known ones are named.
    """
    mask = np.ones(len(obs), dtype=bool)
    for key, value in where.items():
        found = column(obs, key, purpose="selection")
        if value not in found.categories:
            raise InputError(
                f"no cell has {key}={value}.{nearest(value, found.categories)} Values: {', '.join(found.categories)}"
            )
        mask &= np.asarray(found == value)
    return mask
