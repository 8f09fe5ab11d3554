"""Any real values, as they are: what a model reads that was trained with `--expression any`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.matrices import check_expression, matrix_of
from cellalign.data.said import tell
from cellalign.data.sample import rows_as_csr
from cellalign.errors import UsageError, option

if TYPE_CHECKING:
    from anndata import AnnData

LOOKED_AT = 2000  # cells by which spreads are judged
UNLIKE = 100  # times the usual spread: no other column is heard beside one of that


def any_values(adata: AnnData, key: str, where: str = "the input") -> Any:
    """Any real values of cells, as they are, of the matrix that a model reads: "X", or a layer.

    Raises
    ------
    InputError
        There is no such matrix, or it holds NaN, infinite values or no numbers.
    """
    x = matrix_of(adata, key, where)
    check_expression(x, "any", f"{where}'s {key}", names=(adata.obs_names, adata.var_names))
    return x.astype(np.float32) if x.dtype.kind == "b" else x  # truth values as zeros and ones


def refuse_beside_any(n_top_genes: int | None, rounded: bool) -> None:
    """Refuse what is of counts where values are taken as they are: UsageError."""
    for name, value in (("n_top_genes", n_top_genes), ("rounded", rounded or None)):
        if value is not None:
            as_they_are = option("expression", "any")
            raise UsageError(f"{option(name, value)} is of raw counts, and {as_they_are} takes values as they are")


def say_unlike(x: Any, where: str) -> None:
    """Warn where one column's spread is so much larger than most that a model would see nothing else."""
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(LOOKED_AT, x.shape[0])).astype(int))
    part = rows_as_csr(x, rows)
    sums, squares = (np.bincount(part.indices, part.data**power, x.shape[1]) for power in (1, 2))
    spread = np.sqrt(np.maximum(squares / len(rows) - (sums / len(rows)) ** 2, 0))
    usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 0.0
    if usual and spread.max() > UNLIKE * usual:
        said = (
            "%s: the spread of its widest column is %.3g times that of most, which the others will not be heard beside"
        )
        tell(logging.WARNING, f"{said}; standardise the columns", where, spread.max() / usual)
