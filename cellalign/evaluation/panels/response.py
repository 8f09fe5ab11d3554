"""Panel on a counterfactual: predicted against real expression, beside baselines and the ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column
from cellalign.data.matrices import is_counts
from cellalign.data.values import known
from cellalign.errors import InputError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.predictions import check_finite, check_library_sizes
from cellalign.evaluation.table import MEAN, Response, Row

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.records import Counterfactual

MIN_CELLS_PER_GROUP = 5  # of a cell type, under each condition, for its response to be scored
PICTURED_GENES = 10  # DE genes of which the pictures show single cells
PICTURED_CELLS = 2000  # of one cell type and kind: more would not change the outline of a violin


@dataclass(frozen=True)
class PredictedResponse(Panel):
    """Predicted against real expression per cell type, beside no change, mean shift and the split-half ceiling."""

    name = "response"
    summary = "Whether predicted expression is the real one, per cell type, beside baselines and the ceiling."
    metrics = res.METRICS
    order = 50

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
            means = {m: _mean([s[m] for s in all_scores if m in s]) for m in all_scores[0]}
            yield from self._rows(system, MEAN, means, total)

    def _scored(self, inputs: Inputs, record: Counterfactual) -> list[tuple[str, int, dict[str, dict[str, float]]]]:
        """Cell type, its real cells and its scores by system, of one prediction; what pictures show is kept."""
        origin, to = record.from_ or inputs.control or "", record.to
        inputs = inputs.known(inputs.label)
        groups = _Groups.of(inputs, origin, to)
        held = _held_out(inputs, groups.names)
        if held:
            inputs.notes.append(f"held out in training: {', '.join(held)}")
        genes = np.asarray(inputs.adata.var_names, dtype=str)
        rows = []
        for name in groups.names:
            de = res.de_genes(groups.control[name], groups.real[name])
            found = _score_group(groups, name, de, inputs.seed)
            inputs.result.responses.append(
                Response(
                    group=name,
                    origin=origin,
                    to=to,
                    held_out=name in held,
                    genes=genes,
                    de=de,
                    r2_all=found["prediction"]["r_all"] ** 2,
                    r2_de=found["prediction"]["r_de"] ** 2,
                    **groups.pictured(name, de[:PICTURED_GENES], inputs.seed),
                )
            )
            rows.append((name, groups.size(name), found))
        return rows

    def _rows(self, system: str, group: str, scores: dict[str, float], n_cells: int) -> Iterator[Row]:
        declared = by_name(self.metrics)
        for name, value in scores.items():
            yield self.row(system, group, declared[name], value, n_cells)


@dataclass(frozen=True)
class _Groups:
    """Predicted cells of the types in `names`; real and source cells of these and all other types."""

    names: list[str]
    predicted: dict[str, np.ndarray]
    real: dict[str, np.ndarray]
    control: dict[str, np.ndarray]

    @classmethod
    def of(cls, inputs: Inputs, origin: str, to: str) -> _Groups:
        against = inputs.against
        assert against is not None
        missing = inputs.adata.var_names.difference(against.var_names)
        if len(missing):
            raise InputError(
                f"{option('against')} lacks {len(missing)} of the predicted genes, the first {str(missing[0])!r}"
            )
        columns = against.var_names.get_indexer(inputs.adata.var_names)
        target = inputs.under(against.obs, to)
        source = inputs.under(against.obs, origin) if origin else ~target
        if not target.any() and inputs.continuous:
            raise NotApplicable(f"{option('against')} has no cell of {inputs.condition}={to} to compare with")
        if not target.any():
            raise InputError(f"{option('against')} has no cell of {inputs.condition}={to!r} to compare with")
        if inputs.label is None:
            label_p, label_r = np.full(inputs.adata.n_obs, "all"), np.full(against.n_obs, "all")
        else:
            label_p = inputs.labels()
            label_r = _labels_of_real(inputs, against, label_p)
        x_p, x_r = _on_one_scale(inputs, against, columns)
        counts = {
            str(n): [int((m & (label_r == n)).sum()) for m in (target, source)]
            for n in np.unique(np.concatenate([label_p, label_r[label_r != ""]]))
        }
        usable = [n for n, c in counts.items() if min(c) >= MIN_CELLS_PER_GROUP]
        names = [n for n in usable if n in label_p]
        skipped = [f"{n} ({c[0]} real, {c[1]} source)" for n, c in counts.items() if n in label_p and n not in usable]
        if skipped:
            inputs.notes.append(
                f"response skips cell types with fewer than {MIN_CELLS_PER_GROUP} cells: {', '.join(skipped)}"
            )
        if not names:
            raise NotApplicable(f"no cell type has {MIN_CELLS_PER_GROUP} cells under both conditions")
        return cls(
            names,
            {n: res.dense(x_p[np.flatnonzero(label_p == n)]) for n in names},
            {n: res.dense(x_r[np.flatnonzero(target & (label_r == n))]) for n in usable},
            {n: res.dense(x_r[np.flatnonzero(source & (label_r == n))]) for n in usable},
        )

    def size(self, name: str) -> int:
        """Real cells of a cell type."""
        return len(self.real[name])

    def pictured(self, name: str, genes: np.ndarray, seed: int) -> dict[str, Any]:
        """Means of all genes, and some cells in some genes: what of a cell type is kept when its cells are gone."""
        rng = np.random.default_rng(seed)
        kinds = {"control": self.control[name], "predicted": self.predicted[name], "real": self.real[name]}
        rows = {kind: np.sort(rng.permutation(len(x))[:PICTURED_CELLS]) for kind, x in kinds.items()}
        return {
            "means": {kind: x.mean(0) for kind, x in kinds.items()},
            "cells": {kind: x[np.ix_(rows[kind], genes)] for kind, x in kinds.items()},
            "n_cells": {kind: len(x) for kind, x in kinds.items()},
        }


def _labels_of_real(inputs: Inputs, against: AnnData, predicted: np.ndarray) -> np.ndarray:
    """Labels [n] of the real cells as the predicted ones are called where they are the same value; "" without one."""
    values = column(against.obs, str(inputs.label), purpose="label", missing=True)
    names = known(tuple(map(str, dict.fromkeys(predicted))))
    codes = names.codes(list(values.categories))
    called = [names.names[code] if code >= 0 else str(v) for code, v in zip(codes, values.categories, strict=True)]
    n = int((values.codes < 0).sum())
    if n:
        inputs.notes.append(f"{n} cells of {option('against')} have no {inputs.label!r} and are left out")
    return np.array([*called, ""], dtype=str)[values.codes]


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


def _on_one_scale(inputs: Inputs, real: AnnData, columns: np.ndarray) -> tuple[Any, Any]:
    """Expression of both; predicted counts are compared as log1p at the real cells' median library size."""
    from cellalign.data.matrices import default_matrix, matrix_of

    record, predicted = inputs.predictions[0], inputs.adata.X
    check_finite(predicted, "the prediction's X")
    if record.expression != "counts":
        x = matrix_of(real, "X", option("against"))[:, columns]
        note = (
            check_library_sizes(predicted, x, option("against"))
            if not (record.method or record.expression == "any")
            else None
        )
        inputs.notes.extend([note] if note and note not in inputs.notes else [])
        return predicted, x
    x = matrix_of(real, default_matrix(real, "counts"), option("against"))[:, columns]
    if not is_counts(x):
        raise InputError(f"the prediction is of counts, but {option('against')} holds none; name the cells trained on")
    from sklearn.preprocessing import normalize

    size = float(np.median(np.asarray(x.sum(1))))
    # l1 normalisation keeps a sparse matrix sparse
    return tuple(np.log1p(normalize(m, "l1") * size) for m in (predicted, x))


def mean_shift(groups: _Groups, name: str) -> np.ndarray | None:
    """Mean change of all other cell types, each counting the same; None where there is no other."""
    others = [other for other in groups.real if other != name]
    if not others:
        return None
    return np.mean([groups.real[other].mean(0) - groups.control[other].mean(0) for other in others], axis=0)


def _score_group(groups: _Groups, name: str, de: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Scores of the prediction, the baselines and the ceiling for one cell type and its DE genes."""
    real, control, predicted = groups.real[name], groups.control[name], groups.predicted[name]
    real_mean, control_mean = real.mean(0), control.mean(0)
    cells = {"prediction": predicted, "no change": control}
    shift = mean_shift(groups, name)
    if shift is not None:
        cells["mean shift"] = control + shift
    scores = {}
    for system, x in cells.items():
        scores[system] = res.score_means(x.mean(0), real_mean, control_mean, de)
        means, variances = res.r2_subsampled(x, real, seed)
        scores[system] |= {"r2_means": means, "r2_variances": variances, "energy": res.energy_distance(x, real)}
    halves = [(real[a], real[b]) for a, b in res.split_halves(len(real), seed)]
    found = [
        res.score_means(a.mean(0), b.mean(0), control_mean, de) | {"energy": res.energy_distance(a, b)}
        for a, b in halves
    ]
    scores["ceiling"] = {metric: float(np.mean([f[metric] for f in found])) for metric in found[0]}
    return scores
