"""How well conditions mix among nearest neighbours: kBET and the local silhouette (CoMP section 6, appendix D)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.metrics.metric import metric, towards
from cellalign.threads import workers


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of every cell, itself excluded: `distance` and `index`, both [n, k]."""

    distance: np.ndarray
    index: np.ndarray


def neighbours(z: np.ndarray, k: int) -> Neighbours:
    """Exact Euclidean neighbours of each row of z [n, p]; k is capped at n - 1."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(k, len(z) - 1), n_jobs=workers()).fit(z).kneighbors(None)
    return Neighbours(*found)


@metric(
    "kBET",
    "Share of cells whose neighbours' conditions a chi-square test at level alpha tells from a random draw.",
    better=towards("alpha"),
    null="about alpha (0.085 to 0.108 at k 100, alpha 0.1) where conditions are independent of the latents",
)
def kbet(near: Neighbours, condition: np.ndarray, alpha: float = 0.1) -> float:
    """kBET_{k,alpha}: share of cells whose neighbourhood's condition counts a chi-square test rejects.

    Parameters
    ----------
    near : Neighbours
    condition : int array [n]
    alpha : float
        Level of each test, which has K - 1 degrees of freedom.

    Returns
    -------
    float
        About alpha where neighbourhoods are random draws, which is perfect mixing; 1 where conditions lie apart, and
        below alpha where neighbourhoods are more even than random ones. NaN with one condition only.
    """
    from scipy.stats import chi2

    present, codes = np.unique(condition, return_inverse=True)
    if len(present) < 2:
        return float("nan")
    k = near.index.shape[1]
    expected = k * np.bincount(codes) / len(codes)
    around = codes[near.index]
    statistic = sum(((around == c).sum(1) - expected[c]) ** 2 / expected[c] for c in range(len(present)))
    return float(np.mean(chi2.sf(statistic, len(present) - 1) < alpha))


def local_silhouette(near: Neighbours, condition: np.ndarray) -> np.ndarray:
    """Local silhouette of every cell, [n]: their mean is s_k, the mean over one condition s_{k,c}.

    With a and b the mean distances to the same- and the other-condition cells among the k neighbours,
    (b - a) / max(a, b); +1 where no neighbour is of another condition, -1 where none is of the cell's own.
    """
    same = condition[near.index] == condition[:, None]
    n_same, n_other = same.sum(1), (~same).sum(1)
    a = (near.distance * same).sum(1) / np.maximum(n_same, 1)
    b = (near.distance * ~same).sum(1) / np.maximum(n_other, 1)
    largest = np.maximum(a, b)
    s = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)  # coinciding points mix perfectly
    return np.where(n_other == 0, 1.0, np.where(n_same == 0, -1.0, s))


@metric(
    "s",
    "Mean over cells of (b - a) / max(a, b), with a and b the mean distances to neighbours of the same and of another "
    "condition; 1 where conditions lie apart.",
    better=towards(0),
    null="about 0 where conditions are independent of the latents",
    null_value=0,
)
def silhouette(near: Neighbours, condition: np.ndarray) -> float:
    """Mean of `local_silhouette` over all cells: s_k of the CoMP paper."""
    return float(local_silhouette(near, condition).mean())


METRICS = (kbet, silhouette)


def by_label(
    z: np.ndarray, condition: np.ndarray, label: np.ndarray, *, k: int, alpha: float, min_cells: int | None = None
) -> tuple[dict[str, tuple[float, float, int]], dict[str, int]]:
    """kBET and silhouette within each label: neighbours, frequencies and all (m-kBET and m-s are their means).

    Parameters
    ----------
    label : array [n] of str
    min_cells : int, optional
        Labels with fewer cells are skipped; default 4 k.

    Returns
    -------
    scores : dict of label -> (kBET, s, n)
    skipped : dict of label -> n
        Too few cells, or of one condition only.
    """
    least = 4 * k if min_cells is None else min_cells
    scores, skipped = {}, {}
    for name in np.unique(label):
        rows = np.flatnonzero(label == name)
        if len(rows) < max(least, 3) or len(np.unique(condition[rows])) < 2:
            skipped[str(name)] = len(rows)
            continue
        near = neighbours(z[rows], k)
        scores[str(name)] = (kbet(near, condition[rows], alpha), silhouette(near, condition[rows]), len(rows))
    return scores, skipped
