"""One group's scores: of the prediction, the baselines, half of the real cells, and a prediction without noise.

Every change, a baseline's too, starts from one half of the group's control and is compared with the real change, which
starts from the other. A prediction was made from the *whole* control, the other half too: what it may owe to leaning on
that is estimated (`leaning`) and taken off wherever it is set beside a baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.baselines import MEAN_RESPONSE, MEAN_SHIFT
from cellalign.evaluation.compared import CellType, Split
from cellalign.evaluation.drawn import change_scores, drawn_again, level_scores
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.metrics.metric import DOWN, by_name

DE_GENES = 50
MEASURABLE = 0.2  # of two halves of the real cells, each with its own control: the correlation of their changes
ROOM = 0.01  # between baseline and halves, below which nothing can be anchored
PREDICTION, NO_CHANGE, HALVES, ATTAINABLE = "prediction", "no change", "split half", "attainable"
ANCHORS = (MEAN_SHIFT, MEAN_RESPONSE)
BETTER = {name: metric.better for name, metric in by_name(res.METRICS).items()}


@dataclass(frozen=True)
class Genes:
    """Columns of the differentially expressed genes: `de`, and where they are asked for other numbers of them."""

    de: np.ndarray
    tops: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, control: np.ndarray, real: np.ndarray, more: bool) -> Genes:
        """Of cells [n, G] under two conditions."""
        ranked = res.de_genes(control, real, max(DE_GENES, *res.TOPS) if more else DE_GENES)
        return cls(ranked[:DE_GENES], {n: ranked[:n] for n in res.TOPS} if more else {})

    def by_ending(self, n_genes: int) -> dict[str, np.ndarray]:
        """Columns by what a metric's name ends in."""
        return {"all": np.arange(n_genes), "de": self.de} | {f"de{n}": top for n, top in self.tops.items()}


@dataclass(frozen=True)
class Scored:
    """A group's scores.

    Attributes
    ----------
    name, status : str
    n_cells : int
        Real ones.
    values : dict
        Values by metric, by system.
    drawn : dict
        The same [draws] of cells drawn again, of metrics that have it.
    leaning : dict of str to float
        By metric, what the prediction's score may owe to the noise of its own control.
    changed : bool
        Whether any change is predicted; of none correlations are scored as 0.
    """

    name: str
    status: str
    n_cells: int
    values: dict[str, dict[str, float]]
    drawn: dict[str, dict[str, np.ndarray]]
    leaning: dict[str, float]
    changed: bool = True

    @property
    def measurable(self) -> bool:
        """Whether the change is seen again in other cells of the group."""
        return bool(self.values[HALVES].get("r_change_all", float("nan")) >= MEASURABLE)

    @property
    def baselines(self) -> list[str]:
        """Systems that a prediction has to beat."""
        return [name for name in self.values if name not in (PREDICTION, HALVES, ATTAINABLE)]

    def plain(self, system: str, metric: str) -> float:
        """A score, of the prediction without what it may owe to the noise of its own control; NaN where it has none."""
        value = self.values.get(system, {}).get(metric, float("nan"))
        return value - sign_of(metric) * self.leaning.get(metric, 0.0) if system == PREDICTION else value


def score(cells: CellType, genes: Genes, seed: int) -> Scored:
    """All scores of a group; `genes` are those by which it is scored."""
    splits = list(cells.splits(seed))
    true = [cells.true_change(split) for split in splits]
    by_split = [cells.baselines(cells.control[split.start].mean(0)) for split in splits]
    changes = {name: [of[name] for of in by_split] for name in by_split[0]}
    own = [cells.predicted_change(split) for split in splits]
    columns, changed = genes.by_ending(cells.real.shape[1]), bool(np.any(own))
    real, spread = cells.real.mean(0), _Spread(cells, genes, seed)
    values = {PREDICTION: _level(cells.predicted.mean(0), real, genes) | _changes(own, true, genes)}
    values[PREDICTION] |= spread.of_prediction() | ({} if changed else res.unchanged(columns))
    nothing = [np.zeros_like(real)] * len(splits)
    values[NO_CHANGE] = (
        _level(cells.control.mean(0), real, genes)
        | _changes(nothing, true, genes)
        | spread.of_control(np.zeros_like(real))
    )
    for name, change in changes.items():
        mean = np.mean(change, axis=0)
        values[name] = _level(cells.control.mean(0) + mean, real, genes) | _changes(change, true, genes)
        values[name] |= spread.of_control(mean)
    halves, parts = zip(*(_half_against_half(cells, split, genes) for split in splits), strict=True)
    values[HALVES] = mean_of(list(halves))
    values[ATTAINABLE] = res.attainable(values[HALVES], cells.real, cells.control, columns, _reliability(parts))
    drawn = _drawn(cells, splits, changes, columns, seed)
    if not changed:
        draws = len(drawn[PREDICTION]["r_all"])
        drawn[PREDICTION] |= {name: np.full(draws, value) for name, value in res.unchanged(columns).items()}
    owes = leaning(cells, splits, own, changes, genes)
    return Scored(cells.name, cells.status, len(cells.real), values, drawn, owes, changed)


def _drawn(
    cells: CellType,
    splits: list[Split],
    changes: Mapping[str, list[np.ndarray]],
    columns: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores of the prediction and the baselines with cells drawn again; baselines stay what they are of each split."""
    again = drawn_again(cells, splits, seed)
    found = {PREDICTION: level_scores(again.predicted, again.real, columns)}
    found[PREDICTION] |= change_scores(again.predicted_change, again.true_change, columns)
    found[NO_CHANGE] = level_scores(again.control, again.real, columns)
    found[NO_CHANGE] |= change_scores(np.zeros_like(again.true_change), again.true_change, columns)
    for name, change in changes.items():
        of = np.array(change)
        found[name] = level_scores(again.control + of.mean(0), again.real, columns)
        found[name] |= change_scores(of[again.split], again.true_change, columns)
    return found


def leaning(
    cells: CellType,
    splits: Sequence[Split],
    own: Sequence[np.ndarray],
    changes: Mapping[str, list[np.ndarray]],
    genes: Genes,
) -> dict[str, float]:
    """What scores of the predicted change may owe to the noise of the control it was predicted from, by metric.

    A change that takes back a share of the group's deviation from its neighbours takes back that share of the noise of
    its control mean, which the real change has too. The share is the slope of what the prediction adds to the mean
    shift on that deviation, where it is negative; the prediction is scored again with this part taken from the first
    half of the control alone, as the baselines take it. What it loses by that is the answer, never below 0.
    """
    anchor = next((name for name in ANCHORS if name in changes), None)
    if cells.neighbours is None or anchor is None or not np.any(own[0]):
        return {}
    mean = cells.control.mean(0)
    deviation = mean - cells.neighbours
    added = np.mean(own, axis=0) - np.mean(changes[anchor], axis=0)
    length = float(deviation @ deviation)
    share = min(1.0, max(0.0, -float(added @ deviation) / length)) if length > 0 else 0.0
    if share == 0:
        return {}
    true = [cells.true_change(split) for split in splits]
    again = [p + share * (mean - cells.control[s.start].mean(0)) for p, s in zip(own, splits, strict=True)]
    before, after = _changes(own, true, genes), _changes(again, true, genes)
    lost = {name: sign_of(name) * (before[name] - after[name]) for name in before if name in after}
    return {name: max(0.0, value) for name, value in lost.items() if np.isfinite(value)}


def sign_of(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return -1.0 if BETTER[metric] == DOWN else 1.0


def anchored(groups: Iterable[Scored], system: str, metric: str) -> float:
    """(u - b) / (r - b) of the mean scores over groups; NaN where halves of the real cells are no better than b.

    b is the mean shift, or without other groups the mean response; of an error no change, where that is better.
    """
    every = list(groups)
    first = next((name for name in ANCHORS if all(name in group.values for group in every)), None)
    if first is None or not every:
        return float("nan")
    sign = sign_of(metric)
    u, b, r = (np.mean([sign * group.plain(name, metric) for group in every]) for name in (system, first, HALVES))
    nothing = np.mean([sign * group.plain(NO_CHANGE, metric) for group in every])
    b = max(b, nothing) if np.isfinite(nothing) else b
    room = ROOM if BETTER[metric] != DOWN else ROOM * abs(b)
    return float((u - b) / (r - b)) if r - b > room else float("nan")


def _level(predicted: np.ndarray, real: np.ndarray, genes: Genes) -> dict[str, float]:
    """Scores of means [G]."""
    found = res.score_level(predicted, real, genes.de)
    return found | {f"r_de{n}": res.r_de(res.Profiles(predicted, real, top)) for n, top in genes.tops.items()}


def _changes(predicted: Iterable[np.ndarray], real: Iterable[np.ndarray], genes: Genes) -> dict[str, float]:
    """Mean scores of the changes [G] of each split."""
    return mean_of([_change(*both, genes) for both in zip(predicted, real, strict=True)])


def _change(predicted: np.ndarray, real: np.ndarray, genes: Genes) -> dict[str, float]:
    """Scores of changes [G]; of no change its errors alone."""
    found = res.score_change(predicted, real, genes.de)
    tops = {f"r_change_de{n}": res.r_change_de(res.Profiles(predicted, real, top)) for n, top in genes.tops.items()}
    return found | tops if np.any(predicted) else found


class _Spread:
    """Scores of cells rather than means: of random parts of them, and of the energy distance.

    A shift of the control cells moves the means of their parts, and leaves variances and distances among them.
    """

    def __init__(self, cells: CellType, genes: Genes, seed: int) -> None:
        self.cells, self.seed = cells, seed
        self.genes = {"": np.arange(cells.real.shape[1])} | {f"_de{n}": top for n, top in genes.tops.items()}
        self.moments = res.subsample_moments(cells.control, cells.real, seed)
        thinned = res.thinned(cells.control, cells.real, seed)
        self.between, self.within = res.Between(*thinned), [res.within(x) for x in thinned]

    def of_prediction(self) -> dict[str, float]:
        """Of the predicted cells."""
        x, real = self.cells.predicted, self.cells.real
        found = self._parts(*res.subsample_moments(x, real, self.seed))
        a, b = res.thinned(x, real, self.seed)
        energy = 2 * res.Between(a, b).mean(np.zeros(x.shape[1])) - res.within(a) - self.within[1]
        return found | {"energy": energy}

    def of_control(self, change: np.ndarray) -> dict[str, float]:
        """Of the control cells, each plus a change [G]."""
        (mean, variance), real = self.moments
        energy = 2 * self.between.mean(change) - sum(self.within)
        return self._parts((mean + change, variance), real) | {"energy": energy}

    def _parts(self, predicted: res.Moments, real: res.Moments) -> dict[str, float]:
        found: dict[str, float] = {}
        for ending, columns in self.genes.items():
            (p, p_var), (r, r_var) = predicted, real
            of = res.r2_of_moments((p[:, columns], p_var[:, columns]), (r[:, columns], r_var[:, columns]))
            if ending:
                of = {f"r2_means{ending}": of["r2_means"], f"r2_means{ending}_sd": of["r2_means_sd"]}
            found |= of
        return found


_Parts = dict[str, tuple[float, float]]  # variance over genes, and how much of it is noise, by the genes' ending


def _half_against_half(cells: CellType, split: Split, genes: Genes) -> tuple[dict[str, float], _Parts]:
    """One half of the real cells as a prediction of the other, each half with control cells of its own.

    The genes by which the change is scored are chosen from the first half alone: chosen from both, their noise would
    agree, and cells without a response would seem to have one. Beside the scores of the second half's change over genes
    so chosen its variance, and how much of that is noise.
    """
    a, b = cells.real[split.real], cells.real[split.rest]
    start, other = cells.control[split.start], cells.control[split.other]
    own = Genes.of(start, a, bool(genes.tops))
    found = _level(a.mean(0), b.mean(0), genes) | {"energy": res.energy_distance(a, b)}
    change, noise = b.mean(0) - other.mean(0), sum(x.var(0, ddof=1) / len(x) for x in (b, other))
    chosen = {name: g for name, g in own.by_ending(len(change)).items() if name != "all"}
    parts = {name: (float(change[g].var()), float(noise[g].mean())) for name, g in chosen.items()}
    return found | _change(a.mean(0) - start.mean(0), change, own), parts


def _reliability(parts: Sequence[_Parts]) -> dict[str, float]:
    """Which share of a half's variance over genes is not noise, mean over the splits."""
    means = {name: np.mean([each[name] for each in parts], axis=0) for name in parts[0]}
    return {name: float((whole - noise) / whole) for name, (whole, noise) in means.items() if whole > 0}


def mean_of(scores: list[dict[str, float]]) -> dict[str, float]:
    """Every metric's mean over what has it; NaN where nothing is defined."""
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: _mean([each[name] for each in scores if name in each]) for name in names}


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
