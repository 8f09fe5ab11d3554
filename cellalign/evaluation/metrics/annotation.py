"""Labels of new cells from the latents of labelled ones: classifiers, cells unlike any, and how right it all is.

Labels are codes 0 ... L - 1, -1 where a cell has none. A reference cell has one, and a row z of latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, UP, Metric, by_name
from cellalign.threads import one_blas_thread

FLATTEST = 0.01  # variance within a label below this share of the largest counts as this share
DISTANCE_RANK = 5  # the distance to it tells how near the reference is
MAX_REFERENCE_CELLS = 2000  # reference cells per label whose own distances settle the limit


def whiten(reference: np.ndarray, labels: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale both so that the reference varies alike, and uncorrelated, in every direction within a label.

    What tells labels apart then outweighs what varies within them, as in linear discriminant analysis.

    Parameters
    ----------
    reference : array [r, p]
    labels : int array [r]
    cells : array [n, p]

    Returns
    -------
    float32 arrays [r, p] and [n, p]
    """
    sums = np.zeros((labels.max() + 1, reference.shape[1]))
    np.add.at(sums, labels, reference)
    within = reference - (sums / np.maximum(np.bincount(labels), 1)[:, None])[labels]
    values, vectors = np.linalg.eigh(within.T @ within / len(within))
    # latents that hardly vary must not be blown up to noise; nor rounding errors, where no label varies
    least = max(values[-1] * FLATTEST, float(reference.var()) * 1e-12) or 1.0
    scale = vectors / np.sqrt(np.maximum(values, least))
    centre = reference.mean(0, dtype=np.float64)
    return ((reference - centre) @ scale).astype(np.float32), ((cells - centre) @ scale).astype(np.float32)


def linear(reference: np.ndarray, labels: np.ndarray, cells: np.ndarray, n_labels: int) -> np.ndarray:
    """Probability of every label by multinomial logistic regression, every reference cell weighing the same.

    Parameters
    ----------
    reference : array [r, p]
        Of one scale in all directions, as `whiten` leaves it: the L2 penalty is the same for all.
    labels : int array [r]
        At least two different ones.
    cells : array [n, p]
    n_labels : int
        L; a label without a reference cell has probability 0.

    Returns
    -------
    float32 array [n, L]
    """
    from sklearn.linear_model import LogisticRegression

    with one_blas_thread():
        fitted = LogisticRegression(max_iter=1000).fit(reference, labels)
    probability = np.zeros((len(cells), n_labels), dtype=np.float32)
    probability[:, fitted.classes_] = fitted.predict_proba(cells)
    return probability


def neighbours(reference: np.ndarray, cells: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest reference cells of every cell, nearest first.

    Parameters
    ----------
    reference : array [r, p]
    cells : array [n, p]
    k : int
        All r where there are fewer.

    Returns
    -------
    distance : array [n, k]
    rows : int array [n, k]
        Of the reference.
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=min(k, len(reference))).fit(reference).kneighbors(cells)


def votes(distance: np.ndarray, labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Probability of every label: its share of the neighbours' votes, each weighing 1 / distance.

    Parameters
    ----------
    distance : array [n, k]
        Where some are 0 those alone vote.
    labels : int array [n, k]
        Labels of the neighbours.
    n_labels : int

    Returns
    -------
    float32 array [n, L]
    """
    same = distance == 0
    weight = np.where(same.any(1, keepdims=True), same, 1 / np.where(same, 1, distance))
    total = np.zeros((len(distance), n_labels))
    np.add.at(total, (np.arange(len(distance))[:, None], labels), weight)
    return (total / weight.sum(1, keepdims=True)).astype(np.float32)


def is_unknown(
    reference: np.ndarray,
    labels: np.ndarray,
    cells: np.ndarray,
    predicted: np.ndarray,
    share: float = 0.01,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Cells unlike any of the reference: farther from it than all but `share` of the reference cells of their label.

    The distance is to the 5th nearest reference cell of any label, itself left out.

    Parameters
    ----------
    reference : array [r, p]
        As `whiten` leaves it.
    labels : int array [r]
    cells : array [n, p]
    predicted : int array [n]
        Labels of the cells, also such as no reference cell has.
    share : float
        In [0, 1); 0 flags none.
    seed : int
        Of labels with more than 2,000 reference cells, that many are drawn to settle the limit.

    Returns
    -------
    bool array [n]
    """
    if share == 0 or len(reference) < 2:
        return np.zeros(len(cells), dtype=bool)
    drawn = _drawn(labels, seed)
    # a cell's nearest reference cell is itself, so that its 5th is the 6th found
    own = neighbours(reference, reference[drawn], DISTANCE_RANK + 1)[0][:, -1]
    found = neighbours(reference, cells, min(DISTANCE_RANK, len(reference) - 1))[0][:, -1]
    return found > _limits(own, labels, drawn, max(labels.max(), predicted.max()) + 1, share)[predicted]


def _drawn(labels: np.ndarray, seed: int) -> np.ndarray:
    """Rows of at most MAX_REFERENCE_CELLS cells of every label."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    most = MAX_REFERENCE_CELLS
    return np.concatenate([rows if len(rows) <= most else rng.permutation(rows)[:most] for rows in groups])


def _limits(distance: np.ndarray, labels: np.ndarray, drawn: np.ndarray, n_labels: int, share: float) -> np.ndarray:
    """Largest distance [L] of cells of each label, from distances of the drawn reference cells."""
    sizes = np.bincount(labels, minlength=n_labels)
    overall = _quantile(
        distance, (sizes / np.maximum(np.minimum(sizes, MAX_REFERENCE_CELLS), 1))[labels[drawn]], 1 - share
    )
    limits = np.full(n_labels, overall)
    # Per label, since types differ in density. Of a type left out of simulated cells (5 in turn, 40 latents of a VAE)
    # this flags 33 %, one limit for all 27 %; of the known type it does worst by, 5 % and 15 %.
    for label in np.flatnonzero(sizes):
        limits[label] = np.quantile(distance[labels[drawn] == label], 1 - share)
    # 1 / share cells are needed to tell where the farthest share of them lies
    return np.where(sizes < 1 / share, np.maximum(limits, overall), limits)


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """Smallest value that, with those below it, has a share q of all weight."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order[min(int(np.searchsorted(reached, q)), len(values) - 1)]])


_LARGEST = "the share of the largest label, were it always predicted"
_ONE_RIGHT = "1 / the number of labels, were one always predicted"
OVERALL = by_name(
    (
        Metric("average", "Mean over labels of the share of their cells that are right.", UP, _ONE_RIGHT),
        Metric(
            "minimum",
            "Share of right cells of the label that is predicted worst.",
            UP,
            "0, were one label always predicted",
            0,
        ),
        Metric(
            "maximum",
            "Share of right cells of the label that is predicted best.",
            UP,
            "1, were one label always predicted: of no use alone",
            1,
        ),
        Metric(
            "median",
            "Median over labels of the share of their cells that are right.",
            UP,
            "0, were one of three labels or more always predicted",
        ),
        Metric("all cells", "Share of all cells whose predicted label is right.", UP, _LARGEST),
        Metric(
            "macro F1",
            "Mean over labels of the harmonic mean of precision and recall.",
            UP,
            "2 p / (1 + p) / the number of labels, p the share of the largest label, were it always predicted",
        ),
    )
)
ACCURACY = Metric(
    "accuracy",
    "Share of a label's cells that are predicted to have it.",
    UP,
    "the label's share of all cells, were labels guessed as often as they are",
)
FALSE_ALARM = Metric(
    "unknown",
    "Share of a known label's cells that are flagged as unlike any reference cell: false alarms.",
    DOWN,
    "`unknown`, the share asked for (0.01 by default)",
)
DETECTED = Metric(
    "unknown",
    "Share of the cells of a label that the reference lacks that are flagged as unlike any reference cell.",
    UP,
    "`unknown`, the share of known cells that are flagged (0.01 by default)",
)
FLAGGED = Metric(
    "unknown",
    "Share of the cells predicted to have a label that are flagged as unlike any reference cell.",
    NEITHER,
    "`unknown`, the share of known cells that are flagged (0.01 by default)",
)
PROBABILITY = Metric(
    "probability",
    "Mean probability that the classifier gives its own prediction: how sure it is, not how right.",
    NEITHER,
    "1 / the number of labels",
)
METRICS = (*OVERALL.values(), ACCURACY, FALSE_ALARM, DETECTED, FLAGGED, PROBABILITY)


@dataclass(frozen=True)
class Scores:
    """How right predicted labels are, over cells and over labels (inVAE table 1). Whether flagged plays no part.

    Attributes
    ----------
    accuracy : float
        Share of cells that are right.
    macro_f1 : float
        Mean over labels of the harmonic mean of precision and recall.
    average, minimum, maximum, median : float
        Over labels, of the share of their cells that are right.
    labels : int array [m]
        Labels with a scored cell.
    n_cells : int array [m]
    by_label : array [m]
        Accuracy within each.
    """

    accuracy: float
    macro_f1: float
    average: float
    minimum: float
    maximum: float
    median: float
    labels: np.ndarray
    n_cells: np.ndarray
    by_label: np.ndarray


def scores(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Scores of predicted labels.

    Parameters
    ----------
    true : int array [n]
        Not empty. Only labels that could have been predicted: of others no cell can be right.
    predicted : int array [n]

    Returns
    -------
    Scores
    """
    n_labels = int(max(true.max(), predicted.max())) + 1
    n_true, n_predicted = (np.bincount(codes, minlength=n_labels) for codes in (true, predicted))
    right = np.bincount(true[true == predicted], minlength=n_labels)
    there = np.flatnonzero(n_true)
    recall = right[there] / n_true[there]
    return Scores(
        accuracy=float(right.sum() / len(true)),
        macro_f1=float(np.mean(2 * right[there] / (n_true + n_predicted)[there])),
        average=float(recall.mean()),
        minimum=float(recall.min()),
        maximum=float(recall.max()),
        median=float(np.median(recall)),
        labels=there,
        n_cells=n_true[there],
        by_label=recall,
    )
