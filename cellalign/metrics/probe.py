"""What can be predicted from the latents: probes, neighbours' votes, and transfer across conditions."""

from __future__ import annotations

import numpy as np

FOLDS = 3


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
        "logistic regression" and "random forest" (3-fold, stratified), "15-nearest-neighbour", and "majority":
        the accuracy of always guessing the largest class, the floor. Empty with one class.
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
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        "random forest": RandomForestClassifier(100, random_state=seed, n_jobs=-1),
        "15-nearest-neighbour": KNeighborsClassifier(min(15, len(z) // 2)),
    }
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = {name: float(cross_val_score(model, z, codes, cv=folds).mean()) for name, model in models.items()}
    return scores | {"majority": float(np.bincount(codes).max() / len(codes))}


def regressions(z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """R^2 on held-out cells of predicting a number y [n] from z [n, p]; guessing the mean, the floor, has 0.

    Returns
    -------
    dict
        "linear regression R2", "random forest R2" and "15-nearest-neighbour R2" (3-fold).
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    models = {
        "linear regression R2": LinearRegression(),
        "random forest R2": RandomForestRegressor(100, random_state=seed, n_jobs=-1),
        "15-nearest-neighbour R2": KNeighborsRegressor(min(15, len(z) // 2)),
    }
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    error = {name: y - cross_val_predict(model, z, y, cv=folds) for name, model in models.items()}
    return {name: float(1 - np.mean(e**2) / np.var(y)) for name, e in error.items()}


def transfer(z: np.ndarray, condition: np.ndarray, label: np.ndarray, seed: int = 0) -> dict[str, float]:
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
                forest = RandomForestClassifier(200, random_state=seed, n_jobs=-1).fit(z[rows_a], label[rows_a])
            scores[f"{a} -> {b}"] = float(np.mean(forest.predict(z[rows_b]) == label[rows_b]))
    return scores
