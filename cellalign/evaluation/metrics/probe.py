"""What can be predicted from the latents: probes, neighbours' votes, and transfer across conditions."""

from __future__ import annotations

import numpy as np

from cellalign.evaluation.metrics.metric import NEITHER, UP, Metric, towards
from cellalign.threads import workers

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


def probes(z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Accuracy on held-out cells of predicting y from z (CoMP table 2).

    Parameters
    ----------
    z : array [n, p]
    y : array [n]
        Classes with fewer than 3 cells are left out.

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
    models = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        RandomForestClassifier(100, random_state=seed, n_jobs=workers()),
        KNeighborsClassifier(min(15, len(z) // 2)),
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = {
        name: float(cross_val_score(model, z, codes, cv=folds).mean())
        for name, model in zip(CLASSIFIERS, models, strict=True)
    }
    return scores | {MAJORITY.name: float(np.bincount(codes).max() / len(codes))}


def regressions(z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """R^2 on held-out cells of predicting a number y [n] from z [n, p]; guessing the mean, the floor, has 0.

    Returns
    -------
    dict
        `REGRESSIONS` (3-fold).
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

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


def cross_condition(z: np.ndarray, condition: np.ndarray, label: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Label accuracy of a random forest trained on one condition's latents and tested on another's (CoMP table 1).

    Only labels that both conditions have are tested.

    Returns
    -------
    dict
        "a -> b" to accuracy, for every ordered pair of conditions that share two labels or more.
    """
    from sklearn.ensemble import RandomForestClassifier

    scores = {}
    for a in np.unique(condition):
        rows_a = condition == a
        forest = None
        for b in np.unique(condition):
            shared = np.intersect1d(label[rows_a], label[condition == b])
            rows_b = (condition == b) & np.isin(label, shared)
            if a == b or len(shared) < 2:
                continue
            if forest is None:
                forest = RandomForestClassifier(200, random_state=seed, n_jobs=workers()).fit(z[rows_a], label[rows_a])
            scores[f"{a} -> {b}"] = float(np.mean(forest.predict(z[rows_b]) == label[rows_b]))
    return scores
