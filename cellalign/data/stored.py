"""Matrices that stay on disk: rows of one are read when they are needed, and what is done to it is done to these rows.

A block of rows is what it would be in memory (CSR without duplicates and stored zeros, or a dense array), so that
functions of a matrix in memory serve for it. What has to be known of all values (`Facts`) is found in one pass.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from cellalign.data.facts import Facts
from cellalign.data.structure import sum_duplicates
from cellalign.threads import computes_alone

BLOCK_VALUES = 4_000_000  # that are looked at together: 48 MB of CSR, and as much again in what is made of them
MOST_ROWS = 65_536
NEIGHBOURS = (16, 64)  # rows that are read together when rows are shuffled: at least, at most

Run = tuple[int, int]  # from row, to row (not included)


class Helpers(Protocol):
    """Other processes that look at rows of matrices (`cluster`)."""

    def over(
        self, matrices: Any, function: Callable[..., Any], asked: Iterable[tuple[Run, tuple[Any, ...]]]
    ) -> Iterator[Any]:
        """`function` of each run's rows of a matrix (a list of blocks, of a list), and more arguments, in order."""


_helpers: Helpers | None = None


@contextmanager
def helped_by(others: Helpers) -> Iterator[None]:
    """Passes over matrices that are made within are made by other processes."""
    global _helpers
    before, _helpers = _helpers, others
    try:
        yield
    finally:
        _helpers = before


def helpers() -> Helpers | None:
    """Those who help now, if any do."""
    return _helpers


class Stored(ABC):
    """A matrix [n, G] of which rows are read when they are needed.

    Attributes
    ----------
    shape : pair of int
    dtype : numpy dtype
    nnz : int
        Values that are stored, about.
    is_dense : bool
        Whether its blocks are arrays.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    nnz: int
    is_dense: bool = False
    scale: Any = None  # what `scale_of` found
    block_values: int = BLOCK_VALUES  # looked at together, of at most so many rows:
    most_rows: int = MOST_ROWS

    @abstractmethod
    def runs(self, runs: Sequence[Run]) -> Any:
        """The rows of ascending runs that do not overlap, one below the other."""

    @property
    def chunk_rows(self) -> int:
        """Rows that a read costs at least, about: those of a chunk."""
        return 1

    @property
    def neighbours(self) -> int:
        """Rows to read together where the order is random: twice a chunk's, of which others are read in vain."""
        return int(np.clip(2 * self.chunk_rows, *NEIGHBOURS))

    @property
    def per_row(self) -> float:
        """Values stored in a row, on average."""
        return max(1.0, self.nnz / max(1, self.shape[0]))

    @property
    def read_per_row(self) -> float:
        """Values that are in memory at once for a row: those that are read, though few of their genes are kept."""
        return self.per_row

    def rows(self, index: np.ndarray) -> Any:
        """The given rows, in any order, as a matrix in memory."""
        index = np.asarray(index, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= self.shape[0]):
            raise IndexError(f"there are {self.shape[0]} rows")
        if np.all(index[1:] > index[:-1]):
            return self.runs(runs_of(index))
        there, back = np.unique(index, return_inverse=True)
        return self.runs(runs_of(there))[back]

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """All rows, some at a time, each with the number of its first; the next are read meanwhile."""
        runs = self.together()
        yield from zip((first for first, _ in runs), ahead(lambda run: self.runs([run]), runs), strict=True)

    def together(self) -> list[Run]:
        """All rows, as the runs that are looked at together."""
        n, size = self.shape[0], int(np.clip(self.block_values / self.read_per_row, 1, self.most_rows))
        return [(first, min(n, first + size)) for first in range(0, n, size)]

    def of_blocks(self, function: Callable[..., Any], *along: Any) -> Iterator[tuple[int, Any]]:
        """What `function` finds of every block, in their order, each with the number of its first row.

        Others compute it where they help (`helped_by`): of the same blocks, so that whatever is made of it is the same.

        Parameters
        ----------
        function : callable
            Of a block, and its part of each array `along` the rows.
        """
        if _helpers is None:
            for start, block in self.blocks():
                yield start, function(block, *(each[start : start + block.shape[0]] for each in along))
            return
        runs = self.together()
        asked = (((first, last), tuple(each[first:last] for each in along)) for first, last in runs)
        yield from zip((first for first, _ in runs), _helpers.over(self, function, asked), strict=True)

    @cached_property
    def facts(self) -> Facts:
        """What a pass over all of it finds."""
        return self.looked_at()

    def told_facts(self, facts: Facts) -> None:
        """As another process has found them: no pass is needed."""
        vars(self)["facts"] = facts

    def looked_at(self) -> Facts:
        """Make that pass."""
        n, n_columns = self.shape
        found = Facts(np.zeros(n, np.int64), np.zeros(n, np.float32), np.zeros(n_columns, np.int64))
        for start, part in self.of_blocks(Facts.of):
            found.add(start, part)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: not what was found out about it."""
        return {name: value for name, value in vars(self).items() if name not in ("facts", "scale")}

    def mapped(
        self,
        function: Callable[[Any], Any],
        n_columns: int | None = None,
        *,
        dtype: Any = None,
        is_dense: bool | None = None,
    ) -> Stored:
        """What `function` makes of every row, whatever the others are; by default of as many columns and that type."""
        found = Mapped(self, function, self.shape[1] if n_columns is None else n_columns, dtype or self.dtype)
        found.is_dense = self.is_dense if is_dense is None else is_dense
        return found

    def astype(self, dtype: Any) -> Stored:
        """The same in numbers of another type."""
        return self.mapped(lambda block: block.astype(dtype), dtype=np.dtype(dtype))

    def to_memory(self) -> Any:
        """All of it."""
        if self.is_dense:
            return np.concatenate([block for _, block in self.of_blocks(as_it_is)])
        values, columns, sizes = [], [], [np.zeros(1, np.int64)]
        for _, block in self.of_blocks(as_it_is):
            values.append(block.data)
            columns.append(block.indices)
            sizes.append(np.diff(block.indptr))
        whole = np.concatenate(values)
        values.clear()  # so that no more than half of a matrix is held twice
        return as_csr(whole, np.concatenate(columns), np.cumsum(np.concatenate(sizes)), self.shape[1])

    def __getitem__(self, asked: Any) -> Stored:
        """Some rows, or some columns, still on disk; one alone is a matrix of one, as scipy has it."""
        rows, columns = asked if isinstance(asked, tuple) else (asked, slice(None))
        rows, columns = ([i] if isinstance(i, (int, np.integer)) else i for i in (rows, columns))
        found: Stored = self
        if (chosen := _chosen(rows, self.shape[0])) is not None:
            found = Some(found, chosen)
        if (chosen := _chosen(columns, self.shape[1])) is not None:
            found = found.mapped(lambda block: block[:, chosen], len(chosen))
        return found


class Held(Stored):
    """A matrix in memory: where others beside it lie on disk, or to be looked at block by block."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr() if sparse.issparse(matrix) else matrix
        self.shape, self.dtype, self.is_dense = matrix.shape, matrix.dtype, not sparse.issparse(matrix)
        self.nnz = self.matrix.nnz if not self.is_dense else int(np.prod(matrix.shape))

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows."""
        rows = np.concatenate([np.arange(first, last) for first, last in runs] or [np.arange(0)])
        return clean(self.matrix[rows])


class Mapped(Stored):
    """Rows of another matrix, changed each by itself."""

    def __init__(self, whole: Stored, function: Callable[[Any], Any], n_columns: int, dtype: Any) -> None:
        self.whole, self.function = whole, function
        self.shape, self.dtype, self.is_dense = (whole.shape[0], n_columns), np.dtype(dtype), whole.is_dense
        self.nnz = whole.nnz if n_columns >= whole.shape[1] else int(whole.nnz * n_columns / max(1, whole.shape[1]))

    @property
    def chunk_rows(self) -> int:
        """As of what it is made of."""
        return self.whole.chunk_rows

    @property
    def read_per_row(self) -> float:
        """As of what it is made of."""
        return max(self.per_row, self.whole.read_per_row)

    def runs(self, runs: Sequence[Run]) -> Any:
        """What becomes of these rows."""
        return clean(self.function(self.whole.runs(runs)))


class Once(Mapped):
    """The same matrix, of which the rows that were read last are kept: others that are made of it read them once."""

    def __init__(self, whole: Stored) -> None:
        super().__init__(whole, as_it_is, whole.shape[1], whole.dtype)
        self._last = threading.local()

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows; nobody changes them."""
        if getattr(self._last, "runs", None) != list(runs):
            self._last.runs, self._last.block = None, None  # not held while others are read
            self._last.block = super().runs(runs)
            self._last.runs = list(runs)
        return self._last.block

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows."""
        return {name: value for name, value in super().__getstate__().items() if name != "_last"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _last=threading.local())


class Some(Stored):
    """Some rows of another matrix, in any order."""

    def __init__(self, whole: Stored, index: np.ndarray) -> None:
        self.whole, self.index = whole, np.asarray(index, dtype=np.int64)
        self.shape, self.dtype, self.is_dense = (len(index), whole.shape[1]), whole.dtype, whole.is_dense
        self.nnz = int(whole.per_row * len(index))

    @property
    def chunk_rows(self) -> int:
        """As of what it is part of."""
        return self.whole.chunk_rows

    @property
    def read_per_row(self) -> float:
        """As of what it is part of."""
        return max(self.per_row, self.whole.read_per_row)

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows among them."""
        return self.whole.rows(np.concatenate([self.index[first:last] for first, last in runs] or [self.index[:0]]))


class Stacked(Stored):
    """Matrices of the same columns, one below the other."""

    def __init__(self, parts: Sequence[Stored]) -> None:
        self.parts, self.starts = list(parts), np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape, self.dtype = (int(self.starts[-1]), parts[0].shape[1]), np.result_type(*(p.dtype for p in parts))
        self.nnz, self.is_dense = sum(part.nnz for part in parts), all(part.is_dense for part in parts)

    @property
    def chunk_rows(self) -> int:
        """The most of any of them."""
        return max(part.chunk_rows for part in self.parts)

    def runs(self, runs: Sequence[Run]) -> Any:
        """Rows of each, one below the other."""
        found = []
        for part, start, end in zip(self.parts, self.starts, self.starts[1:], strict=False):
            own = [(max(first, start) - start, min(last, end) - start) for first, last in runs]
            own = [(first, last) for first, last in own if first < last]
            if own:
                block = part.runs(own)
                found.append(block if self.is_dense or sparse.issparse(block) else sparse.csr_matrix(block))
        if not found:
            return self.parts[0].runs([])
        if len(found) == 1:
            return found[0].astype(self.dtype, copy=False)
        whole = np.concatenate(found) if self.is_dense else sparse.vstack(found, format="csr")
        return whole.astype(self.dtype, copy=False)


def _chosen(asked: Any, n: int) -> np.ndarray | None:
    """The numbers that are asked for; None where they are all of n, in their order."""
    found = np.arange(n)[asked]
    return None if all_in_order(found, n) else found


def all_in_order(index: np.ndarray, n: int) -> bool:
    """Whether these are the numbers of all n: what they select is the whole, and need not be copied."""
    return np.array_equal(index, np.arange(n))


def read_once(x: Any) -> Any:
    """A matrix of which several are made that others write together; the same where nobody helps."""
    return x if _helpers is None or not isinstance(x, Stored) else Once(x)


def as_it_is(block: Any) -> Any:
    """The same."""
    return block


def rows_in(x: Any, index: np.ndarray) -> Any:
    """Rows of a matrix, in memory wherever it lies."""
    return x.rows(index) if isinstance(x, Stored) else x[index]


def means_of(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square of every column of a matrix [n, G] of one row at least, in float64."""
    n = x.shape[0]
    if isinstance(x, Stored):
        sums = squares = np.zeros(x.shape[1])
        for _, block in x.blocks():
            mean, square = means_of(block)
            sums, squares = sums + block.shape[0] * mean, squares + block.shape[0] * square
        return sums / n, squares / n
    squared = x.multiply(x) if sparse.issparse(x) else np.square(x)
    mean, square = (np.asarray(part.mean(0, dtype=np.float64)).ravel() for part in (x, squared))
    return mean, square


def placed(block: Any, columns: np.ndarray) -> Any:
    """Columns of a matrix in memory in another order, -1 for one of zeros."""
    if not sparse.issparse(block):
        return np.where(columns >= 0, block[:, columns.clip(min=0)], np.zeros((), block.dtype))
    there = np.flatnonzero(columns >= 0)
    shape = (block.shape[1], len(columns))
    chosen = sparse.csr_matrix((np.ones(len(there), np.float32), (columns[there], there)), shape)
    return (block @ chosen).astype(block.dtype, copy=False)


def clean(block: Any) -> Any:
    """CSR without duplicates and stored zeros, its columns in order; an array as it is."""
    if not sparse.issparse(block):
        return block
    block = block.tocsr()
    if not block.has_canonical_format:
        sum_duplicates(block)
    if np.count_nonzero(block.data) < len(block.data):
        block.eliminate_zeros()
    return block


def pointers_of(pointers: np.ndarray, runs: Sequence[Run]) -> np.ndarray:
    """Where the values of runs of rows end, one run behind the other: from those of all rows [n + 1]."""
    sizes = [np.diff(pointers[first : last + 1]) for first, last in runs]
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes or [np.zeros(0, int)]))])


def as_csr(values: np.ndarray, columns: np.ndarray, indptr: np.ndarray, n_columns: int) -> sparse.csr_matrix:
    """These arrays as a matrix, as they are: scipy would look at all of them."""
    small = columns.astype(np.int32, copy=False) if n_columns < 2**31 else columns
    found = sparse.csr_matrix((len(indptr) - 1, n_columns), dtype=values.dtype)
    found.data, found.indices = values, small
    found.indptr = indptr.astype(small.dtype) if indptr[-1] < 2**31 else indptr
    return found


def runs_of(index: np.ndarray) -> list[Run]:
    """Ascending rows as runs of neighbours."""
    if not len(index):
        return []
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    firsts, lasts = index[np.concatenate([[0], cuts])], index[np.concatenate([cuts - 1, [len(index) - 1]])] + 1
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def ahead(read: Callable[[Any], Any], asked: Sequence[Any]) -> Iterator[Any]:
    """`read` of each; the next one is read by another thread while one is used. Errors are raised where it is used."""
    if len(asked) < 2:
        yield from map(read, asked)
        return
    with ThreadPoolExecutor(1, "cellalign-reading", computes_alone) as reader:
        coming = reader.submit(read, asked[0])
        for each in [*asked[1:], None]:
            found = coming.result()
            if each is not None:
                coming = reader.submit(read, each)
            yield found
            del found  # not held while the next is waited for
