"""How a screen is scored: every change from a half of the control, over a few splits of control and real cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.metrics.metric import Metric
from cellalign.evaluation.metrics.rank_sum import TINY, Different, different
from cellalign.evaluation.metrics.response import pearson
from cellalign.evaluation.screen_scores import Scores
from cellalign.evaluation.screened import AT_MOST, A, B, Group, Screened, in_proportion, proportions

SPLITS = 5
PREDICTION, MEAN_RESPONSE, HALF = "prediction", "mean response", "split half"
Noisy = scr.Noisy


def scored(cells: Screened, seed: int) -> Scores:
    """Every metric of the prediction and of both anchors, over a few splits of the control and real cells."""
    rng = np.random.default_rng(seed)
    found, tested = Scores(), _expressed(cells)
    _levels(cells, found)
    alike = []
    for _ in range(SPLITS):
        half, own = cells.halves(rng)
        split = _Split(cells, half, own, tested, np.random.default_rng(rng.integers(2**32)))
        split.changes(found)
        split.differential(found)
        alike.append(split.alike)
    found.halves = np.mean(alike, axis=0)
    return found


def _expressed(cells: Screened) -> dict[str, np.ndarray]:
    """Mask [G] of the genes that are expressed in control cells, by the name of these."""
    controls = {group.of_control: group.control for group in cells.groups}
    means = {name: cells.per_million(cells.real(rows)).mean(0) for name, rows in controls.items()}
    return {name: np.asarray(mean).ravel() > cells.expressed for name, mean in means.items()}


def _control_level(cells: Screened, group: Group, rows: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, float]:
    """Profile and noise of control cells, composed as what they are compared with is, by the strata of that."""
    return cells.level(cells.real(rows), cells.weights(group, rows, of), cells.strata[rows])


def _noisy(levels: list[tuple[np.ndarray, float]]) -> Noisy:
    return Noisy(np.stack([profile for profile, _ in levels]), np.array([noise for _, noise in levels]))


def _levels(cells: Screened, found: Scores) -> None:
    """What is scored of all cells, without a control of its own: errors of profiles, and centroids."""
    cache: dict[str, tuple[np.ndarray, float]] = {}

    def control(group: Group) -> tuple[np.ndarray, float]:
        if cells.weighted or group.of_control not in cache:
            cache[group.of_control] = _control_level(cells, group, group.control, cells.strata[group.real])
        return cache[group.of_control]

    own = [group.own for group in cells.groups]
    real = _noisy([cells.level(cells.real(group.real)) for group in cells.groups])
    predicted = _noisy([cells.level(cells.predicted(group.predicted)) for group in cells.groups])
    start = _noisy([control(group) for group in cells.groups])
    effect = scr.corrected_effect(real, start, own)
    # noise that conditions have of controls of their own is the mean response's as much as a prediction's
    mean = Noisy(mean_response(real.profiles, start.profiles), start.noise)
    kept = cells.off_target
    for system, guess in ((PREDICTION, predicted), (MEAN_RESPONSE, mean)):
        found.add(system, scr.ERROR, scr.corrected_error(guess, real, own, start), effect)
        found.add(system, scr.CENTROID, scr.centroid_accuracy(guess.profiles[:, kept], real.profiles[:, kept]))


def mean_response(real: np.ndarray, control: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Profiles [P, G] of control cells, or of some of them, `start`, that all change as the real ones do on average."""
    return np.maximum((control if start is None else start) + (real - control).mean(0), 0)


def without_leaning(predicted: np.ndarray, mean: np.ndarray, start: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Predicted changes [P, G] without what they owe to that half of their controls which real changes start from.

    A change that takes back a share of what its control deviates by from the others' takes back that share of the
    control's noise, which the real change has too, and adds that of the others'. As of panel response, the share is
    the slope of what is added to the mean response on that deviation, where it is negative, and it is taken from the
    prediction's own half alone. Conditions that share their control have nothing to lean on.

    Parameters
    ----------
    predicted, mean : arrays [P, G]
        Changes of the prediction, and of the mean response.
    start, other : arrays [P, G]
        Profiles of the control's halves: the one that it starts from, and the one that the real change does.
    """
    deviation, own = (_from_others(x) for x in ((start + other) / 2, start))
    length = (deviation**2).sum(1)
    slope = np.divide(((predicted - mean) * deviation).sum(1), length, out=np.zeros(len(length)), where=length > 1e-12)
    return predicted + np.clip(-slope, 0, 1)[:, None] * (deviation - own)


def _from_others(x: np.ndarray) -> np.ndarray:
    """How far each row lies from the mean of the others."""
    return (x - x.mean(0)) * len(x) / max(1, len(x) - 1)


def evenly(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows drawn by weights [m], each as often as these say to within one time, in random order."""
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order])
    at = (rng.random() + np.arange(n)) / n * ends[-1]
    return order[np.minimum(np.searchsorted(ends, at, side="right"), len(order) - 1)]


def _calls(n: int) -> np.ndarray:
    """Numbers of genes, none to all of `n`, that the mean response may call: the one counts that serves it best."""
    return np.unique(np.append(0, np.round(2 ** np.arange(0, np.log2(max(2, n)) + 0.5, 0.5)).astype(int).clip(max=n)))


@dataclass(frozen=True)
class _Block:
    """Cells, per million [n, G], and the places they are of [n]."""

    x: Any
    places: np.ndarray


class _Split:
    """One half of the control for the prediction and one for the truth, and halves of the real cells."""

    def __init__(
        self,
        cells: Screened,
        half: np.ndarray,
        own: list[np.ndarray],
        tested: dict[str, np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        self.cells, self.half, self.tested, self.rng = cells, half, tested, rng
        self.real = [{side: g.real[mine == side] for side in (A, B)} for g, mine in zip(cells.groups, own, strict=True)]
        self.alike = np.empty(0)
        self.fold: dict[str, np.ndarray] = {}
        self._levels: dict[Any, tuple[np.ndarray, float]] = {}
        self._blocks: dict[tuple[str, int], _Block] = {}
        self._means: dict[str, Different] = {}

    def control(self, group: Group, side: int) -> np.ndarray:
        """Rows of a group's control cells in a half."""
        return group.control[self.half[group.control] == side]

    def name(self, group: Group) -> str:
        """Groups of the same name are compared with the same control: within places each has proportions of its own."""
        return group.name if self.cells.weighted else group.of_control

    def start(self, group: Group, side: int, of: np.ndarray) -> tuple[np.ndarray, float]:
        """Level of a half of the control cells, beside cells of these strata."""
        key = (group.of_control, side)
        if self.cells.weighted or key not in self._levels:
            self._levels[key] = _control_level(self.cells, group, self.control(group, side), of)
        return self._levels[key]

    def mine(self, group: Group) -> np.ndarray:
        """Rows of the predicted cells that were not predicted from the other half, and have control cells beside them.

        All where none of them is so.
        """
        source = self.cells.source[group.predicted]
        rows = group.predicted[(source < 0) | (self.half[source] != B)]
        rows = rows if len(rows) else group.predicted
        beside = rows[self._beside(group, rows)] if self.cells.weighted else rows
        return beside if len(beside) else rows

    def _beside(self, group: Group, rows: np.ndarray) -> np.ndarray:
        """Mask of predicted cells whose place is known, and has control cells."""
        return np.isin(self.cells.places[rows], self.cells.strata[group.control])

    def composed(self, group: Group, rows: np.ndarray) -> np.ndarray:
        """Strata that predicted cells are of; where that is not known, those of the real cells."""
        known = self._beside(group, rows).all()
        return self.cells.places[rows] if known else self.cells.strata[group.real]

    def predicted_from(self, group: Group, rows: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Level of the very cells that some were predicted from, of which nothing is uncertain; None if not known."""
        source = self.cells.source[rows]
        if (source >= 0).all():
            return self.cells.profile(self.cells.real(source)), 0.0
        if self.cells.started is not None:
            return self.cells.profile(self.cells.started(rows)), 0.0
        return None

    def changes(self, found: Scores) -> None:
        """Score the changes of profiles."""
        cells, strata = self.cells, self.cells.strata
        own, kept = [group.own for group in cells.groups], cells.off_target
        levels: dict[str, list[tuple[np.ndarray, float]]] = {
            name: [] for name in ("p", "s", "r", "a", "b", "sa", "sb", "t")
        }
        for group, real in zip(cells.groups, self.real, strict=True):
            rows = self.mine(group)
            start = self.predicted_from(group, rows)
            profile, noise = cells.level(cells.predicted(rows))
            # a cell and what it was predicted from scatter together
            levels["p"].append((profile, noise if start is None else 0.0))
            levels["s"].append(self.start(group, A, self.composed(group, rows)) if start is None else start)
            levels["r"].append(cells.level(cells.real(group.real)))
            levels["t"].append(self.start(group, B, strata[group.real]))
            for side, name in ((A, "a"), (B, "b")):
                levels[name].append(cells.level(cells.real(real[side])))
                levels[f"s{name}"].append(self.start(group, side, strata[real[side]]))
        at = {name: _noisy(each) for name, each in levels.items()}
        change = {
            "p": at["p"].profiles - at["s"].profiles,
            "r": at["r"].profiles - at["t"].profiles,
            "a": at["a"].profiles - at["sa"].profiles,
            "b": at["b"].profiles - at["sb"].profiles,
        }
        # learned from all control cells, as the prediction was: from half of them it would be worse
        half, other = at["sa"].profiles, at["t"].profiles
        response = mean_response(at["r"].profiles, (half + other) / 2, half)
        change["p"] = without_leaning(change["p"], response - half, half, other)
        at["p"] = replace(at["p"], profiles=at["s"].profiles + change["p"])
        for group, expected, control in zip(cells.groups, response, at["sa"].profiles, strict=True):
            self.fold.setdefault(self.name(group), np.expm1(expected) / np.maximum(np.expm1(control), TINY))
        sizes = {
            name: scr.corrected_effect(at[name], at[start], own)
            for name, start in (("p", "s"), ("r", "t"), ("a", "sa"), ("b", "sb"))
        }
        pairs = ((PREDICTION, change["p"], change["r"]), (MEAN_RESPONSE, response - at["sa"].profiles, change["r"]))
        for system, guess, truth in (*pairs, (HALF, change["b"], change["a"])):
            found.add(system, scr.DISCRIMINATION, scr.discrimination(guess[:, kept], truth[:, kept]))
        found.add(HALF, scr.CENTROID, scr.centroid_accuracy(at["b"].profiles[:, kept], at["a"].profiles[:, kept]))
        found.add(HALF, scr.ERROR, scr.corrected_error(at["b"], at["a"], own), sizes["a"])
        found.add(PREDICTION, scr.EFFECT, sizes["p"], sizes["r"])
        found.add(MEAN_RESPONSE, scr.EFFECT, np.zeros(len(own)), sizes["r"])
        found.add(HALF, scr.EFFECT, sizes["b"], sizes["a"])
        self.alike = np.array([pearson(a[kept], b[kept]) for a, b in zip(change["a"], change["b"], strict=True)])

    def differential(self, found: Scores) -> None:
        """Score DE genes and fold changes."""
        scores: dict[tuple[str, Metric], list[Any]] = {}
        calls = _calls(max(int(mask.sum()) for mask in self.tested.values()))
        for group, real in zip(self.cells.groups, self.real, strict=True):
            tables = self._tables(group, real)
            truth = tables["truth"]
            for system, guess, against in (
                (PREDICTION, tables["guess"], truth),
                (MEAN_RESPONSE, tables["mean"], truth),
                (HALF, tables["b"], tables["a"]),
            ):
                values: dict[Metric, Any] = {
                    scr.REACH: scr.reach(guess, against, group.own),
                    scr.FOLD_ERROR: scr.fold_error(guess.change, against.change, truth, group.own),
                }
                called: tuple[Any, ...] = (
                    scr.direction(guess, against, group.own),
                    scr.agreement(guess, against, group.own),
                )
                if system != PREDICTION:  # both ends call as many genes as serves them best
                    others = scr.by_calls(guess, against, group.own, calls)
                    called = tuple(np.append(*each) for each in zip(called, others, strict=True))
                values |= dict(zip((scr.DIRECTION, scr.AGREEMENT), called, strict=True))
                for metric, value in values.items():
                    scores.setdefault((system, metric), []).append(value)
        for (system, metric), each in scores.items():
            found.add(system, metric, np.array(each))

    def _tables(self, group: Group, real: dict[int, np.ndarray]) -> dict[str, Different]:
        """DE of the prediction, the mean response, the real cells and their halves, each from a half of the control."""
        cells, tested = self.cells, self.tested[group.of_control]
        start, other = (self._block(group, side) for side in (A, B))

        def of(rows: np.ndarray, control: _Block) -> Different:
            some = self._some(rows)
            return self._different(_Block(cells.per_million(cells.real(some)), cells.strata[some]), control, tested)

        return {
            "guess": self._guess(group, start, tested),
            "mean": self._mean(group, start, tested),
            "truth": of(group.real, other),
            "a": of(real[A], start),
            "b": of(real[B], other),
        }

    def _different(self, some: _Block, control: _Block, tested: np.ndarray) -> Different:
        """DE of cells; within places where these are asked for."""
        return different(some.x, control.x, tested, (some.places, control.places) if self.cells.weighted else None)

    def _guess(self, group: Group, control: _Block, tested: np.ndarray) -> Different:
        """DE of the prediction; where its places are not known, from some control cells in the real cells' proportions.

        These are drawn without replacement: a test takes each for a cell of its own.
        """
        rows = self._some(self.mine(group))
        x = self.cells.per_million(self.cells.drawn(rows))
        places = self.cells.places[rows]
        if not self._beside(group, rows).all():
            some = in_proportion(control.places, self.cells.strata[group.real], self.rng)
            places, control = np.zeros(len(rows), dtype=np.int64), _Block(control.x[some], np.zeros_like(some))
        found = self._different(_Block(x, places), control, tested)
        most = self._most(group, len(group.real))
        if len(rows) <= most:
            return found
        few = np.sort(self.rng.permutation(len(rows))[:most])
        return replace(self._different(_Block(x[few], places[few]), control, tested), change=found.change)

    def _most(self, group: Group, n: int) -> int:
        """How many predicted cells are tested where there are `n` real ones: copies of cells are no more cells."""
        return min(n, len(self.control(group, A)), AT_MOST)

    def _mean(self, group: Group, control: _Block, tested: np.ndarray) -> Different:
        """DE of the mean response: control cells as often as they count, every gene of which changes by one factor."""
        name = self.name(group)
        if name not in self._means:
            n = self._most(group, int(np.median([len(each.real) for each in self.cells.groups])))
            weights = np.ones(control.x.shape[0])
            if self.cells.weighted:
                weights = proportions(control.places, self.cells.strata[group.real])
            rows, fold = evenly(weights, n, self.rng), self.fold[name]
            drawn = control.x[rows]
            drawn = drawn.multiply(fold).tocsr() if hasattr(drawn, "multiply") else drawn * fold
            found = self._different(_Block(drawn, control.places[rows]), control, tested)
            # which cells were drawn does not change what the response is
            change = np.where(tested & (found.change != 0), np.log2(np.maximum(fold, TINY)), 0.0)
            self._means[name] = replace(found, change=change)
        return self._means[name]

    def _block(self, group: Group, side: int) -> _Block:
        """Control cells of a half, per million, some of very many."""
        key = (group.of_control, side)
        if key not in self._blocks:
            rows = self._some(self.control(group, side))
            self._blocks[key] = _Block(self.cells.per_million(self.cells.real(rows)), self.cells.strata[rows])
        return self._blocks[key]

    def _some(self, rows: np.ndarray) -> np.ndarray:
        """At most so many of some rows, drawn at random."""
        return rows if len(rows) <= AT_MOST else self.rng.permutation(rows)[:AT_MOST]
