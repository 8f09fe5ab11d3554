"""Where rows come from: the matrix that a method reads, its genes in the model's order, its rows as tensors.

A matrix stays as it lies in memory: the CSR arrays are shared with scipy, not copied. What gives rows (`Rows`) is all
that the loader asks for, so that a store on disk has its place here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cellalign.nn.kernels.ops import rows_of
from cellalign.nn.sparse import SparseRows


class Rows(Protocol):
    """Gives rows of a matrix [n, G]."""

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
