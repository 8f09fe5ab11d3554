"""Predicted cells of a screen as cell-eval and cell-eval2 read them: with control cells, beside the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.data.columns import having
from cellalign.data.matrices import is_counts
from cellalign.data.recipe import comparable
from cellalign.errors import InputError, option
from cellalign.evaluation.predictions import check_finite, of_another_tool
from cellalign.evaluation.scales import real_matrix, shared_genes
from cellalign.records import Counterfactual, Provenance

if TYPE_CHECKING:
    from anndata import AnnData


def beside(path: str) -> str:
    """Where the real cells are written: pred.h5ad and pred.real.h5ad."""
    file = Path(path)
    return str(file.with_name(f"{file.stem}.real{file.suffix}"))


def for_cell_eval(
    adata: AnnData, against: AnnData, *, condition: str | None = None, control: str | None = None
) -> tuple[AnnData, AnnData]:
    """Predicted and real cells with the same conditions, genes and control cells, ready for `cell-eval2 run`.

    Parameters
    ----------
    adata, against : AnnData
        A prediction of one condition or more, and the real cells.
    condition, control : str, optional
        obs column and its reference, of a prediction that cellalign did not make.

    Returns
    -------
    predicted, real : AnnData
        X of counts or log expression, as predicted, never negative; obs has the condition. The control cells are the
        real ones in both.

    Raises
    ------
    InputError
        No control; no real cells of any condition; negative values; counts that are none.
    """
    record = Provenance.of(adata.uns).counterfactual
    each = record.each() if record is not None else of_another_tool(adata, against, condition, control)
    key, origins = each[0].condition, {one.from_ for one in each}
    name = control or (origins.pop() if len(origins) == 1 else "")
    real = comparable(adata, against, each[0].expression, option("against"))
    start = having(real.obs, key, name, control=name) if name else np.zeros(real.n_obs, dtype=bool)
    if not start.any():
        said = f"no cell of {option('against')} is a control ({key}={name or '?'})"
        raise InputError(f"{said}, with which cell-eval compares; name it with {option('control', hint='VALUE')}")
    columns = shared_genes(adata, real)
    x_p, x_r = _matrices(adata, real, each[0])
    rows_p, rows_r, labels_p, labels_r = [], [], [], []
    for one in each:
        own, truth = (np.flatnonzero(having(obs, key, one.to, control=name)) for obs in (adata.obs, real.obs))
        if one.to == name or not len(own) or not len(truth):
            continue
        rows_p.append(own)
        rows_r.append(truth)
        labels_p += [one.to] * len(own)
        labels_r += [one.to] * len(truth)
    if not rows_p:
        raise InputError(f"{option('against')} has no cell of a predicted condition to compare with")
    controls = np.flatnonzero(start)
    picked = np.concatenate([*rows_r, controls])
    truth_x, control_x = x_r[picked][:, columns], x_r[controls][:, columns]
    predicted_x = sparse.vstack([_csr(x_p[np.concatenate(rows_p)]), _csr(control_x)], format="csr")
    names = [*adata.obs_names[np.concatenate(rows_p)], *real.obs_names[controls]]
    labels_p, labels_r = [*labels_p, *[name] * len(controls)], [*labels_r, *[name] * len(controls)]
    return (
        _cells(predicted_x, names, key, labels_p, adata.var_names),
        _cells(_csr(truth_x), list(real.obs_names[picked]), key, labels_r, adata.var_names),
    )


def _matrices(adata: AnnData, real: AnnData, record: Counterfactual) -> tuple[Any, Any]:
    """Predicted cells, of counts the drawn ones, and real ones on that scale."""
    check_finite(adata.X, "the prediction's X")
    predicted, x = adata.X, real_matrix(record.expression, real)
    if record.expression == "counts":
        predicted = adata.layers.get("drawn", adata.X)
        if not is_counts(predicted):
            raise InputError("the prediction holds expected counts, and cell-eval reads integers; predict again")
    if min(predicted.min(), x.min()) < 0:
        raise InputError("the prediction or the real cells hold negative values, which cell-eval does not read")
    return predicted, x


def _csr(x: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix(x, dtype=np.float32)


def _cells(x: Any, names: list[str], key: str, labels: list[str], genes: pd.Index) -> AnnData:
    """Cells under names none of which occurs twice."""
    from anndata import AnnData

    index = pd.Index([str(name) for name in names])
    if not index.is_unique:
        index = pd.Index([f"{name}-{i}" for i, name in enumerate(index)])
    obs = pd.DataFrame({key: pd.Categorical(labels)}, index=index)
    return AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str))))
