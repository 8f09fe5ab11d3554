"""Genes that differ between cells of a condition and control cells, by Wilcoxon's rank-sum test, also within places.

A place is a donor, plate, batch, ... Where cells lie in other proportions over places than control cells do, what the
places differ in is no effect of the condition: ranks are then compared within each place (van Elteren, 1960).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.evaluation.metrics.de import benjamini_hochberg

LEVEL = 0.05  # of the false discovery rate
TINY = 1e-9  # counts per million, added to both means of a fold change
BLOCK = 512  # genes that are dense at once


@dataclass(frozen=True)
class Different:
    """Differential expression of one condition.

    Attributes
    ----------
    p, q : arrays [G]
        Of the rank-sum test, and by Benjamini and Hochberg among the genes tested; 1 of others.
    change : array [G]
        log2 of the fold change of mean counts per million.
    tested : bool array [G]
    """

    p: np.ndarray
    q: np.ndarray
    change: np.ndarray
    tested: np.ndarray

    def significant(self, own: np.ndarray) -> np.ndarray:
        """Mask [G] of DE genes without those of the condition itself."""
        found = self.tested & (self.q < LEVEL)
        found[own] = False
        return found


def different(
    cells: Any, control: Any, tested: np.ndarray, places: tuple[np.ndarray, np.ndarray] | None = None
) -> Different:
    """Wilcoxon's rank-sum test of cells against control cells, each counts per million [n, G] and [m, G].

    The normal approximation with correction for ties, without one for continuity, as scanpy has it.

    Parameters
    ----------
    tested : bool array [G]
        Genes that are expressed in control cells: the other cells have no say in which these are.
    places : int arrays [n] and [m], optional
        The donor, plate, ... of each: cells are ranked within places, whose rank sums are added up by the weights
        1 / (cells of the place + 1), and means of control cells are taken in the proportions of the cells. Cells of
        places that have not both kinds do not count; where no place has both, every p is 1 and every change 0.
    """
    from scipy.stats import norm

    genes = np.flatnonzero(tested)
    pairs = [(cells, control)] if places is None else list(_by_place(cells, control, *places))
    p, change = np.ones(len(tested)), np.zeros(len(tested))
    for start in range(0, len(genes), BLOCK) if pairs else ():
        some = genes[start : start + BLOCK]
        parts = [[sparse.csc_matrix(x[:, some], dtype=np.float64) for x in pair] for pair in pairs]
        away, variance = _departure(parts)
        sd = np.sqrt(variance)
        z = np.divide(away, sd, out=np.zeros_like(away), where=sd > 0)
        p[some] = 2 * norm.sf(np.abs(z))
        means = _means(parts)
        change[some] = np.log2((means[0] + TINY) / (means[1] + TINY))
    q = np.ones(len(tested))
    q[genes] = benjamini_hochberg(p[genes])
    return Different(p, q, change, tested)


def _by_place(cells: Any, control: Any, of_cells: np.ndarray, of_control: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Cells and control cells of each place that has both."""
    for place in np.intersect1d(of_cells, of_control):
        yield cells[np.flatnonzero(of_cells == place)], control[np.flatnonzero(of_control == place)]


def _departure(parts: list[list[sparse.csc_matrix]]) -> tuple[np.ndarray, np.ndarray]:
    """How far each gene's rank sum [G] is from what is expected of cells alike, and its variance, added up over places.

    Given the ties, a place's rank sum has the variance n m / (N (N - 1)) times the sum of squares of all its ranks.
    """
    found = []
    for a, b in parts:
        n, m = a.shape[0], b.shape[0]
        ranks, spread = rank_sums(a, b)
        weight = 1 / (n + m + 1) if len(parts) > 1 else 1.0  # of one place it cancels
        away = ranks - n * (n + m + 1) / 2
        found.append((weight * away, weight**2 * (n * m / ((n + m) * (n + m - 1)) * spread)))
    away, variance = (np.sum(each, axis=0) for each in zip(*found, strict=True))
    return away, variance


def _means(parts: list[list[sparse.csc_matrix]]) -> list[np.ndarray]:
    """Means [G] of cells and of control cells, both over places in the proportions of the cells."""
    means = [[np.asarray(x.mean(0)).ravel() for x in pair] for pair in parts]
    if len(parts) == 1:
        return means[0]
    sizes = np.array([a.shape[0] for a, _ in parts], dtype=np.float64)
    return [sizes / sizes.sum() @ np.stack(each) for each in zip(*means, strict=True)]


def rank_sums(a: sparse.csc_matrix, b: sparse.csc_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Sum of ranks of each column of a [n, G] among a and b [m, G], and sum of squares of all around their mean.

    Values of 0, which most are, are counted and not sorted.
    """
    n, both = a.shape[0], sparse.vstack([a, b], format="csc")
    both.eliminate_zeros()
    size, n_genes = both.shape
    bounds, values = both.indptr, both.data
    order = np.concatenate(
        [np.empty(0, dtype=np.int64), *(s + np.argsort(values[s:e]) for s, e in zip(bounds, bounds[1:], strict=False))]
    ).astype(np.int64)
    gene = np.repeat(np.arange(n_genes), np.diff(bounds))
    value, mine = values[order], both.indices[order] < n
    first = np.ones(len(value), dtype=bool)
    first[1:] = (value[1:] != value[:-1]) | (gene[1:] != gene[:-1])
    runs = np.flatnonzero(first)
    length = np.diff(np.append(runs, len(value)))
    of = gene[runs]
    zeros = size - np.diff(bounds)
    below = np.bincount(gene[value < 0], minlength=n_genes)
    place = runs - bounds[of] + np.where(value[runs] > 0, zeros[of], 0) + (length + 1) / 2
    own = np.add.reduceat(mine.astype(np.int64), runs) if len(runs) else np.empty(0, dtype=np.int64)
    own_zeros = n - np.bincount(gene[mine], minlength=n_genes)
    ranks = np.bincount(of, place * own, minlength=n_genes) + own_zeros * (below + (zeros + 1) / 2)
    cubes = np.bincount(of, length.astype(float) ** 3 - length, minlength=n_genes) + zeros.astype(float) ** 3 - zeros
    return ranks, (float(size) ** 3 - size - cubes) / 12
