"""Raw counts to what every method reads: counts kept in a layer, normalised log1p expression in X, HVGs."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.matrices import check_matrix, check_names, find_counts
from cellalign.errors import InputError, UsageError, option
from cellalign.records import Preprocessing, Provenance
from cellalign.records.provenance import KEY

log = logging.getLogger("cellalign")


def preprocess(
    adata: AnnData,
    *,
    n_top_genes: int = 2000,
    target_sum: float | None = None,
    batch: str | None = None,
    min_genes: int = 1,
    min_cells: int = 1,
) -> AnnData:
    """Normalise, log-transform, select highly variable genes; `tasks.preprocess.preprocess` says what each means."""
    if n_top_genes < 0 or min_genes < 0 or min_cells < 0:
        raise UsageError(
            f"{option('n_top_genes')}, {option('min_genes')} and {option('min_cells')} must not be negative"
        )
    if target_sum is not None and target_sum <= 0:
        raise UsageError(f"{option('target_sum')} must be positive, got {target_sum}")
    check_names(adata, "the input")
    for matrix in (adata.X, *adata.layers.values()):
        if matrix is not None:
            check_matrix(matrix, "the input")
    key = find_counts(adata)
    counts = adata.raw.X if key == "raw" else adata.X if key == "X" else adata.layers[key]
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    if batch is not None:
        column(adata.obs, batch, purpose="batch")

    n_genes, n_counts = np.diff(counts.indptr), np.asarray(counts.sum(1)).ravel()
    cells = np.flatnonzero((n_genes >= min_genes) & (n_counts > 0))
    genes = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= min_cells)
    if not len(cells) or not len(genes):
        either = f"{option('min_genes')} or {option('min_cells')}"
        raise InputError(f"no cells or no genes are left after filtering; lower {either}")
    _say_dropped("cells", counts.shape[0] - len(cells))
    _say_dropped("genes", counts.shape[1] - len(genes))

    # everything else the user keeps in the file goes along, except matrices on the old scale
    others = {} if key == "raw" else {"varm": dict(adata.varm)}
    bare = AnnData(
        obs=adata.obs,
        var=adata.raw.var if key == "raw" else adata.var,
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        **others,
    )
    result = bare[cells, genes].copy()
    result.obs["n_counts"], result.obs["n_genes"] = n_counts[cells], n_genes[cells]
    result.layers["counts"] = counts[cells][:, genes]
    total = float(target_sum or np.median(n_counts[cells]))
    result.X = normalised_log(counts[cells], total)[:, genes]
    result.uns["log1p"] = {"base": None}  # by which scanpy's functions know
    if 0 < n_top_genes < result.n_vars:
        from cellalign.nn.kernels.packages import compiled_elsewhere

        with compiled_elsewhere("scanpy"):
            import scanpy as sc

            sc.pp.highly_variable_genes(result, flavor="seurat", n_top_genes=n_top_genes, batch_key=batch)
        result = result[:, result.var["highly_variable"].to_numpy()].copy()
    elif n_top_genes > result.n_vars:
        log.warning("%d highly variable genes asked for, but there are %d genes; all kept", n_top_genes, result.n_vars)
    record = Preprocessing(
        counts_from=key,
        n_top_genes=n_top_genes,
        target_sum=total,
        batch=batch,
    )
    result.uns[KEY] = Provenance.to_extend(adata.uns).with_steps(record).plain()
    return result


def normalised_log(counts: sparse.csr_matrix, target_sum: float) -> sparse.csr_matrix:
    """log1p of counts [n, G] scaled to the same sum in every cell, in float32 as scanpy computes it."""
    scale = np.asarray(counts.sum(1)).ravel() / target_sum
    scale[scale == 0] = 1
    result = counts.copy()
    result.data /= np.repeat(scale, np.diff(counts.indptr))
    np.log1p(result.data, out=result.data)
    return result


def _say_dropped(what: str, n: int) -> None:
    if n:
        log.info("%d %s dropped: too few counts", n, what)
