"""Evaluation: panels of scores, each beside the baselines and the ceiling that tell what a number means.

A panel is a function that yields rows, or raises `NotApplicable` with the reason it cannot run on these
inputs; `PANELS` lists them. Without a choice all run that can, and the result says which did not and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from cellalign.data.checks import column, nearest
from cellalign.errors import InputError, UsageError
from cellalign.metrics import mixing as mix
from cellalign.metrics import response as res
from cellalign.metrics.probe import probes, transfer

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean"
LEAST_CELLS = 5  # of a cell type, under each condition, for its response to be scored


class NotApplicable(Exception):
    """A panel cannot run on these inputs; the message is the reason."""


@dataclass(frozen=True)
class Row:
    """One score: of which panel, of what (prediction, a baseline, ...), for which group of cells."""

    panel: str
    system: str
    group: str
    metric: str
    value: float
    n_cells: int


@dataclass
class Evaluation:
    """All scores, the panels left out with the reason, and notes such as skipped cell types."""

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The scores as a table, one row each."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_json(self) -> str:
        """Scores, left-out panels and notes."""
        rows = [{k: None if v != v else v for k, v in asdict(row).items()} for row in self.rows]
        return json.dumps({"scores": rows, "left_out": self.left_out, "notes": self.notes}, indent=1) + "\n"

    def to_csv(self) -> str:
        """The scores, one row each, with a header."""
        return self.frame().to_csv(index=False)

    def value(self, metric: str, *, panel: str | None = None, system: str | None = None, group: str = "all") -> float:
        """The one score of that name; KeyError where there is none."""
        for row in self.rows:
            if row.metric == metric and row.group == group and panel in (None, row.panel):
                if system in (None, row.system):
                    return row.value
        raise KeyError(metric)

    def summary(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for people: (title, columns, rows), one per panel; groups as rows where a panel has them."""
        tables = []
        for panel in dict.fromkeys(row.panel for row in self.rows):
            rows = [row for row in self.rows if row.panel == panel]
            metrics = list(dict.fromkeys(row.metric for row in rows))
            keys = list(dict.fromkeys((row.system, row.group) for row in rows))
            cells = {(row.system, row.group, row.metric): row for row in rows}
            table = []
            for system, group in keys:
                name = " / ".join(part for part in (system, group) if part != "all") or "all cells"
                found = [cells.get((system, group, metric)) for metric in metrics]
                size = max(cell.n_cells for cell in found if cell is not None)
                table.append([name, str(size), *("" if cell is None else f"{cell.value:.3f}" for cell in found)])
            tables.append((panel, ["", "cells", *metrics], table))
        return tables


@dataclass(frozen=True)
class Inputs:
    """What panels read: the cells, the embedding where there is one, the real cells of a counterfactual."""

    adata: AnnData
    against: AnnData | None
    condition: str
    label: str | None
    control: str | None
    z: np.ndarray | None
    k: int
    alpha: float
    min_cells: int | None
    seed: int
    notes: list[str]

    def latents(self) -> np.ndarray:
        """The embedding, or NotApplicable."""
        if self.z is None:
            raise NotApplicable("the input is a counterfactual, which has no embedding")
        return self.z

    def column(self, key: str) -> np.ndarray:
        """A column of the cells as strings."""
        return np.asarray(column(self.adata.obs, key, purpose="evaluation")).astype(str)

    def labels(self) -> np.ndarray:
        """The label column, or NotApplicable."""
        if self.label is None:
            raise NotApplicable("it needs --label")
        return self.column(self.label)


def evaluate(
    adata: AnnData,
    *,
    condition: str | None = None,
    label: str | None = None,
    control: str | None = None,
    against: AnnData | None = None,
    embedding: str | None = None,
    panels: Sequence[str] | None = None,
    k: int = 100,
    alpha: float = 0.1,
    min_cells: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score embedded cells, or a counterfactual against real cells.

    Parameters
    ----------
    adata : AnnData
        Cells with an embedding in obsm, or what `counterfactual` returned.
    condition, label, control : str
        obs columns, and the reference value of the condition.
    against : AnnData, optional
        Real cells on the same scale as a counterfactual's X.
    embedding : str, optional
        obsm key; default the one cellalign wrote.
    panels : sequence of str, optional
        Default: all that can run.
    k, alpha : int, float
        Neighbours and test level of the mixing panel.
    min_cells : int, optional
        Smallest cell type for m-kBET and m-s; default 4 k.

    Raises
    ------
    UsageError
        Unknown panel, or no condition.
    InputError
        A panel asked for by name cannot run, or the inputs do not fit.
    """
    record = adata.uns.get("cellalign", {})
    chosen = list(PANELS) if panels is None else [name.strip() for name in panels]
    for name in chosen:
        if name not in PANELS:
            raise UsageError(f"unknown panel {name!r}.{nearest(name, PANELS)} Panels: {', '.join(PANELS)}")
    condition = condition or str(record.get("condition", "")) or None
    if condition is None:
        raise UsageError("--condition KEY is needed: the obs column whose mixing or effect is scored")
    column(adata.obs, condition, purpose="condition")
    if label is not None:
        column(adata.obs, label, purpose="label")
    is_prediction = record.get("kind") == "counterfactual"
    z = None if is_prediction else _embedding(adata, embedding)
    result = Evaluation()
    inputs = Inputs(adata, against, condition, label, control, z, k, alpha, min_cells, seed, result.notes)
    for name in chosen:
        try:
            result.rows += list(PANELS[name](inputs))
        except NotApplicable as reason:
            if panels is not None:
                raise InputError(f"panel {name} cannot run: {reason}") from reason
            result.left_out[name] = str(reason)
    if not result.rows:
        raise InputError("no panel can run: " + "; ".join(f"{k}: {v}" for k, v in result.left_out.items()))
    return result


def _embedding(adata: AnnData, key: str | None) -> np.ndarray:
    """The embedding to score."""
    known = [k for k in adata.obsm if k.startswith("X_") and k not in ("X_umap", "X_pca", "X_tsne")]
    key = key or adata.uns.get("cellalign", {}).get("key")
    if key is None:
        if len(known) != 1:
            found = ", ".join(known) or "none"
            raise InputError(
                f"no single embedding X_* in obsm (found: {found}); run cellalign embed or give --embedding"
            )
        key = known[0]
    if key not in adata.obsm:
        raise InputError(f"no embedding {key!r} in obsm.{nearest(key, adata.obsm)} There: {', '.join(adata.obsm)}")
    z = np.asarray(adata.obsm[key], dtype=np.float32)
    if not np.isfinite(z).all():
        raise InputError(f"embedding {key!r} holds NaN or infinite values")
    return z


def mixing(inputs: Inputs) -> Iterator[Row]:
    """kBET and local silhouette over all cells and within each cell type."""
    z = inputs.latents()
    names = inputs.column(inputs.condition)
    if len(np.unique(names)) < 2:
        raise NotApplicable("the cells are of one condition only")
    if len(z) < 3:
        raise NotApplicable("fewer than 3 cells")
    codes = np.unique(names, return_inverse=True)[1]
    near = mix.neighbours(z, inputs.k)
    s = mix.local_silhouette(near, codes)
    yield Row("mixing", "all", "all", "kBET", mix.kbet(near, codes, inputs.alpha), len(z))
    yield Row("mixing", "all", "all", "s", float(s.mean()), len(z))
    for value in np.unique(names):
        yield Row(
            "mixing",
            "all",
            f"{inputs.condition}={value}",
            "s",
            float(s[names == value].mean()),
            int((names == value).sum()),
        )
    if inputs.label is None:
        inputs.notes.append("m-kBET and m-s need --label")
        return
    scores, skipped = mix.by_label(
        z, codes, inputs.labels(), k=inputs.k, alpha=inputs.alpha, min_cells=inputs.min_cells
    )
    for name, (kbet, silhouette, n) in scores.items():
        yield Row("mixing", "all", name, "kBET", kbet, n)
        yield Row("mixing", "all", name, "s", silhouette, n)
    if scores:
        n = sum(score[2] for score in scores.values())
        yield Row("mixing", "all", "mean within cell types", "kBET", float(np.mean([v[0] for v in scores.values()])), n)
        yield Row("mixing", "all", "mean within cell types", "s", float(np.mean([v[1] for v in scores.values()])), n)
    if skipped:
        named = ", ".join(f"{name} ({n})" for name, n in skipped.items())
        least = 4 * inputs.k if inputs.min_cells is None else inputs.min_cells
        inputs.notes.append(f"m-kBET and m-s skip cell types under {least} cells or of one condition: {named}")


def probe(inputs: Inputs) -> Iterator[Row]:
    """How well the condition (should be the floor) and the label (should be high) follow from the latents."""
    z = inputs.latents()
    for key in (inputs.condition, inputs.label):
        if key is not None:
            for metric, value in probes(z, inputs.column(key), inputs.seed).items():
                yield Row("probe", key, "all", metric, value, len(z))


def transfer_panel(inputs: Inputs) -> Iterator[Row]:
    """Cell-type accuracy of a classifier trained under one condition and tested under another."""
    z, label = inputs.latents(), inputs.labels()
    names = inputs.column(inputs.condition)
    scores = transfer(z, names, label, inputs.seed)
    if not scores:
        raise NotApplicable("no two conditions share two cell types")
    for pair, value in scores.items():
        yield Row("transfer", "all", pair, "accuracy", value, int((names == pair.split(" -> ")[1]).sum()))
    yield Row("transfer", "all", MEAN, "accuracy", float(np.mean(list(scores.values()))), len(z))


def response(inputs: Inputs) -> Iterator[Row]:
    """Predicted against real expression per cell type, beside no change, mean shift and the split-half ceiling."""
    record = inputs.adata.uns.get("cellalign", {})
    if record.get("kind") != "counterfactual":
        raise NotApplicable("the input is no counterfactual")
    if inputs.against is None:
        raise NotApplicable("it needs --against FILE, the real cells")
    groups = _Groups.of(inputs, str(record["from"]) or inputs.control or "", str(record["to"]))
    per_system: dict[str, list[dict[str, float]]] = {}
    for name in groups.names:
        for system, scores in _score_group(groups, name, inputs.seed).items():
            per_system.setdefault(system, []).append(scores)
            for metric, value in scores.items():
                yield Row("response", system, name, metric, value, groups.size(name))
    total = sum(groups.size(name) for name in groups.names)
    for system, found in per_system.items():
        for metric in found[0]:
            values = [scores[metric] for scores in found if metric in scores]
            yield Row("response", system, MEAN, metric, float(np.nanmean(values)), total)


@dataclass(frozen=True)
class _Groups:
    """Predicted, real and source cells by cell type."""

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
            raise InputError(f"--against lacks {len(missing)} of the predicted genes, the first {str(missing[0])!r}")
        columns = against.var_names.get_indexer(inputs.adata.var_names)
        real_condition = np.asarray(column(against.obs, inputs.condition)).astype(str)
        source = real_condition == origin if origin else real_condition != to
        target = real_condition == to
        if not target.any():
            raise InputError(f"--against has no cell of {inputs.condition}={to!r} to compare with")
        if inputs.label is None:
            label_p, label_r = np.full(inputs.adata.n_obs, "all"), np.full(against.n_obs, "all")
        else:
            label_p = inputs.labels()
            label_r = np.asarray(column(against.obs, inputs.label, purpose="label")).astype(str)
        x_p, x_r = inputs.adata.X, against.X[:, columns]
        counts = {n: [int((m & (label_r == n)).sum()) for m in (target, source)] for n in np.unique(label_p)}
        names = [str(n) for n, c in counts.items() if min(c) >= LEAST_CELLS]
        skipped = [f"{n} ({c[0]} real, {c[1]} source)" for n, c in counts.items() if min(c) < LEAST_CELLS]
        if skipped:
            inputs.notes.append(f"response skips cell types with fewer than {LEAST_CELLS} cells: {', '.join(skipped)}")
        if not names:
            raise NotApplicable(f"no cell type has {LEAST_CELLS} cells under both conditions")
        return cls(
            names,
            {n: res.dense(x_p[np.flatnonzero(label_p == n)]) for n in names},
            {n: res.dense(x_r[np.flatnonzero(target & (label_r == n))]) for n in names},
            {n: res.dense(x_r[np.flatnonzero(source & (label_r == n))]) for n in names},
        )

    def size(self, name: str) -> int:
        """Real cells of a cell type."""
        return len(self.real[name])


def mean_shift(groups: _Groups, name: str) -> np.ndarray | None:
    """Mean change of all other cell types, each counting the same; None where there is no other."""
    others = [other for other in groups.names if other != name]
    if not others:
        return None
    return np.mean([groups.real[other].mean(0) - groups.control[other].mean(0) for other in others], axis=0)


def _score_group(groups: _Groups, name: str, seed: int) -> dict[str, dict[str, float]]:
    """Scores of the prediction, the baselines and the ceiling for one cell type."""
    real, control, predicted = groups.real[name], groups.control[name], groups.predicted[name]
    de = res.de_genes(control, real)
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


PANELS: dict[str, Callable[[Inputs], Iterator[Row]]] = {
    "mixing": mixing,
    "probe": probe,
    "transfer": transfer_panel,
    "response": response,
}
