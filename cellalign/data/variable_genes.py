"""Highly variable genes: scanpy's "seurat" flavour, over all cells or within batches that can be judged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.data.stored import Stored
from cellalign.errors import InputError, option

log = logging.getLogger("cellalign")
N_BINS = 20  # of genes of like means, as scanpy's default


def variable_genes(
    x: Stored, names: pd.Index, n_top_genes: int, batches: pd.Categorical | None, base: float | None
) -> pd.DataFrame:
    """Which genes vary most among cells, as scanpy computes it, by one pass over blocks of them.

    Parameters
    ----------
    x : Stored [n_cells, n_genes]
        Log expression, sparse.
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
    batches = None if batches is None else batches.remove_unused_categories()
    _check_batches(batches)
    found = _moments(x, batches, base)
    left_out = _check_varying(batches, found.varying.tolist(), x.shape[0])
    cutoffs = []
    for i in range(len(found.cells)):
        if batches is not None and batches.categories[i] in left_out:
            continue
        there = found.held[i] > 0 if batches is not None else np.ones(len(names), dtype=bool)
        mean = found.sums[i, there] / found.cells[i]
        variance = found.squares[i, there] / found.cells[i] - mean**2
        variance *= found.cells[i] / max(found.cells[i] - 1, 1)
        one = _dispersions(mean, variance, n_top_genes).set_axis(names[there])
        absent = pd.DataFrame(0.0, index=names[~there], columns=one.columns).astype({"highly_variable": bool})
        cutoffs.append(pd.concat([one, absent]).loc[names] if len(absent) else one)
    return _checked(cutoffs[0] if batches is None else _of_batches(cutoffs, names, n_top_genes), n_top_genes)


def _checked(found: pd.DataFrame, n_top_genes: int) -> pd.DataFrame:
    """What was found, if it is anything."""
    n_found = int(found["highly_variable"].sum())
    if not n_found:
        raise InputError(f"no gene varies enough to be chosen; {_all()}")
    if n_found < n_top_genes:
        log.warning("%d highly variable genes asked for, but %d vary", n_top_genes, n_found)
    if n_found > n_top_genes:
        log.info("%d highly variable genes asked for; %d are kept, as the last of them tie", n_top_genes, n_found)
    return found.drop(columns="mean_bin", errors="ignore").astype({"dispersions_norm": np.float32})


def _check_batches(batches: pd.Categorical | None) -> None:
    """Refuse cells of which each is a batch: before anything is computed of every batch."""
    if batches is not None and len(batches.categories) == len(batches) > 1:
        within = option("batch")
        raise InputError(
            f"every one of the {len(batches):,} cells has a value of its own in the {within} column, so nothing varies "
            f"within one; name a column of batches, or leave {within} out"
        )


def _check_varying(batches: pd.Categorical | None, varying: Sequence[bool], n_cells: int) -> list[Any]:
    """The batches in which no gene varies, which is said; InputError where none is left."""
    if batches is None:
        if not varying[0]:
            raise InputError(f"no gene differs between the {n_cells} cells; {_all()}")
        return []
    left_out = [name for name, so in zip(batches.categories, varying, strict=True) if not so]
    if not left_out:
        return []
    within = option("batch")
    if len(left_out) == len(batches.categories):
        raise InputError(f"no gene differs between the cells of any batch; leave {within} out, or {_all()}")
    few = ", ".join(map(repr, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
    n = len(batches.categories)
    log.warning("no gene varies within %d of %d batches (%s), which choose none", len(left_out), n, few)
    return left_out


@dataclass
class _Moments:
    """Of every batch (one of all cells): cells [k]; sums, sums of squares and cells that are not zero, [k, G]."""

    cells: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    held: np.ndarray
    varying: np.ndarray


def _moments(x: Stored, batches: pd.Categorical | None, base: float | None) -> _Moments:
    """Of expression without its logarithm."""
    codes = np.zeros(x.shape[0], dtype=np.int64) if batches is None else np.asarray(batches.codes, dtype=np.int64)
    k, n_genes = (1 if batches is None else len(batches.categories)), x.shape[1]
    sums, squares, held = np.zeros((k, n_genes)), np.zeros((k, n_genes)), np.zeros((k, n_genes), dtype=np.int64)
    varying = np.zeros(k, dtype=bool)
    first: dict[int, sparse.csr_matrix] = {}
    for _, parts in x.of_blocks(partial(_moments_of, base=base), codes):
        for i, part in parts.items():
            sums[i] += part.sums
            squares[i] += part.squares
            held[i] += part.held
            varying[i] |= part.varies or bool((first.setdefault(i, part.first) != part.first).nnz)
    return _Moments(np.bincount(codes[codes >= 0], minlength=k), sums, squares, held, varying)


@dataclass
class _Part:
    """Of the cells of one batch in a block: sums as in `_Moments` [G], the first cell, whether another one differs."""

    sums: np.ndarray
    squares: np.ndarray
    held: np.ndarray
    first: sparse.csr_matrix
    varies: bool


def _moments_of(block: sparse.csr_matrix, codes: np.ndarray, *, base: float | None) -> dict[int, _Part]:
    """Of a block, by the batch of its cells [B]; -1 is none."""
    n_genes, found = block.shape[1], {}
    values = block.data if base is None else block.data * np.float32(np.log(base))
    plain = sparse.csr_matrix((np.expm1(values), block.indices, block.indptr), block.shape)
    for i in np.unique(codes[codes >= 0]):
        part = plain if (codes == i).all() else plain[codes == i]
        cell = part[0].toarray()
        found[int(i)] = _Part(
            np.bincount(part.indices, part.data, n_genes),
            np.bincount(part.indices, part.data.astype(np.float64) ** 2, n_genes),
            np.bincount(part.indices, minlength=n_genes),
            part[0],
            any((row.toarray() != cell).any() for row in part),
        )
    return found


def _dispersions(mean: np.ndarray, variance: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """scanpy's "seurat" flavour, from the mean and variance of every gene: dispersions beside those of like means."""
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(all="ignore"):
        dispersion = variance / mean
        dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
    found = pd.DataFrame({"means": np.log1p(mean), "dispersions": dispersion})
    bins = pd.cut(found["means"], bins=N_BINS)
    of_bin = found.groupby(bins, observed=True)["dispersions"].agg(avg="mean", dev="std")
    alone = of_bin["dev"].isna()  # one gene in the bin: its dispersion is 1
    of_bin.loc[alone, "dev"] = of_bin.loc[alone, "avg"]
    of_bin.loc[alone, "avg"] = 0
    own = of_bin.loc[bins].set_axis(found.index)
    found["dispersions_norm"] = (found["dispersions"] - own["avg"]) / own["dev"]
    known = np.sort(found["dispersions_norm"].dropna().to_numpy())[::-1]
    least = known[min(n_top_genes, len(known)) - 1] if len(known) else np.inf
    found["highly_variable"] = found["dispersions_norm"].fillna(-np.inf) >= least
    return found


def _of_batches(each: Sequence[pd.DataFrame], names: pd.Index, n_top_genes: int) -> pd.DataFrame:
    """Genes that most batches choose, and of these the ones that vary most."""
    whole = pd.concat([part.assign(highly_variable=part["highly_variable"].astype(int)) for part in each])
    columns = {"means": "mean", "dispersions": "mean", "dispersions_norm": "mean", "highly_variable": "sum"}
    found = whole.groupby(whole.index, observed=True).agg(columns)
    found["highly_variable_nbatches"] = found["highly_variable"]
    found["highly_variable_intersection"] = found["highly_variable_nbatches"] == len(each)
    order = ["highly_variable_nbatches", "dispersions_norm"]
    found = found.sort_values(order, ascending=False, na_position="last")
    found["highly_variable"] = np.arange(len(found)) < n_top_genes
    return found.loc[names]


def _all() -> str:
    return f"{option('n_top_genes', 0)} keeps all"
