"""Mini-batches from a sparse or dense matrix without a dense copy and without per-cell Python.

`Cells` holds the matrix as it lies in memory (the CSR arrays are shared with scipy, not copied) and cuts a
`Batch` out of it by index arithmetic in torch. The same code runs on the CPU and on a GPU: `to` moves the CSR
arrays once, and a batch is made dense where it is used, if at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cellalign.nn.batch import Batch, SparseRows

TOGETHER = 1024  # cells cut out at once: of 128, a dozen operations and a wait for the GPU cost as much as the cells


@dataclass(frozen=True)
class CSR:
    """A CSR matrix [n, G] as three tensors; indices may be int32 or int64."""

    indptr: Tensor
    indices: Tensor
    values: Tensor
    n_columns: int

    def rows(self, rows: Tensor) -> SparseRows:
        """The given rows as they are stored, float32."""
        first = self.indptr[rows]
        start = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(self.indptr[rows + 1] - first, 0, out=start[1:])
        n = int(start[-1])
        # place of every stored value: its row's start in the matrix plus its rank within the row
        stored = torch.repeat_interleave(first - start[:-1], start.diff(), output_size=n)
        stored += torch.arange(n, device=rows.device)
        return SparseRows(start, self.indices[stored].long(), self.values[stored].float(), self.n_columns)

    def to(self, device: torch.device) -> CSR:
        """The same matrix on another device."""
        return replace(
            self, indptr=self.indptr.to(device), indices=self.indices.to(device), values=self.values.to(device)
        )


@dataclass(frozen=True)
class Dense:
    """A dense matrix [n, G]."""

    values: Tensor

    def rows(self, rows: Tensor) -> Tensor:
        """Float32 rows [B, G]."""
        return self.values[rows].float()

    def to(self, device: torch.device) -> Dense:
        """The same matrix on another device."""
        return Dense(self.values.to(device))


def as_matrix(x: Any) -> CSR | Dense:
    """Wrap a scipy CSR matrix or numpy array without copying.

    CSC is converted, duplicates are summed and stored zeros dropped, once: a stored value is one that is not zero.
    """
    if sparse.issparse(x):
        given, x = x, x.tocsr()
        if not x.has_canonical_format or np.count_nonzero(x.data) < len(x.data):
            x = x.copy() if x is given else x  # the user's matrix stays as it is
            x.sum_duplicates()
            x.eliminate_zeros()
        return CSR(
            torch.from_numpy(np.asarray(x.indptr, dtype=np.int64)),
            torch.from_numpy(np.asarray(x.indices)),
            torch.from_numpy(native(x.data)),
            x.shape[1],
        )
    return Dense(torch.from_numpy(native(np.asarray(x))))


def native(values: np.ndarray) -> np.ndarray:
    """Values in a type torch can index: unsigned, half-precision and big-endian ones become float32."""
    if values.dtype.isnative and values.dtype.kind in "if" and values.dtype.itemsize >= 4 and values.flags.writeable:
        return values
    return values.astype(np.float32)


@dataclass(frozen=True)
class Cells:
    """All cells of a data set: their matrix and their codes, each aligned by row.

    Attributes
    ----------
    matrix : CSR or Dense, [n, G]
    condition, label : Tensor [n], int64
    batches, covariates : Tensor [n, m], int64
    value : Tensor [n], float32
        Value of a continuous condition.
    numbers : Tensor [n, m], float32
        Standardised numeric batches, then numeric covariates.
    """

    matrix: CSR | Dense
    condition: Tensor
    batches: Tensor
    covariates: Tensor
    label: Tensor
    value: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.condition)

    def batch(self, rows: Tensor) -> Batch:
        """The given rows as one mini-batch."""
        return Batch(
            self.matrix.rows(rows),
            self.condition[rows],
            self.batches[rows],
            self.covariates[rows],
            self.label[rows],
            self.value[rows],
            self.numbers[rows],
        )

    def cut(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """A mini-batch of each part's rows, which may lie on another device; small ones are cut out together."""
        n = max(1, TOGETHER // max([1, *map(len, parts)]))
        for group in (parts[i : i + n] for i in range(0, len(parts), n)):
            rows = torch.cat(tuple(group)).to(self.condition.device)
            batches = self.batch(rows).split([len(part) for part in group])[::-1]
            while batches:  # none is held, with what was made of it, while the next is used
                yield batches.pop()

    def to(self, device: torch.device) -> Cells:
        """The same cells on another device."""
        return Cells(*(getattr(self, f.name).to(device) for f in fields(self)))

    def in_order(self, size: int, device: torch.device | None = None) -> Iterator[Batch]:
        """All cells in file order, `size` at a time, on `device`; only one batch is moved at a time."""
        for rows in torch.arange(len(self), device=self.condition.device).split(size):
            batch = self.batch(rows)
            yield batch if device is None else batch.to(device)


def shuffled(rows: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch of row numbers in random order, cut into equal parts of at most `size` cells.

    Equal parts rather than a short last one: no cell is left out, and batch normalisation never meets a
    remainder of a single cell.
    """
    order = rows[torch.randperm(len(rows), generator=generator)]
    return list(torch.tensor_split(order, max(1, -(-len(rows) // size))))


def balanced(rows: Tensor, condition: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch of row numbers with as many cells of every condition in each batch (trVAE section 3).

    As many batches as `shuffled` gives. Of a rare condition cells come up several times an epoch, of a frequent one
    not all do. With more conditions than half a batch there is no balance to keep: batches are shuffled.

    Parameters
    ----------
    rows : Tensor [n], int64
    condition : Tensor [n], int64
        Condition codes of these rows.
    """
    codes = condition.unique()
    share, steps = size // len(codes), max(1, -(-len(rows) // size))
    if share < 2:
        return shuffled(rows, size, generator)
    share = min(share, max(2, -(-len(rows) // (steps * len(codes)))))
    parts = []
    for code in codes:
        own = rows[condition == code]
        rounds = -(-steps * share // len(own))
        order = torch.cat([own[torch.randperm(len(own), generator=generator)] for _ in range(rounds)])
        parts.append(order[: steps * share].view(steps, share))
    return list(torch.cat(parts, 1))
