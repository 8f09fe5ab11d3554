"""The one structure a mini-batch of cells travels in: built once by `data`, moved once, never re-derived.

Its expression stays sparse until somebody asks for `x`. A sparse first layer and the count likelihoods read the
stored values alone (5 to 10 % of a single-cell matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
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

    def to(self, device: torch.device) -> SparseRows:
        """The same rows on another device."""
        return SparseRows(self.start.to(device), self.column.to(device), self.value.to(device), self.n_columns)


@dataclass(frozen=True)
class Batch:
    """A mini-batch of B cells.

    Attributes
    ----------
    expression : Tensor [B, G] or SparseRows
        On the scale the method reads (log1p-normalised, or raw counts). `x` is the same, dense.
    condition : Tensor [B], int64
        Codes of the condition: all zero where a method takes none, -1 where a cell's is unknown.
    batches : Tensor [B, n_batch_keys], int64
        Codes of the technical covariates, -1 where unknown.
    covariates : Tensor [B, n_covariate_keys], int64
        Codes of the biological covariates, -1 where missing.
    label : Tensor [B], int64
        Codes of the cell type, -1 where there is none.
    value : Tensor [B], float32
        Value of a continuous condition, in standard deviations from its mean; zero where there is none.
    numbers : Tensor [B, n_numeric], float32
        Numeric technical covariates, then numeric biological ones, standardised; zero where missing.
    """

    expression: Tensor | SparseRows
    condition: Tensor
    batches: Tensor
    covariates: Tensor
    label: Tensor
    value: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, expression: Tensor | SparseRows, condition: Tensor, **others: Tensor) -> Batch:
        """Cells of which nothing but expression and condition need be known; `others` are further attributes."""
        none = condition.new_zeros(len(condition), 0)
        given = {"batches": none, "covariates": none, "label": torch.full_like(condition, -1)}
        value = torch.zeros(len(condition), device=condition.device)
        given |= {"value": value, "numbers": value.new_zeros(len(condition), 0)}
        return cls(expression, condition, **(given | others))

    def __len__(self) -> int:
        return len(self.condition)

    @cached_property
    def x(self) -> Tensor:
        """Dense expression [B, G]; made once, and only where a method asks for it."""
        return self.expression.dense() if isinstance(self.expression, SparseRows) else self.expression

    @cached_property
    def nonzeros(self) -> SparseRows:
        """Expression as its stored values."""
        return self.expression if isinstance(self.expression, SparseRows) else SparseRows.of(self.expression)

    @cached_property
    def library_size(self) -> Tensor:
        """Sum of the expression per cell, [B, 1]: counts for count methods."""
        if isinstance(self.expression, SparseRows):
            return self.expression.sums()[:, None]
        return self.expression.sum(1, keepdim=True)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))

    def split(self, sizes: Sequence[int]) -> list[Batch]:
        """Runs of cells, of these numbers, that share memory."""
        return [
            Batch(*parts) for parts in zip(*(getattr(self, f.name).split(sizes) for f in fields(self)), strict=True)
        ]

    def with_condition(self, code: int) -> Batch:
        """The same cells under another condition (the action of a counterfactual)."""
        return replace(self, condition=torch.full_like(self.condition, code))

    def with_batch(self, column: int, code: int) -> Batch:
        """The same cells as if measured in another batch: a code of one technical covariate."""
        batches = self.batches.clone()
        batches[:, column] = code
        return replace(self, batches=batches)

    def with_value(self, value: float) -> Batch:
        """The same cells under another value of a continuous condition."""
        return replace(self, value=torch.full_like(self.value, value))
