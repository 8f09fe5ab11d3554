"""What a user has to what every method reads: counts kept in a layer, normalised log1p expression in X, HVGs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.counts import NoCounts, Place, find_counts, find_log
from cellalign.data.facts import sums_of
from cellalign.data.integers import largest
from cellalign.data.matrices import check_names
from cellalign.data.split import held_out, rows_left
from cellalign.data.stored import Held, Stored, read_once
from cellalign.data.streamed import cells_with
from cellalign.data.variable_genes import variable_genes
from cellalign.errors import InputError, UsageError, counted, option
from cellalign.records import Preprocessing, Provenance
from cellalign.records.provenance import KEY

log = logging.getLogger("cellalign")
EXACT = 2**24  # integers up to this are exact in float32
USUAL_SUM = 1e4  # to which fractions are brought
QUALITY = ("n_counts", "n_genes")  # columns of obs
HELPED = "held-out cells helped to choose this file's genes and total; preprocess with %s, or raw counts, would not"
PREDICTED = (
    "these cells are a prediction of cellalign counterfactual, in which there is nothing to preprocess: evaluate and "
    "report read it as it is"
)
LEAST, MOST = 1e-6, 1e15  # of a target sum: beyond, variances are none that float32 holds


def preprocess(
    adata: AnnData,
    *,
    n_top_genes: int = 2000,
    target_sum: float | None = None,
    batch: str | None = None,
    min_genes: int = 1,
    min_cells: int = 1,
    layer: str | None = None,
    raw: bool = False,
    rounded: bool = False,
    holdout: Sequence[str] = (),
    judged: np.ndarray | None = None,
) -> AnnData:
    """Normalise, log-transform, select highly variable genes; `tasks.preprocess.preprocess` says what each means.

    Parameters
    ----------
    judged : bool array [n], optional
        The cells by which genes are kept and the total is found, where not by those that are not held out: all others
        are brought to these.
    """
    _check_numbers(n_top_genes, target_sum, min_genes, min_cells)
    check_names(adata, "the input")
    if holdout and judged is None:
        judged = rows_left(adata.obs, holdout)
    batches = None if batch is None else column(adata.obs, batch, purpose="batch")
    provenance = Provenance.to_extend(adata.uns)
    if provenance.counterfactual is not None:
        log.warning(PREDICTED)
    source = _source(adata, layer, raw, rounded, target_sum)

    cells, genes = _kept(source.matrix, min_genes, min_cells, judged)
    judging = slice(None) if judged is None else np.flatnonzero(judged[cells])
    result = _bare(adata, source.place)[cells, genes].copy()
    matrices, expression = {}, read_once(source.matrix[cells])
    if source.counts:
        if provenance.preprocess is not None and provenance.preprocess.n_top_genes and source.place.where == "counts":
            log.warning("the input was preprocessed before: sums of cells are those of the genes that were kept then")
        sums = source.matrix.facts.sums[cells]
        target_sum = float(np.median(sums[judging]) if target_sum is None else target_sum)
        _keep_quality(result, sums, source.matrix.facts.held[cells].astype(np.int32))
        matrices["counts"] = expression[:, genes]
        expression = normalised_log(expression, target_sum)
    matrices["X"] = expression[:, genes]
    result.uns["log1p"] = {"base": source.base}  # by which scanpy's functions know
    if 0 < n_top_genes < result.n_vars:
        codes = None if batches is None else batches[cells][judging]
        chosen = variable_genes(matrices["X"][judging], result.var_names, n_top_genes, codes, source.base)
        for name in chosen:
            result.var[name] = chosen[name].to_numpy()
        result.uns["hvg"] = {"flavor": "seurat"}
        kept = chosen["highly_variable"].to_numpy()
        result, matrices = result[:, kept].copy(), {name: x[:, kept] for name, x in matrices.items()}
    elif n_top_genes > result.n_vars:
        log.warning("%d highly variable genes asked for, but there are %d genes; all kept", n_top_genes, result.n_vars)
    record = Preprocessing(
        counts_from=source.place.where if source.counts else None,
        n_top_genes=n_top_genes,
        target_sum=target_sum if source.counts else source.total,
        batch=batch,
        min_genes=min_genes,
        min_cells=min_cells,
        holdout=_held_out_of_all(holdout, provenance),
    )
    result.uns[KEY] = provenance.with_steps(record).plain()
    rest = {"obsm": dict(result.obsm), "varm": dict(result.varm), "uns": dict(result.uns)}
    if not isinstance(source.place.matrix, Stored):
        matrices = {name: x.to_memory() for name, x in matrices.items()}
    return cells_with(matrices, obs=result.obs, var=result.var, **rest)


def _held_out_of_all(holdout: Sequence[str], before: Provenance) -> tuple[str, ...]:
    """Of these items those that were held out too when the input was preprocessed before, if it was."""
    then = before.preprocess
    return tuple(item for item in holdout if then is None or not then.chose or item in then.holdout)


def notes_of_choice(adata: AnnData, trained_on: np.ndarray) -> list[tuple[int, str]]:
    """What is to be said where `preprocess` let cells choose genes and total that are not trained on now."""
    written = Provenance.of(adata.uns).preprocess
    if written is None or not written.chose or trained_on.all():
        return []
    if not (held_out(adata.obs, written.holdout, must_exist=False, quiet=True) | trained_on).all():
        return [(logging.INFO, HELPED % option("holdout", ["KEY=VALUE"]))]
    return []


def normalised_log(counts: Any, target_sum: float) -> Any:
    """log1p of counts scaled to the same sum in every cell, as scanpy computes it to the last bit.

    Parameters
    ----------
    counts : matrix [n_cells, n_genes]
        All genes that were counted: sums run over the whole row.
    target_sum : float
        What every cell's sum becomes.

    Returns
    -------
    CSR matrix, float32, or where the counts are on disk one that is made as it is read
        Cells without counts stay empty.
    """
    if isinstance(counts, Stored):
        return counts.mapped(lambda block: normalised_log(block, target_sum), dtype=np.float32, is_dense=False)
    counts = sparse.csr_matrix(counts)
    result = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    scale = cell_sums(counts) / np.float32(target_sum)
    scale[scale == 0] = 1
    result.data /= np.repeat(scale, np.diff(result.indptr))
    np.log1p(result.data, out=result.data)
    return result


def cell_sums(counts: sparse.csr_matrix) -> np.ndarray:
    """Sums of cells, float32 [n_cells], added up in float64."""
    return sums_of(counts)


@dataclass(frozen=True)
class _Source:
    """What is preprocessed.

    Attributes
    ----------
    place : Place
    matrix : Stored
        Sparse, float32, no duplicates, no stored zeros: counts, or log expression. One in memory too is looked at block
        by block, so that nothing is held twice but what is made of it.
    counts : bool
    total : float, optional
        To which log expression is normalised.
    base : float, optional
        Of its logarithm, where it is not the natural one.
    """

    place: Place
    matrix: Any
    counts: bool
    total: float | None = None
    base: float | None = None


def _source(adata: AnnData, layer: str | None, raw: bool, rounded: bool, target_sum: float | None) -> _Source:
    """The counts, or where there are none expression that was normalised already."""
    try:
        place = find_counts(adata, layer=layer, raw=raw, rounded=rounded)
    except NoCounts as no_counts:
        if no_counts.unfit or rounded:
            raise
        found = find_log(adata, layer=layer, raw=raw)
        if found is None:
            raise InputError(
                f"no raw counts and no normalised expression ({no_counts.looked}); put either into X or a layer, as it "
                "was before it was scaled"
            ) from None
        if target_sum is not None:
            raise InputError(f"{option('target_sum', target_sum)} needs counts: {no_counts}") from None
        return _normalised(found)
    most = largest(place.matrix)
    if most > EXACT:
        log.warning("counts above %s are rounded to float32; the largest is %.0f", f"{EXACT:,}", most)
    return _Source(place, _plain(_rows_of(place)), counts=True)


def _normalised(place: Place) -> _Source:
    """Log expression as it is; of expression without a logarithm log1p."""
    x, scale = _plain(_rows_of(place)), place.scale
    lost = 'there will be no layers["counts"], which methods of counts need'
    if scale.kind in ("log", "other"):
        log.warning("no counts: %s is kept as the log expression it is (%s); %s", place.said, scale.said, lost)
        return _Source(place, x, counts=False, total=scale.total, base=scale.base)
    total = USUAL_SUM if scale.kind == "fractions" else scale.total
    x = _log1p(x, USUAL_SUM if scale.kind == "fractions" else 1)
    times = f" times {USUAL_SUM:g}" if scale.kind == "fractions" else ""
    log.warning("no counts: X is log1p of %s%s (%s); %s", place.said, times, scale.said, lost)
    return _Source(place, x, counts=False, total=total)


def _rows_of(place: Place) -> Stored:
    """The matrix, of which rows are read."""
    return place.matrix if isinstance(place.matrix, Stored) else Held(place.matrix)


def _log1p(x: Stored, times: float) -> Stored:
    """log1p of a matrix times a number."""

    def of_block(block: sparse.csr_matrix) -> sparse.csr_matrix:
        found = block.copy()
        if times != 1:
            found.data *= np.float32(times)
        np.log1p(found.data, out=found.data)
        return found

    return x.mapped(of_block)


def _plain(x: Stored) -> Stored:
    """Sparse, float32."""
    if x.dtype == np.float32 and not x.is_dense:
        return x
    return x.mapped(partial(sparse.csr_matrix, dtype=np.float32), dtype=np.float32, is_dense=False)


def _kept(x: Stored, min_genes: int, min_cells: int, judged: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cells with so many genes, and the genes in so many of these, or of those of them that are `judged`.

    Raises
    ------
    InputError
        None is left.
    """
    n_genes = x.facts.held
    cells = np.flatnonzero(n_genes >= max(min_genes, 1))
    few = f"fewer than {min_genes} genes" if min_genes > 1 else "no counts"
    _say_dropped("cell", len(n_genes) - len(cells), few)
    if not len(cells):
        raise InputError(f"no cell has {max(min_genes, 1)} genes or more; lower {option('min_genes')}")
    looked_at = cells if judged is None else cells[judged[cells]]
    if not len(looked_at):
        raise InputError(f"all cells that are not held out have {few}; lower {option('min_genes')}, or hold out fewer")
    n_cells = (x if n_genes.sum() == n_genes[looked_at].sum() else x[looked_at]).facts.genes
    genes = np.flatnonzero(n_cells >= min_cells)
    few = f"fewer than {min_cells}" if min_cells > 1 else "none"
    _say_dropped("gene", len(n_cells) - len(genes), f"seen in {few} of {counted(len(looked_at), 'cell')}")
    if not len(genes):
        raise InputError(
            f"no gene is seen in {min_cells} or more of the {len(looked_at)} cells; lower {option('min_cells')}"
        )
    return cells, genes


def _say_dropped(what: str, n: int, why: str) -> None:
    if n:
        log.info("%s dropped: %s", counted(n, what), why)


def _bare(adata: AnnData, place: Place) -> AnnData:
    """Everything else the user keeps in the file, except matrices on the old scale."""
    others = {} if place.said == "raw" else {"varm": dict(adata.varm)}
    return AnnData(obs=adata.obs, var=place.var, obsm=dict(adata.obsm), uns=dict(adata.uns), **others)


def _keep_quality(result: AnnData, sums: np.ndarray, n_genes: np.ndarray) -> None:
    """Put the cells' counts and genes into obs, but not over columns of these names that are there."""
    own = [key for key in QUALITY if key in result.obs]
    for key, values in zip(QUALITY, (sums, n_genes), strict=True):
        if key not in own:
            result.obs[key] = values
    before = Provenance.of(result.uns).preprocess is not None
    if own and not before:
        log.info("obs %s of the input stay as they are", " and ".join(map(repr, own)))


def _check_numbers(n_top_genes: int, target_sum: float | None, min_genes: int, min_cells: int) -> None:
    if n_top_genes < 0 or min_genes < 0 or min_cells < 0:
        raise UsageError(
            f"{option('n_top_genes')}, {option('min_genes')} and {option('min_cells')} must not be negative"
        )
    if target_sum is not None and not LEAST <= target_sum <= MOST:
        raise UsageError(f"{option('target_sum')} must be positive, from {LEAST:g} to {MOST:g}, got {target_sum}")
