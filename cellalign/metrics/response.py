"""How well predicted expression matches real expression under another condition (CoMP appendix D, trVAE)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse


def dense(x: Any) -> np.ndarray:
    """A block of cells as a float64 array: the cells of one cell type and condition, never the whole matrix."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


def mean_of(x: Any) -> np.ndarray:
    """Mean over cells, [G], in float64."""
    return np.asarray(x.mean(0, dtype=np.float64)).ravel()


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


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| between two sets of cells [n, G] (Szekely 2004).

    Within-set means are over distinct pairs.
    """
    from scipy.spatial.distance import cdist, pdist

    within = [float(pdist(x).mean()) if len(x) > 1 else 0.0 for x in (a, b)]
    return float(2 * cdist(a, b).mean() - sum(within))


def r2_subsampled(predicted: np.ndarray, real: np.ndarray, seed: int = 0, draws: int = 100) -> tuple[float, float]:
    """Squared correlation of gene means and of gene variances, mean over random subsamples (trVAE figure 4).

    Each draw takes 80 % of the predicted and of the real cells, without replacement.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        p, r = (x[rng.permutation(len(x))[: max(2, int(0.8 * len(x)))]] for x in (predicted, real))
        found.append((pearson(p.mean(0), r.mean(0)) ** 2, pearson(p.var(0), r.var(0)) ** 2))
    means, variances = np.array(found).T
    return float(means.mean()), float(variances.mean())


def score_means(predicted: np.ndarray, real: np.ndarray, control: np.ndarray, de: np.ndarray) -> dict[str, float]:
    """Scores of a predicted mean [G] against the real mean, over all genes and over the DE genes.

    Returns
    -------
    dict
        r and mse (mean against mean), r_change (change from control, predicted against real), and the share of
        DE genes that move in the right direction.
    """
    change, true_change = predicted - control, real - control
    scores = {
        "r_all": pearson(predicted, real),
        "r_de": pearson(predicted[de], real[de]),
        "mse_all": float(np.mean((predicted - real) ** 2)),
        "mse_de": float(np.mean((predicted[de] - real[de]) ** 2)),
    }
    if np.any(change):  # predicting no change has none to correlate
        scores |= {
            "r_change_all": pearson(change, true_change),
            "r_change_de": pearson(change[de], true_change[de]),
            "direction_de": float(np.mean(np.sign(change[de]) == np.sign(true_change[de]))),
        }
    return scores


def split_halves(n: int, seed: int = 0, draws: int = 10) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random halves of n cells: one half as prediction of the other is the ceiling any method can reach."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(draws)]
    return [(order[: n // 2], order[n // 2 :]) for order in orders]
