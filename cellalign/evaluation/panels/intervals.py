"""Panel on the intervals of a counterfactual: how often they hold the observed means, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.calibration import APART, FEWEST, Asked, Groups, TooFewGroups, interval
from cellalign.data.columns import column
from cellalign.data.stored import rows_in
from cellalign.data.values import listed
from cellalign.errors import InputError, counted, option
from cellalign.evaluation.compared import MIN_CELLS_PER_GROUP, CellType, compare
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.metrics import coverage as cov
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.references import learned_from
from cellalign.evaluation.table import MEAN, TUNED, UNSEEN, Row

if TYPE_CHECKING:
    from cellalign.records import Counterfactual

SHORT = 0.03  # of what is promised, below which it is said to be missed
MOST = 60  # other conditions among which a mean shift is calibrated


Scored = tuple[str, int, dict[str, dict[str, float]], str]


@dataclass(frozen=True)
class Moments:
    """What is observed of a group: mean, variance and number of its cells under the condition and under the control.

    `status` is whether the model has seen these cells, as `CellType` has it.
    """

    name: str
    real: tuple[np.ndarray, np.ndarray, int]
    control: tuple[np.ndarray, np.ndarray, int]
    status: str

    @classmethod
    def of(cls, name: str, cells: CellType) -> Moments:
        """Of its cells."""
        real, control = ((x.mean(0), x.var(0, ddof=1), len(x)) for x in (cells.real, cells.control))
        return cls(name, real, control, cells.status)

    @property
    def change(self) -> np.ndarray:
        """From control, [G]."""
        return self.real[0] - self.control[0]


@dataclass(frozen=True)
class Intervals(Panel):
    """Coverage and width of `counterfactual --interval`, beside the same intervals around the mean shift.

    The mean shift's are calibrated in the same way by the real cells: every other group is predicted by the mean change
    of those that are left, so that neither it nor the scored group is in it. Groups that the model has not seen are no
    such others, as of the baselines of panel response.
    """

    name = "intervals"
    summary = "How often the intervals of a prediction hold the observed means, and how wide they are, group by group."
    metrics = cov.METRICS
    order = 51
    version = 2

    def concerns(self, inputs: Inputs) -> bool:
        """Whether there are intervals."""
        return any(record.interval is not None for record in inputs.predictions)

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every group and their mean; NotApplicable where there are no intervals or nothing to compare with."""
        records = [record for record in inputs.predictions if record.interval is not None]
        if not records:
            raise OfAnotherKind(f"the input has no intervals of cellalign counterfactual {option('interval')}")
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells")
        every: list[Scored] = []
        for record, scores_of in self.of_each(inputs, lambda own, record: list(self._scored(own, record)), records):
            alone = len(records) == 1 or record.groups == inputs.condition
            for name, n, found, status in scores_of:
                every.append((name if alone else f"{record.to}, {name}", n, found, status))
        # as of panel response: of groups predicted, where none is of those tuned on, else of all
        of = next((s for s in UNSEEN if any(s == status for *_, status in every)), None)
        _say_seen(inputs, every, of)
        scored: dict[str, list[tuple[int, dict[str, float]]]] = {}
        for name, n, found, status in every:
            for system, scores in found.items():
                yield from self._rows(system, name, scores, n)
                if of in (None, status):
                    scored.setdefault(system, []).append((n, scores))
        for system, values in scored.items():  # groups count alike
            mean = {metric: float(np.mean([each[metric] for _, each in values])) for metric in values[0][1]}
            yield from self._rows(system, MEAN, mean, sum(n for n, _ in values))
            if system == "prediction":
                _say_coverage(inputs, records[0], mean, len(values))

    def _scored(self, inputs: Inputs, record: Counterfactual) -> Iterator[Scored]:
        """Each group, its real cells, its scores by system, and whether the model has seen it, as `CellType` has it."""
        adata, origin = inputs.adata, record.from_ or inputs.control or ""
        if not {"lower", "upper"} <= set(adata.layers):
            raise InputError(
                'layers "lower" and "upper", the intervals that the record tells of, are gone; predict again'
            )
        combined = record.groups == inputs.condition
        # intervals are of groups over all places
        of_groups = replace(inputs, label=None if combined else record.groups, within=None)
        of_groups = of_groups.known(of_groups.label)
        adata = of_groups.adata
        compared = compare(of_groups, origin, record.to)
        labels = np.full(adata.n_obs, "all") if combined else of_groups.labels()
        everything = {name: compared.of(name) for name in compared.names}
        seen = [Moments.of(name, cells) for name, cells in everything.items()]
        seen += [Moments.of(name, compared.of(name)) for name in compared.usable if name not in everything]
        if combined:  # of one group, by its condition
            everything = {record.to: everything["all"]}
        _say_abstained(of_groups, record, labels)
        for name, cells in everything.items():
            rows = np.flatnonzero(labels == ("all" if combined else name))
            ends = [res.dense(rows_in(adata.layers[layer], rows[:1])).ravel() for layer in ("lower", "upper")]
            real, start = cells.real.mean(0), cells.control.mean(0)
            genes = {"de": res.de_genes(cells.control, cells.real, APART)}
            mine = {"top": _largest(cells.predicted.mean(0) - start), **genes}
            found = {"prediction": cov.score(ends[0], ends[1], real, mine, float(record.interval or 0))}
            apart = [] if combined else _known([group for group in seen if group.name != name])
            if len(apart) < FEWEST:
                apart = _known(list(_other_conditions(of_groups, record, origin, name)))
            shift = _mean_shift(Moments.of(name, cells), apart, record)
            if shift is None:
                few = "the model has seen real cells of fewer than 3 other groups"
                inputs.notes.append(f"intervals: no mean shift beside {name}: {few}")
            else:
                top = {"top": _largest(shift[0] - start), **genes}
                found["mean shift"] = cov.score(shift[1], shift[2], real, top, float(record.interval or 0))
            yield name, len(cells.real), found, cells.status

    def _rows(self, system: str, group: str, scores: dict[str, float], n_cells: int) -> Iterator[Row]:
        declared = by_name(self.metrics)
        for name, value in scores.items():
            yield self.row(system, group, declared[name], value, n_cells)


def _largest(change: np.ndarray) -> np.ndarray:
    """The genes of the largest change."""
    return np.argsort(-np.abs(change), kind="stable")[:APART]


def _say_coverage(inputs: Inputs, record: Counterfactual, mean: dict[str, float], n: int) -> None:
    """What intervals hold beside what they promise, of the genes they promise it of, and of DE genes."""
    promised, of_de = float(record.interval or 0), record.interval_over == "de"
    de, held = f"{APART} DE genes", mean["coverage_de" if of_de else "coverage_all"]
    said = f"intervals: {counted(n, 'group')}: they hold {held:.0%} of the means of {de if of_de else 'all genes'}"
    said += f", {promised:.0%} promised"
    said += ", so fewer than they promise" if held < promised - SHORT else ""
    if not of_de:
        over = option("interval_over", "de")
        said += f"; of the {de} {mean['coverage_de']:.0%}, of which nothing is promised (counterfactual {over} does)"
    inputs.notes.append(said)


def _say_seen(inputs: Inputs, every: Sequence[Scored], of: str | None) -> None:
    """Note which groups the model may have seen, and by which settings were chosen."""
    for said, names in (
        ("not known to have been held out in training", [name for name, *_, s in every if s not in UNSEEN]),
        ("tune chose the settings by how well these are predicted", [name for name, *_, s in every if s == TUNED]),
    ):
        if names:
            kept = of is None or (of == TUNED and said.startswith("tune"))
            inputs.notes.append(f"intervals: {said}: {listed(names)}{'' if kept else '; they are not in the mean'}")


def _say_abstained(inputs: Inputs, record: Counterfactual, labels: np.ndarray) -> None:
    """Which groups the prediction itself abstains from."""
    if "abstain" in inputs.adata.obs:
        names = sorted(set(labels[np.asarray(inputs.adata.obs["abstain"], dtype=bool)]))
        if names:
            said = record.to if names == ["all"] else ", ".join(names)
            inputs.notes.append(
                f"it abstains from {said}: predictions of held-out groups like these are no better than no change, or "
                "worse than the mean shift"
            )


def _other_conditions(inputs: Inputs, record: Counterfactual, origin: str, group: str) -> Iterator[Moments]:
    """A group's real cells under other conditions: they stand in for other groups where these are few."""
    assert inputs.against is not None and inputs.condition is not None
    values = column(inputs.against.obs, inputs.condition, missing=True)
    sizes = np.bincount(values.codes[values.codes >= 0], minlength=len(values.categories))
    there = [str(v) for v, n in zip(values.categories, sizes, strict=True) if n >= MIN_CELLS_PER_GROUP]
    for value in [v for v in there if v not in (origin, record.to)][:MOST]:
        try:
            cells = compare(inputs, origin, value).of("all" if inputs.label is None else group)
        except NotApplicable:  # of the predicted groups none has cells of it
            continue
        if len(cells.real) >= MIN_CELLS_PER_GROUP:
            yield Moments.of(value, cells)


def _known(others: list[Moments]) -> list[Moments]:
    """Those that a baseline learns from."""
    return [group for group, known in zip(others, learned_from([o.status for o in others]), strict=True) if known]


def _mean_shift(mine: Moments, apart: list[Moments], record: Counterfactual) -> tuple[np.ndarray, ...] | None:
    """Mean change of the other groups added to a group's control, and its interval; None where there are too few."""
    if len(apart) < FEWEST:
        return None
    at_least = None if record.expression == "any" else 0.0

    def shifted(group: Moments, by: list[Moments]) -> np.ndarray:
        found = group.control[0] + np.mean([each.change for each in by], axis=0)
        return found if at_least is None else np.maximum(found, at_least)

    held_out = Groups(
        names=[group.name for group in apart],
        targets=[record.to for _ in apart],
        predicted=np.stack([shifted(group, [each for each in apart if each is not group]) for group in apart]),
        **{f: np.stack([group.real[i] for group in apart]) for i, f in enumerate(("real", "variance"))},
        **{f: np.stack([group.control[i] for group in apart]) for i, f in enumerate(("control", "control_variance"))},
        cells=np.array([[group.real[2], group.control[2]] for group in apart]),
    )
    predicted = shifted(mine, apart)
    asked = Asked(mine.name, record.to, predicted, *mine.control)
    over: Any = record.interval_over
    try:
        ends = interval(held_out, asked, float(record.interval or 0), over=over, at_least=at_least)
    except TooFewGroups:
        return None
    return predicted, *ends
