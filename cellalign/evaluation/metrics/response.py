"""How well predicted expression matches real expression under another condition (CoMP appendix D, trVAE)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, UP, Metric, metric


def dense(x: Any) -> np.ndarray:
    """A block of cells as a float64 array: the cells of one cell type and condition, never the whole matrix."""
    return np.ascontiguousarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


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


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row [..., G] of a with that of b; NaN where one is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(norm > 0, (a * b).sum(-1) / np.where(norm > 0, norm, 1.0), np.nan)


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
    a, b = thinned(a, b, seed, at_most)
    return float(2 * _distances(a, b).mean() - within(a) - within(b))


def thinned(a: np.ndarray, b: np.ndarray, seed: int = 0, at_most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of cells [n, G], of a larger one a random part."""
    rng = np.random.default_rng(seed)
    a, b = (x if len(x) <= at_most else x[np.sort(rng.permutation(len(x))[:at_most])] for x in (a, b))
    return a, b


def within(x: np.ndarray) -> float:
    """Mean Euclidean distance of two cells of a set; a shift of all of them leaves it as it is."""
    return float(_distances(x, x).sum() / (len(x) * (len(x) - 1))) if len(x) > 1 else 0.0


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [n, m] by matrix product; a cell's distance to itself is exactly 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    if a is b:
        np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


class Between:
    """Distances between two sets of cells [n, G] of which the first is moved as a whole: one product for all moves."""

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        self.a, self.b = a, b
        self.squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)

    def mean(self, move: np.ndarray) -> float:
        """Mean Euclidean distance of a moved cell of the first from one of the second; `move` is [G]."""
        squared = self.squared + 2 * ((self.a @ move)[:, None] - self.b @ move) + move @ move
        return float(np.sqrt(np.maximum(squared, 0, out=squared), out=squared).mean())


DRAWS = 100  # random subsamples of the cells
SHARE = 0.8  # of the cells in each


def _subsampled(name: str, what: str, genes: str) -> tuple[Metric, Metric]:
    """The mean over subsamples of a squared correlation, and its spread over them."""
    drawn = f"{DRAWS} draws of {SHARE:.0%} of the cells".replace("%", " %")
    return (
        Metric(
            name,
            f"Squared correlation over {genes} of predicted and real {what}, mean over {drawn}.",
            UP,
            "that of the row no change",
        ),
        Metric(
            f"{name}_sd",
            f"Standard deviation of {name} over {drawn}: the error bar of trVAE's figures.",
            NEITHER,
            "that of the row no change",
            spread_of=name,
        ),
    )


SUBSAMPLED = (
    *_subsampled("r2_means", "mean expression", "all genes"),
    *_subsampled("r2_variances", "variance of expression among cells", "all genes"),
)


Moments = tuple[np.ndarray, np.ndarray]


def r2_of_moments(predicted: Moments, real: Moments) -> dict[str, float]:
    """Squared correlation of gene means and of gene variances over random parts of cells (trVAE figures 4 and 5).

    Parameters
    ----------
    predicted, real : pair of arrays [draws, G]
        Means and variances of the same number of parts of both (`subsample_moments`).

    Returns
    -------
    dict
        Mean and standard deviation over the draws, by metric (`SUBSAMPLED`).
    """
    (p_mean, p_var), (r_mean, r_var) = predicted, real
    found: dict[str, float] = {}
    for name, p, r in (("r2_means", p_mean, r_mean), ("r2_variances", p_var, r_var)):
        squared = correlations(p, r) ** 2
        found |= {name: float(np.mean(squared)), f"{name}_sd": float(np.std(squared))}
    return found


def subsample_moments(predicted: np.ndarray, real: np.ndarray, seed: int = 0) -> tuple[Moments, Moments]:
    """Means and variances [draws, G] of random parts of both sets of cells [n, G]; moved cells move the means.

    Each of 100 draws takes 80 % of the predicted and of the real cells, without replacement.
    """
    rng = np.random.default_rng(seed)
    return _moments(predicted, rng), _moments(real, rng)


def _moments(x: np.ndarray, rng: np.random.Generator) -> Moments:
    """Mean and variance [draws, G] of random parts of the cells: a product with 0/1 weights, no copy per draw."""
    size = max(2, int(SHARE * len(x)))
    weights = np.zeros((DRAWS, len(x)))
    for row in weights:
        row[rng.permutation(len(x))[:size]] = 1 / size
    centred = x - x.mean(0)  # so that the difference of squares loses no digits
    shift = weights @ centred
    return shift + x.mean(0), weights @ centred**2 - shift**2


@dataclass(frozen=True)
class Profiles:
    """Two profiles of one group of cells: mean log1p expression, or its change from control.

    Attributes
    ----------
    predicted, real : arrays [G]
    de : int array
        Columns of the differentially expressed genes.
    """

    predicted: np.ndarray
    real: np.ndarray
    de: np.ndarray


@metric(
    "r_all",
    "Pearson correlation over all genes of predicted and real mean log1p expression; high for any cell of the type, so "
    "read it beside the row no change.",
    better=UP,
    null="that of the row no change",
)
def r_all(of: Profiles) -> float:
    """r of the means, all genes."""
    return pearson(of.predicted, of.real)


@metric(
    "r_de",
    "Pearson correlation over the 50 most differentially expressed genes of predicted and real mean log1p expression.",
    better=UP,
    null="that of the row no change",
)
def r_de(of: Profiles) -> float:
    """r of the means, DE genes."""
    return pearson(of.predicted[of.de], of.real[of.de])


@metric(
    "mse_all",
    "Mean over all genes of the squared difference of predicted and real mean log1p expression.",
    better=DOWN,
    null="that of the row no change",
)
def mse_all(of: Profiles) -> float:
    """Squared error of the means, all genes."""
    return float(np.mean((of.predicted - of.real) ** 2))


@metric(
    "mse_de",
    "Mean over the 50 most differentially expressed genes of the squared difference of predicted and real mean log1p "
    "expression.",
    better=DOWN,
    null="that of the row no change",
)
def mse_de(of: Profiles) -> float:
    """Squared error of the means, DE genes."""
    return float(np.mean((of.predicted[of.de] - of.real[of.de]) ** 2))


@metric(
    "r_change_all",
    "Pearson correlation over all genes of the predicted and the real change of mean log1p expression from control, "
    "each from other control cells.",
    better=UP,
    null="0 where the change is unrelated",
    null_value=0,
)
def r_change_all(of: Profiles) -> float:
    """r of the changes, all genes; NaN where none is predicted."""
    return pearson(of.predicted, of.real)


@metric(
    "r_change_de",
    "Pearson correlation over the 50 most differentially expressed genes of the predicted and the real change of mean "
    "log1p expression from control, each from other control cells.",
    better=UP,
    null="0 where the change is unrelated",
    null_value=0,
)
def r_change_de(of: Profiles) -> float:
    """r of the changes, DE genes; NaN where none is predicted."""
    return pearson(of.predicted[of.de], of.real[of.de])


@metric(
    "direction_de",
    "Share of the 50 most differentially expressed genes whose predicted change from control has the right sign.",
    better=UP,
    null="0.5 where signs are drawn at random",
    null_value=0.5,
)
def direction_de(of: Profiles) -> float:
    """Share of DE genes that go the right way."""
    return float(np.mean(np.sign(of.predicted[of.de]) == np.sign(of.real[of.de])))


@metric(
    "mse_change_all",
    "Mean over all genes of the squared difference of the predicted and the real change from control, each from other "
    "control cells, whose noise is in it.",
    better=DOWN,
    null="that of the row no change",
)
def mse_change_all(of: Profiles) -> float:
    """Squared error of the changes, all genes."""
    return float(np.mean((of.predicted - of.real) ** 2))


@metric(
    "mse_change_de",
    "Mean over the 50 most differentially expressed genes of the squared difference of the predicted and the real "
    "change from control, each from other control cells.",
    better=DOWN,
    null="that of the row no change",
)
def mse_change_de(of: Profiles) -> float:
    """Squared error of the changes, DE genes."""
    return float(np.mean((of.predicted[of.de] - of.real[of.de]) ** 2))


LEVEL = (r_all, r_de, mse_all, mse_de)
ERRORS = (mse_change_all, mse_change_de)
CHANGE = (r_change_all, r_change_de, direction_de, *ERRORS)
TOPS = (10, 100)  # numbers of DE genes that are scored where that is asked for, beside the 50
MOST = max(TOPS)


def bounds_of(metric: str) -> tuple[float, float]:
    """Least and largest value that a score can have, by the name of its metric."""
    if metric.startswith("r_"):
        return -1.0, 1.0
    if metric.startswith(("r2_", "direction_")):
        return 0.0, 1.0
    return (0.0 if metric.startswith("mse_") else -np.inf), np.inf


def _top(n: int) -> tuple[Metric, ...]:
    """The metrics over the n most differentially expressed genes."""
    genes, null = f"the {n} most differentially expressed genes", "that of the row no change"
    return (
        Metric(f"r_de{n}", f"Pearson correlation over {genes} of predicted and real mean log1p expression.", UP, null),
        Metric(
            f"r_change_de{n}",
            f"Pearson correlation over {genes} of the predicted and the real change of mean log1p expression from "
            "control, each from other control cells.",
            UP,
            "0 where the change is unrelated",
            0,
        ),
        *_subsampled(f"r2_means_de{n}", "mean expression", genes),
    )


OF_TOPS = tuple(metric for n in TOPS for metric in _top(n))
METRICS = (*LEVEL, *CHANGE, *SUBSAMPLED, energy_distance, *OF_TOPS)


def score_level(predicted: np.ndarray, real: np.ndarray, de: np.ndarray) -> dict[str, float]:
    """The metrics `LEVEL` by name, of a predicted and a real mean [G]; parameters as the attributes of `Profiles`."""
    profiles = Profiles(predicted, real, de)
    return {each.name: each(profiles) for each in LEVEL}


def score_change(predicted: np.ndarray, real: np.ndarray, de: np.ndarray) -> dict[str, float]:
    """The metrics `CHANGE` by name, of a predicted and a real change [G]; parameters as the attributes of `Profiles`.

    Where no change is predicted there is none to correlate: of that the errors alone.
    """
    profiles = Profiles(predicted, real, de)
    return {each.name: each(profiles) for each in (CHANGE if np.any(predicted) else ERRORS)}


def unchanged(genes: Iterable[str]) -> dict[str, float]:
    """Scores of no change where one was to be predicted: those of a change that is unrelated; `genes` as "all", "de".

    A group that is left unchanged would else be left out of a mean, which would be the better for it.
    """
    return {f"r_change_{name}": 0.0 for name in genes} | {direction_de.name: 0.5}


def attainable(
    split_half: Mapping[str, float],
    real: np.ndarray,
    control: np.ndarray,
    genes: Mapping[str, np.ndarray],
    reliability: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """What a prediction without noise scores against real cells, whose means have noise.

    Two halves agree by r = S / (S + h), S the variance over genes of what is true and h that of the noise of each. So
    a profile without noise agrees by sqrt(S / (S + v)) with one that has noise v, which with s = v / h is
    1 / sqrt(1 + s (1 / r - 1)). Of means over cells a half has twice the noise of the whole, s = 1/2, and that is
    sqrt(2 r / (1 + r)) (Spearman and Brown). Of a change the real one starts from *half* of the control as the halves'
    do, and only the real cells' part is halved: s = (v_real + 2 v_control) / (2 v_real + 2 v_control), from the
    variances of both means. A squared error is the variance of the real mean.

    Genes that one of two halves chose as its most different ones it chose by its noise, too, which so agrees with what
    is true. A profile without noise agrees with that half by r / sqrt(q), q the `reliability` of the other, which takes
    the place of r's root (q = r where genes were not chosen).

    Parameters
    ----------
    split_half : mapping of str to float
        Scores of one half against the other, by metric.
    real, control : arrays [cells, G]
    genes : mapping of str to int array
        Columns by what a metric's name ends in.
    reliability : mapping of str to float, optional
        Share of the variance over genes of a half's change that is not noise, by what a metric's name ends in, over
        genes that the other half chose.

    Returns
    -------
    dict
        By metric: correlations (0 where halves do not correlate), `mse_all`, `mse_de`.
    """
    of_real, of_control = (x.var(0, ddof=1) / len(x) for x in (real, control))
    found = {f"mse_{name}": float(of_real[genes[name]].mean()) for name in ("all", "de")}
    for metric_, r in split_half.items():
        ending = metric_.removeprefix("r_").removeprefix("change_")
        if not metric_.startswith("r_") or ending not in genes:
            continue
        share, squared = 0.5, r
        if metric_.startswith("r_change_"):
            real_, control_ = (float(each[genes[ending]].mean()) for each in (of_real, of_control))
            share = (real_ + 2 * control_) / (2 * (real_ + control_)) if real_ + control_ > 0 else share
            q = (reliability or {}).get(ending, r)
            squared = min(1.0, r * r / q) if r > 0 and q > 0 else r
        found[metric_] = float(1 / np.sqrt(1 + share * (1 / squared - 1))) if r > 0 else float("nan") if r != r else 0.0
    return found
