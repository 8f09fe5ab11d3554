"""Panel bio: integration scored as scIB does, of every embedding beside the unintegrated expression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.any_values import any_values
from cellalign.data.matrices import check_log, check_matrix, is_counts
from cellalign.data.stored import Stored
from cellalign.errors import InputError
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.metrics.scib import METRICS, scib_beside_permuted, unfit
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row
from cellalign.plots.umap import unintegrated_pca

if TYPE_CHECKING:
    from anndata import AnnData

BASELINE = "unintegrated PCA"


@dataclass(frozen=True)
class Bio(Panel):
    """scIB's scores of every embedding, beside those of the unintegrated expression's principal components."""

    name = "bio"
    summary = "scIB: whether labels stay and batches go, of one embedding or several, beside unintegrated components."
    metrics = METRICS
    asked_only = "it compiles for half a minute; ask for it with {panels} bio or {batch}"
    needs, extra = "scib_metrics", "scib"
    metrics_as_rows = True
    order = 20

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """One row per embedding and score; NotApplicable where a score would have no meaning."""
        from cellalign.nn.kernels.packages import compiled_elsewhere  # imports numba

        inputs = inputs.known(inputs.batch or inputs.condition, inputs.label)
        embeddings, label, batch = inputs.all_latents(), inputs.labels(), inputs.batches()
        for key, z in embeddings.items():
            reason = unfit(z, batch, label)
            if reason is not None:
                raise NotApplicable(reason if len(embeddings) == 1 else f"{key}: {reason}")
        pca = None
        try:
            pca = _checked_pca(inputs.adata, batch, label, inputs.seed, inputs.values_in)
        except InputError as reason:
            inputs.notes.append(f"bio has no {BASELINE} beside it and no PCR comparison: {reason}")
        systems = embeddings if pca is None else embeddings | {BASELINE: pca}
        declared = by_name(METRICS)
        for system, z in systems.items():
            with compiled_elsewhere():
                scores, nulls = scib_beside_permuted(z, batch, label, seed=inputs.seed, pca=pca)
            lost = [metric for metric, value in scores.items() if not np.isfinite(value)]
            if lost:
                inputs.notes.append(f"bio of {system} averages without {', '.join(lost)}: not defined on these cells")
            for name, value in scores.items():
                yield self.row(system, "all", declared[name], value, len(z), nulls.get(name))


def _checked_pca(
    adata: AnnData, batch: np.ndarray, label: np.ndarray, seed: int, values_in: str | None = None
) -> np.ndarray:
    """Principal components [n, at most 50] of the expression; obsm["X_pca"] may be of anything, and is not read.

    Raises
    ------
    InputError
        There is no fit expression, or its components cannot be scored.
    """
    x = _log_expression(adata) if values_in is None else any_values(adata, values_in)
    if min(x.shape) < 3:
        raise InputError(f"{x.shape[1]} genes are too few")
    pca = unintegrated_pca(x, seed)
    reason = unfit(pca, batch, label)
    if reason is not None:
        raise InputError(reason)
    return pca


def _log_expression(adata: AnnData) -> Any:
    """X [n, G], or where that is not there or holds counts, log1p of counts at their median library size."""
    from cellalign.data.matrices import default_matrix, matrix_of

    key = "X" if adata.X is not None and not is_counts(adata.X) else default_matrix(adata, "counts")
    x = matrix_of(adata, key)
    x = x.to_memory() if isinstance(x, Stored) else x
    check_matrix(x, f"the input's {key}")
    if is_counts(x):
        from sklearn.preprocessing import normalize

        size = float(np.median(np.asarray(x.sum(1))))
        # l1 normalisation keeps a sparse matrix sparse
        return np.log1p(normalize(x, "l1") * size)
    check_log(x, f"the input's {key}", "cellalign preprocess")
    return x
