"""How well predicted expression matches real expression under another condition (CoMP appendix D, trVAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.evaluation.metrics.metric import DOWN, UP, Metric, metric


def dense(x: Any) -> np.ndarray:
    """A block of cells as a float64 array: the cells of one cell type and condition, never the whole matrix."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


def de_genes(control: np.ndarray, stimulated: np.ndarray, n: int = 50) -> np.ndarray:
    """Columns of the n genes that differ most by the Wilcoxon rank-sum test, up or down.

    Parameters
    ----------
    control, stimulated : arrays [cells, G]

    Returns
    -------
    int array [n]
        Most different first, by the absolute z-score without tie correction (as scanpy's `rankby_abs`).
    """
    from scipy.stats import rankdata

    n_s, n_c = len(stimulated), len(control)
    both = np.concatenate([stimulated, control])
    # in blocks: ranks of all genes at once would hold three copies of the cells
    scores = np.concatenate([rankdata(both[:, i : i + 500], axis=0)[:n_s].sum(0) for i in range(0, both.shape[1], 500)])
    z = (scores - n_s * (n_s + n_c + 1) / 2) / np.sqrt(n_s * n_c * (n_s + n_c + 1) / 12)
    return np.argsort(-np.abs(z), kind="stable")[:n]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two vectors; NaN where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


@metric(
    "energy",
    "Energy distance between predicted and real cells in log1p expression; 0 for draws of one population, below it by "
    "chance alone.",
    better=DOWN,
    null="that of the row no change",
)
def energy_distance(a: np.ndarray, b: np.ndarray, seed: int = 0, at_most: int = 2000) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| between two sets of cells [n, G] (Szekely 2004).

    Within-set means are over distinct pairs. Of a set larger than `at_most` a random part is taken: the work grows
    with the square of the cells, the error of the mean hardly shrinks.
    """
    rng = np.random.default_rng(seed)
    a, b = (x if len(x) <= at_most else x[np.sort(rng.permutation(len(x))[:at_most])] for x in (a, b))
    within = [_distances(x, x).sum() / (len(x) * (len(x) - 1)) if len(x) > 1 else 0.0 for x in (a, b)]
    return float(2 * _distances(a, b).mean() - sum(within))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [n, m] by matrix product; a cell's distance to itself is exactly 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    if a is b:
        np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


SUBSAMPLED = (
    Metric(
        "r2_means",
        "Squared correlation over genes of predicted and real mean expression, mean over 100 draws of 80 % of the "
        "cells.",
        UP,
        "that of the row no change",
    ),
    Metric(
        "r2_variances",
        "Squared correlation over genes of predicted and real variance of expression among cells, mean over 100 draws "
        "of 80 % of the cells.",
        UP,
        "that of the row no change",
    ),
)


def r2_subsampled(predicted: np.ndarray, real: np.ndarray, seed: int = 0, draws: int = 100) -> tuple[float, float]:
    """Squared correlation of gene means and of gene variances, mean over random subsamples (trVAE figure 4).

    Each draw takes 80 % of the predicted and of the real cells, without replacement.
    """
    rng = np.random.default_rng(seed)
    (p_mean, p_var), (r_mean, r_var) = (_subsample_moments(x, rng, draws) for x in (predicted, real))
    means = [pearson(p, r) ** 2 for p, r in zip(p_mean, r_mean, strict=True)]
    variances = [pearson(p, r) ** 2 for p, r in zip(p_var, r_var, strict=True)]
    return float(np.mean(means)), float(np.mean(variances))


def _subsample_moments(x: np.ndarray, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [draws, G] of random 80 % of the cells: a product with 0/1 weights, no copy per draw."""
    size = max(2, int(0.8 * len(x)))
    weights = np.zeros((draws, len(x)))
    for row in weights:
        row[rng.permutation(len(x))[:size]] = 1 / size
    centred = x - x.mean(0)  # so that the difference of squares loses no digits
    shift = weights @ centred
    return shift + x.mean(0), weights @ centred**2 - shift**2


@dataclass(frozen=True)
class Means:
    """Mean log1p expression of one group of cells, and which genes are differentially expressed.

    Attributes
    ----------
    predicted, real, control : arrays [G]
        `real` under the predicted condition, `control` under the one the prediction starts from.
    de : int array
        Columns of the differentially expressed genes.
    """

    predicted: np.ndarray
    real: np.ndarray
    control: np.ndarray
    de: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """Predicted change from control, [G]."""
        return self.predicted - self.control

    @property
    def true_change(self) -> np.ndarray:
        """Real change from control, [G]."""
        return self.real - self.control


@metric(
    "r_all",
    "Pearson correlation over all genes of predicted and real mean log1p expression; high for any cell of the type, so "
    "read it beside the row no change.",
    better=UP,
    null="that of the row no change",
)
def r_all(means: Means) -> float:
    """r of the means, all genes."""
    return pearson(means.predicted, means.real)


@metric(
    "r_de",
    "Pearson correlation over the 50 most differentially expressed genes of predicted and real mean log1p expression.",
    better=UP,
    null="that of the row no change",
)
def r_de(means: Means) -> float:
    """r of the means, DE genes."""
    return pearson(means.predicted[means.de], means.real[means.de])


@metric(
    "mse_all",
    "Mean over all genes of the squared difference of predicted and real mean log1p expression.",
    better=DOWN,
    null="that of the row no change",
)
def mse_all(means: Means) -> float:
    """Squared error of the means, all genes."""
    return float(np.mean((means.predicted - means.real) ** 2))


@metric(
    "mse_de",
    "Mean over the 50 most differentially expressed genes of the squared difference of predicted and real mean log1p "
    "expression.",
    better=DOWN,
    null="that of the row no change",
)
def mse_de(means: Means) -> float:
    """Squared error of the means, DE genes."""
    return float(np.mean((means.predicted[means.de] - means.real[means.de]) ** 2))


@metric(
    "r_change_all",
    "Pearson correlation over all genes of the predicted and the real change of mean log1p expression from control.",
    better=UP,
    null="0 where the change is unrelated; above it by what the control's noise shares with both changes",
    null_value=0,
)
def r_change_all(means: Means) -> float:
    """r of the changes, all genes; NaN where none is predicted."""
    return pearson(means.change, means.true_change)


@metric(
    "r_change_de",
    "Pearson correlation over the 50 most differentially expressed genes of the predicted and the real change of mean "
    "log1p expression from control.",
    better=UP,
    null="0 where the change is unrelated; above it by what the control's noise shares with both changes",
    null_value=0,
)
def r_change_de(means: Means) -> float:
    """r of the changes, DE genes; NaN where none is predicted."""
    return pearson(means.change[means.de], means.true_change[means.de])


@metric(
    "direction_de",
    "Share of the 50 most differentially expressed genes whose predicted change from control has the right sign.",
    better=UP,
    null="0.5 where signs are drawn at random",
    null_value=0.5,
)
def direction_de(means: Means) -> float:
    """Share of DE genes that go the right way."""
    return float(np.mean(np.sign(means.change[means.de]) == np.sign(means.true_change[means.de])))


LEVEL = (r_all, r_de, mse_all, mse_de)
CHANGE = (r_change_all, r_change_de, direction_de)
METRICS = (*LEVEL, *CHANGE, *SUBSAMPLED, energy_distance)


def score_means(predicted: np.ndarray, real: np.ndarray, control: np.ndarray, de: np.ndarray) -> dict[str, float]:
    """The metrics `LEVEL` and `CHANGE` of a predicted mean [G], by name; parameters as the attributes of `Means`.

    Without `CHANGE` where no change is predicted: there is none to correlate.
    """
    means = Means(predicted, real, control, de)
    wanted = (*LEVEL, *CHANGE) if np.any(means.change) else LEVEL
    return {each.name: each(means) for each in wanted}


def split_halves(n: int, seed: int = 0, draws: int = 10) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random halves of n cells: one half as prediction of the other is the ceiling any method can reach."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(draws)]
    return [(order[: n // 2], order[n // 2 :]) for order in orders]
