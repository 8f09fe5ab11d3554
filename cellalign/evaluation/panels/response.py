"""Panel on a counterfactual: predicted against real expression, beside baselines and what is attainable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import InputError, option
from cellalign.evaluation.compared import MIN_CELLS_PER_GROUP, CellType, Split, compare
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import MEAN, Response, Row

if TYPE_CHECKING:
    from cellalign.records import Counterfactual

__all__ = ["MIN_CELLS_PER_GROUP", "PredictedResponse"]
DE_GENES = 50
PICTURED_GENES = 10  # DE genes of which the pictures show single cells
PICTURED_CELLS = 2000  # of one cell type and kind: more would not change the outline of a violin


@dataclass(frozen=True)
class PredictedResponse(Panel):
    """Predicted against real expression per cell type, beside no change, mean shift, half of the real cells.

    Attributes
    ----------
    more_genes : bool
        Whether the 10 and the 100 most different genes are scored too, beside the 50.
    """

    name = "response"
    summary = "Whether predicted expression is the real one, per cell type, beside baselines and what is attainable."
    metrics = res.METRICS
    order = 50
    version = 2

    more_genes: bool = False

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every cell type and their mean; NotApplicable where the cells are no prediction or none can be compared."""
        if not inputs.predictions:
            raise NotApplicable("the input is no counterfactual")
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells")
        per_system: dict[str, list[dict[str, float]]] = {}
        total, reasons = 0, []
        for record in inputs.predictions:
            try:
                scored = self._scored(inputs.of_prediction(record), record)
            except (NotApplicable, InputError) as reason:
                if len(inputs.predictions) == 1:
                    raise
                reasons.append(f"{record.to}: {reason}")
                continue
            for name, n, found in scored:
                group = name if len(inputs.predictions) == 1 else f"{record.to}, {name}"
                total += n
                for system, scores in found.items():
                    per_system.setdefault(system, []).append(scores)
                    yield from self._rows(system, group, scores, n)
        if not per_system:
            raise NotApplicable("; ".join(reasons))
        if reasons:
            inputs.notes.append(f"response skips {len(reasons)} predicted conditions, the first {reasons[0]}")
        for system, all_scores in per_system.items():
            yield from self._rows(system, MEAN, _mean_of(all_scores), total)

    def _scored(self, inputs: Inputs, record: Counterfactual) -> list[tuple[str, int, dict[str, dict[str, float]]]]:
        """Cell type, its real cells and its scores by system, of one prediction; what pictures show is kept."""
        origin, to = record.from_ or inputs.control or "", record.to
        inputs = inputs.known(inputs.label)
        compared = compare(inputs, origin, to)
        held = _held_out(inputs, compared.names)
        if held:
            inputs.notes.append(f"held out in training: {', '.join(held)}")
        genes = np.asarray(inputs.adata.var_names, dtype=str)
        rows = []
        for cells in map(compared.of, compared.names):
            chosen = Genes.of(cells.control, cells.real, self.more_genes)
            found = score(cells, compared.mean_shift(cells.name), chosen, inputs.seed)
            inputs.result.responses.append(
                Response(
                    group=cells.name,
                    origin=origin,
                    to=to,
                    held_out=cells.name in held,
                    genes=genes,
                    de=chosen.de,
                    r2_all=found["prediction"]["r_all"] ** 2,
                    r2_de=found["prediction"]["r_de"] ** 2,
                    **pictured(cells, chosen.de[:PICTURED_GENES], inputs.seed),
                )
            )
            rows.append((cells.name, len(cells.real), found))
        return rows

    def _rows(self, system: str, group: str, scores: dict[str, float], n_cells: int) -> Iterator[Row]:
        declared = by_name(self.metrics)
        for name, value in scores.items():
            yield self.row(system, group, declared[name], value, n_cells)


def _held_out(inputs: Inputs, names: list[str]) -> list[str]:
    """The cell types of which the model was trained on no cell under the predicted condition."""
    if "held_out" not in inputs.adata.obs:
        return []
    held = np.asarray(inputs.adata.obs["held_out"], dtype=bool)
    labels = inputs.labels() if inputs.label is not None else np.full(len(held), "all")
    return [name for name in names if held[labels == name].all()]


def _mean(values: list[float]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


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


def score(cells: CellType, shift: np.ndarray | None, genes: Genes, seed: int) -> dict[str, dict[str, float]]:
    """Scores of the prediction, of the baselines, of half of the real cells and of a prediction without noise.

    Parameters
    ----------
    cells : CellType
    shift : array [G], optional
        The other cell types' mean change.
    genes : Genes
    seed : int

    Returns
    -------
    dict
        Values by metric, by system.
    """
    splits = list(cells.splits(seed))
    true = [cells.true_change(split) for split in splits]
    systems: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {
        "prediction": (cells.predicted, [cells.predicted_change(split) for split in splits]),
        "no change": (cells.control, []),
    }
    if shift is not None:
        systems["mean shift"] = (cells.control + shift, [shift] * len(splits))
    scores = {}
    for system, (x, changes) in systems.items():
        scores[system] = _level(x.mean(0), cells.real.mean(0), genes)
        scores[system] |= _mean_of([_change(*both, genes) for both in zip(changes, true, strict=False)])
        scores[system] |= _subsampled(x, cells.real, genes, seed) | {"energy": res.energy_distance(x, cells.real)}
    scores["split half"] = _mean_of([_half_against_half(cells, split, genes) for split in splits])
    scores["attainable"] = res.attainable(scores["split half"], cells.real, genes.de)
    return scores


def _level(predicted: np.ndarray, real: np.ndarray, genes: Genes) -> dict[str, float]:
    """Scores of means [G]."""
    found = res.score_level(predicted, real, genes.de)
    return found | {f"r_de{n}": res.r_de(res.Profiles(predicted, real, top)) for n, top in genes.tops.items()}


def _change(predicted: np.ndarray, real: np.ndarray, genes: Genes) -> dict[str, float]:
    """Scores of changes [G]; none of no change."""
    found = res.score_change(predicted, real, genes.de)
    tops = {f"r_change_de{n}": res.r_change_de(res.Profiles(predicted, real, top)) for n, top in genes.tops.items()}
    return found | tops if found else {}


def _subsampled(x: np.ndarray, real: np.ndarray, genes: Genes, seed: int) -> dict[str, float]:
    """Scores of random parts of the cells [n, G]."""
    found = res.r2_subsampled(x, real, seed)
    for n, top in genes.tops.items():
        of = res.r2_subsampled(x, real, seed, top)
        found |= {f"r2_means_de{n}": of["r2_means"], f"r2_means_de{n}_sd": of["r2_means_sd"]}
    return found


def _half_against_half(cells: CellType, split: Split, genes: Genes) -> dict[str, float]:
    """One half of the real cells as a prediction of the other, each half with control cells of its own.

    The genes by which the change is scored are chosen from the first half alone: chosen from both, their noise would
    agree, and cells without a response would seem to have one.
    """
    a, b = cells.real[split.real], cells.real[split.rest]
    start, other = cells.control[split.start], cells.control[split.other]
    own = Genes.of(start, a, bool(genes.tops))
    found = _level(a.mean(0), b.mean(0), genes) | {"energy": res.energy_distance(a, b)}
    return found | _change(a.mean(0) - start.mean(0), b.mean(0) - other.mean(0), own)


def _mean_of(scores: list[dict[str, float]]) -> dict[str, float]:
    """Every metric's mean over what has it."""
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: _mean([each[name] for each in scores if name in each]) for name in names}
