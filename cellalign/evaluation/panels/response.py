"""Panel on a counterfactual: predicted against real expression, beside baselines and what is attainable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.values import listed
from cellalign.errors import option
from cellalign.evaluation.compared import MIN_CELLS_PER_GROUP, CellType, compare
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.intervals import Interval, mean_interval
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.scored import PREDICTION, Genes, Scored, anchored, mean_of, score
from cellalign.evaluation.seen import NOT_KNOWN
from cellalign.evaluation.table import FITTED, MEAN, TUNED, UNSEEN, Evidence, Response, Row
from cellalign.evaluation.verdict import beside_best, concerned, verdict

if TYPE_CHECKING:
    from cellalign.records import Counterfactual

__all__ = ["MIN_CELLS_PER_GROUP", "PredictedResponse"]
PICTURED_GENES = 10  # DE genes of which the pictures show single cells
PICTURED_CELLS = 2000  # of one cell type and kind: more would not change the outline of a violin
MEANS = {FITTED: "mean of fitted groups", TUNED: "mean of groups tuned on"}
ANCHORED = ("r_change_all", "r_change_de", *(f"r_change_de{n}" for n in res.TOPS), "direction_de")
ANCHORED += ("mse_change_all", "mse_change_de")  # of levels pooling groups lowers the error, which predicts nothing


@dataclass(frozen=True)
class PredictedResponse(Panel):
    """Predicted against real expression per group, beside baselines, halves of the real cells, and what is attainable.

    Attributes
    ----------
    more_genes : bool
        Whether the 10 and the 100 most different genes are scored too, beside the 50.
    """

    name = "response"
    summary = "Whether predicted expression is the real one, per cell type, beside baselines and what is attainable."
    metrics = res.METRICS
    order = 50
    version = 5

    more_genes: bool = False

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every cell type and their mean; NotApplicable where the cells are no prediction or none can be compared."""
        if not inputs.predictions:
            raise OfAnotherKind("the input is no counterfactual")
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells")
        groups: list[Scored] = []
        several = len(inputs.predictions) > 1
        for _, scored in self.of_each(inputs, lambda own, record: self._scored(own, record, several)):
            groups += scored
            for group in scored:
                yield from self._rows([group], group.name, inputs.seed)
        kept = concerned(groups)
        yield from self._rows(kept, MEAN, inputs.seed)
        for status, name in MEANS.items():
            own = [group for group in groups if group.status == status]
            if own and not any(group in kept for group in own):
                yield from self._rows(own, name, inputs.seed)
        inputs.result.measurable = sum(group.measurable for group in groups), len(groups)
        inputs.result.verdict = verdict(groups, inputs.seed)

    def _scored(self, inputs: Inputs, record: Counterfactual, several: bool) -> list[Scored]:
        """Every group of one prediction; what pictures show is kept."""
        origin, to = record.from_ or inputs.control or "", record.to
        inputs = inputs.known(inputs.label, inputs.within if inputs.within in inputs.adata.obs else None)
        compared = compare(inputs, origin, to)
        genes = np.asarray(inputs.adata.var_names, dtype=str)
        found = []
        for cells in map(compared.of, compared.names):
            chosen = Genes.of(cells.control, cells.real, self.more_genes)
            scored = score(cells, chosen, inputs.seed)
            values = scored.values[PREDICTION]
            inputs.result.responses.append(
                Response(
                    group=cells.name,
                    origin=origin,
                    to=to,
                    held_out=cells.status in UNSEEN,
                    genes=genes,
                    de=chosen.de,
                    r2_all=values["r_all"] ** 2,
                    r2_de=values["r_de"] ** 2,
                    is_log=record.expression != "any",
                    **pictured(cells, chosen.de[:PICTURED_GENES], inputs.seed),
                )
            )
            found.append(replace(scored, name=f"{to}, {scored.name}") if several else scored)
        _say_seen(inputs, found)
        return found

    def _rows(self, groups: Sequence[Scored], name: str, seed: int) -> Iterator[Row]:
        """Rows of a group, or of the mean over several."""
        declared, n_cells = by_name(self.metrics), sum(group.n_cells for group in groups)
        for system in dict.fromkeys(system for group in groups for system in group.values):
            having = [group for group in groups if system in group.values]
            for metric, value in mean_of([group.values[system] for group in having]).items():
                evidence = _evidence(groups, having, system, metric, value, seed)
                yield self.row(system, name, declared[metric], value, n_cells, evidence=evidence)


def _evidence(
    groups: Sequence[Scored], having: Sequence[Scored], system: str, metric: str, value: float, seed: int
) -> Evidence:
    """What a score of one group, or a mean over several, is worth."""
    drawn = [group.drawn.get(system, {}).get(metric) for group in having]
    interval = Interval(float("nan"), float("nan"))
    if all(each is not None for each in drawn):
        values = [group.values[system].get(metric, float("nan")) for group in having]
        interval = (
            Interval.around(value, drawn[0]) if len(groups) == 1 else mean_interval(values, drawn)  # type: ignore[arg-type]
        ).within(*res.bounds_of(metric))
    measurable = groups[0].measurable if len(groups) == 1 else None
    of = [group for group in having if group.measurable]
    more: dict[str, Any] = {}
    if system == PREDICTION:
        status = {group.status for group in groups}
        more["status"] = status.pop() if len(status) == 1 else next((s for s in (FITTED, TUNED) if s in status), "")
        more["leaning"] = float(np.mean([group.leaning.get(metric, 0.0) for group in groups]))
        found = beside_best(groups, metric, seed)
        if found is not None:
            pair = found.paired
            more |= {"best": found.best, "difference": pair.difference, "p": pair.p}
            more |= {"difference_low": pair.interval.low, "difference_high": pair.interval.high}
    if metric in ANCHORED and len(of) == len(having) == len(groups):
        more["anchored"] = anchored(of, system, metric)
    return Evidence(interval.low, interval.high, measurable=measurable, **more)


def _say_seen(inputs: Inputs, groups: Sequence[Scored]) -> None:
    """Note which groups were held out, by which of these settings were chosen, and where neither is known."""
    held = [group.name for group in groups if group.status in UNSEEN]
    tuned = [group.name for group in groups if group.status == TUNED]
    unknown = [group.name for group in groups if not group.status]
    if held:
        inputs.notes.append(f"held out in training: {listed(held, len(held))}")
    if tuned:
        inputs.notes.append(f"tune chose the settings by how well these are predicted: {listed(tuned, len(tuned))}")
    if unknown and "held_out" not in inputs.adata.obs:
        if NOT_KNOWN not in inputs.notes:
            inputs.notes.append(NOT_KNOWN)


def pictured(cells: CellType, genes: np.ndarray, seed: int) -> dict[str, Any]:
    """Means of all genes, and some cells in some genes: what of a cell type is kept when its cells are gone."""
    rng = np.random.default_rng(seed)
    kinds = {"control": cells.control, "predicted": cells.predicted, "real": cells.real}
    rows = {kind: np.sort(rng.permutation(len(x))[:PICTURED_CELLS]) for kind, x in kinds.items()}
    return {
        "means": {kind: x.mean(0) for kind, x in kinds.items()},
        "cells": {kind: x[np.ix_(rows[kind], genes)] for kind, x in kinds.items()},
        "n_cells": {kind: len(x) for kind, x in kinds.items()},
    }
