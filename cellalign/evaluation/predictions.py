"""What a file predicts: cellalign's own record of a counterfactual, or, where another tool made it, its condition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.data.columns import column, find_control
from cellalign.data.integers import largest
from cellalign.data.matrices import LARGEST_LOG, default_matrix, is_counts, matrix_of, refuse_zeros
from cellalign.data.stored import Stored, rows_in
from cellalign.errors import InputError, option, spoken
from cellalign.records import Counterfactual, Provenance

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.evaluation.inputs import Inputs
    from cellalign.model import Model

APART = 1.5  # ratio of library sizes from which two normalisations are said to differ
TOO_FAR_APART = 4.0
LOOKED_AT = 500  # cells
CONDITIONS = 5  # of many that are predicted
MOST_TYPES = 100  # values of a column that may be cell types
SAME = 1e-3  # of a cell's values, that a change of scale explains


def expression_of(adata: AnnData, expression: str | None = None) -> str:
    """The scale of a prediction's X, "log", "counts" or "any": as it is recorded, else as said, else by its values."""
    record = Provenance.of(adata.uns).counterfactual
    if record is not None:
        return record.expression
    if expression is not None:
        return expression
    return "counts" if adata.X is not None and is_counts(adata.X) else "log"


def of_another_tool(
    adata: AnnData,
    against: AnnData,
    condition: str | None,
    control: str | None,
    expression: str | None = None,
) -> list[Counterfactual]:
    """Cells of another tool as predictions of the values of their condition column, but for the control.

    Parameters
    ----------
    adata, against : AnnData
        The prediction, and the real cells.
    condition, control : str, optional
        The control is looked for among the real cells' conditions where it is not given.
    expression : "any", optional
        It is of any real values.

    Raises
    ------
    InputError
        No condition column, only control cells, or no matrix on one of the scales that can be compared.
    """
    if condition is None:
        asked = option("condition", hint="KEY")
        raise InputError(f"{asked} is needed: the obs column that says which condition each predicted cell is of")
    check_finite(adata.X, "the prediction's X")
    scale = expression_of(adata, expression)
    if scale == "log" and largest(adata.X) > LARGEST_LOG:
        raise InputError(
            "the prediction's X is neither counts nor log1p expression (its largest value is "
            f"{largest(adata.X):.4g}); bring it on the scale of the real cells, or, if these hold any real values, add "
            f"{option('expression', 'any')}"
        )
    values = list(column(adata.obs, condition).categories)
    origin = control or find_control(column(against.obs, condition).categories)
    predicted = [value for value in values if value != origin]
    if not predicted:
        example = spoken(python=f"adata.obs[{condition!r}] = 'stimulated'", command="in Python, adata.obs[KEY] = VALUE")
        raise InputError(
            f"every predicted cell has {condition}={origin!r}, the control; write into that column what was "
            f"predicted: {example}"
        )
    return [
        Counterfactual(method="", condition=condition, from_=origin or "", to=value, expression=scale)
        for value in predicted
    ]


def label_of(inputs: Inputs) -> str | None:
    """The column by which a prediction of some cell types alone is compared where none is named; None of all types.

    It is the label of the model, which is noted; where that is another column, or none, what is compared with what is.
    """
    label = inputs.predictions[0].label
    found = next(only_some(inputs, label), None)
    if found is None:
        return None
    key, mine, theirs = found
    of = f"the prediction is of {mine} of {theirs} values of {key!r}"
    if key == label:
        inputs.notes.append(f"{of}, the label of the model, and is compared by it ({option('label')} names another)")
        return label
    inputs.notes.append(
        f"{of} and is compared with real cells of all of them; {option('label', key)} compares like with like"
    )
    return None


def only_some(inputs: Inputs, first: str = "") -> Iterator[tuple[str, int, int]]:
    """Columns of which the prediction has some values alone, and how many of how many; `first` is looked at first."""
    adata, against, records = inputs.adata, inputs.against, inputs.predictions
    assert against is not None
    changed = {key for one in records for key in (one.condition, *one.changes)}
    # what is nested in the condition, as samples are, has nothing under the other one to be compared with
    real = against.obs
    under = [real]
    if inputs.condition in real:  # where not one cell is under a condition, nothing is compared
        masks = (inputs.under(real, one.to) for one in records)
        under = [real.loc[mask] for mask in islice(filter(np.any, masks), CONDITIONS)]
    for key in dict.fromkeys([first, *map(str, adata.obs)]):
        if key in changed:
            continue
        mine = _types(adata.obs, key)
        of_each = [_types(obs, key) for obs in under] if mine else []
        if of_each and all(mine < theirs for theirs in of_each):
            yield key, len(mine), len(set().union(*of_each))


def _types(obs: pd.DataFrame, key: str) -> set[str]:
    """The values of a column that may be of cell types: none where it is not there, or holds no names, or very many."""
    values = obs[key] if key in obs else None
    if not isinstance(values, pd.Series) or values.dtype.kind in "iufbmM":
        return set()
    if values.iloc[:: max(1, len(obs) // LOOKED_AT)].astype(str).nunique() > MOST_TYPES:
        return set()
    try:
        found = set(column(obs, key, purpose="label", missing=True).categories)
    except InputError:  # of lists, ...
        return set()
    return found if len(found) <= MOST_TYPES else set()


def origin_notes(adata: AnnData, against: AnnData, model: Model | None) -> list[str]:
    """Whether a prediction is of the model that is given, and of the cells it is compared with: notes where it is not.

    Parameters
    ----------
    adata : AnnData
        With layers["source"], the cells it was predicted from, where cellalign predicted it.
    against : AnnData
        The real cells, on the prediction's scale.
    """
    record, notes = Provenance.of(adata.uns).counterfactual, []
    if model is not None and model.made(record) is False:
        notes.append(f"it was predicted by another model than {option('model')}, and panel response is of that one")
    if record is None or "source" not in adata.layers or not against.obs_names.is_unique:
        return notes
    rows = against.obs_names.astype(str).get_indexer(source_names(adata))
    columns = against.var_names.get_indexer(adata.var_names)
    shared, genes = np.flatnonzero(rows >= 0), columns >= 0
    if not len(shared):
        notes.append(f"not one of the cells it was predicted from is in {option('against')}, by name")
    elif genes.any():
        some = shared[np.unique(np.linspace(0, len(shared) - 1, min(LOOKED_AT, len(shared))).astype(int))]
        was = _dense(rows_in(adata.layers["source"], some))[:, genes]
        key = default_matrix(against, "counts") if record.expression == "counts" else "X"
        now = _dense(rows_in(matrix_of(against, key, option("against")), rows[some]))[:, columns[genes]]
        n = int((~np.isclose(was, now, rtol=SAME, atol=SAME)).any(1).sum())
        if n:
            notes.append(
                f"{n} of {len(some)} cells that it was predicted from are others in {option('against')}, under the "
                "same names: it has changed since, or is another file"
            )
    return notes


def refuse_predicted(against: AnnData) -> None:
    """Refuse real cells that are predicted ones, as they are where two files change places: InputError."""
    if Provenance.of(against.uns).counterfactual is not None:
        raise InputError(
            f"{option('against')} holds cells that cellalign counterfactual predicted; the prediction comes first, and "
            f"{option('against')} is the real cells"
        )


def source_names(adata: AnnData) -> pd.Index:
    """Names [n] of the cells that each was predicted from: of a file of several conditions a column has them."""
    record = Provenance.of(adata.uns).counterfactual
    if record is not None and record.source and record.source in adata.obs:
        return pd.Index(adata.obs[record.source].astype(str))
    return adata.obs_names.astype(str).str.replace(r"-draw\d+$", "", regex=True)


def _dense(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


def check_finite(x: Any, where: str) -> None:
    """Refuse a matrix that is not there, not numeric, zero everywhere, or holds NaN or infinite values: InputError."""
    if x is None:
        raise InputError(f"{where} is not there; a prediction's expression has to be in it")
    if not all(x.shape):
        raise InputError(f"{where} holds {x.shape[0]} cells and {x.shape[1]} genes; there is nothing to compare")
    if x.dtype.kind not in "iufb":
        raise InputError(f"{where} is not numeric (it holds {x.dtype})")
    if isinstance(x, Stored):
        wrong = sum(x.facts.wrong.get(kind, (0, 0))[0] for kind in ("NaN", "inf"))
        if wrong:
            raise InputError(f"{where} holds {wrong} NaN or infinite values; correct them")
        refuse_zeros(x, where)
        return
    values = x.data if sparse.issparse(x) else np.asarray(x)
    # the sum is one pass; only of a bad matrix are the culprits counted
    with np.errstate(all="ignore"):
        fine = np.isfinite(values.sum(dtype=np.float64)) or np.isfinite(values).all()
    if not fine:
        raise InputError(f"{where} holds {int((~np.isfinite(values)).sum())} NaN or infinite values; correct them")
    refuse_zeros(x, where)


def check_library_sizes(predicted: Any, real: Any, where: str) -> str | None:
    """Compare what the normalised expression of cells sums up to, of log expression of the same genes [n, G] each.

    Returns
    -------
    str or None
        What is to be noted where sums differ; None where they are alike.

    Raises
    ------
    InputError
        They differ too much to be on one scale.
    """
    ours, theirs = (_library_size(x) for x in (predicted, real))
    if not (ours > 0 and theirs > 0):
        return None
    ratio = max(ours, theirs) / min(ours, theirs)
    said = f"predicted cells sum up to {ours:.4g} (expm1 of X, median) and those of {where} to {theirs:.4g}"
    if ratio > TOO_FAR_APART:
        raise InputError(f"{said}: they are not normalised alike; bring both to the same counts per cell")
    return f"{said}: if they were normalised to different totals, scores tell of that" if ratio > APART else None


def _library_size(x: Any) -> float:
    """Median over cells of the sum of expm1, judged by some of them."""
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(LOOKED_AT, x.shape[0])).astype(int))
    part = rows_in(x, rows)
    with np.errstate(all="ignore"):
        sums = np.asarray((part.expm1() if sparse.issparse(part) else np.expm1(np.asarray(part))).sum(1))
    return float(np.median(sums))
