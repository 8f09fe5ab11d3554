"""How sure a score is: within a group by its cells drawn again, over groups by Student's t; and two systems compared.

Cells are drawn with replacement as counts of how often each comes up, so that a resampled mean is one matrix product.
What a resampled score varies by is put around the score itself: resampling adds noise to that of the cells, by which
its mean lies below the score. Groups are few: drawn again, two to seven of them would give intervals that hold the
truth in 55 to 90 of 100 cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

DRAWS = 200
LEVEL = 0.95
MOST_PARTS = 400  # of more cells means of so many parts are drawn: as exact, and no slower
EXACT_UP_TO = 12  # groups: of so many every pattern of signs is tried
FLIPS = 10_000
FEWEST_PAIRS = 5  # below it no pattern of signs is rare


@dataclass(frozen=True)
class Interval:
    """Between which values a score lies with probability `LEVEL`."""

    low: float
    high: float

    @classmethod
    def around(cls, value: float, drawn: np.ndarray) -> Interval:
        """From resampled scores [draws], of which NaN do not count; NaN where none is left."""
        there = drawn[np.isfinite(drawn)]
        if not len(there) or not np.isfinite(value):
            return cls(float("nan"), float("nan"))
        low, high = np.quantile(there - there.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value + low), float(value + high))

    def within(self, least: float, most: float) -> Interval:
        """As far as a score can lie: what is put around one near its end reaches beyond."""
        return Interval(*(float(np.clip(end, least, most)) for end in (self.low, self.high)))


@dataclass(frozen=True)
class Paired:
    """A prediction beside the best baseline, over groups.

    Attributes
    ----------
    difference : float
        Mean over groups, positive where the prediction is better.
    interval : Interval
        By the spread of the groups' differences; of one group by its cells drawn again.
    p : float
        Two-sided, by flipping the signs of the groups' differences; NaN of few groups.
    """

    difference: float
    interval: Interval
    p: float

    @property
    def verdict(self) -> str:
        """Whether the prediction is "better" or "worse", or that is "undecided": the interval holds 0."""
        low, high = self.interval.low, self.interval.high
        return "better" if low > 0 else "worse" if high < 0 else "undecided"


def parts_of(rng: np.random.Generator, n: int) -> np.ndarray:
    """Which of at most `MOST_PARTS` parts of equal size each of n cells is in [n]."""
    return rng.permutation(np.arange(n) % min(n, MOST_PARTS)) if n > MOST_PARTS else np.arange(n)


def sums(x: np.ndarray, part: np.ndarray, n: int) -> np.ndarray:
    """Sum of the rows [n_cells, G] of each of n parts [n, G]."""
    from scipy import sparse

    x = np.asarray(x, dtype=np.float32)  # half the time, and a resampled mean is no more exact than that
    if len(x) == n and np.array_equal(part, np.arange(n)):
        return x
    ones = np.ones(len(x), dtype=np.float32)
    return np.asarray(sparse.csr_matrix((ones, (part, np.arange(len(x)))), shape=(n, len(x))) @ x)


def resample(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """How often each of n comes up among n drawn with replacement [draws, n]."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)


def means(weights: np.ndarray, total: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Resampled means [draws, G] of parts with these sums [n, G] and numbers of cells [n]; NaN where none is drawn."""
    cells = weights @ size
    return np.asarray((weights @ total) / np.where(cells > 0, cells, np.nan)[:, None])


def mean_interval(values: Sequence[float] | np.ndarray, drawn: Sequence[np.ndarray] = ()) -> Interval:
    """Of the mean of groups' scores, the groups taken as a sample of groups; those without a score are left out.

    Student's t: the spread of the scores holds what groups differ by and the noise of their cells. Groups that happen
    to agree are no surer than their cells, drawn again, say.

    Parameters
    ----------
    values : sequence of float
    drawn : sequence of arrays [draws], optional
        Resampled scores of each. Without them one group alone has no interval.
    """
    from scipy.special import ndtri, stdtrit

    every = np.asarray(values, dtype=float)
    kept = np.flatnonzero(np.isfinite(every)).tolist()
    n, end = len(kept), (1 + LEVEL) / 2
    if n == 1 and len(drawn):
        return Interval.around(float(every[kept[0]]), drawn[kept[0]])
    if n < 2:
        return Interval(float("nan"), float("nan"))
    noise = np.mean([np.nanvar(drawn[row]) for row in kept]) if len(drawn) else 0.0
    half = max(stdtrit(n - 1, end) * every[kept].std(ddof=1), ndtri(end) * np.sqrt(noise)) / np.sqrt(n)
    mean = float(every[kept].mean())
    return Interval(mean - float(half), mean + float(half))


def compare_pairs(differences: Mapping[str, float], drawn: Mapping[str, np.ndarray], seed: int) -> Paired:
    """Test whether differences of groups, by name, are above or below 0 in the mean; NaN ones are left out.

    Parameters
    ----------
    differences : mapping of str to float
        Positive where the prediction is better.
    drawn : mapping of str to array [draws]
        The same of cells drawn again.
    seed : int
    """
    kept = [name for name, value in differences.items() if np.isfinite(value)]
    values = np.array([differences[name] for name in kept])
    if not kept:
        nothing = float("nan")
        return Paired(nothing, Interval(nothing, nothing), nothing)
    interval = mean_interval(values, [drawn[name] for name in kept])
    return Paired(float(values.mean()), interval, sign_flip(values, seed))


def sign_flip(values: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a mean of differences [n], by flipping their signs; NaN of fewer than five.

    All patterns of signs of at most 12 differences, 10,000 random ones of more.
    """
    n = len(values)
    if n < FEWEST_PAIRS:
        return float("nan")
    if n <= EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(seed).choice([1.0, -1.0], size=(FLIPS, n))
        signs[0] = 1.0  # the one that was seen
    means_ = np.abs(signs @ values)
    return float((means_ >= abs(values.sum()) * (1 - 1e-12)).mean())
