"""What was done to a model's training file, done to any other: raw counts brought onto the scale of the model.

A model of log expression keeps what the counts of a cell were scaled to. So new cells may hold raw counts, or log
expression of another total: they are brought onto the model's, and what was done is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.any_values import any_values, refuse_beside_any, say_unlike
from cellalign.data.counts import Place, counts_of, find_counts, find_log, has_counts
from cellalign.data.genes import match, say_how, second_name
from cellalign.data.images import image_shape, pixels_of, said_shape
from cellalign.data.integers import largest, smallest
from cellalign.data.matrices import check_expression, check_names, default_matrix, matrix_of
from cellalign.data.preprocess import normalised_log, preprocess
from cellalign.data.said import tell
from cellalign.data.scale import scale_of
from cellalign.data.source import content_of
from cellalign.data.stored import Stored
from cellalign.data.streamed import StreamedCells, cells_with
from cellalign.errors import InputError, UsageError, option
from cellalign.records import Provenance, Recipe

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

N_TOP_GENES = 2000  # that `preprocess` keeps by default
CHANGED_TOTAL = 0.01  # relative difference of a total from the one that was written; less is of a few genes dropped
SAME_TOTAL = 1e-3  # relative difference of two normalisation totals that float32 explains


@dataclass(frozen=True)
class Expression:
    """A matrix on the scale that a model reads.

    Attributes
    ----------
    x : matrix [n, G]
    var : DataFrame [G, ...]
        Of its columns.
    """

    x: Any
    var: pd.DataFrame


def total_of(adata: AnnData, key: str = "X") -> float | None:
    """What the counts of a cell were scaled to before the logarithm, where the file says so or all genes are there."""
    if said_shape(adata.uns) is not None:
        return None
    scale = None if _lacks(adata, key) else scale_of(matrix_of(adata, key))
    found = scale.total if scale is not None and scale.kind == "log" else None
    step = Provenance.of(adata.uns).preprocess
    written = None if step is None else step.target_sum
    if written is None or found is None or abs(found / written - 1) < CHANGED_TOTAL:
        return found if written is None else written
    said = "%s sums up to %.6g a cell, not to %.6g as preprocess wrote: normalised again since; what it holds counts"
    tell(logging.WARNING, said % (key, found, written))
    return found


def counts_like(adata: AnnData, key: str, *, rounded: bool = False) -> Expression:
    """Raw counts of cells: where the model's training file had them, else wherever they are; errors as `counts_of`."""
    found = counts_of(adata, key, rounded=rounded)
    return Expression(found.matrix, found.var)


def log_like(
    adata: AnnData,
    key: str,
    target_sum: float | None,
    where: str = "the input",
    *,
    base: float | None = None,
    rounded: bool = False,
) -> Expression:
    """Log expression of cells at a model's total: as it is, rescaled from another total, or made of raw counts.

    Parameters
    ----------
    key : str
        The matrix that the model reads: "X", or a layer.
    target_sum : float, optional
        What the counts of a cell of the training file were scaled to; None where that is not known.
    base : float, optional
        Of the model's logarithm, where it is not the natural one.
    rounded : bool
        Estimated counts are rounded.

    Raises
    ------
    InputError
        There is neither log expression nor, where the total is known, raw counts; or the matrix is not fit.
    """
    if image_shape(adata, where) is not None:
        return Expression(pixels_of(adata, key, where), adata.var)
    if not _has_log(adata, key) and (_lacks(adata, key) or has_counts(adata, rounded=rounded)):
        made = _made_of_counts(adata, target_sum, where, rounded)
        return Expression(_in_base(made.x, None, base), made.var)
    x = _log_of(adata, key, where)
    scale = scale_of(x)
    if scale.kind == "log" and scale.base != base:
        tell(
            logging.WARNING,
            "%s is %s; brought to that of %s",
            where,
            _said_of(scale.base),
            _said_of(base).split(" of ")[-1],
        )
        x = _in_base(x, scale.base, base)
    total = total_of(adata, key)
    if target_sum is not None and total is not None and abs(total / target_sum - 1) > SAME_TOTAL:
        said = "%s is normalised to %.6g counts a cell; brought to %.6g, the total of what it is compared with"
        tell(logging.WARNING, said, where, total, target_sum)
        x = _in_base(rescaled(_in_base(x, base, None), target_sum / total), None, base)
    return Expression(x, adata.var)


def _base_of(x: Any) -> float | None:
    """Of the logarithm of a matrix; None where it is the natural one, or cannot be told."""
    scale = None if x is None else scale_of(x)
    return scale.base if scale is not None and scale.kind == "log" else None


def _said_of(base: float | None) -> str:
    return f"a logarithm of base {'e' if base is None else f'{base:g}'}"


def _in_base(x: Any, base: float | None, wanted: float | None) -> Any:
    """Log expression of a base in another; None is the natural one."""
    if base == wanted:
        return x
    factor = np.float32(np.log(base or np.e) / np.log(wanted or np.e))
    return x.mapped(lambda block: block * factor) if isinstance(x, Stored) else x * factor


@dataclass(frozen=True)
class Training(Expression):
    """What a model is trained on.

    Attributes
    ----------
    matrix : str
        Where it lies in the training file: "X", or a layer.
    recipe : Recipe
    made_of : str, optional
        Digest of the raw counts of all genes that log expression was made of here: the last bit of a logarithm is not
        the same on all machines.
    counts : Place, optional
        The raw counts that were found, of all genes; None where none were looked for.
    """

    matrix: str
    recipe: Recipe
    made_of: str | None = None
    counts: Place | None = None


def to_train_on(
    adata: AnnData,
    expression: str,
    *,
    layer: str | None = None,
    n_top_genes: int | None = None,
    batch: str | None = None,
    rounded: bool = False,
    where: str = "the input",
    advice: str | None = None,
    trained_on: np.ndarray | None = None,
    often: Callable[[Any], Any] | None = None,
) -> Training:
    """The matrix to train on; of raw counts, where log expression is wanted, what `preprocess` would make of them.

    Parameters
    ----------
    expression : {"log", "counts", "any"}
        What the method reads.
    layer : str, optional
        The matrix to take as it is.
    n_top_genes : int, optional
        Highly variable genes to keep of raw counts, 0 for all; by default 2,000 where log expression is wanted, and all
        where counts are.
    batch : str, optional
        obs column within which variability is judged.
    rounded : bool
        Estimated counts are rounded.
    advice : str, optional
        The command that prepares the input.
    trained_on : bool array [n], optional
        The cells that choose the genes of raw counts and the total that all are scaled to: those that are not held
        out, which must not tell what they were held out to test. By default all.
    often : callable, optional
        Makes a matrix one that is read fast again and again: the one that is trained on, before it is looked at.

    Raises
    ------
    InputError
        There is no such matrix, no counts, or they are not fit.
    """
    if expression == "any":
        refuse_beside_any(n_top_genes, rounded)
        key = layer or "X"
        x = any_values(at_hand(adata, key, often, expression), key, where)
        say_unlike(x, f"{where}'s {key}")
        return Training(x, adata.var, key, Recipe(expression="any"))
    preprocessed = partial(_preprocessed, adata, n_top_genes, batch, where, rounded=rounded, trained_on=trained_on)
    if expression == "counts":
        if n_top_genes:
            return _counts_to_train_on(adata, layer, rounded, preprocessed)
        key = layer or default_matrix(adata, expression)
        return _counts_to_train_on(at_hand(adata, key, often, expression), layer, rounded)
    if image_shape(adata, where) is not None:
        return _pixels_to_train_on(adata, layer or "X", n_top_genes, where)
    if layer is None and not _has_log(adata, "X"):
        if has_counts(adata, rounded=rounded):
            return preprocessed()
        if _lacks(adata, "X"):
            layer = _only_log(adata, rounded)
    if n_top_genes is not None:
        raise UsageError(f"{option('n_top_genes', n_top_genes)} is of raw counts; {where} holds log expression")
    key = layer or "X"
    as_they_are = option("expression", "any")
    otherwise = f"; or, to model any real values (standardised, CLR, z-scores) as they are, {as_they_are}"
    x = _log_of(at_hand(adata, key, often, expression), key, where, advice, otherwise)
    return Training(x, adata.var, key, Recipe(target_sum=total_of(adata, key), base=_base_of(x)))


def at_hand(adata: AnnData, key: str, often: Callable[[Any], Any] | None, expression: str) -> AnnData:
    """The same cells; a matrix that is read as it is, is read fast from its first pass on, which is what checks it."""
    if often is None or _lacks(adata, key) or not _is_as_read(adata, key, expression):
        return adata
    matrix = matrix_of(adata, key)
    found = often(matrix)  # of several ranks all call it, whether their cells are on disk or not
    return adata if found is matrix or not isinstance(adata, StreamedCells) else adata.with_matrix(key, found)


def _is_as_read(adata: AnnData, key: str, expression: str) -> bool:
    """Whether a matrix is read as it is, by all that a sample of it tells: neither another one nor a changed one."""
    if expression == "counts":
        return scale_of(matrix_of(adata, key)).kind == "counts"
    if expression == "any":
        return matrix_of(adata, key).dtype.kind != "b"
    return not _is_prediction(adata, key) and _has_log(adata, key)


def _pixels_to_train_on(adata: AnnData, key: str, n_top_genes: int | None, where: str) -> Training:
    """Pixels as they are, all of them."""
    if n_top_genes is not None:
        raise UsageError(
            f"{option('n_top_genes', n_top_genes)} is of genes; {where} holds images, whose pixels all count"
        )
    return Training(pixels_of(adata, key, where), adata.var, key, Recipe())


def _only_log(adata: AnnData, rounded: bool) -> str:
    """The layer that holds log expression, where there is neither X nor counts; errors as `find_counts`."""
    place = find_log(adata)
    if place is None or place.where not in adata.layers:
        find_counts(adata, rounded=rounded)
        raise InputError("there is no X and no layer of log expression")
    tell(logging.INFO, "log expression in %s", place.said)
    return place.where


def _counts_to_train_on(
    adata: AnnData, layer: str | None, rounded: bool, preprocessed: Callable[..., Training] | None = None
) -> Training:
    """Raw counts of all genes, or of those that preprocessing keeps."""
    if layer is not None:
        place = find_counts(adata, layer=layer, rounded=rounded)
    else:
        place = counts_of(adata, default_matrix(adata, "counts"), rounded=rounded)
    written = Provenance.of(adata.uns).preprocess
    recipe = Recipe(target_sum=None if written is None else written.target_sum, rounded=rounded)
    if preprocessed is None:
        return Training(place.matrix, place.var, place.where, recipe, counts=place)
    kept = preprocessed(layer=layer)
    columns = place.var.index.get_indexer(kept.var.index)
    return Training(place.matrix[:, columns], kept.var, place.where, kept.recipe, counts=place)


def _preprocessed(
    adata: AnnData,
    n_top_genes: int | None,
    batch: str | None,
    where: str,
    *,
    rounded: bool,
    trained_on: np.ndarray | None,
    layer: str | None = None,
) -> Training:
    """Of raw counts what `preprocess` makes of them, of every cell: one without counts is zero in all genes."""
    n_top_genes = n_kept(adata, n_top_genes)
    judged = None if trained_on is None or trained_on.all() else trained_on
    made = preprocess(adata, n_top_genes=n_top_genes, batch=batch, layer=layer, rounded=rounded, judged=judged)
    step = Provenance.of(made.uns).preprocess
    assert step is not None and step.target_sum is not None
    said = "%s: raw counts normalised to %.6g a cell and log-transformed, %s genes kept, as preprocess does%s"
    of = "" if judged is None else ", by the cells that are not held out"
    tell(logging.INFO, said, where, step.target_sum, f"{made.n_vars:,}", of)
    x, place = made.X, find_counts(adata, layer=layer, rounded=rounded)
    if largest(place.matrix) <= 1:
        as_they_are = option("expression", "any")
        tell(
            logging.WARNING,
            "%s: the counts are 0 and 1 alone; %s takes them as they are, if they are one-hot",
            where,
            as_they_are,
        )
    if made.n_obs < adata.n_obs:
        tell(logging.WARNING, "%d cells have no counts", adata.n_obs - made.n_obs)
        columns = place.var.index.get_indexer(made.var_names)
        x = normalised_log(place.matrix, step.target_sum)[:, columns]
    genes_by = None if judged is None else "trained cells"
    recipe = Recipe(target_sum=step.target_sum, n_top_genes=n_top_genes, rounded=rounded, genes_by=genes_by)
    return Training(x, made.var, "X", recipe, content_of(place.matrix), place)


def n_kept(adata: AnnData, n_top_genes: int | None) -> int:
    """How many genes of raw counts are kept where log expression is wanted, 0 for all."""
    if n_top_genes is not None:
        return n_top_genes
    return N_TOP_GENES if adata.n_vars > N_TOP_GENES else 0


def serves(adata: AnnData, expression: str, key: str = "X") -> bool:
    """Whether cells, of which one matrix was read, hold what a method reads, or raw counts to make it of."""
    if expression == "any":
        return not _lacks(adata, key)
    return (expression == "log" and _has_log(adata, key)) or has_counts(adata)


def rescaled(x: Any, factor: float) -> Any:
    """log1p expression of counts that are `factor` times as many, of a matrix [n, G]; sparse stays sparse."""
    if isinstance(x, Stored):
        return x.mapped(lambda block: rescaled(block, factor), dtype=np.float32)
    if sparse.issparse(x):
        result = x.astype(np.float32)
        result.data = np.log1p(np.expm1(result.data) * np.float32(factor))
        return result
    return np.log1p(np.expm1(np.asarray(x, dtype=np.float32)) * np.float32(factor))


def comparable(predicted: AnnData, real: AnnData, expression: str, where: str) -> AnnData:
    """Real cells under the prediction's names of genes and on its scale; the same object where they are so.

    Parameters
    ----------
    predicted, real : AnnData
    expression : {"log", "counts", "any"}
        What was predicted; counts are left for the one who compares them, any values are compared as they are.

    Raises
    ------
    InputError
        They hold raw counts, and what the prediction is normalised to is not known.
    """
    check_names(real, where)
    found = real
    if expression == "log" and said_shape(predicted.uns) is None:
        written = Provenance.of(predicted.uns).preprocess
        total = written.target_sum if written is not None else None
        # the observed cells beside a prediction are on its scale
        made = log_like(real, "X", total, where, base=_base_of(predicted.layers.get("source")))
        if made.x is not real.X:
            found = cells_with({"X": made.x}, obs=real.obs, var=made.var)
    elif expression == "any":
        record = Provenance.of(predicted.uns).counterfactual
        x = any_values(real, "X" if record is None else record.matrix, where)
        found = cells_with({"X": x}, obs=real.obs, var=real.var)
    names = list(map(str, predicted.var_names))
    matching = match(found.var, names, second_name(predicted.var))
    if not matching.how:
        return found
    say_how(matching, where)
    there = matching.columns >= 0
    found = found[:, matching.columns[there]]
    found = found if isinstance(found.X, Stored) else found.copy()
    found.var_names = [name for name, is_there in zip(names, there, strict=True) if is_there]
    return found


def _made_of_counts(adata: AnnData, target_sum: float | None, where: str, rounded: bool) -> Expression:
    found = find_counts(adata, rounded=rounded)
    if target_sum is None:
        raise InputError(
            f"{where} holds raw counts ({found.said}), and what log expression was normalised to where the model "
            "learned is not known; normalise and log-transform these cells in the same way"
        )
    tell(logging.INFO, "%s: raw counts normalised to %.6g a cell and log-transformed", where, target_sum)
    return Expression(normalised_log(found.matrix, target_sum), found.var)


def _log_of(adata: AnnData, key: str, where: str, advice: str | None = None, otherwise: str = "") -> Any:
    """A matrix of log expression, checked; of a prediction, which earlier versions wrote below zero, cut at zero."""
    x = matrix_of(adata, key, where)
    if _is_prediction(adata, key):
        if smallest(x) < 0:
            tell(logging.WARNING, "%s's %s is a prediction that goes below zero; cut there", where, key)
            x = _cut_at_zero(x)
    names = (adata.obs_names, adata.var_names)
    check_expression(x, "log", f"{where}'s {key}", advice, names=names, otherwise=otherwise)
    return x


def _cut_at_zero(x: Any) -> Any:
    if isinstance(x, Stored):
        return x.mapped(_cut_at_zero)
    return x.maximum(0) if sparse.issparse(x) else np.maximum(x, 0)


def _is_prediction(adata: AnnData, key: str) -> bool:
    """Whether it is the log expression that `counterfactual` wrote."""
    written = Provenance.of(adata.uns).counterfactual
    return key == "X" and written is not None and written.expression == "log"


def _has_log(adata: AnnData, key: str) -> bool:
    """Whether a matrix is there and may be log expression."""
    if _lacks(adata, key):
        return False
    if _is_prediction(adata, key) or said_shape(adata.uns) is not None:
        return True
    return scale_of(matrix_of(adata, key)).kind in ("log", "other")


def _lacks(adata: AnnData, key: str) -> bool:
    return adata.X is None if key == "X" else key not in adata.layers
