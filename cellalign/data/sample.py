"""Some cells of a matrix, drawn at random and whole, as what it holds is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.data.stored import Stored

VALUES, FEWEST, MOST = 1_000_000, 200, 4000  # values and cells that are looked at


@dataclass(frozen=True)
class Sample:
    """Values of some cells that are not zero, in CSR order; cells that hold none are left out.

    Attributes
    ----------
    values : float64 array [k]
    starts : int array [n]
        Where each cell begins.
    cells, genes : int arrays [k]
        Of each value: the place of its cell among those of the sample, and its gene.
    rows : int array [n]
        The cells' places in the matrix.
    n_genes, n_cells : int
        `n_cells` with the empty ones.
    """

    values: np.ndarray
    starts: np.ndarray
    cells: np.ndarray
    genes: np.ndarray
    rows: np.ndarray
    n_genes: int
    n_cells: int

    @classmethod
    def of(cls, x: Any, rng: np.random.Generator) -> Sample:
        """Random cells of a matrix of any layout; all where there are few."""
        n, n_genes = x.shape
        per_cell = max(1.0, _n_stored(x) / max(n, 1))
        wanted = int(np.clip(VALUES / per_cell, FEWEST, MOST))
        rows = np.arange(n) if wanted >= n else np.sort(rng.choice(n, wanted, replace=False))
        part = rows_as_csr(x, rows)
        sizes = np.diff(part.indptr)
        full = np.flatnonzero(sizes)
        return cls(
            values=part.data,
            starts=part.indptr[full],
            cells=np.repeat(np.arange(len(full)), sizes[full]),
            genes=part.indices,
            rows=rows[full],
            n_genes=n_genes,
            n_cells=len(rows),
        )

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of every cell."""
        return np.add.reduceat(values, self.starts)

    def position(self, first: int) -> str:
        """Cell and gene of a value."""
        return f"cell {self.rows[self.cells[first]]}, gene {self.genes[first]}"


def _n_stored(x: Any) -> int:
    """Values that a matrix stores."""
    if isinstance(x, Stored):
        return x.nnz
    return len(x.data) if sparse.issparse(x) else x.size


def rows_as_csr(x: Any, rows: np.ndarray) -> sparse.csr_matrix:
    """Some cells of a matrix of any layout and type: float64, no duplicates, no stored zeros."""
    if isinstance(x, Stored):
        x, rows = x.rows(rows), np.arange(len(rows))
    shape = (len(rows), x.shape[1])
    if not sparse.issparse(x):
        part = sparse.csr_matrix(np.asarray(x[rows], dtype=np.float64).reshape(shape))
        part.eliminate_zeros()
        return part
    if x.format not in ("csr", "csc"):
        x = x.tocsr()
    pointers, minor = np.asarray(x.indptr, dtype=np.int64), x.indices
    if x.format == "csr":  # by hand: scipy's own indexing takes neither half precision nor big-endian numbers
        sizes = np.diff(pointers)[rows]
        own = np.repeat(np.arange(len(rows)), sizes)
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        places = np.repeat(pointers[rows] - begins, sizes) + np.arange(int(sizes.sum()))
        columns = minor[places]
    else:
        place_of = np.full(x.shape[0], -1)
        place_of[rows] = np.arange(len(rows))
        places = np.flatnonzero(place_of[minor] >= 0)
        own = place_of[minor[places]]
        columns = np.searchsorted(pointers, places, side="right") - 1
    columns = columns.astype(np.int64)
    part = sparse.coo_matrix((x.data[places].astype(np.float64), (own, columns)), shape).tocsr()  # adds up duplicates
    part.eliminate_zeros()
    return part
