"""Scores of a screen: many conditions at once, each a change from control cells.

Definitions are those of cell-eval2 0.20 (the scorer of the Virtual Cell Challenge 2026), to which tests hold them, but
for centroid accuracy (Systema, 2025) and the correlation of effect sizes. A profile is log1p of a group's summed
counts, scaled to a total: a mean of logarithms would depend on how the cells of a group scatter. P conditions, G genes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, UP, Metric
from cellalign.evaluation.metrics.rank_sum import Different

TOTAL = 5e4  # of a group's counts
PURITY = 0.9  # of the signs of a ranking's first genes
FEWEST_DE = 10  # genes by which an error of fold changes is judged
MILLION = 1e6
BLOCK = 512  # cells that are dense at once

DISCRIMINATION = Metric(
    "discrimination",
    "Share of the other conditions whose real change is less like the predicted one than the own is (cosine; ties "
    "count half), over genes that no condition targets.",
    UP,
    "0.5",
    0.5,
)
CENTROID = Metric(
    "centroid",
    "Share of the other conditions whose real profile is farther from the predicted one than its own is (Euclidean), "
    "over genes that no condition targets.",
    UP,
    "about 0.5",
)
ERROR = Metric(
    "error",
    "Squared error of predicted profiles over squared real effects, each summed over conditions, sampling noise taken "
    "off; 1 where the control is predicted.",
    DOWN,
    "that of the column mean response",
)
DIRECTION = Metric(
    "direction",
    "Significant genes with the right sign, as a share of those called or those there are, whichever is more.",
    UP,
    "that of the column mean response",
)
REACH = Metric(
    "reach",
    "Share of the real DE genes down to which the prediction's ranking of them has 90 % right signs.",
    UP,
    "that of the column mean response",
)
AGREEMENT = Metric(
    "de_overlap",
    "Jaccard index of predicted and real DE genes (Wilcoxon, 5 % false discoveries within each condition, of genes "
    "above 5 counts per million in control cells).",
    UP,
    "that of the column mean response",
)
FOLD_ERROR = Metric(
    "lfc_error",
    "Absolute error of log fold changes of real DE genes over their absolute size; 1 where no change is predicted. Of "
    "conditions with 10 DE genes or more.",
    DOWN,
    "1",
    1,
)
EFFECT = Metric(
    "effect_size",
    "Spearman correlation over conditions of predicted and real size of the change, sampling noise taken off.",
    UP,
    "0",
    0,
)
SCORES = (DISCRIMINATION, CENTROID, ERROR, DIRECTION, REACH, AGREEMENT, FOLD_ERROR, EFFECT)
SPREADS = tuple(
    Metric(
        f"{each.name}_se",
        f"Standard error of {each.name}: its standard deviation over bootstrap samples of the conditions.",
        NEITHER,
        "none",
        spread_of=each.name,
    )
    for each in SCORES
)
METRICS = (*SCORES, *SPREADS)


def anchored(declared: Metric) -> Metric:
    """The same on the scale from 0, the mean response, to 1, one half of the real cells predicting the other."""
    return replace(declared, better=UP, null="0", null_value=0)


def profiles(sums: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """log1p of summed counts [P, G] scaled to a total; zeros where there are none.

    Parameters
    ----------
    sizes : array [P], optional
        Counts of each group over all genes that were measured; default over those here.
    """
    total = sums.sum(1, keepdims=True) if sizes is None else sizes[:, None]
    return np.log1p(sums * np.divide(TOTAL, total, out=np.zeros_like(total), where=total > 0))


def blocks(x: Any) -> Iterator[np.ndarray]:
    """Some cells of a matrix after others, dense, in float64."""
    for start in range(0, x.shape[0], BLOCK):
        part = x[start : start + BLOCK]
        yield np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


def noise(counts: Any, sizes: np.ndarray | None = None) -> float:
    """Sampling variance of a group's profile, summed over genes: the jackknife that leaves each cell out once.

    Parameters
    ----------
    counts : matrix [n, G]
    sizes : array [n], optional
        Counts of each cell over all genes that were measured; default over those here.

    Returns
    -------
    float
        0 for fewer than two cells.
    """
    n = counts.shape[0]
    whole = np.asarray(counts.sum(0), dtype=np.float64).ravel()
    size = np.asarray(counts.sum(1), dtype=np.float64).ravel() if sizes is None else sizes
    total = size.sum()
    if n < 2 or total <= 0:
        return 0.0
    centre = np.log1p(TOTAL * whole / total)
    first = np.zeros_like(whole)
    second = np.zeros_like(whole)
    for start, block in zip(range(0, n, BLOCK), blocks(counts), strict=True):
        left = total - size[start : start + BLOCK]
        without = np.log1p(TOTAL * (whole - block) / np.where(left > 0, left, 1.0)[:, None])
        deviation = np.where((left > 0)[:, None], without, 0.0) - centre
        first += deviation.sum(0)
        second += (deviation**2).sum(0)
    return max(0.0, float((n - 1) / n * (second - first**2 / n).sum()))


def weighted_noise(counts: Any, weights: np.ndarray, strata: np.ndarray, sizes: np.ndarray | None = None) -> float:
    """The same of cells that count by weights, drawn within strata: to first order in each cell's weight.

    Parameters
    ----------
    counts : matrix [n, G]
    weights : array [n]
    strata : int array [n]
    sizes : array [n], optional
        As of `noise`.
    """
    whole = np.asarray(weights @ counts, dtype=np.float64).ravel()
    size = np.asarray(counts.sum(1), dtype=np.float64).ravel() if sizes is None else sizes
    total = weights @ size
    if total <= 0:
        return 0.0
    share = whole / total
    slope = (TOTAL / total) / (1 + TOTAL * share)
    found = 0.0
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(rows) < 2:
            continue
        first = np.zeros_like(whole)
        second = np.zeros_like(whole)
        for start, block in zip(range(0, len(rows), BLOCK), blocks(counts[rows]), strict=True):
            some = rows[start : start + BLOCK]
            influence = slope * weights[some, None] * (block - size[some, None] * share)
            first += influence.sum(0)
            second += (influence**2).sum(0)
        found += len(rows) / (len(rows) - 1) * float((second - first**2 / len(rows)).sum())
    return max(0.0, found)


def discrimination(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """1 less the rank of the own real change among all by cosine, [P]; a change of nothing is as far from each.

    Parameters
    ----------
    predicted, real : arrays [P, G]
        Changes, without the genes that any condition targets.
    """
    lengths = np.sqrt((predicted**2).sum(1))[:, None] * np.sqrt((real**2).sum(1))
    cosine = np.divide(predicted @ real.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return _ranked(np.clip(1 - cosine, 0, 2))


def centroid_accuracy(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Share of the other real profiles that are farther than the own, [P] (Systema, 2025); arrays [P, G]."""
    far = np.stack([((real - own) ** 2).sum(1) for own in predicted])
    return _ranked(far)


def _ranked(distance: np.ndarray) -> np.ndarray:
    """1 less the rank of the diagonal in its row, between 0 and 1; ties share theirs."""
    own = np.diagonal(distance)[:, None]
    before = (distance < own).sum(1) + ((distance == own).sum(1) - 1) / 2
    return 1 - before / max(1, len(distance) - 1)


@dataclass(frozen=True)
class Noisy:
    """Profiles [P, G] with their sampling noise [P], as `noise` gives it."""

    profiles: np.ndarray
    noise: np.ndarray


def corrected_error(predicted: Noisy, real: Noisy, own: Sequence[np.ndarray], start: Noisy | None = None) -> np.ndarray:
    """Mean squared error of each profile less the noise of both, [P]; the target genes of a condition are left out.

    A prediction's noise counts no more than the real cells' has, and of all conditions no more together than the
    predicted profiles scatter: or cells could be made that scatter without their mean doing so.

    Parameters
    ----------
    own : sequence of int arrays
        Columns of the genes that each condition targets.
    start : Noisy, optional
        Control cells. Where conditions have their own, what these differ by is no noise: no more counts than their
        noise and what the predicted changes scatter by.
    """
    n_genes = real.profiles.shape[1]
    used = _used(own, n_genes)
    weight = np.divide(1.0, used.sum(1), out=np.zeros(len(used)), where=used.any(1))
    claimed = np.minimum(predicted.noise, real.noise)
    claim = float((claimed * weight).sum())
    if claim > 0:
        seen = _scatter(predicted.profiles, used, weight)
        if start is not None:
            changes = _scatter(predicted.profiles - start.profiles, used, weight)
            seen = min(seen, changes + float((start.noise * weight).sum()))
        claimed = claimed * min(1.0, seen / claim)
    return _squared(predicted.profiles, real.profiles, used, claimed + real.noise)


def corrected_effect(real: Noisy, control: Noisy, own: Sequence[np.ndarray]) -> np.ndarray:
    """Mean squared change of each profile from its control, less the noise of both, [P]; as `corrected_error`."""
    used = _used(own, real.profiles.shape[1])
    return _squared(real.profiles, control.profiles, used, real.noise + control.noise)


def _used(own: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
    """Mask [P, G] of the genes that a condition does not target."""
    used = np.ones((len(own), n_genes), dtype=bool)
    for row, columns in zip(used, own, strict=True):
        row[columns] = False
    return used


def _squared(one: np.ndarray, other: np.ndarray, used: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Mean squared difference over the genes used, less noise."""
    n = used.sum(1)
    summed = (((one - other) ** 2) * used).sum(1) - noise
    return np.divide(summed, n, out=np.full(len(n), np.nan), where=n > 0)


def _scatter(x: np.ndarray, used: np.ndarray, weight: np.ndarray) -> float:
    """Weighted sum of squares of profiles [P, G] around their mean, over the conditions that use a gene."""
    w = used * weight[:, None]
    total = w.sum(0)
    centred = x - x.mean(0)
    first, second = (w * centred).sum(0), (w * centred**2).sum(0)
    counts = (used.sum(0) >= 2) & (total > 0)
    return float(np.maximum(second[counts] - first[counts] ** 2 / total[counts], 0).sum())


def direction(predicted: Different, real: Different, own: np.ndarray) -> float:
    """Right signs among the genes called, over the number called or that of real ones; NaN where both are 0."""
    there = int(real.significant(own).sum())
    called = predicted.significant(own) & real.tested & (real.change != 0)
    right = called & (np.sign(predicted.change) == np.sign(real.change))
    most = max(there, int(called.sum()))
    return float(right.sum() / most) if most else float("nan")


def reach(predicted: Different, real: Different, own: np.ndarray) -> float:
    """Deepest prefix of the real DE genes, by the prediction's p, that is pure in sign, as a share; NaN of none."""
    there = real.significant(own)
    if not there.any():
        return float("nan")
    genes = _ranked_genes(predicted, there & predicted.tested & (real.change != 0))
    right = np.sign(predicted.change[genes]) == np.sign(real.change[genes])
    depth = np.arange(1, len(genes) + 1)
    pure = depth[np.cumsum(right) / depth >= PURITY]
    return float(pure.max(initial=0) / there.sum())


def by_calls(
    predicted: Different, real: Different, own: np.ndarray, calls: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`direction` and `agreement` [K] if the first so many genes [K] of the prediction's ranking were called.

    How many are depends on how predicted cells scatter, which is no knowledge of a condition.
    """
    genes = _ranked_genes(predicted, predicted.tested & _used([own], len(predicted.p))[0])
    there = real.significant(own)
    known = real.tested & (real.change != 0)
    right = known & (np.sign(predicted.change) == np.sign(real.change))
    n_right, n_known, n_there = (
        np.append(0, np.cumsum(each[genes]))[np.minimum(calls, len(genes))] for each in (right, known, there)
    )
    called, real_ones = np.minimum(calls, len(genes)), there.sum()
    most, union = np.maximum(n_known, real_ones), called + real_ones - n_there
    return (
        np.divide(n_right, most, out=np.full(len(calls), np.nan), where=most > 0),
        np.divide(n_there, union, out=np.ones(len(calls)), where=union > 0),
    )


def _ranked_genes(found: Different, some: np.ndarray) -> np.ndarray:
    """Genes of a mask [G], the surest first; of those as sure the most changed."""
    genes = np.flatnonzero(some)
    return genes[np.lexsort((genes, -np.abs(found.change[genes]), found.p[genes], found.q[genes]))]


def agreement(predicted: Different, real: Different, own: np.ndarray) -> float:
    """Jaccard index of the DE genes; 1 where there are none on either side."""
    one, other = predicted.significant(own), real.significant(own)
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def fold_error(predicted: np.ndarray, real: np.ndarray, gate: Different, own: np.ndarray) -> float:
    """Absolute error of log fold changes [G] over the DE genes of `gate`, as a share of their size there.

    NaN where there are fewer than 10 of these.
    """
    genes = gate.significant(own) & np.isfinite(gate.change)
    size = float(np.abs(gate.change[genes]).mean()) if genes.sum() >= FEWEST_DE else 0.0
    if size == 0:
        return float("nan")
    usable = np.where(np.isfinite(predicted), predicted, 0.0)
    return float(np.abs(usable[genes] - real[genes]).mean() / size)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; 0 where one is constant, which says nothing of the other."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (one, other))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.zeros_like(size), where=size > 0)
