"""Where rows come from: the matrix that a method reads, its genes in the model's order, its rows as tensors.

A matrix stays as it lies in memory: the CSR arrays are shared with scipy, not copied. What gives rows (`Rows`) is all
that the loader asks for, so that a store on disk has its place here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cellalign.nn.kernels.ops import rows_of
from cellalign.nn.sparse import SparseRows

DIGESTED_TOGETHER = 256  # rows


class Rows(Protocol):
    """Gives rows of a matrix [n, G]."""

    @property
    def n_columns(self) -> int:
        """G."""

    def rows(self, rows: Tensor) -> SparseRows | Tensor:
        """The given rows, float32 [B, G]."""

    def to(self, device: torch.device) -> Rows:
        """The same matrix on another device."""


@dataclass(frozen=True)
class CSR:
    """A CSR matrix [n, G] as three tensors; indices may be int32 or int64."""

    indptr: Tensor
    indices: Tensor
    values: Tensor
    n_columns: int

    def rows(self, rows: Tensor) -> SparseRows:
        """The given rows as they are stored, float32."""
        return rows_of(self.indptr, self.indices, self.values, rows, self.n_columns)

    def to(self, device: torch.device) -> CSR:
        """The same matrix on another device."""
        return replace(
            self, indptr=self.indptr.to(device), indices=self.indices.to(device), values=self.values.to(device)
        )


@dataclass(frozen=True)
class Dense:
    """A dense matrix [n, G]."""

    values: Tensor

    @property
    def n_columns(self) -> int:
        """G."""
        return self.values.shape[1]

    def rows(self, rows: Tensor) -> Tensor:
        """Float32 rows [B, G]."""
        return self.values[rows].float()

    def to(self, device: torch.device) -> Dense:
        """The same matrix on another device."""
        return Dense(self.values.to(device))


@dataclass(frozen=True)
class Part:
    """Some rows of a matrix, read where they lie."""

    whole: Rows
    index: Tensor

    @property
    def n_columns(self) -> int:
        """G."""
        return self.whole.n_columns

    def rows(self, rows: Tensor) -> SparseRows | Tensor:
        """The given ones among them."""
        return self.whole.rows(self.index[rows])

    def to(self, device: torch.device) -> Part:
        """The same rows on another device."""
        return Part(self.whole.to(device), self.index.to(device))


def content_of(x: Any) -> str:
    """A digest of the values of a matrix [n, G], sparse or dense, whatever its types and however it is laid out.

    Returns
    -------
    str
        "sha256:...", of the values that are not zero, in float32, with their places.
    """
    return digest_of(as_matrix(x), x.shape[0])


def digest_of(matrix: Rows, n: int) -> str:
    """`content_of`, of rows [n, G]; a block of them is looked at at a time."""
    digest = hashlib.sha256(f"cellalign matrix 1: {n} x {matrix.n_columns}".encode())
    for first in range(0, n, DIGESTED_TOGETHER):
        for part in stored(matrix, first, min(n, first + DIGESTED_TOGETHER)):
            digest.update(part.data)
    return f"sha256:{digest.hexdigest()}"


def stored(matrix: Rows, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a run of rows, how many values each has that are not zero in float32 [B], their columns and they [nnz]."""
    if isinstance(matrix, CSR):
        start = matrix.indptr[first : last + 1].numpy()
        columns, values = (part[start[0] : start[-1]].numpy() for part in (matrix.indices, matrix.values))
        sizes, values = np.diff(start), values.astype("<f4", copy=False)
        if values.all():
            return sizes.astype("<i4"), columns.astype("<i4", copy=False), values
    read = matrix.rows(torch.arange(first, last))
    dense = (read.dense() if isinstance(read, SparseRows) else read).numpy().astype("<f4", copy=False)
    there = dense != 0
    columns = np.flatnonzero(there) % matrix.n_columns
    return there.sum(1, dtype="<i4"), columns.astype("<i4"), dense[there]


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
    """Values as torch can index them: unsigned, half-precision and big-endian ones become float32, and lie in order."""
    plain = values.dtype.isnative and values.dtype.kind in "if" and values.dtype.itemsize >= 4
    if plain and values.flags.writeable and min(values.strides, default=0) >= 0:
        return values
    return values.astype(np.float32, order="C")
