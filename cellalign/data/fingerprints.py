"""Which cells a model has seen: a number of each cell that a reader of the same cell finds again.

A cell's fingerprint is of which genes are not zero and which of these lie above the cell's mean: no rounding of a value
changes it, so that it is the same of counts brought to a scale twice. Two cells of a few hundred genes share one about
as often as they are the same cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cellalign.data.source import Rows

KEY = "cellalign_trained"  # of uns, in a prediction
TOGETHER = 1024  # rows
MARGIN = 1e-3  # of a cell's range: a value that equals the mean is not above it by rounding


def fingerprints(matrix: Rows, n: int) -> np.ndarray:
    """One number per cell, int64 [n], of rows [n, G] in their order of genes; 0 of a cell without any value."""
    from cellalign.data.source import in_memory_blocks, stored  # torch, which the list of metrics does not need

    keys = _keys(matrix.n_columns)
    found = np.zeros(n, dtype=np.uint64)
    for first, block, inner in (
        (first + start, rows, start)
        for first, rows in in_memory_blocks(matrix, n)
        for start in range(0, rows.n, TOGETHER)
    ):
        sizes, columns, values = stored(block.matrix, inner, min(block.n, inner + TOGETHER))
        there = np.flatnonzero(sizes)
        if not len(there):
            continue
        sizes = sizes[there].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        limit = np.add.reduceat(values, starts, dtype=np.float64) / sizes + MARGIN * (high - low)
        own = keys[0, columns] + np.where(values > np.repeat(limit, sizes), keys[1, columns], np.uint64(0))
        found[first + there] = np.maximum(_mixed(np.add.reduceat(own, starts)), 1)
    return found.view(np.int64)


def of_matrix(x: Any) -> np.ndarray:
    """`fingerprints` of a scipy matrix or array [n, G]."""
    from cellalign.data.source import as_matrix

    return fingerprints(as_matrix(x), x.shape[0])


def of_trained(matrix: Rows, n: int, rows: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Sorted, without doubles: of the rows that a model is trained or validated on, and of those it knows from before.

    Parameters
    ----------
    before : int64 array, optional
        Those of the model that training began with.
    """
    own = fingerprints(matrix, n)[rows]
    return np.unique(own if before is None else np.concatenate([before, own]))


def written(trained: np.ndarray | None, genes: Iterable[str]) -> dict[str, Any]:
    """What a prediction's uns keeps of its model's cells; nothing where the model does not know them."""
    return {} if trained is None else {KEY: {"cells": trained, "genes": _digest(genes)}}


def read(uns: Mapping[str, Any], genes: Iterable[str]) -> np.ndarray | None:
    """The inverse of `written`; None where nothing is there, or genes were put in another order or left out."""
    kept = uns.get(KEY)
    if not isinstance(kept, Mapping) or str(kept.get("genes")) != _digest(genes):
        return None
    cells = np.asarray(kept.get("cells", ()))
    return np.sort(cells.astype(np.int64)) if cells.ndim == 1 and cells.dtype.kind in "iu" else None


def among(found: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Mask of the fingerprints that are among those of trained cells; of a cell without any value nothing is known."""
    place = np.searchsorted(trained, found).clip(max=max(len(trained) - 1, 0))
    return (trained[place] == found) & (found != 0) if len(trained) else np.zeros(len(found), dtype=bool)


def _digest(genes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(map(str, genes)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _keys(n: int) -> np.ndarray:
    """Two random numbers per gene [2, n], the same everywhere."""
    return _mixed(np.arange(2 * n, dtype=np.uint64) + np.uint64(1)).reshape(2, n)


def _mixed(z: np.ndarray) -> np.ndarray:
    """Each number as random bits that depend on all of its own (splitmix64)."""
    with np.errstate(over="ignore"):
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
