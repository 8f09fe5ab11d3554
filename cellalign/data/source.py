"""Where rows come from: the matrix that a method reads, its genes in the model's order, its rows as tensors.

A matrix stays as it lies in memory: the CSR arrays are shared with scipy, not copied. One on disk stays there: some
thousand rows are read at a time (`OnDisk`). What gives rows (`Rows`) is all that the loader asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cellalign.data.stored import Stored, ahead
from cellalign.data.structure import sum_duplicates
from cellalign.data.unpacked import Unpacked
from cellalign.nn.kernels.ops import rows_of
from cellalign.nn.sparse import SparseRows

DIGESTED_TOGETHER = 256  # rows
VALUES_TOGETHER = 1 << 23  # stored values of the rows that are read from disk at once: 64 MB
READ_TOGETHER = (2048, 1 << 16)  # of these rows, at least and at most
PINNED = 1 << 27  # bytes of an array at the most that is moved from pinned memory, which stays with the process
KEPT_VALUES = 1 << 26  # of rows that are kept: half a gigabyte


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
        return self.each(lambda part: part.to(device))

    def each(self, move: Callable[[Tensor], Tensor]) -> CSR:
        """The same matrix of tensors that were moved."""
        return replace(self, indptr=move(self.indptr), indices=move(self.indices), values=move(self.values))


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
        return self.each(lambda part: part.to(device))

    def each(self, move: Callable[[Tensor], Tensor]) -> Dense:
        """The same matrix of tensors that were moved."""
        return Dense(move(self.values))


@dataclass(frozen=True)
class OnDisk:
    """A matrix that stays on disk [n, G]; rows that are asked for again and again may be kept.

    Attributes
    ----------
    matrix : Stored
    device : torch.device
        Where rows are given.
    kept : list of (int64 Tensor, matrix in memory)
        Ascending row numbers, and these rows; at most one.
    """

    matrix: Stored
    device: torch.device = torch.device("cpu")
    kept: list[tuple[Tensor, CSR | Dense | Part]] = field(default_factory=list)

    @property
    def n_columns(self) -> int:
        """G."""
        return self.matrix.shape[1]

    @property
    def read_together(self) -> int:
        """Rows that are read at once: many batches, so that rows of many places are shuffled."""
        per_row = self.matrix.per_row
        return int(np.clip(VALUES_TOGETHER / per_row, *READ_TOGETHER))

    @property
    def neighbours(self) -> int:
        """Rows that are read together where the order is random."""
        return self.matrix.neighbours

    def rows(self, rows: Tensor) -> SparseRows | Tensor:
        """The given rows, float32 [B, G]."""
        return self.fetch(rows).rows(torch.arange(len(rows), device=self.device))

    def fetch(self, rows: Tensor) -> CSR | Dense | Part:
        """The given rows, in their order, as a matrix in memory."""
        rows = rows.cpu()
        for there, held in self.kept:
            place = torch.searchsorted(there, rows).clamp(max=max(0, len(there) - 1))
            if len(there) and bool((there[place] == rows).all()):
                return Part(held, handed(place, self.device))
        if bool((rows[1:] > rows[:-1]).all()):
            return self._read(rows.numpy())
        unique, back = np.unique(rows.numpy(), return_inverse=True)
        return Part(self._read(unique), handed(torch.from_numpy(back), self.device))

    def _read(self, ascending: np.ndarray) -> CSR | Dense:
        """Rows [n] from disk, on the device."""
        found = as_matrix(self.matrix.rows(ascending))
        assert not isinstance(found, OnDisk)
        return found.each(lambda part: handed(part, self.device))

    def keep(self, rows: Tensor) -> None:
        """Keep these rows in memory where that takes little; they are read many times."""
        if 0 < len(rows) * self.matrix.per_row <= KEPT_VALUES:
            unique = rows.cpu().unique()
            self.kept[:] = [(unique, self.fetch(unique))]

    def unpack(self) -> None:
        """Have all rows where they are read fast, if they were to be."""
        if isinstance(self.matrix, Unpacked):
            self.matrix.fill()

    def to(self, device: torch.device) -> OnDisk:
        """The same matrix, its rows given on another device."""
        return self if device == self.device else OnDisk(self.matrix, device)


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

    @property
    def on_disk(self) -> OnDisk | None:
        """Where they lie, if that is on disk."""
        return on_disk(self.whole)

    def to(self, device: torch.device) -> Part:
        """The same rows on another device."""
        return Part(self.whole.to(device), self.index.to(device))


def handed(values: Tensor, device: torch.device) -> Tensor:
    """What a thread that reads has read, on the device.

    A GPU fills itself from pinned memory, for which the thread does not wait: it reads on. What is computed with it
    comes after it, as both are in the stream that all threads have by default.
    """
    if device.type != "cuda" or values.nbytes > PINNED:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


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
    for first, rows in in_memory_blocks(matrix, n):
        for start in range(first, first + rows.n, DIGESTED_TOGETHER):
            for part in stored(rows.matrix, start - first, min(rows.n, start - first + DIGESTED_TOGETHER)):
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
    if isinstance(read, SparseRows) and bool(read.value.all()):
        sizes, columns, values = (part.cpu().numpy() for part in (read.start.diff(), read.column, read.value))
        return sizes.astype("<i4"), columns.astype("<i4"), values.astype("<f4", copy=False)
    dense = (read.dense() if isinstance(read, SparseRows) else read).numpy().astype("<f4", copy=False)
    there = dense != 0
    columns = np.flatnonzero(there) % matrix.n_columns
    return there.sum(1, dtype="<i4"), columns.astype("<i4"), dense[there]


def on_disk(matrix: Rows) -> OnDisk | None:
    """The matrix on disk that rows come from; None where they are in memory."""
    return matrix if isinstance(matrix, OnDisk) else matrix.on_disk if isinstance(matrix, Part) else None


class Block(NamedTuple):
    """Some rows in memory."""

    matrix: Rows
    n: int


def in_memory_blocks(matrix: Rows, n: int) -> Iterator[tuple[int, Block]]:
    """All rows of a matrix [n, G], as blocks in memory, each with the number of its first; of one in memory one block.

    Blocks of a matrix on disk begin at multiples of `DIGESTED_TOGETHER`; the next is read while one is used.
    """
    source = on_disk(matrix)
    if source is None:
        yield 0, Block(matrix, n)
        return
    size = -(-source.read_together // DIGESTED_TOGETHER) * DIGESTED_TOGETHER
    parts = torch.arange(n).split(size)
    index = matrix.index if isinstance(matrix, Part) else None
    read = ahead(lambda part: source.fetch(part if index is None else index[part]), parts)
    for part, block in zip(parts, read, strict=True):
        yield int(part[0]), Block(block, len(part))


def as_matrix(x: Any) -> CSR | Dense | OnDisk:
    """Wrap a scipy CSR matrix or numpy array without copying, or a matrix on disk without reading it.

    CSC is converted, duplicates are summed and stored zeros dropped, once: a stored value is one that is not zero.
    """
    if isinstance(x, Stored):
        return OnDisk(x)
    if sparse.issparse(x):
        given, x = x, x.tocsr()
        if not x.has_canonical_format or np.count_nonzero(x.data) < len(x.data):
            x = x.copy() if x is given else x  # the user's matrix stays as it is
            sum_duplicates(x)
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
