"""What has to be known of all values of a matrix, found block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.data.noise import noise_of

KINDS = ("NaN", "inf", "too large", "negative")


@dataclass
class Facts:
    """What one pass over a matrix [n, G] finds; a place is row * G + column.

    Attributes
    ----------
    held : int64 array [n]
        Values of each row that are not zero.
    sums : float32 array [n]
        Of rows, added up in float64.
    genes : int64 array [G]
        In how many rows each column is not zero.
    low, high, total : float
        Of the stored values; `low` and `high` are infinite where there are none.
    wrong : dict of kind to (count, place of the first)
        Values that are not fit (`KINDS`).
    not_zero, off : int
        Values that are not zero, and those that are no integers.
    first, first_value
        Place of the first that is none (-1), and it.
    noise : float
        How far off they are, as `integers` counts it.
    rounded_held, rounded_total
        Values that are not zero, and their sum, once rounded.
    """

    held: np.ndarray
    sums: np.ndarray
    genes: np.ndarray
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    wrong: dict[str, tuple[int, int]] = field(default_factory=dict)
    not_zero: int = 0
    off: int = 0
    first: int = -1
    first_value: float = 0.0
    noise: float = 0.0
    rounded_held: int = 0
    rounded_total: float = 0.0

    @classmethod
    def of(cls, block: Any) -> Facts:
        """Of rows in memory."""
        held, genes = held_of(block), held_of(block, by_column=True)
        found, values, place = cls(held, sums_of(block), genes), _values(block), _placer(block)
        if not values.size:
            return found
        with np.errstate(all="ignore"):
            found.low, found.high = float(values.min()), float(values.max())
            found.total = float(values.sum(dtype=np.float64))
            found.not_zero = int(np.count_nonzero(values))
            most = np.finfo(np.float32).max
            if not (np.isfinite(found.total) and found.low >= 0 and found.high <= most):
                marks = (np.isnan(values), np.isinf(values), np.abs(values) > most, values < 0)
                for kind, mark in zip(KINDS, marks, strict=True):
                    if mark.any():
                        found.wrong[kind] = int(mark.sum()), place(int(np.argmax(mark)))
            found.off, first, found.noise, found.rounded_held, found.rounded_total = noise_of(values)
        if first >= 0:
            found.first, found.first_value = place(first), float(values.reshape(-1)[first])
        return found

    def add(self, start: int, part: Facts) -> None:
        """What was found of the rows from `start` on; parts are added in their order, so that sums are the same."""
        rows, before = slice(start, start + len(part.held)), start * len(self.genes)
        self.held[rows], self.sums[rows] = part.held, part.sums
        self.genes += part.genes
        # as of Python's numbers: a NaN is not taken for the smallest
        self.low, self.high = min(self.low, part.low), max(self.high, part.high)
        self.total, self.not_zero = self.total + part.total, self.not_zero + part.not_zero
        for kind, (n, first) in part.wrong.items():
            known, place = self.wrong.get(kind, (0, before + first))
            self.wrong[kind] = known + n, place
        self.off, self.noise = self.off + part.off, max(self.noise, part.noise)
        self.rounded_held += part.rounded_held
        self.rounded_total += part.rounded_total
        if self.first < 0 <= part.first:
            self.first, self.first_value = before + part.first, part.first_value


def held_of(block: Any, *, by_column: bool = False) -> np.ndarray:
    """Of every row, or column, how many values are not zero."""
    if not sparse.issparse(block):
        return np.count_nonzero(block, axis=0 if by_column else 1)
    if by_column:
        return np.bincount(block.indices[block.data != 0], minlength=block.shape[1])
    ends = np.concatenate([[0], np.cumsum(block.data != 0)])
    return np.diff(ends[block.indptr])


def sums_of(block: Any) -> np.ndarray:
    """Sums of rows, float32, added up in float64."""
    if not sparse.issparse(block):
        return np.asarray(block).sum(1, dtype=np.float64).astype(np.float32)
    sizes, sums = np.diff(block.indptr), np.zeros(block.shape[0])
    if len(block.data):
        sums[sizes > 0] = np.add.reduceat(block.data, block.indptr[:-1][sizes > 0], dtype=np.float64)
    return sums.astype(np.float32)


def _values(block: Any) -> np.ndarray:
    return block.data if sparse.issparse(block) else np.asarray(block)


def _placer(block: Any) -> Callable[[int], int]:
    """From the number of a stored value to its place in the block."""

    def place(number: int) -> int:
        if not sparse.issparse(block):
            return number
        row = int(np.searchsorted(block.indptr, number, side="right")) - 1
        return row * block.shape[1] + int(block.indices[number])

    return place
