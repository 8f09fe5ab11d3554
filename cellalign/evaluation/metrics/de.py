"""Genes that differ between two sets of cells, or between replicates of them: p-values, and what they agree in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.metrics.metric import NEITHER, UP, Metric

LEVEL = 0.05  # of Benjamini and Hochberg
GENES_AT_ONCE = 500
METRICS = (
    Metric("de_predicted", f"Genes that differ from control at BH {LEVEL}, of the predicted cells.", NEITHER, "0", 0),
    Metric("de_real", f"Genes that differ from control at BH {LEVEL}, of the real cells.", NEITHER, "0", 0),
    Metric("de_ratio", "Predicted over real number of genes that differ.", NEITHER, "that of random draws"),
    Metric(
        "de_jaccard",
        "Genes that differ in both, in the same direction, over those that differ in either; each from a half of the "
        "control of its own, over a few halvings.",
        UP,
        "0",
        0,
    ),
)


@dataclass(frozen=True)
class Test:
    """Of each gene [G]: how much it changes, in units of log2, its p-value, and that by Benjamini and Hochberg."""

    __test__ = False  # no test of pytest's

    change: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray

    @classmethod
    def of(cls, change: np.ndarray, p: np.ndarray) -> Test:
        """The p-values of a test, adjusted; one that is not defined (a gene without any difference) is 1."""
        p = np.where(np.isfinite(p), p, 1.0)
        return cls(change, p, benjamini_hochberg(p))

    @property
    def direction(self) -> np.ndarray:
        """1 of genes that rise, -1 of those that fall, 0 of those that do not differ."""
        return np.where(self.adjusted < LEVEL, np.sign(self.change), 0)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values [G]: the smallest p n / rank over this and all larger ones."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p)) if len(p) else p


def wilcoxon(cells: np.ndarray, control: np.ndarray, *, is_log: bool = True) -> Test:
    """Wilcoxon rank-sum test of every gene, with correction for ties, of cells [n, G] and [m, G].

    Parameters
    ----------
    is_log : bool
        The values are log1p expression. The change is that of `pseudobulk`.
    """
    from scipy.stats import mannwhitneyu

    p = np.ones(cells.shape[1])
    for i in range(0, cells.shape[1], GENES_AT_ONCE):
        block = slice(i, i + GENES_AT_ONCE)
        with np.errstate(all="ignore"):
            p[block] = mannwhitneyu(cells[:, block], control[:, block], axis=0, method="asymptotic").pvalue
    return Test.of(pseudobulk(cells, is_log=is_log) - pseudobulk(control, is_log=is_log), p)


def pseudobulk(cells: np.ndarray, *, is_log: bool = True) -> np.ndarray:
    """Expression [G] of some cells [n, G] together: log2 of 1 + mean normalised counts; of other values their mean."""
    return np.log2(1 + np.expm1(cells).mean(0)) if is_log else cells.mean(0)


def moderated_t(replicates: np.ndarray, controls: np.ndarray, *, paired: bool) -> Test:
    """Moderated t-test of every gene between replicates [n, G] and [m, G] (Smyth 2004, as limma's eBayes).

    A gene's variance is shrunk towards that of all genes, as far as the spread of their variances says.

    Parameters
    ----------
    paired : bool
        A replicate is compared with the control of the same row.
    """
    if paired:
        each = replicates - controls
        change, variance = each.mean(0), each.var(0, ddof=1)
        df, unit = len(each) - 1, 1 / len(each)
    else:
        n, m = len(replicates), len(controls)
        change, df, unit = replicates.mean(0) - controls.mean(0), n + m - 2, 1 / n + 1 / m
        within = sum(((x - x.mean(0)) ** 2).sum(0) for x in (replicates, controls))
        variance = np.asarray(within) / df
    from scipy.stats import t

    prior_df, prior = prior_of_variances(variance, df)
    if np.isinf(prior_df):
        shrunk, total = np.full_like(variance, prior), np.inf
    else:
        shrunk = (prior_df * prior + df * variance) / (prior_df + df)
        total = min(prior_df + df, df * len(variance))
    with np.errstate(all="ignore"):
        statistic = change / np.sqrt(shrunk * unit)
        p = 2 * t.sf(np.abs(statistic), total)
    return Test.of(change, np.where(shrunk > 0, p, 1.0))


def prior_of_variances(variance: np.ndarray, df: int) -> tuple[float, float]:
    """Degrees of freedom and value of the prior of variances [G] of so many degrees of freedom (Smyth 2004, section 6).

    Matches mean and variance of their logarithms to those of a scaled F distribution.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    seen = variance[variance > 0]
    if len(seen) < 2:
        return 0.0, 0.0
    seen = np.maximum(seen, 1e-5 * np.median(seen))
    e = np.log(seen) - digamma(df / 2) + np.log(df / 2)
    spread = float(e.var(ddof=1) - polygamma(1, df / 2))
    if spread <= 0:
        return np.inf, float(np.exp(e.mean()))
    low, high = 1e-6, 1e8
    half = brentq(lambda d: float(polygamma(1, d)) - spread, low, high) if polygamma(1, high) < spread else high
    return 2 * half, float(np.exp(e.mean() + digamma(half) - np.log(half)))


def counts(predicted: Test, real: Test) -> dict[str, float]:
    """How many genes differ, by name of the metric; a ratio to nothing is NaN."""
    n, m = (int((test.direction != 0).sum()) for test in (predicted, real))
    return {"de_predicted": float(n), "de_real": float(m), "de_ratio": n / m if m else float("nan")}


def jaccard(predicted: Test, real: Test) -> float:
    """Genes that differ in both, in the same direction, over those that differ in either; NaN of none.

    It is 0 for unrelated changes only where the two are from control cells of their own: those that both share lie
    alike beside both.
    """
    ours, theirs = predicted.direction, real.direction
    either = ((ours != 0) | (theirs != 0)).sum()
    return float(((ours == theirs) & (ours != 0)).sum() / either) if either else float("nan")
