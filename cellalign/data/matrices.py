"""Matrices at the door: which one is read, that it is fit, and on which scale it is.

Every error says what was found, where, and what to do. Nothing here makes a sparse matrix dense.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.integers import as_counts, largest, position, values_of
from cellalign.data.said import tell
from cellalign.data.scale import LARGEST_LOG, Scale, scale_of
from cellalign.data.stored import Stored
from cellalign.errors import InputError, spoken

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.data.integers import Names


# where the expression of each scale is looked for, in this order
MATRICES = {"log": ("X",), "counts": ("counts", "X"), "any": ("X",)}
USUAL_LOG = 25  # log2 of a million and one is 20


def default_matrix(adata: AnnData, expression: str) -> str:
    """Name of the matrix that a method reading "log", "counts" or "any" values takes where the user names none."""
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


def check_expression(
    x: Any,
    expression: str,
    where: str,
    command_hint: str | None = None,
    *,
    names: Names | None = None,
    rounded: bool = False,
    otherwise: str = "",
) -> Any:
    """Check a matrix once, at the door: finite, and on the scale the method reads, which of two is not negative.

    Parameters
    ----------
    x : sparse or dense matrix [n_cells, n_genes]
    expression : {"log", "counts", "any"}
        What the method reads; "any" are finite numbers of whatever sign and size.
    where : str
        What messages call the matrix.
    command_hint : str, optional
        What makes an input fit.
    names : pair of Index, optional
        Of cells and genes, for messages.
    rounded : bool
        Estimated counts are rounded.
    otherwise : str
        What else to do about values that are no log expression, after a semicolon.

    Returns
    -------
    matrix
        x itself, or counts that were integers but for the noise of arithmetic, or estimated, rounded.

    Raises
    ------
    InputError
        Empty, NaN, infinite or negative values, raw counts to a method that reads log expression, or no counts
        to one that reads counts.
    """
    command_hint = command_hint or spoken(python="cellalign.preprocess(adata)", command="cellalign preprocess")
    if expression == "any":
        check_finite(x, where, names)
        return x
    unscaled = f"take expression from before it was scaled: {_looks(command_hint)}"
    check_matrix(x, where, names, unscaled, otherwise)
    if expression == "log":
        check_log(x, where, command_hint, otherwise)
        return x
    scale = scale_of(x)
    counts, reason = as_counts(x, scale, names, rounded=rounded)
    if counts is None:
        mend = "" if scale.kind == "nearly counts" else f"; {_looks(command_hint)}"
        raise InputError(f"{where} holds no raw counts, which this method reads ({reason}){mend}")
    if reason:
        tell(logging.INFO, "%s: %s", where, reason)
    return counts


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


def check_matrix(
    x: Any,
    where: str,
    names: Names | None = None,
    unscaled: str = "take expression from before it was scaled",
    otherwise: str = "",
) -> None:
    """Refuse a matrix that is empty, not numeric, zero everywhere, or holds NaN, infinity or negative values.

    Parameters
    ----------
    x : sparse or dense matrix [n_cells, n_genes]
    names : pair of Index, optional
        Of cells and genes.
    unscaled : str
        What to do about a scaled matrix.
    otherwise : str
        What else to do about negative values.

    Raises
    ------
    InputError
        The count of bad values, and cell and gene of the first.
    """
    found = _unfit(x, where, ("NaN", "inf", "negative"))
    if found is None:
        refuse_zeros(x, where)
        return
    name, number, place = found
    scaled = name == "negative" and scale_of(x).kind == "scaled"
    mend = f"it is scaled; {unscaled}" if scaled else "remove or correct them"
    mend += otherwise if name == "negative" else ""
    raise InputError(f"{where} holds {number} {name} values, the first in {position(x, place, names)}; {mend}")


def check_finite(x: Any, where: str, names: Names | None = None) -> None:
    """Refuse a matrix that is empty, not numeric, zero everywhere, or holds what single precision has no number for.

    Raises
    ------
    InputError
        The count of bad values, and cell and gene of the first.
    """
    found = _unfit(x, where, ("NaN", "inf", "too large"))
    if found is not None:
        name, number, place = found
        first = position(x, place, names)
        raise InputError(f"{where} holds {number} {name} values, the first in {first}; remove or correct them")
    refuse_zeros(x, where)


def refuse_zeros(x: Any, where: str) -> None:
    """Refuse a matrix [n, G] without one value that is not zero: what is lost of a zarr store reads as zeros.

    Raises
    ------
    InputError
    """
    if isinstance(x, Stored):
        stored, some = x.nnz, x.facts.not_zero > 0
    else:
        values = values_of(x)
        stored, some = values.size, bool(values.any())
    if some:
        return
    each = f"each of {stored:,} stored values" if stored else f"each value of {x.shape[0]:,} cells"
    lost = "as where the only chunk of a zarr store was lost; copy it again, or make it anew"
    raise InputError(f"{where} holds nothing but zeros ({each}), {lost}")


UNFIT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": np.isnan,
    "inf": np.isinf,
    "too large": lambda values: np.abs(values) > float(np.finfo(np.float32).max),
    "negative": lambda values: values < 0,
}


def _unfit(x: Any, where: str, kinds: Sequence[str]) -> tuple[str, int, int] | None:
    """The first kind of values that are not fit, how many there are, and the place of the first; None where all are.

    Raises
    ------
    InputError
        There are no cells, no genes or no numbers.
    """
    if x.shape[0] == 0:
        raise InputError(f"{where} has no cells")
    if x.shape[1] == 0:
        raise InputError(f"{where} has no genes")
    if x.dtype.kind not in "iufb":
        raise InputError(f"{where} is not numeric (it holds {x.dtype})")
    if isinstance(x, Stored):
        return next(((kind, *x.facts.wrong[kind]) for kind in kinds if kind in x.facts.wrong), None)
    values = values_of(x)
    if _plainly_fit(values, kinds):
        return None
    with np.errstate(all="ignore"):
        for kind in kinds:
            bad = UNFIT[kind](values)
            if bad.any():
                return kind, int(bad.sum()), int(np.argmax(bad.ravel()))
    return None


def _plainly_fit(values: np.ndarray, kinds: Sequence[str]) -> bool:
    """Whether all are fit, by two passes without a mask: only a bad matrix pays for finding the culprit."""
    if not values.size:
        return True
    with np.errstate(all="ignore"):
        if "negative" in kinds:
            return bool(np.isfinite(values.sum(dtype=np.float64)) and values.min() >= 0)
        limit = float(np.finfo(np.float32).max)  # neither holds where there is a NaN
        return values.dtype.kind != "f" or bool(values.min() >= -limit and values.max() <= limit)


def is_counts(x: Any) -> bool:
    """Whether the values are non-negative integers, judged by random cells."""
    return scale_of(x).kind == "counts"


def check_log(x: Any, where: str, command_hint: str, otherwise: str = "") -> None:
    """Refuse what surely is no log expression; what cannot be told is taken, and said.

    Parameters
    ----------
    otherwise : str
        What else to do, after a semicolon.

    Raises
    ------
    InputError
        Names the command that makes the input fit.
    """
    scale = scale_of(x)
    if scale.kind == "log":
        if scale.base is not None or "of counts that were not normalised" in scale.said:
            tell(logging.INFO, "%s: %s", where, scale.said)
        return
    if may_be_log(x, scale):
        if scale.largest > USUAL_LOG:
            tell(logging.WARNING, "%s is taken for log expression, but holds %s", where, scale.said)
        return
    run = f"run: {command_hint}"
    rounding = spoken(
        python=command_hint.replace("(adata)", "(adata, rounded=True)"), command=f"{command_hint} --round"
    )
    holds, mend = {
        "counts": ("raw counts", run),
        "nearly counts": (f"raw counts ({scale.said})", f"run: {rounding}"),
        "scaled": (f"scaled expression ({scale.said})", f"take what was there before: {_looks(command_hint)}"),
        "double log": (f"{scale.said}", "undo one in Python: adata.X = numpy.expm1(adata.X)"),
        "other": (scale.said, f"{run}, or, where it is normalised, take log1p of it in Python: scanpy.pp.log1p(adata)"),
    }.get(scale.kind, (f"normalised expression without a logarithm ({scale.said})", run))
    if scale.mixed:
        mend = "normalise files alike before they are joined"
    raise InputError(f"{where} holds {holds}, but normalised log1p expression is needed; {mend}{otherwise}")


def may_be_log(x: Any, scale: Scale) -> bool:
    """Whether a matrix of which one cannot tell is in the range of log expression."""
    return scale.kind == "other" and not scale.mixed and largest(x) <= LARGEST_LOG


def _looks(command_hint: str) -> str:
    return f"run: {command_hint}, which looks in every matrix of the file"
