"""What can be predicted from the latents: probes, neighbours' votes, and transfer across conditions."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.metrics.metric import NEITHER, UP, Metric, towards
from cellalign.threads import folds_at_once, workers

FOLDS = 3
CLASSIFIERS = ("logistic regression", "random forest", "15-nearest-neighbour")
REGRESSIONS = ("linear regression R2", "random forest R2", "15-nearest-neighbour R2")
_FLOOR = "the majority rate"

MAJORITY = Metric(
    "majority",
    "Share of cells in the largest class: the accuracy of always guessing it, the floor of the probes beside it.",
    NEITHER,
    "is itself the value without signal",
)
# One classifier, two questions: of the condition nothing should be left in the latents, of the label everything.
OF_CONDITION = (
    *(
        Metric(
            name,
            f"Accuracy on held-out cells of a {name} classifier that reads the condition from the latents.",
            towards("majority"),
            _FLOOR,
        )
        for name in CLASSIFIERS
    ),
    MAJORITY,
)
OF_LABEL = (
    *(
        Metric(
            name,
            f"Accuracy on held-out cells of a {name} classifier that reads the label from the latents.",
            UP,
            _FLOOR,
        )
        for name in CLASSIFIERS
    ),
    MAJORITY,
)
OF_NUMBER = tuple(
    Metric(
        name,
        f"R2 on held-out cells of a {name.removesuffix(' R2').removesuffix(' regression')} regression that reads a "
        "condition that is a number (a dose, a time) from the latents.",
        towards(0),
        "0, or a little below: no better than guessing the mean",
        0,
    )
    for name in REGRESSIONS
)
METRICS = (*OF_CONDITION, *OF_LABEL[:-1], *OF_NUMBER)

ACCURACY = Metric(
    "accuracy",
    "Share of a condition's cells whose label a random forest trained on another condition's latents tells.",
    UP,
    "the share of the largest label",
)
CROSS_CONDITION = (ACCURACY,)


ALL_TRAINED = 30  # conditions up to which a classifier is trained under each
FEW_CLASSES, TREES, FEWER_TREES = 50, 100, 20  # a forest of hundreds of classes would take minutes


@dataclass(frozen=True)
class CrossCondition:
    """Accuracies by pair of conditions.

    Attributes
    ----------
    scores : dict of (str, str) to float
        By the condition trained under and the one tested under.
    n_trained, n_conditions : int
        Conditions that were trained under, and all of them.
    n_tested : dict of (str, str) to int
        Cells that were tested, by the same pairs: those of labels that both conditions have.
    n_cells : int
        Cells that were tested under any.
    """

    scores: dict[tuple[str, str], float]
    n_trained: int
    n_conditions: int
    n_tested: dict[tuple[str, str], int]
    n_cells: int

    @property
    def mean(self) -> float:
        """Mean over the pairs."""
        return float(np.mean(list(self.scores.values())))

    def by_trained(self) -> dict[str, float]:
        """Mean over the conditions tested under, by the condition trained under."""
        found: dict[str, list[float]] = {}
        for (trained, _), value in self.scores.items():
            found.setdefault(trained, []).append(value)
        return {trained: float(np.mean(values)) for trained, values in found.items()}

    def n_by_trained(self) -> dict[str, int]:
        """Cells that were tested under others, by the condition trained under."""
        found: dict[str, int] = {}
        for (trained, _), n in self.n_tested.items():
            found[trained] = found.get(trained, 0) + n
        return found


def probes(z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Accuracy on held-out cells of predicting y from z (CoMP table 2).

    Parameters
    ----------
    z : array [n, p]
    y : array [n]
        Classes with fewer than 3 cells are left out. Of more than 50 the random forest has 20 trees, not 100.

    Returns
    -------
    dict
        `CLASSIFIERS` (3-fold, stratified), and "majority": the accuracy of always guessing the largest class, the
        floor. Empty with one class.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    kept = counts[codes] >= FOLDS
    z, codes = z[kept], codes[kept]
    if len(np.unique(codes)) < 2:
        return {}
    trees = TREES if len(classes) <= FEW_CLASSES else FEWER_TREES
    models = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        RandomForestClassifier(trees, random_state=seed, n_jobs=workers()),
        KNeighborsClassifier(min(15, len(z) // 2)),
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = {}
    for name, model in zip(CLASSIFIERS, models, strict=True):
        with folds_at_once() if name == CLASSIFIERS[0] else nullcontext():  # the others use all threads in each
            scores[name] = float(cross_val_score(model, z, codes, cv=folds).mean())
    return scores | {MAJORITY.name: float(np.bincount(codes).max() / len(codes))}


def regressions(z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """R^2 on held-out cells of predicting a number y [n] from z [n, p]; guessing the mean, the floor, has 0.

    Returns
    -------
    dict
        `REGRESSIONS` (3-fold). Empty of fewer than 3 cells, or where all have one number.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    if len(y) < FOLDS or not np.ptp(y):
        return {}
    models = (
        LinearRegression(),
        RandomForestRegressor(100, random_state=seed, n_jobs=workers()),
        KNeighborsRegressor(min(15, len(z) // 2)),
    )
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    error = {
        name: y - cross_val_predict(model, z, y, cv=folds) for name, model in zip(REGRESSIONS, models, strict=True)
    }
    return {name: float(1 - np.mean(e**2) / np.var(y)) for name, e in error.items()}


def cross_condition(z: np.ndarray, condition: np.ndarray, label: np.ndarray, seed: int = 0) -> CrossCondition:
    """Label accuracy of a random forest trained on one condition's latents and tested on another's (CoMP table 1).

    Only labels that both conditions have are tested, and pairs that share two or more. Of more than `ALL_TRAINED`
    conditions so many, drawn at random, are trained under, and each is tested under all others.
    """
    from sklearn.ensemble import RandomForestClassifier

    names, codes = np.unique(condition, return_inverse=True)
    labels, kinds = np.unique(label, return_inverse=True)
    there = np.zeros((len(names), len(labels)), dtype=bool)
    there[codes, kinds] = True
    chosen = np.arange(len(names))
    scores: dict[tuple[str, str], float] = {}
    n_tested: dict[tuple[str, str], int] = {}
    ever = np.zeros(len(codes), dtype=bool)
    if len(names) > ALL_TRAINED:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:ALL_TRAINED])
    for a in chosen:
        others = (there & there[a]).sum(1) > 1
        others[a] = False
        tested = others[codes] & there[a, kinds]
        if not tested.any():
            continue
        trained = codes == a
        forest = RandomForestClassifier(200, random_state=seed, n_jobs=workers()).fit(z[trained], label[trained])
        right = forest.predict(z[tested]) == label[tested]
        size = np.bincount(codes[tested], minlength=len(names))
        hits = np.bincount(codes[tested], right, minlength=len(names))
        pairs = {(str(names[a]), str(names[b])): b for b in np.flatnonzero(others)}
        scores |= {pair: float(hits[b] / size[b]) for pair, b in pairs.items()}
        n_tested |= {pair: int(size[b]) for pair, b in pairs.items()}
        ever |= tested
    return CrossCondition(scores, len(chosen), len(names), n_tested, int(ever.sum()))
