"""Where rows come from: the matrix that a method reads, its genes in the model's order, its rows as tensors.

A matrix stays as it lies in memory: the CSR arrays are shared with scipy, not copied. What gives rows (`Rows`) is all
that the loader asks for, so that a store on disk has its place here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from cellalign.data.checks import check_log, check_matrix, check_names, is_counts
from cellalign.errors import InputError, option, spoken
from cellalign.nn.kernels.ops import rows_of
from cellalign.nn.sparse import SparseRows

log = logging.getLogger("cellalign")


# where the expression of each scale is looked for, in this order
MATRICES = {"log": ("X",), "counts": ("counts", "X")}


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


def align_genes(x: Any, have: list[str], need: list[str], *, missing: str = "error", where: str = "the input") -> Any:
    """Columns of x in the order of the genes the model was trained on.

    Parameters
    ----------
    x : matrix [n, len(have)]
    missing : {"error", "zero"}
        What to do about genes the model needs and the file lacks.

    Raises
    ------
    InputError
        Genes are missing and `missing` is "error", or none at all is there.
    """
    if have == need:
        return x
    position = {gene: i for i, gene in enumerate(have)}
    absent = [gene for gene in need if gene not in position]
    if len(absent) == len(need):
        raise InputError(f"{where} has none of the model's {len(need)} genes; are these the same gene names?")
    if absent and missing != "zero":
        named = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        raise InputError(
            f"{where} lacks {len(absent)} of the model's {len(need)} genes: {named}; "
            f"use a file that has them, or {option('missing_genes', 'zero')}"
        )
    if not absent:
        return x[:, [position[gene] for gene in need]]
    log.warning("%s lacks %d of the model's %d genes; they are taken as zero", where, len(absent), len(need))
    present = [i for i, gene in enumerate(need) if gene in position]
    columns = sparse.csr_matrix(
        (np.ones(len(present), dtype=np.float32), ([position[need[i]] for i in present], present)),
        shape=(len(have), len(need)),
    )
    return sparse.csr_matrix(x) @ columns


def checked_names(adata: AnnData, where: str) -> list[str]:
    """Gene names as a list, after checking that no cell or gene name occurs twice."""
    check_names(adata, where)
    return [str(gene) for gene in adata.var_names]


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
