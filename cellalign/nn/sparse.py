"""Rows of a sparse matrix as three tensors: what a sparse first layer and the count likelihoods read.

Of a single-cell matrix 5 to 10 % of the values are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SparseRows:
    """B rows of a CSR matrix [B, G], the columns of a row in ascending order, each at most once.

    Attributes
    ----------
    start : Tensor [B + 1], int64
        Where each row's values begin; the last is their number.
    column : Tensor [nnz], int64
    value : Tensor [nnz], float32
        What is stored: the values that are not zero.
    n_columns : int
        G.
    """

    start: Tensor
    column: Tensor
    value: Tensor
    n_columns: int

    @classmethod
    def of(cls, x: Tensor) -> SparseRows:
        """The nonzeros of a dense [B, G]."""
        row, column = x.nonzero(as_tuple=True)
        start = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
        start[1:] = torch.bincount(row, minlength=len(x)).cumsum(0)
        return cls(start, column, x[row, column], x.shape[1])

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def density(self) -> float:
        """Share of values that are stored."""
        return len(self.value) / max(1, len(self) * self.n_columns)

    @cached_property
    def row(self) -> Tensor:
        """The row of every stored value, [nnz]."""
        rows = torch.arange(len(self), device=self.start.device)
        return torch.repeat_interleave(rows, self.start.diff(), output_size=len(self.value))

    @cached_property
    def flat(self) -> Tensor:
        """The place of every stored value in the dense matrix laid out row by row, [nnz]."""
        return self.row * self.n_columns + self.column

    def sums(self) -> Tensor:
        """Sum of each row: [B]."""
        if self.value.device.type == "mps":  # where embedding_bag is young
            return self.value.new_zeros(len(self)).index_add_(0, self.row, self.value)
        return self.times(self.value.new_ones(self.n_columns, 1)).squeeze(1)

    def times(self, matrix: Tensor) -> Tensor:
        """Product with a matrix [G, m], of which the rows of the stored values alone are read: [B, m]."""
        return F.embedding_bag(
            self.column, matrix, self.start, per_sample_weights=self.value, mode="sum", include_last_offset=True
        )

    def dense(self) -> Tensor:
        """Dense [B, G]."""
        out = torch.zeros(len(self), self.n_columns, dtype=self.value.dtype, device=self.value.device)
        out.view(-1)[self.flat] = self.value
        return out

    def split(self, sizes: Sequence[int]) -> list[SparseRows]:
        """Runs of rows, of these lengths."""
        ends = list(accumulate(sizes))
        stored = [0, *self.start[ends].tolist()]
        return [
            SparseRows(
                self.start[end - size : end + 1] - first,
                self.column[first:last],
                self.value[first:last],
                self.n_columns,
            )
            for size, end, first, last in zip(sizes, ends, stored, stored[1:], strict=False)
        ]

    def map(self, function: Callable[[Tensor], Tensor]) -> SparseRows:
        """The same places with other values; `function` must keep zero at zero."""
        return replace(self, value=function(self.value))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SparseRows:
        """The same rows on another device."""
        start, column, value = (
            part.to(device, non_blocking=non_blocking) for part in (self.start, self.column, self.value)
        )
        return SparseRows(start, column, value, self.n_columns)

    def pin_memory(self) -> SparseRows:
        """The same rows in pinned memory."""
        return SparseRows(self.start.pin_memory(), self.column.pin_memory(), self.value.pin_memory(), self.n_columns)
