"""What a file's own numbers say of its cells: depth, mitochondrial share, doublets, whether conditions differ at all.

Plain numbers out of raw counts (`depth`, `mitochondrial`, `doublets`) or of expression on any scale (`halves`): nothing
is judged here, and nothing is read but the matrix that is given. Whole matrices are summed up, never made dense; what
needs dense cells looks at a sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.data.stored import Stored

MITOCHONDRIAL = re.compile(r"(mt|MT|Mt)[-.:_]\w+")  # of human, mouse, rat, fish; no MTOR
BLOCK = 8192  # cells that are summed up together
SAMPLE = 1000  # cells of a condition
DOUBLETS_FROM, DOUBLETS_IN, COMPONENTS, NEIGHBOURS = 200, 2000, 20, 30
VARIABLE = 1000  # genes that tell cells apart
CAUGHT, UNCLEAR = 0.5, 0.35  # share of simulated doublets by which a cell is judged; a share found that says nothing


@dataclass(frozen=True)
class Sizes:
    """Of each cell [n]: the sum of its counts, and how many genes have any."""

    totals: np.ndarray
    genes: np.ndarray


def sizes(x: Any) -> Sizes:
    """Sums and numbers of genes of every cell of a matrix [n, G]."""
    if isinstance(x, Stored):
        return Sizes(x.facts.sums.astype(np.float64), x.facts.held)
    totals = np.empty(x.shape[0])
    genes = np.empty(x.shape[0], dtype=np.int64)
    for rows in _blocks(x.shape[0]):
        block = _part(x, rows)
        totals[rows] = np.asarray(block.sum(axis=1), dtype=np.float64).ravel()
        genes[rows] = np.asarray((block != 0).sum(axis=1)).ravel()
    return Sizes(totals, genes)


def seen(x: Any) -> int:
    """Genes of a matrix [n, G] that any cell has."""
    if isinstance(x, Stored):
        return int((x.facts.genes > 0).sum())
    found = np.zeros(x.shape[1], dtype=bool)
    for rows in _blocks(x.shape[0]):
        found |= np.asarray((_part(x, rows) != 0).sum(axis=0)).ravel() > 0
    return int(found.sum())


def mitochondrial(x: Any, names: Sequence[str], totals: np.ndarray) -> np.ndarray | None:
    """Share of each cell's counts [n] that is of mitochondrial genes; None where no gene is called as they are."""
    columns = [i for i, name in enumerate(names) if MITOCHONDRIAL.fullmatch(str(name))]
    if not columns:
        return None
    own = np.concatenate([np.asarray(_part(x, rows)[:, columns].sum(axis=1)).ravel() for rows in _blocks(x.shape[0])])
    return np.divide(own, totals, out=np.zeros(len(own)), where=totals > 0)


def medians(values: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """The median of each group [n]; NaN of one without cells."""
    return np.array([np.median(values[codes == i]) if (codes == i).any() else np.nan for i in range(n)])


def halves(x: Any, codes: np.ndarray, n: int, control: int | None, *, counts: bool, seed: int = 0) -> np.ndarray:
    """How well one half of the cells knows what the other half says of each condition's change.

    Parameters
    ----------
    x : matrix [n_cells, G]
    codes : int array [n_cells]
        Condition of each cell, -1 of none.
    n : int
        Number of conditions.
    control : int, optional
        What changes are from; without one, from the cells of all other conditions.
    counts : bool
        Whether cells have to be normalised.

    Returns
    -------
    array [n]
        Pearson correlation over genes of the two changes, each from control cells of its own; NaN for the control and
        where a half has less than two cells.
    """
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(codes == i))[:SAMPLE] for i in range(n)]
    target = _usual_total(x, np.concatenate(rows)) if counts else None
    means = [[_mean(x, part[side::2], target) for side in (0, 1)] for part in rows]
    found = np.full(n, np.nan)
    for i in range(n):
        others = [j for j in range(n) if j != i and len(rows[j]) >= 4] if control is None else [control]
        if i == control or len(rows[i]) < 4 or any(len(rows[j]) < 4 for j in others) or not others:
            continue
        changes = [means[i][side] - np.mean([means[j][side] for j in others], axis=0) for side in (0, 1)]
        if min(change.std() for change in changes) > 0:
            found[i] = np.corrcoef(*changes)[0, 1]
    return found


def doublets(x: Any, *, seed: int = 0) -> float | None:
    """Share of cells that look like two cells of different kinds in one droplet, by doublets made of these cells.

    As Scrublet does (Wolock et al. 2019): sums of two random cells are put among a sample of the cells, in principal
    components of log expression; a cell looks like a doublet where its neighbours are such sums.

    Returns
    -------
    float, optional
        None of too few cells, or where sums cannot be told from cells (all are of one kind).
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.utils.extmath import randomized_svd

    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(x.shape[0])[:DOUBLETS_IN])
    if len(rows) < DOUBLETS_FROM:
        return None
    cells = sparse.csr_matrix(_part(x, rows), dtype=np.float32)
    cells = cells[np.asarray(cells.sum(axis=1)).ravel() > 0]
    n = cells.shape[0]
    pairs = rng.integers(0, n, (n, 2))
    both = sparse.vstack([cells, cells[pairs[:, 0]] + cells[pairs[:, 1]]], format="csr")
    logged = _logged(both, float(np.median(np.asarray(cells.sum(axis=1)))))
    own = logged[:n]
    mean = np.asarray(own.mean(axis=0)).ravel()
    variance = np.asarray(own.multiply(own).mean(axis=0)).ravel() - mean**2
    chosen = np.argsort(-variance)[:VARIABLE]
    chosen = chosen[variance[chosen] > 0]
    if n < DOUBLETS_FROM or len(chosen) < COMPONENTS:
        return None
    dense = (logged[:, chosen].toarray() - mean[chosen]) / np.sqrt(variance[chosen])
    # components of the cells alone: what doublets have in common is no axis of its own
    _, _, axes = randomized_svd(dense[:n], COMPONENTS, random_state=seed)
    places = dense @ axes.T
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(places).kneighbors(places, return_distance=False)[:, 1:]
    score = (near >= n).mean(axis=1)
    threshold = np.quantile(score[n:], CAUGHT)
    alike, caught = float((score[:n] >= threshold).mean()), float((score[n:] >= threshold).mean())
    # where more cells than that lie among sums, sums cannot be told from cells
    found = alike / caught
    return found if found < UNCLEAR else None


def _blocks(n: int) -> list[slice]:
    return [slice(first, min(n, first + BLOCK)) for first in range(0, n, BLOCK)]


def _part(x: Any, rows: slice | np.ndarray) -> Any:
    """Rows of a matrix, in memory wherever it lies."""
    if not isinstance(x, Stored):
        return x[rows]
    return x.runs([(rows.start, rows.stop)]) if isinstance(rows, slice) else x.rows(rows)


def _usual_total(x: Any, rows: np.ndarray) -> float:
    totals = np.asarray(_part(x, np.sort(rows)).sum(axis=1)).ravel()
    return float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0


def _mean(x: Any, rows: np.ndarray, target: float | None) -> np.ndarray:
    """Mean log expression of some cells [G]."""
    if not len(rows):
        return np.zeros(x.shape[1])
    part = _part(x, np.sort(rows))
    if target is not None:
        part = _logged(sparse.csr_matrix(part, dtype=np.float64), target)
    return np.asarray(part.mean(axis=0), dtype=np.float64).ravel()


def _logged(x: sparse.csr_matrix, target: float) -> sparse.csr_matrix:
    """Counts scaled to one total, log1p."""
    totals = np.asarray(x.sum(axis=1)).ravel()
    scale = np.divide(target, totals, out=np.zeros(len(totals)), where=totals > 0)
    return sparse.csr_matrix(sparse.diags(scale.astype(x.dtype)) @ x).log1p()
