"""What an annotation is made of: labelled cells, cells without their label; and its scores (inVAE table 1)."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.columns import with_value
from cellalign.data.given import given_cells
from cellalign.data.matrices import matrix_of
from cellalign.data.split import held_out
from cellalign.data.streamed import cells_with
from cellalign.data.values import known as known_values
from cellalign.errors import InputError
from cellalign.evaluation.metrics import annotation as metrics
from cellalign.evaluation.table import Evaluation, Row
from cellalign.model import Model
from cellalign.nn.minibatch import BATCH, COVARIATE

log = logging.getLogger("cellalign")


def score(obs: pd.DataFrame, table: pd.DataFrame, label: str, *, unlabelled: str | None = None) -> Evaluation:
    """Score an annotation where obs has the label too (inVAE table 1), else sum it up.

    Parameters
    ----------
    obs : DataFrame
        Of the annotated cells.
    table : DataFrame
        As `annotate` returns it.
    label : str
    unlabelled : str, optional
        The label's value that means there is none.

    Returns
    -------
    Evaluation
        Panels "accuracy over <label>" (average, minimum, maximum and median over labels, and overall), one row per
        label in panel <label>, and labels the reference never had, with the share flagged unknown, in "not in the
        reference". Without the label in obs: panel "predicted".
    """
    predicted, flagged = table[f"{label}_predicted"].cat, table[f"{label}_unknown"].to_numpy()
    names = list(predicted.categories)
    true = _truth(obs, label, unlabelled)
    if true is None:
        return Evaluation(_summed_up(table, label), notes=[f"no cell has a {label!r} to score the prediction with"])
    lookup = known_values(tuple(names)).codes(list(true.categories))
    codes = np.append(lookup, -1)[true.codes]
    result = Evaluation()
    if (codes >= 0).any():
        result.rows += _scored(codes, predicted.codes.to_numpy(), flagged, names, label)
    for code, name in enumerate(true.categories):
        if lookup[code] < 0:
            rows = true.codes == code
            share, n = float(flagged[rows].mean()), int(rows.sum())
            result.rows.append(Row("not in the reference", "all", name, metrics.DETECTED, share, n))
    if (true.codes < 0).any():
        result.notes.append(f"{(true.codes < 0).sum()} cells have no {label!r} and are not scored")
    return result


def no_label(model: Model, key: str) -> str | None:
    """The value of a label that meant none when the model was trained."""
    return model.missing_label if key == model.label else None


def labelled(reference: AnnData, key: str, model: Model, none: str | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the labels; codes and rows of the reference cells that have one and were not held out."""
    values = with_value(reference.obs, key, none, purpose="reference label")
    rows = np.flatnonzero(values.codes >= 0)
    if len(rows) < len(values):
        log.info("%d reference cells have no %r; left out", len(values) - len(rows), key)
    kept = ~held_out(reference.obs.iloc[rows], model.record.holdout, must_exist=False, control=model.control)
    if not kept.all():
        log.info("%d reference cells were held out from training; left out", (~kept).sum())
    values = values[rows[kept]].remove_unused_categories()
    if len(values.categories) < 2:
        there = f"one label only ({values.categories[0]!r})" if len(values) else "no labelled cell"
        raise InputError(f"the reference has {there} in {key!r}; at least two labels are needed to tell apart")
    return list(values.categories), values.codes.astype(np.int64), rows[kept]


def blind(adata: AnnData, key: str, model: Model, rows: np.ndarray | None = None) -> AnnData:
    """Cells as `Model.as_read` gives them, or some rows, without their label: a model that saw it would tell it."""
    matrix, hidden = model.matrix, [key]
    if model.method.embeds_without_covariates:
        hidden += [field.name for field in model.fields if field.role in (BATCH, COVARIATE)]
    adata = given_cells(adata)
    x, obs = matrix_of(adata, matrix), adata.obs.drop(columns=hidden, errors="ignore")
    if rows is not None and len(rows) < len(obs):
        x, obs = x[rows], obs.iloc[rows]
    kept = slice(None) if rows is None else rows
    obsm = {name: adata.obsm[name][kept] for name in model.obsm if name in adata.obsm}
    return cells_with({matrix: x}, obs=obs, var=adata.var, obsm=obsm, uns=adata.uns)


def under_names(own: np.ndarray, known: list[str], names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Probabilities of the model's own labels under the reference's names, followed by those it lacks."""
    there = known_values(tuple(names))
    called = [there.name(name) or name for name in known]
    every = names + [name for name in called if name not in names]
    probability = np.zeros((len(own), len(every)), dtype=np.float32)
    probability[:, [every.index(name) for name in called]] = own
    return probability, every


def _truth(obs: pd.DataFrame, label: str, unlabelled: str | None) -> pd.Categorical | None:
    """The cells' own labels; None where not a single one has one."""
    if label not in obs:
        return None
    true = with_value(obs, label, unlabelled, purpose="label")
    return true if (true.codes >= 0).any() else None


def _scored(codes: np.ndarray, predicted: np.ndarray, flagged: np.ndarray, names: list[str], label: str) -> list[Row]:
    """Rows of the panels on labels that the reference has."""
    known = codes >= 0
    found = metrics.scores(codes[known], predicted[known])
    overall = {"average": found.average, "minimum": found.minimum, "maximum": found.maximum, "median": found.median}
    overall |= {"all cells": found.accuracy, "macro F1": found.macro_f1}
    panel, n_known = f"accuracy over {label}", int(known.sum())
    rows = [Row(panel, "all", "all", metrics.OVERALL[name], value, n_known) for name, value in overall.items()]
    for code, n, accuracy in zip(found.labels, found.n_cells, found.by_label, strict=True):
        share = float(flagged[codes == code].mean())
        rows.append(Row(label, "all", names[code], metrics.ACCURACY, float(accuracy), int(n)))
        rows.append(Row(label, "all", names[code], metrics.FALSE_ALARM, share, int(n)))
    return rows


def _summed_up(table: pd.DataFrame, label: str) -> list[Row]:
    """Rows of the panel on what was predicted."""
    rows = []
    for name, cells in table.groupby(f"{label}_predicted", observed=True):
        for metric in (metrics.PROBABILITY, metrics.FLAGGED):
            value = float(cells[f"{label}_{metric.name}"].mean())
            rows.append(Row("predicted", "all", str(name), metric, value, len(cells)))
    return rows
