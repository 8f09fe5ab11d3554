"""How well latents and a graph recover the true ones, up to permutation and sign."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellalign.evaluation.metrics.metric import UP, Metric, metric

Correlation = Literal["pearson", "spearman"]


def correlations(a: np.ndarray, b: np.ndarray, kind: Correlation = "pearson") -> np.ndarray:
    """Correlation of every column of a [n, p] with every column of b [n, q]: [p, q]; 0 for a constant column."""
    if kind == "spearman":
        a, b = _ranks(a), _ranks(b)
    a = np.asarray(a, dtype=np.float64) - a.mean(0)
    b = np.asarray(b, dtype=np.float64) - b.mean(0)
    norm = np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))
    return np.divide(a.T @ b, norm, out=np.zeros_like(norm), where=norm > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each column."""
    from scipy.stats import rankdata

    return rankdata(values, axis=0)


def match(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching of true (rows) and estimated latents (columns) with the largest sum."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(correlation, maximize=True)


def mcc(truth: np.ndarray, estimate: np.ndarray, kind: Correlation = "pearson") -> float:
    """Mean absolute correlation of matched latents (Khemakhem et al. 2020; sVAE+ table 1), 1 is perfect.

    The mean is over the true latents: with fewer latents than true ones, those that none is left for count as 0.

    Parameters
    ----------
    truth, estimate : arrays [n, p], [n, q]
    """
    absolute = np.abs(correlations(truth, estimate, kind))
    return float(absolute[match(absolute)].sum() / len(absolute))


CHANCE = "above 0: the largest correlations that chance gives, less the more cells there are"


@metric(
    "pearson_mcc",
    "Mean absolute Pearson correlation of true and found latents, matched one to one; 1 where each is found.",
    better=UP,
    null=CHANCE,
)
def pearson_mcc(truth: np.ndarray, estimate: np.ndarray) -> float:
    """`mcc` of values."""
    return mcc(truth, estimate, "pearson")


@metric(
    "spearman_mcc",
    "Mean absolute Spearman correlation of true and found latents, matched one to one; blind to monotone distortion.",
    better=UP,
    null=CHANCE,
)
def spearman_mcc(truth: np.ndarray, estimate: np.ndarray) -> float:
    """`mcc` of ranks."""
    return mcc(truth, estimate, "spearman")


@metric(
    "r2",
    "Share of the true latents' variance that a linear map of the found latents explains, mean over true latents.",
    better=UP,
    null="about 0: the number of found latents / the number of cells",
    null_value=0,
)
def linear_r2(truth: np.ndarray, estimate: np.ndarray) -> float:
    """R^2 of the best linear map from the estimated to the true latents, mean over the true ones."""
    design = np.column_stack([np.asarray(estimate, dtype=np.float64), np.ones(len(estimate))])
    truth = np.asarray(truth, dtype=np.float64)
    residual = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    return float((1 - residual.var(0) / truth.var(0)).mean())


GRAPH = (
    Metric(
        "precision",
        "Share of the found edges from perturbations to latents that are true ones.",
        UP,
        "share of all possible edges that are true",
    ),
    Metric(
        "recall",
        "Share of the true edges from perturbations to latents that are found.",
        UP,
        "share of all possible edges that the model draws",
    ),
    Metric(
        "f1",
        "Harmonic mean of the precision and the recall of the edges.",
        UP,
        "about the share of edges that are true, where as many are drawn",
    ),
)


def graph_scores(truth: np.ndarray, estimate: np.ndarray, matching: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Precision, recall and F1 of an estimated graph whose latents are matched to the true ones.

    Edges to a latent without a counterpart count: found ones as wrong, true ones as not found.

    Parameters
    ----------
    truth, estimate : bool arrays [interventions, p], [interventions, q]
    matching : index arrays
        As `match` returns: true and estimated latents.

    Returns
    -------
    dict
        The metrics `GRAPH` by name.
    """
    true, guess = truth[:, matching[0]].astype(bool), estimate[:, matching[1]].astype(bool)
    hits = int((true & guess).sum())
    precision = hits / max(1, int(estimate.sum()))
    recall = hits / max(1, int(truth.sum()))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


METRICS = (pearson_mcc, spearman_mcc, linear_r2, *GRAPH)


@metric(
    "udr",
    "How far each informative latent of a model has one counterpart in models that differ by seed alone, from 0 to 1.",
    better=UP,
    null="near 0: correlations that chance gives, less the more cells and informative latents there are",
)
def udr(latents: list[np.ndarray], informative: list[np.ndarray]) -> np.ndarray:
    """Unsupervised disentanglement ranking (Duan et al. 2020, eq. 2 and 3) of models that differ by seed.

    Parameters
    ----------
    latents : list of arrays [n, p]
        Posterior means of the same cells under each model.
    informative : list of bool arrays [p]
        Latents that carry information: KL to the prior above 0.01 nats.

    Returns
    -------
    array [n_models]
        Median agreement with the other models, in [0, 1]; higher is more disentangled.
    """
    ranked = [_ranks(z) for z in latents]
    scores = np.full((len(latents), len(latents)), np.nan)
    for i in range(len(latents)):
        for j in range(i):
            similarity = np.abs(correlations(ranked[i], ranked[j]))[np.ix_(informative[i], informative[j])]
            scores[i, j] = scores[j, i] = _agreement(similarity)
    return np.nanmedian(scores, axis=1) if len(latents) > 1 else np.zeros(1)


def _agreement(similarity: np.ndarray) -> float:
    """Of two models' informative latents: how far each is like exactly one of the other's."""
    if similarity.size == 0:
        return 0.0
    total = 0.0
    for axis in (0, 1):
        largest, whole = similarity.max(axis), similarity.sum(axis)
        total += float(np.divide(largest**2, whole, out=np.zeros_like(whole), where=whole > 0).sum())
    return total / sum(similarity.shape)
