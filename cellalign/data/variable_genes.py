"""Highly variable genes: scanpy's "seurat" flavour, over all cells or within batches that can be judged."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.errors import InputError, option

log = logging.getLogger("cellalign")


def variable_genes(
    x: sparse.csr_matrix, names: pd.Index, n_top_genes: int, batches: pd.Categorical | None, base: float | None
) -> pd.DataFrame:
    """Which genes vary most among cells, as scanpy judges it.

    Parameters
    ----------
    x : CSR matrix [n_cells, n_genes]
        Log expression.
    names : Index
        Of the genes.
    n_top_genes : int
        How many to choose; with ties there may be more.
    batches : Categorical [n_cells], optional
        Variability is judged within each. Where none can be seen, as in one of a single cell, it is left out, and said.
    base : float, optional
        Of the logarithm; None is the natural one.

    Returns
    -------
    DataFrame [n_genes]
        scanpy's columns of var: "highly_variable", "means", "dispersions", "dispersions_norm", and with batches in how
        many of them a gene is one.

    Raises
    ------
    InputError
        No gene varies, or every cell is a batch of its own.
    """
    x, batches = _judged(x, batches)
    cells = AnnData(x, obs=pd.DataFrame(index=[str(i) for i in range(x.shape[0])]), var=pd.DataFrame(index=names))
    cells.uns["log1p"] = {"base": base}
    if batches is not None:
        cells.obs["batch"] = batches
    from cellalign.nn.kernels.packages import compiled_elsewhere

    key = None if batches is None else "batch"
    try:
        with compiled_elsewhere(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pandas' options, and of genes that do not vary
            import scanpy as sc

            found = sc.pp.highly_variable_genes(
                cells, flavor="seurat", n_top_genes=n_top_genes, batch_key=key, inplace=False
            )
    except (IndexError, ValueError) as error:
        raise InputError(f"highly variable genes cannot be told ({error}); {_all()}") from error
    n_found = int(found["highly_variable"].sum())
    if not n_found:
        raise InputError(f"no gene varies enough to be chosen; {_all()}")
    if n_found < n_top_genes:
        log.warning("%d highly variable genes asked for, but %d vary", n_top_genes, n_found)
    return found.drop(columns="mean_bin", errors="ignore").astype({"dispersions_norm": np.float32})


def _judged(x: Any, batches: pd.Categorical | None) -> tuple[Any, pd.Categorical | None]:
    """The cells, without batches in which no gene varies."""
    if batches is None:
        if not _varies(x):
            raise InputError(f"no gene differs between the {x.shape[0]} cells; {_all()}")
        return x, None
    batches = batches.remove_unused_categories()
    left_out = [name for i, name in enumerate(batches.categories) if not _varies(x[batches.codes == i])]
    if not left_out:
        return x, batches
    within = option("batch")
    if len(batches.categories) == len(batches):
        raise InputError(
            f"every one of the {len(batches)} cells has a value of its own in the {within} column, so nothing varies "
            f"within one; name a column of batches, or leave {within} out"
        )
    if len(left_out) == len(batches.categories):
        raise InputError(f"no gene differs between the cells of any batch; leave {within} out, or {_all()}")
    few = ", ".join(map(repr, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
    n = len(batches.categories)
    log.warning("no gene varies within %d of %d batches (%s), which choose none", len(left_out), n, few)
    kept = ~np.isin(batches.codes, batches.categories.get_indexer(left_out))
    return x[kept], batches[kept].remove_unused_categories()


def _varies(x: sparse.csr_matrix) -> bool:
    """Whether any gene's expression differs between cells."""
    if x.shape[0] < 2:
        return False
    return bool((x.max(axis=0) != x.min(axis=0)).nnz)


def _all() -> str:
    return f"{option('n_top_genes', 0)} keeps all"
