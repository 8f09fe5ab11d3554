"""How well conditions mix among nearest neighbours, beside what permuted conditions give.

kBET and the local silhouette are those of the CoMP paper (section 6, appendix D). Perfect mixing is not 0 of them, but
what conditions give that are drawn independently of the latents: every score stands beside its mean and standard
deviation over permutations of the conditions, under which the neighbours stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellalign.evaluation.metrics.metric import NULL, Null, metric, towards
from cellalign.threads import workers

PERMUTATIONS = 20
NEAREST = 15  # neighbours of the own share
AT_ONCE = 4_000_000  # numbers of one step: the rows of a large matrix of neighbours are scored in parts


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of every cell, itself excluded, nearest first: `distance` and `index`, both [n, k]."""

    distance: np.ndarray
    index: np.ndarray

    def nearest(self, k: int) -> Neighbours:
        """The first k of them, or all where there are fewer."""
        return Neighbours(self.distance[:, :k], self.index[:, :k])

    def parts(self, width: int) -> Sequence[slice]:
        """Rows in parts of at most AT_ONCE numbers, `width` a row."""
        size = max(1, AT_ONCE // max(1, width))
        return [slice(start, start + size) for start in range(0, len(self.index), size)]


def neighbours(z: np.ndarray, k: int) -> Neighbours:
    """Exact Euclidean neighbours of each row of z [n, p]; k is capped at n - 1."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(k, len(z) - 1), n_jobs=workers()).fit(z).kneighbors(None)
    return Neighbours(*found)


@metric(
    "kBET",
    "Rejection rate, CoMP's convention: share of cells whose neighbours' conditions a chi-square test at level alpha "
    "tells from a random draw.",
    better=towards(NULL),
    null="that of permuted conditions, near alpha (0.085 to 0.108 at k 100, alpha 0.1)",
)
def kbet(near: Neighbours, condition: np.ndarray, alpha: float = 0.1) -> float:
    """kBET_{k,alpha}: share of cells whose neighbourhood's condition counts a chi-square test rejects.

    Parameters
    ----------
    near : Neighbours
        Of all cells, or of some of them, [q, k].
    condition : int array [n]
        Of all cells.
    alpha : float
        Level of each test, which has K - 1 degrees of freedom.

    Returns
    -------
    float
        Share of the q cells. About alpha where neighbourhoods are random draws, which is perfect mixing; 1 where
        conditions lie apart, and below alpha where neighbourhoods are more even than random ones: conditions then repel
        each other. NaN with one condition only.
    """
    from scipy.stats import chi2

    present, codes = np.unique(condition, return_inverse=True)
    n_conditions, k = len(present), near.index.shape[1]
    if n_conditions < 2:
        return float("nan")
    expected = k * np.bincount(codes) / len(codes)
    least = chi2.isf(alpha, n_conditions - 1) if alpha > 0 else np.inf  # chi2.sf(statistic) < alpha
    rejected = 0
    for rows in near.parts(k + n_conditions):
        around = codes[near.index[rows]]
        place = around + n_conditions * np.arange(len(around))[:, None]
        counts = np.bincount(place.ravel(), minlength=around.shape[0] * n_conditions).reshape(-1, n_conditions)
        rejected += int((((counts - expected) ** 2 / expected).sum(1) > least).sum())
    return rejected / len(near.index)


def local_silhouette(near: Neighbours, condition: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Local silhouette of every cell, [n]: their mean is s_k, the mean over one condition s_{k,c}.

    With a and b the mean distances to the same- and the other-condition cells among the k neighbours,
    (b - a) / max(a, b); +1 where no neighbour is of another condition, -1 where none is of the cell's own.

    Parameters
    ----------
    near : Neighbours
    condition : array [n]
    counted : bool array [n, k], optional
        Which neighbours count, as those of the cell's own type among all (eq. 59); default all. 0 where none does.
    """
    found = np.empty(len(near.index))
    for rows in near.parts(near.index.shape[1]):
        distance = near.distance[rows]
        same = condition[near.index[rows]] == condition[rows, None]
        other = ~same
        if counted is not None:
            same, other = same & counted[rows], other & counted[rows]
        n_same, n_other = same.sum(1), other.sum(1)
        a = (distance * same).sum(1) / np.maximum(n_same, 1)
        b = (distance * other).sum(1) / np.maximum(n_other, 1)
        largest = np.maximum(a, b)
        s = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)  # coinciding points mix perfectly
        s[n_other == 0], s[n_same == 0] = 1.0, -1.0
        s[(n_other == 0) & (n_same == 0)] = 0.0
        found[rows] = s
    return found


@metric(
    "s",
    "Mean over cells of (b - a) / max(a, b), with a and b the mean distances to neighbours of the same and of another "
    "condition; 1 where conditions lie apart.",
    better=towards(NULL),
    null="that of permuted conditions, near 0",
    null_value=0,
)
def silhouette(near: Neighbours, condition: np.ndarray) -> float:
    """Mean of `local_silhouette` over all cells: s_k of the CoMP paper."""
    return float(local_silhouette(near, condition).mean())


@metric(
    "own share",
    f"Share of a cell's {NEAREST} nearest neighbours that are of its own condition, mean over cells; below that of "
    "permuted conditions they repel each other.",
    better=towards(NULL),
    null="that of permuted conditions, near the sum of the conditions' squared frequencies",
)
def own_share(near: Neighbours, condition: np.ndarray) -> float:
    """Share of neighbours that are of the cell's own condition: of the `NEAREST` nearest, or of all where k is less."""
    index = near.index[:, :NEAREST]
    return float(
        sum((condition[index[rows]] == condition[rows, None]).sum() for rows in near.parts(NEAREST)) / index.size
    )


METRICS = (kbet, silhouette, own_share)


@dataclass(frozen=True)
class Mixed:
    """Scores of some cells, or means over groups of them, and the same under permuted conditions.

    Attributes
    ----------
    n : int
        Cells.
    values : dict of str to float
        By name of `METRICS`.
    permuted : dict of str to float array
        Of each score the values under permutations; empty without any.
    """

    n: int
    values: dict[str, float]
    permuted: dict[str, np.ndarray] = field(default_factory=dict)

    def null(self, name: str) -> Null | None:
        """Mean and standard deviation over permutations."""
        return Null.of(self.permuted[name]) if name in self.permuted else None

    def replaced(self, other: Mixed) -> Mixed:
        """These scores with those that the other has in place of their own."""
        return Mixed(self.n, self.values | other.values, self.permuted | other.permuted)

    @staticmethod
    def mean(groups: Sequence[Mixed]) -> Mixed:
        """The mean over groups; each permutation of one is averaged with one of every other."""
        names = [name for name in groups[0].values if all(name in group.values for group in groups)]
        values = {name: float(np.mean([group.values[name] for group in groups])) for name in names}
        permuted = {
            name: np.mean([group.permuted[name] for group in groups], axis=0)
            for name in names
            if all(name in group.permuted for group in groups)
        }
        return Mixed(sum(group.n for group in groups), values, permuted)


def beside_permuted(
    scores: Callable[[np.ndarray], Mapping[str, float]],
    condition: np.ndarray,
    *,
    permutations: int = PERMUTATIONS,
    seed: int | tuple[int, ...] = 0,
    within: np.ndarray | None = None,
) -> Mixed:
    """Scores of a condition, and those of its permutations.

    Parameters
    ----------
    scores : callable
        From conditions [n] to scores by name.
    condition : int array [n]
    permutations : int
        0 gives no null.
    seed : int or tuple of int
    within : array [n], optional
        Permute within each of these groups only.
    """
    values = dict(scores(condition))
    rng = np.random.default_rng(seed)
    drawn = [scores(permuted(condition, within, rng)) for _ in range(permutations)]
    nulls = {name: np.array([each[name] for each in drawn]) for name in values} if drawn else {}
    return Mixed(len(condition), values, nulls)


def permuted(condition: np.ndarray, within: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A condition [n] with its values permuted over all cells, or within each group of `within` [n]."""
    if within is None:
        return rng.permutation(condition)
    # sorted by group and, within it, at random: positions of a group stay the group's
    shuffled = np.lexsort((rng.random(len(condition)), within))
    result = np.empty_like(condition)
    result[np.argsort(within, kind="stable")] = condition[shuffled]
    return result


def of_condition(code: int) -> str:
    """Under which name `mixed` gives s_{k,c}."""
    return f"{silhouette.name} of {code}"


def mixed(near: Neighbours, condition: np.ndarray, *, alpha: float, k: int, **options: Any) -> Mixed:
    """All of `METRICS`, and s of every condition; `options` as those of `beside_permuted`.

    Parameters
    ----------
    near : Neighbours
        kBET and s look at the first k, the own share at the first `NEAREST`.
    condition : int array [n]
        Codes from 0.
    """
    first = near.nearest(k)

    def scores(codes: np.ndarray) -> dict[str, float]:
        s = local_silhouette(first, codes)
        sums, sizes = np.bincount(codes, s), np.bincount(codes)
        return {
            kbet.name: kbet(first, codes, alpha),
            silhouette.name: float(s.mean()),
            own_share.name: own_share(near, codes),
            **{of_condition(code): float(sums[code] / sizes[code]) for code in map(int, np.flatnonzero(sizes))},
        }

    return beside_permuted(scores, condition, **options)


def by_label(
    z: np.ndarray,
    condition: np.ndarray,
    label: np.ndarray,
    *,
    k: int,
    alpha: float,
    min_cells: int | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> tuple[dict[str, Mixed], dict[str, int]]:
    """Scores within each label: neighbours, frequencies, permutations and all; their means are m-kBET and m-s.

    Parameters
    ----------
    label : array [n] of str
    min_cells : int, optional
        Labels with fewer cells are skipped; default 4 k.

    Returns
    -------
    scores : dict of label -> Mixed
    skipped : dict of label -> n
        Too few cells, or of one condition only.
    """
    least = 4 * k if min_cells is None else min_cells
    scores, skipped = {}, {}
    for i, name in enumerate(np.unique(label)):
        rows = np.flatnonzero(label == name)
        if len(rows) < max(least, 3) or len(np.unique(condition[rows])) < 2:
            skipped[str(name)] = len(rows)
            continue
        near = neighbours(z[rows], max(k, NEAREST))
        own: dict[str, Any] = {"permutations": permutations, "seed": (seed, i)}  # independent draws for each label
        scores[str(name)] = mixed(near, condition[rows], k=k, alpha=alpha, **own)
    return scores, skipped


def global_silhouette(
    near: Neighbours,
    condition: np.ndarray,
    label: np.ndarray,
    names: Sequence[str],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Mixed]:
    """s of each label among the neighbours over all cells that are of that label (CoMP eq. 58 to 60).

    Parameters
    ----------
    near : Neighbours
        Over all cells.
    condition : int array [n]
    label : array [n] of str
    names : sequence of str
        The labels to score; conditions are permuted within each.
    """
    counted = label[near.index] == label[:, None]
    members = {name: label == name for name in names}

    def scores(codes: np.ndarray) -> dict[str, float]:
        s = local_silhouette(near, codes, counted)
        return {name: float(s[of].mean()) for name, of in members.items()}

    codes_of_label = np.unique(label, return_inverse=True)[1]
    found = beside_permuted(scores, condition, permutations=permutations, seed=seed, within=codes_of_label)
    return {
        name: Mixed(
            int(of.sum()),
            {silhouette.name: found.values[name]},
            {silhouette.name: found.permuted[name]} if found.permuted else {},
        )
        for name, of in members.items()
    }
