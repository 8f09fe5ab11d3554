"""Panel on a counterfactual of many conditions: what a screen is scored by, raw and between two anchors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellalign.data.values import listed
from cellalign.evaluation.inputs import Inputs
from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.metrics.metric import Metric, by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.screen_scores import Score, Scores
from cellalign.evaluation.screen_splits import HALF, MEAN_RESPONSE, PREDICTION, scored
from cellalign.evaluation.screened import FEWEST, Group, Screened, screened
from cellalign.evaluation.seen import NOT_KNOWN, SAID, status_of, trained_on
from cellalign.evaluation.table import PREDICTED, Row

BOOTSTRAPS = 500
SHOWN = 5  # names of conditions in a note
NAMED = 12  # of those that are measurable
MEASURABLE = 0.2  # correlation of the changes of two halves
ANCHORED = "anchored"


@dataclass(frozen=True)
class Screen(Panel):
    """Many predicted conditions against the real ones, and where that lies between mean response and split half.

    Where controls are of the same donor, plate, ... as what they are compared with (`within`), they count in the
    proportions of that, and DE genes are those of van Elteren's test within each. Predicted cells whose place is not
    known are taken to be in the real cells' proportions, and tested against control cells drawn in these.

    Attributes
    ----------
    each_condition : bool
        Whether every condition is listed too.
    """

    name = "screen"
    summary = (
        "Whether many predicted conditions are told apart, and their genes and sizes right; 0 is the mean response."
    )
    metrics = scr.METRICS
    order = 53
    version = 3
    metrics_as_rows = True

    each_condition: bool = False

    def concerns(self, inputs: Inputs) -> bool:
        """Predictions of several conditions; the groups of one are scored where that is asked for."""
        return len(inputs.predictions) >= FEWEST and inputs.predictions[0].expression != "any" and not inputs.continuous

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every metric of the prediction, of both anchors, and between them."""
        cells = screened(inputs)
        found = scored(cells, inputs.seed)
        n = len(cells.groups)
        able = [group.name for group, alike in zip(cells.groups, found.halves, strict=True) if alike >= MEASURABLE]
        which = f": {listed(able, NAMED)}" if 0 < len(able) < n else ""
        inputs.notes.append(
            f"screen: {len(able)} of {n} conditions are measurable as they are scored here (profiles of the genes that "
            f"no condition targets: halves correlate by {MEASURABLE} or more; check takes all genes){which}"
        )
        _say_seen(inputs, cells.groups)
        declared, n_cells = by_name(self.metrics), sum(len(group.real) for group in cells.groups)
        samples = np.random.default_rng(inputs.seed).integers(n, size=(BOOTSTRAPS, n))
        alike = []
        for metric in scr.SCORES:
            of = {system: found.of(system, metric) for system in (PREDICTION, MEAN_RESPONSE, HALF)}
            spread = declared[f"{metric.name}_se"]
            rows = _anchored(of, metric, samples)
            if np.isfinite([value for system, value, _ in rows if system != ANCHORED]).all() and np.isnan(rows[-1][1]):
                alike.append(metric.name)
            for system, value, error in rows:
                shown = scr.anchored(metric) if system == ANCHORED else metric
                yield self.row(system, "all", shown, value, n_cells)
                yield self.row(system, "all", spread, error, n_cells)
        if alike:
            inputs.notes.append(
                f"screen: too few cells or conditions to tell a repetition from the mean response by {listed(alike)}: "
                "these are not anchored"
            )
        if self.each_condition:
            yield from self._each(cells, found)

    def _each(self, cells: Screened, found: Scores) -> Iterator[Row]:
        for i, group in enumerate(cells.groups):
            for system in (PREDICTION, MEAN_RESPONSE, HALF):
                for metric in scr.SCORES:
                    if metric is not scr.EFFECT:
                        value = float(found.of(system, metric).values(np.array([[i]]))[0])
                        row = self.row(system, group.name, metric, value, len(group.real))
                        yield replace(row, measurable=bool(found.halves[i] >= MEASURABLE))


def _anchored(of: dict[str, Score], metric: Metric, samples: np.ndarray) -> list[tuple[str, float, float]]:
    """System, value and its standard error over conditions, of what was scored and of the score between the anchors.

    The last is NaN where a repetition is no better than the mean response by more than its standard error.
    """
    every = np.arange(samples.shape[1])[None]
    whole = {system: score.values(every)[0] for system, score in of.items()}
    drawn = {system: score.values(samples) for system, score in of.items()}
    better = 1 if metric.better is scr.UP else -1

    def between(found: dict[str, Any]) -> Any:
        gap = np.asarray(found[HALF] - found[MEAN_RESPONSE])
        with np.errstate(all="ignore"):
            return np.where(better * gap > 0, (found[PREDICTION] - found[MEAN_RESPONSE]) / gap, np.nan)

    rows = [(system, whole[system], _sd(drawn[system])) for system in of]
    gap, error = better * (whole[HALF] - whole[MEAN_RESPONSE]), _sd(drawn[HALF] - drawn[MEAN_RESPONSE])
    if not gap > error:
        return [*rows, (ANCHORED, float("nan"), float("nan"))]
    return [*rows, (ANCHORED, float(between(whole)), _sd(between(drawn)))]


def _sd(values: np.ndarray) -> float:
    """Standard deviation of what is defined: of ratios, which may be far out, half the distance of the middle 68 %."""
    values = values[np.isfinite(values)]
    return float(np.diff(np.quantile(values, [0.1587, 0.8413]))[0] / 2) if len(values) > 1 else float("nan")


def _say_seen(inputs: Inputs, groups: list[Group]) -> None:
    """Note of which conditions the model has seen the real cells, and of which it has not."""
    assert inputs.against is not None
    seen, prints = trained_on(inputs)
    found: dict[str, list[str]] = {}
    for group in groups:
        predicted = _mask(inputs.adata.n_obs, group.predicted)
        real = _mask(inputs.against.n_obs, group.real)
        found.setdefault(status_of(inputs, predicted, real, seen, prints), []).append(group.name)
    for status, sentence in (SAID | {PREDICTED: "held out in training: {}"}).items():
        if names := found.get(status):
            whole = status in SAID and len(names) == len(groups)
            inputs.notes.append(f"screen: {sentence.format('these cells' if whole else listed(names, SHOWN))}")
    if "" in found and NOT_KNOWN not in inputs.notes:
        inputs.notes.append(NOT_KNOWN)


def _mask(n: int, rows: np.ndarray) -> np.ndarray:
    found = np.zeros(n, dtype=bool)
    found[rows] = True
    return found
