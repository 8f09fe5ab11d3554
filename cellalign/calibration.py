"""Intervals of a group's mean under another condition, by conformal prediction from held-out groups.

A model is refitted without a group, predicts that group from its control cells, and its error is kept: of several
groups, gene by gene. The error is divided by what it may be expected to be (`_Scale`: the noise of the two means, and
what grows with the predicted change, with how much the gene's change differs between groups, and with how unlike the
group's control is), pooled over genes, and the quantile of the pool, times the expected error of another group, is the
half width of that group's interval. Each of the held-out groups counts the same, and the level of the quantile is the
one at which held-out groups are covered as asked by the others. A group that is asked for never calibrates itself.

The interval is of the mean of an observed group: the noise of that mean, of so many cells, is in it. It holds in the
mean over groups that are like those held out; with fewer than 1 / (1 - level) of them no method could promise it of
each (Dunn, Wasserman and Ramdas 2022), so coverage is reported group by group.

Two kinds of coverage: over `all` genes, those of the largest predicted change apart from the others; or over `de`, the
genes that the observed cells turn out to differ in, which nobody knows beforehand and which, being chosen by the
observation, deviate more: such intervals are wider, and cover more than asked over all genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from cellalign.group_changes import likeness

Over = Literal["all", "de"]
OVER = get_args(Over)
FEWEST = 3  # other groups, from which anything may be calibrated
APART = 50  # genes of the largest predicted change, or of the largest real one
SHAPES = (0.0, 0.25, 0.5, 0.75, 1.0)  # how far an interval's width follows the expected error, not noise alone
KNOWN_BY = 100  # cells: what the common trend of variances weighs against a gene's own
MARGIN = 0.05  # of a squared error, by which it is above another
LEAST = 1e-5  # a width, of log expression, that is no width


@dataclass(frozen=True)
class Groups:
    """Means of groups of cells, [n, G] each, as they are observed under a condition and as they were before it.

    Attributes
    ----------
    names, targets : list of str
        The group (a cell type, a donor, ...) and the condition.
    predicted, real, variance : float arrays
        Predicted and observed mean under the condition, and the variance among the observed cells.
    control, control_variance : float arrays
        The same of the control cells.
    cells : int array [n, 2]
        Observed cells under the condition and under the control.
    """

    names: list[str]
    targets: list[str]
    predicted: np.ndarray
    real: np.ndarray
    variance: np.ndarray
    control: np.ndarray
    control_variance: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def of(self, rows: Sequence[int] | np.ndarray) -> Groups:
        """Some of them."""
        at = np.asarray(rows, dtype=int)
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        kept: dict[str, Any] = {k: [v[i] for i in at] if isinstance(v, list) else v[at] for k, v in every.items()}
        return Groups(**kept)

    @property
    def changes(self) -> np.ndarray:
        """What the condition changed, [n, G]."""
        return self.real - self.control


@dataclass(frozen=True)
class Asked:
    """A group that is predicted: name, condition, predicted mean [G]; mean, variance, number of its control cells."""

    name: str
    target: str
    predicted: np.ndarray
    control: np.ndarray
    control_variance: np.ndarray
    control_cells: int


class TooFewGroups(ValueError):
    """There are not enough other groups; the message says how many there are."""


def others(held_out: Groups, asked: Asked, by_target: bool) -> Groups:
    """The held-out groups that calibrate another one: none of its name, or of its condition where that is the group.

    Raises
    ------
    TooFewGroups
    """
    own = held_out.targets if by_target else held_out.names
    mine = asked.target if by_target else asked.name
    found = held_out.of([i for i, name in enumerate(own) if name != mine])
    n = len(set(found.targets if by_target else found.names))
    if not enough(n, len(found)):
        raise TooFewGroups(f"{n} other held-out groups calibrate {mine!r}; at least {FEWEST} are needed")
    return found


def enough(n_names: int, n_groups: int) -> bool:
    """Whether as many groups, of so many names, calibrate others: two names do where each has many conditions."""
    return n_names >= FEWEST or (n_names == 2 and n_groups >= 2 * FEWEST)


def interval(
    held_out: Groups,
    asked: Asked,
    level: float,
    *,
    over: Over = "all",
    cells: int | None = None,
    by_target: bool = False,
    at_least: float | None = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end [G] of the interval of a group's mean.

    Parameters
    ----------
    held_out : Groups
    asked : Asked
    level : float
        Share of the genes of a group whose observed mean is to lie inside.
    over : {"all", "de"}
        Of all genes, or of the 50 that the observed cells differ most in from the control.
    cells : int, optional
        Cells of which the observed mean is; by default as many for each control cell as in the held-out groups.
    by_target : bool
        Groups are told apart by their condition, not by their name.
    at_least : float, optional
        Means are never lower.

    Raises
    ------
    TooFewGroups
    """
    known = others(held_out, asked, by_target)
    alike = known.of(_of_target(known, asked.target))
    ratio = float(np.median(alike.cells[:, 0] / np.maximum(alike.cells[:, 1], 1)))
    n = cells or max(1, round(ratio * asked.control_cells))
    scale = _Scale.of(known)
    units = known.targets if by_target else known.names
    width = _calibrated(known, scale, units, level, over)(scale.of_asked(asked, n), asked.predicted - asked.control)
    low, high = asked.predicted - width, asked.predicted + width
    return (low if at_least is None else np.maximum(low, at_least)), high


def _of_target(groups: Groups, target: str) -> list[int]:
    """Those of a condition; all where there are none."""
    own = [i for i, name in enumerate(groups.targets) if name == target]
    return own or list(range(len(groups)))


@dataclass(frozen=True)
class Expected:
    """What the error of a group's genes may be expected to be: noise alone, and all of it; standard deviations [G]."""

    noise: np.ndarray
    total: np.ndarray

    def shaped(self, shape: float) -> np.ndarray:
        """Between noise (0) and all of it (1)."""
        return self.noise ** (1 - shape) * self.total**shape


@dataclass(frozen=True)
class _Scale:
    """The expected squared error of a group's genes: a sum of terms whose weights, none negative, held-out groups tell.

    The variance of the observed mean, from the trend of variances over means; that of the control mean; the squared
    predicted change; the variance between groups of the gene's change; and the squared distance of the group's control
    from the others'. Of a held-out group each term is computed from the others alone.
    """

    known: Groups
    trend: _Trend
    weights: np.ndarray

    @classmethod
    def of(cls, known: Groups) -> _Scale:
        bare = cls(known, _Trend.of(known), np.ones(len(TERMS)))
        terms = np.concatenate([bare._of_held_out(i) for i in range(len(known))])
        squared = ((known.real - known.predicted) ** 2).ravel()
        return cls(known, bare.trend, _weights(terms, squared))

    def of_asked(self, asked: Asked, cells: int) -> Expected:
        apart = self._others(None, asked.target, asked.name)
        noise = self.trend.variance(asked.predicted) / cells
        before = asked.control_variance / asked.control_cells
        return self._expected(_terms(asked.predicted, asked.control, noise, before, *apart))

    def of_held_out(self, i: int) -> Expected:
        return self._expected(self._of_held_out(i))

    def _of_held_out(self, i: int) -> np.ndarray:
        k = self.known
        noise = self.trend.variance(k.predicted[i], without=i) / k.cells[i, 0]
        before = k.control_variance[i] / k.cells[i, 1]
        return _terms(k.predicted[i], k.control[i], noise, before, *self._others(i, k.targets[i], k.names[i]))

    def _others(self, without: int | None, target: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Changes of other groups under the condition, of all conditions where they are few; and their controls."""
        k = self.known
        rows = [i for i in range(len(k)) if i != without]
        same = [i for i in rows if k.targets[i] == target]
        apart = {k.names[i]: i for i in rows if k.names[i] != name}  # a control counts once
        return k.changes[same if len(same) > 1 else rows], k.control[list(apart.values()) or rows]

    def _expected(self, terms: np.ndarray) -> Expected:
        noise = terms[:, 0] + terms[:, 1]
        return Expected(np.sqrt(noise) + LEAST, np.sqrt(terms @ self.weights) + LEAST)


TERMS = ("noise of the mean", "noise of the control", "change", "spread between groups", "distance of the control")


def _terms(
    predicted: np.ndarray,
    control: np.ndarray,
    noise: np.ndarray,
    before: np.ndarray,
    changes: np.ndarray,
    controls: np.ndarray,
) -> np.ndarray:
    """The terms of `TERMS`, [G, 5]."""
    spread = changes.var(0, ddof=1) if len(changes) > 1 else np.zeros_like(noise)
    return np.stack([noise, before, (predicted - control) ** 2, spread, (control - controls.mean(0)) ** 2], 1)


def _weights(terms: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Weights of the terms [n, k], none negative, by which they add up to the squared errors [n].

    Least squares, reweighted by the inverse of what is expected: a squared error varies as its expectation does.
    """
    from scipy.optimize import nnls

    certain = 1 / np.maximum(terms.sum(1), 1e-9)
    weights = np.ones(terms.shape[1])
    for _ in range(4):
        a, b = terms * certain[:, None], squared * certain
        gram = a.T @ a
        root = np.linalg.cholesky(gram + 1e-9 * max(np.trace(gram), 1e-30) * np.eye(len(gram)))
        weights = nnls(root.T, np.linalg.solve(root, a.T @ b))[0]
        expected = terms @ weights
        certain = 1 / np.maximum(expected, np.quantile(expected, 0.01) + 1e-12)
    return weights


@dataclass(frozen=True)
class _Trend:
    """Variance of a gene's expression among cells by its mean: a cubic in logarithms, times each gene's own factor."""

    known: Groups
    cubic: np.ndarray
    lowest: float

    @classmethod
    def of(cls, known: Groups) -> _Trend:
        mean, variance = known.real.ravel(), known.variance.ravel()
        there = (mean > 0) & (variance > 0)
        if there.sum() < 8:
            return cls(known, np.array([np.log(max(float(variance.mean()), 1e-12))]), 0.0)
        x, y = np.log(mean[there]), np.log(variance[there])
        return cls(known, np.polyfit(x, y, 3), float(x.min()))

    def variance(self, mean: np.ndarray, without: int | None = None) -> np.ndarray:
        """Of genes of these means [G], as all groups but one tell."""
        k = self.known
        rows = [i for i in range(len(k)) if i != without]
        cells = np.where(k.real[rows] > 0, k.cells[rows, :1], 0)
        own = (cells * k.variance[rows] / self._common(k.real[rows])).sum(0)
        return self._common(mean) * (own + KNOWN_BY) / (cells.sum(0) + KNOWN_BY)

    def _common(self, mean: np.ndarray) -> np.ndarray:
        x = np.log(np.maximum(mean, 1e-12)).clip(self.lowest)
        return np.exp(np.polyval(self.cubic, x).clip(-30, 30))


@dataclass(frozen=True)
class _Calibrated:
    """The half width [G] of a group's interval: a quantile times the expected error, for top genes and for others."""

    shape: float
    quantiles: tuple[float, ...]

    def __call__(self, expected: Expected, change: np.ndarray) -> np.ndarray:
        part = _part(change) if len(self.quantiles) > 1 else np.zeros(len(change), dtype=int)
        return np.asarray(self.quantiles)[part] * expected.shaped(self.shape)


def _part(change: np.ndarray) -> np.ndarray:
    """1 of the genes of the largest predicted change, 0 of the others; of few genes all are alike."""
    part = np.zeros(len(change), dtype=int)
    if len(change) >= 4 * APART:
        part[np.argsort(-np.abs(change), kind="stable")[:APART]] = 1
    return part


def _most_different(known: Groups, i: int) -> np.ndarray:
    """The genes in which a group's observed cells differ most from its control, by the difference over its noise."""
    noise = known.variance[i] / known.cells[i, 0] + known.control_variance[i] / known.cells[i, 1]
    return np.argsort(-np.abs(known.changes[i]) / np.sqrt(noise + LEAST**2), kind="stable")[:APART]


def _calibrated(known: Groups, scale: _Scale, units: Sequence[str], level: float, over: Over) -> _Calibrated:
    """The shape of which intervals are narrowest, and its quantiles."""
    errors = np.abs(known.real - known.predicted)
    rows = range(len(known))
    if over == "de":
        chosen = [[_most_different(known, i) for i in rows]]
    else:
        parts = [_part(known.predicted[i] - known.control[i]) for i in rows]
        chosen = [[np.flatnonzero(part == p) for part in parts] for p in range(1 + int(parts[0].max()))]
    expected = [scale.of_held_out(i) for i in rows]
    best, narrowest = None, np.inf
    for shape in SHAPES:
        quantiles, width = [], 0.0
        for genes in chosen:
            sizes = [expected[i].shaped(shape)[genes[i]] for i in rows]
            ratios = [errors[i][genes[i]] / size for i, size in zip(rows, sizes, strict=True)]
            quantiles.append(pooled_quantile(ratios, units, level))
            width += quantiles[-1] * sum(float(size.sum()) for size in sizes)
        if width < narrowest:
            best, narrowest = _Calibrated(shape, tuple(quantiles)), width
    assert best is not None
    return best


def pooled_quantile(ratios: Sequence[np.ndarray], units: Sequence[str], level: float) -> float:
    """A quantile of errors over their expectation, pooled over groups, each of which counts the same.

    It is taken at the level at which each unit's groups are covered, in the mean over units, as asked by the quantile
    of all other units: with few groups that is above the level that is asked for.

    Parameters
    ----------
    ratios : sequence of arrays
        Of each group's genes.
    units : sequence of str
        What is left out at once.
    level : float
    """
    names = sorted(set(units))
    if len(names) < FEWEST:
        return float(_weighted_quantiles(ratios, np.array([level]))[0])
    levels = np.append(np.linspace(max(level - 0.1, 0.0), 1, 201), level)
    covered = np.zeros(len(levels))
    for name in names:
        apart = [values for values, unit in zip(ratios, units, strict=True) if unit != name]
        own = [np.sort(values) for values, unit in zip(ratios, units, strict=True) if unit == name]
        ends = _weighted_quantiles(apart, levels)
        covered += np.mean([np.searchsorted(v, ends, "right") / len(v) for v in own], 0) / len(names)
    reached = levels[covered >= level]
    return float(_weighted_quantiles(ratios, np.array([reached.min() if len(reached) else 1.0]))[0])


def _weighted_quantiles(values: Sequence[np.ndarray], levels: np.ndarray) -> np.ndarray:
    """Quantiles of several samples, each of which weighs the same."""
    pooled = np.concatenate(values)
    weight = np.concatenate([np.full(len(v), 1 / (len(v) * len(values))) for v in values])
    order = np.argsort(pooled)
    reached = np.cumsum(weight[order]) - 1e-9
    return pooled[order][np.searchsorted(reached, levels).clip(max=len(pooled) - 1)]


def why_abstain(held_out: Groups, asked: Asked) -> str:
    """Why the held-out error says that a group had better not be predicted; empty where it does not.

    Of the held-out groups under its condition, weighed by the likeness of their controls to its own (of the group
    itself, where it was one of them, it alone), the squared error is not below that of no change, or is above that of
    the mean change of the other groups by more than a twentieth.
    """
    rows = _of_target(held_out, asked.target)
    own = [i for i in rows if (held_out.names[i], held_out.targets[i]) == (asked.name, asked.target)]
    rows_for_shift = rows
    rows = own or rows
    weight = likeness(asked.control, held_out.control[rows])

    def error(of: np.ndarray) -> float:
        return float(weight @ ((held_out.real[rows] - of) ** 2).mean(1))

    model = error(held_out.predicted[rows])
    if model >= error(held_out.control[rows]):
        return "no better than no change"
    if len(rows_for_shift) < 2:
        return ""
    changes = held_out.changes
    shifts = [changes[[j for j in rows_for_shift if j != i]].mean(0) for i in rows]
    shifted = np.maximum(held_out.control[rows] + np.stack(shifts), held_out.real.min(initial=0.0))
    return "worse than the mean shift" if model > (1 + MARGIN) * error(shifted) else ""
