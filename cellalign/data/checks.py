"""Validation at the door: what is checked here is not checked again further in.

Every error says what was found, where, and what to do. Nothing here makes a sparse matrix dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.errors import InputError, UsageError, option

if TYPE_CHECKING:
    from anndata import AnnData

CONTROLS = {"control", "ctrl", "unperturbed", "untreated", "non-targeting", "dmso", "vehicle"}
LARGEST_LOG = 50  # log1p of any real count is below this; raw counts of a cell's top gene are above
LOOKED_AT = 100_000


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the hint " Did you mean X?" with its leading space, or nothing where no candidate is near."""
    listed = {candidate.lower(): candidate for candidate in candidates}
    close = get_close_matches(word.lower(), listed, 1)
    return f" Did you mean {listed[close[0]]!r}?" if close else ""


def check_names(adata: AnnData, where: str) -> None:
    """Refuse duplicated cell or gene names.

    Raises
    ------
    InputError
    """
    for kind, index, mend in (
        ("cell", adata.obs_names, "adata.obs_names_make_unique()"),
        ("gene", adata.var_names, "adata.var_names_make_unique()"),
    ):
        if not index.is_unique:
            twice = index[index.duplicated()]
            raise InputError(
                f"{where} has {len(twice)} duplicate {kind} names, the first {str(twice[0])!r}; "
                f"make them unique, in Python: {mend}"
            )


def check_matrix(x: Any, where: str) -> None:
    """Refuse a matrix that is empty, not numeric, or holds NaN, infinity or negative values.

    Parameters
    ----------
    x : sparse or dense matrix [n_cells, n_genes]

    Raises
    ------
    InputError
        The count of bad values, and cell and gene of the first.
    """
    if x.shape[0] == 0:
        raise InputError(f"{where} has no cells")
    if x.shape[1] == 0:
        raise InputError(f"{where} has no genes")
    values = x.data if sparse.issparse(x) else np.asarray(x)
    if values.dtype.kind not in "iufb":
        raise InputError(f"{where} is not numeric (it holds {values.dtype})")
    # sum and minimum are two passes without a mask; only a bad matrix pays for finding the culprit
    with np.errstate(all="ignore"):
        fine = values.size == 0 or (np.isfinite(values.sum(dtype=np.float64)) and values.min() >= 0)
    if fine:
        return
    for name, bad in (("NaN", np.isnan(values)), ("inf", np.isinf(values)), ("negative", values < 0)):
        if bad.any():
            row, column = _position(x, bad)
            raise InputError(
                f"{where} holds {int(bad.sum())} {name} values, the first in cell {row} (from 0), gene {column}; "
                "remove or correct them"
            )


def _position(x: Any, bad: np.ndarray) -> tuple[int, int]:
    """Row and column of the first bad stored value."""
    first = int(np.flatnonzero(bad.ravel())[0])
    if not sparse.issparse(x):
        row, column = np.unravel_index(first, bad.shape)
        return int(row), int(column)
    major = int(np.searchsorted(x.indptr, first, side="right")) - 1
    minor = int(x.indices[first])
    return (major, minor) if x.format == "csr" else (minor, major)


def is_counts(x: Any) -> bool:
    """Whether the stored values are non-negative integers, judged by up to 100,000 spread over the matrix."""
    values = x.data if sparse.issparse(x) else np.asarray(x).ravel()
    sample = np.asarray(values[:: max(1, values.size // LOOKED_AT)])
    if sample.size == 0 or sample.dtype.kind not in "iufb":
        return False
    return bool(np.all(np.isfinite(sample)) and np.all(sample >= 0) and np.all(sample == np.round(sample)))


def find_counts(adata: AnnData) -> str:
    """Where the raw counts are: "counts" (a layer), "X" or "raw", looked for in this order.

    Raises
    ------
    InputError
        Nowhere.
    """
    if "counts" in adata.layers and is_counts(adata.layers["counts"]):
        return "counts"
    if adata.X is not None and is_counts(adata.X):
        return "X"
    if adata.raw is not None and is_counts(adata.raw.X):
        return "raw"
    raise InputError('no raw counts in layers["counts"], X or raw; put the unnormalised counts into one of them')


def check_log(x: Any, where: str, command_hint: str) -> None:
    """Refuse raw counts, and values too large for log expression.

    Raises
    ------
    InputError
        Names the command that makes the input fit.
    """
    values = x.data if sparse.issparse(x) else np.asarray(x)
    if is_counts(x) or (values.size and values.max() > LARGEST_LOG):
        kind = "raw counts" if is_counts(x) else "values that are not log-transformed"
        raise InputError(f"{where} holds {kind}, but normalised log1p expression is needed; run: {command_hint}")


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
