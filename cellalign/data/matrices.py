"""Matrices at the door: which one is read, that it is fit, and on which scale it is.

Every error says what was found, where, and what to do. Nothing here makes a sparse matrix dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.errors import InputError, spoken

if TYPE_CHECKING:
    from anndata import AnnData

# where the expression of each scale is looked for, in this order
MATRICES = {"log": ("X",), "counts": ("counts", "X")}
LARGEST_LOG = 50  # log1p of any real count is below this; raw counts of a cell's top gene are above
LOOKED_AT = 100_000


def default_matrix(adata: AnnData, expression: str) -> str:
    """Name of the matrix that a method reading "log" or "counts" takes where the user names none."""
    return next((key for key in MATRICES[expression] if key in adata.layers), "X")


def matrix_of(adata: AnnData, key: str, where: str = "the input") -> Any:
    """The matrix named `key`: "X", or a layer.

    Raises
    ------
    InputError
        There is none of that name; those there are listed.
    """
    if key == "X":
        if adata.X is None:
            raise InputError(f"{where} has no X")
        return adata.X
    if key not in adata.layers:
        there = ", ".join(["X", *(name for name in adata.layers if name)])  # of anndata 0.13 X is the layer None
        raise InputError(f"{where} has no layer {key!r}; matrices: {there}")
    return adata.layers[key]


def check_expression(x: Any, expression: str, where: str, command_hint: str | None = None) -> None:
    """Check a matrix once, at the door: finite, not negative, and on the scale the method reads.

    Raises
    ------
    InputError
        Empty, NaN, infinite or negative values, raw counts to a method that reads log expression, or no counts
        to one that reads counts.
    """
    check_matrix(x, where)
    command_hint = command_hint or spoken(python="cellalign.preprocess(adata)", command="cellalign preprocess")
    if expression == "log":
        check_log(x, where, command_hint)
    elif not is_counts(x):
        raise InputError(f"{where} holds no raw counts, which this method reads; run: {command_hint}")


def checked_names(adata: AnnData, where: str) -> list[str]:
    """Gene names as a list, after checking that no cell or gene name occurs twice."""
    check_names(adata, where)
    return [str(gene) for gene in adata.var_names]


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


def has_counts(adata: AnnData) -> bool:
    """Whether raw counts are anywhere."""
    try:
        find_counts(adata)
    except InputError:
        return False
    return True


def counts_of(adata: AnnData, preferred: str) -> str:
    """Name of the matrix of raw counts: the preferred one where it is there and fit, else as `find_counts`."""
    there = preferred == "X" and adata.X is not None or preferred in adata.layers
    return preferred if there and is_counts(matrix_of(adata, preferred)) else find_counts(adata)
