"""Predicted and real cells on one scale and over the same genes, and which real cell each was predicted from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.matrices import default_matrix, is_counts, matrix_of
from cellalign.data.stored import Stored, all_in_order
from cellalign.errors import InputError, option
from cellalign.evaluation.inputs import Inputs
from cellalign.evaluation.predictions import check_finite, check_library_sizes, source_names

if TYPE_CHECKING:
    from anndata import AnnData

UNKNOWN = -1  # a predicted cell whose source is not among the real cells


def real_matrix(expression: str, real: AnnData, columns: np.ndarray | None = None) -> Any:
    """The real cells' values as they were read, over some genes: counts where the prediction's `expression` is counts.

    Raises
    ------
    InputError
        The prediction is of counts, and they hold none.
    """
    of_counts = expression == "counts"
    x = matrix_of(real, default_matrix(real, "counts") if of_counts else "X", option("against"))
    x = x if columns is None or all_in_order(columns, x.shape[1]) else x[:, columns]
    if of_counts and not is_counts(x):
        raise InputError(f"the prediction is of counts, but {option('against')} holds none; name the cells trained on")
    return x


def real_values(inputs: Inputs) -> Any:
    """`real_matrix` of the genes and the expression of the predictions, kept for all of them."""
    against = inputs.against
    assert against is not None
    expression, columns = inputs.predictions[0].expression, shared_genes(inputs.adata, against)
    return inputs.of_real("x", lambda: real_matrix(expression, against, columns))


def shared_genes(predicted: AnnData, against: AnnData) -> np.ndarray:
    """Columns of the real cells that are the predicted genes; InputError where one is not there."""
    missing = predicted.var_names.difference(against.var_names)
    if len(missing):
        raise InputError(
            f"{option('against')} lacks {len(missing)} of the predicted genes, the first {str(missing[0])!r}"
        )
    return against.var_names.get_indexer(predicted.var_names)


def sources(predicted: AnnData, against: AnnData) -> np.ndarray:
    """Which real cell [n] each was predicted from, by its name; -1 where there is none of it."""
    if not against.obs_names.is_unique:
        return np.full(predicted.n_obs, UNKNOWN)
    return against.obs_names.astype(str).get_indexer(source_names(predicted))


def positions(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each row stands in an increasing array; -1 where it is not in it."""
    place = np.searchsorted(among, rows).clip(max=len(among) - 1)
    return np.where(among[place] == rows, place, UNKNOWN)


def on_one_scale(inputs: Inputs, x: Any, *, with_sources: bool) -> tuple[Any, Any, Any]:
    """Expression of predicted, real and source cells (None where these are not kept, or not needed).

    Of the real cells `x` is what `real_matrix` gives.

    Counts are compared as log1p at the real cells' median library size, and by draws: log1p of an expected count is
    above the expectation of log1p, which is what a mean over real cells estimates.
    """
    record, adata = inputs.predictions[0], inputs.adata
    predicted, started = adata.X, adata.layers.get("source") if record.method and with_sources else None
    check_finite(predicted, "the prediction's X")
    if record.expression != "counts":
        said = None
        if not (record.method or record.expression == "any"):
            said = check_library_sizes(predicted, x, option("against"))
        note(inputs, said)
        return predicted, x, started
    if "drawn" in adata.layers:
        predicted = adata.layers["drawn"]
        check_finite(predicted, "the prediction's layer 'drawn'")
    elif not is_counts(predicted):
        note(
            inputs,
            "the prediction holds expected counts and no draws (an earlier version wrote it): their log is above the "
            "mean of logs that real cells have, and scores are too low; predict again",
        )
    from sklearn.preprocessing import normalize

    def log(counts: Any, size: float) -> Any:
        if isinstance(counts, Stored):
            return counts.mapped(lambda block: log(block, size), dtype=np.float64)
        return np.log1p(normalize(counts, "l1") * size)  # which keeps a sparse matrix sparse

    def of_real() -> tuple[float, Any]:
        size = float(np.median(x.facts.sums if isinstance(x, Stored) else np.asarray(x.sum(1))))
        return size, log(x, size)

    size, real = inputs.of_real("log of counts", of_real)
    return log(predicted, size), real, None if started is None else log(started, size)


def note(inputs: Inputs, said: str | None) -> None:
    """Add to what the result says, once."""
    if said and said not in inputs.notes:
        inputs.notes.append(said)
