"""Several perturbations at once, observed beside the sum of each alone: in expression and in the latents.

A change is from control to perturbed cells. Under no interaction that of a+b is the sum of those of a and of b (Norman
et al. 2019 fit it by c_a and c_b, which are then 1). A control that both sides of a comparison share would correlate
them: the observed change starts from one half of the control cells and the additive one from the other, five times.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.stored import Stored, rows_in
from cellalign.data.values import joined, known, listed
from cellalign.engine import predict
from cellalign.engine.device import computing
from cellalign.errors import InputError, ModelError, spoken
from cellalign.model import Model

log = logging.getLogger("cellalign")
SPLITS = 5
SIGNIFICANT = 0.05
FEWEST = 4  # cells of a condition, of which halves are taken
COLUMNS = ["perturbation", "cells", "r", "split_half", "slope", "c", "residual", "latents"]
OF_LATENTS = ["perturbation", "latent", "observed", "additive", "difference", "error", "p", "q"]


def add_interactions(graph: AnnData, model: Model, adata: AnnData, **options: Any) -> AnnData:
    """Compare every a+b among the cells with a and b alone.

    Parameters
    ----------
    graph : AnnData
        As `targets` returns it; changed in place: uns["interactions"], uns["interactions_latents"].
    adata : AnnData
        Cells with the model's condition column; perturbations that the model does not know count as well.
    options
        missing_genes, seed, device, threads.

    Returns
    -------
    AnnData
        uns["interactions"] has a row per a+b: cells, r (correlation over genes of the observed and the additive change
        of log expression), split_half (of the observed change in two halves of the cells: what noise leaves to
        reach), slope (of the observed on the additive change; below 1 the two together do less than their sum), c (the
        least-squares weight of each part), residual (share of the observed change's variance that they leave), latents
        (those that move otherwise than by the sum, with the difference, at q <= 0.05). uns["interactions_latents"] has
        a row per a+b and latent: observed and additive shift of the mean latent, their difference, its standard error,
        p (Welch's t) and q over all rows (Benjamini & Hochberg).

    Raises
    ------
    ModelError
        The model has no condition or no control.
    InputError
        No perturbation among the cells is a sum of others that are there too.
    """
    if model.condition is None or model.control is None:
        trained = spoken(python="cellalign.train(..., control=...)", command="`cellalign train --control`")
        raise ModelError(f"interactions are changes from a control, and the model has none; {trained} names it")
    codes, names = _conditions(adata, model)
    sums = _sums(codes, names, model.control)
    cells = model.cells(adata, missing_genes=options.get("missing_genes", "error"), with_condition=False)
    with computing(options.get("device", "auto"), options.get("threads")) as device:
        z = predict.embed(model.method, cells, device=device)
    x = _log_expression(model.expression_of(adata, options.get("missing_genes", "error")), model.expression == "counts")
    rng = np.random.default_rng(options.get("seed", 0))
    control = np.flatnonzero(codes == names.index(model.control))
    rows_of = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    parts, latents = [], []
    for name, single in sums.items():
        own = [rows_of[name], *(rows_of[part] for part in single)]
        parts.append({"perturbation": name, "cells": len(own[0])} | _in_expression(x, own, control, rng))
        latents.append(_in_latents(z, own, control).assign(perturbation=name))
    by_latent = _corrected(pd.concat(latents, ignore_index=True), list(graph.var_names))
    table = pd.DataFrame(parts)
    table["latents"] = [_deviating(by_latent[by_latent["perturbation"] == name]) for name in table["perturbation"]]
    graph.uns["interactions"], graph.uns["interactions_latents"] = table[COLUMNS], by_latent[OF_LATENTS]
    return graph


def _conditions(adata: AnnData, model: Model) -> tuple[np.ndarray, list[str]]:
    """The condition of each cell (-1: none) as the model calls it, or without the control in it."""
    values = column(adata.obs, str(model.condition), purpose="condition", missing=True, named=model.conditions)
    own = known(tuple(model.conditions), model.control)
    called = [own.name(str(name)) or joined(str(name), model.control) for name in values.categories]
    names = list(dict.fromkeys(called))
    place = np.array([*(names.index(name) for name in called), -1])
    codes = place[values.codes]
    if model.control not in names or (codes == names.index(model.control)).sum() < FEWEST:
        raise InputError(f"interactions are changes from {model.control!r}, of which {FEWEST} cells are needed")
    return codes, names


def _sums(codes: np.ndarray, names: list[str], control: str) -> dict[str, list[str]]:
    """Perturbations that are several at once, with the names of each alone."""
    sizes = dict(zip(names, np.bincount(codes[codes >= 0], minlength=len(names)), strict=True))
    own = known(tuple(names), control)
    several = {name: [own.name(part.strip()) for part in name.split("+")] for name in names if "+" in name}
    several = {name: parts for name, parts in several.items() if len(parts) > 1 and name not in parts}
    kept, without = {}, []
    for name, parts in several.items():
        there = [part for part in parts if part is not None and part != control]
        if len(there) == len(parts) and min(sizes[one] for one in (name, *there)) >= FEWEST:
            kept[name] = there
        else:
            without.append(name)
    if not kept:
        found = f"of {len(several)} a+b ({listed(several, 5)}) none has" if several else "no a+b is there that has"
        raise InputError(f"{found} each of its perturbations alone among the cells, with {FEWEST} cells or more")
    if without:
        log.info("%d a+b lack one of their perturbations alone: %s", len(without), listed(without, 5))
    return kept


def _log_expression(x: Any, counts: bool) -> Any:
    """Log expression [n, G] as the model reads it; of counts log(1 + counts per 10,000)."""
    if not counts:
        return x
    if isinstance(x, Stored):
        return x.mapped(lambda block: _log_expression(block, True), dtype=np.float32, is_dense=False)
    scaled = sparse.csr_matrix(x, dtype=np.float32, copy=True)
    total = np.asarray(scaled.sum(1)).ravel()
    scaled.data *= np.repeat(1e4 / np.maximum(total, 1e-12), np.diff(scaled.indptr)).astype(np.float32)
    return scaled.log1p()


def _mean(x: Any, rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows_in(x, rows).mean(0), dtype=np.float64).ravel()


def _in_expression(x: Any, own: Sequence[np.ndarray], control: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Observed beside additive change of the mean expression; `own` are the rows of a+b, a, b, ..."""
    together, alone = _mean(x, own[0]), [_mean(x, rows) for rows in own[1:]]
    found = []
    for _ in range(SPLITS):
        start, other = (_mean(x, half) for half in _halves(control, rng))
        observed, parts = together - start, np.array([mean - other for mean in alone])
        additive = parts.sum(0)
        weights = np.linalg.lstsq(parts.T, observed, rcond=None)[0]
        rest = ((observed - weights @ parts) ** 2).sum() / max(((observed - observed.mean()) ** 2).sum(), 1e-12)
        one, two = (_mean(x, half) for half in _halves(own[0], rng))
        slope = (additive @ observed) / max(additive @ additive, 1e-12)
        found.append([_r(observed, additive), _r(one - start, two - other), slope, rest, *weights])
    r, split_half, slope, rest, *weights = np.mean(found, axis=0)
    c = " ".join(f"{weight:.2f}" for weight in weights)
    return {"r": r, "split_half": split_half, "slope": slope, "c": c, "residual": rest}


def _halves(rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mixed = rng.permutation(rows)
    return np.sort(mixed[: len(mixed) // 2]), np.sort(mixed[len(mixed) // 2 :])


def _r(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; NaN where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else np.nan


def _in_latents(z: np.ndarray, own: Sequence[np.ndarray], control: np.ndarray) -> pd.DataFrame:
    """Observed beside additive shift of the mean latent, the standard error of their difference, and its df.

    The degrees of freedom are Welch and Satterthwaite's: few cells do not tell well how much they vary.
    """
    # together - start - sum(alone - start): the control counts n - 1 times, a+a's two parts are the same cells
    parts = {rows.tobytes(): rows for rows in own[1:]}
    times = [sum(np.array_equal(rows, other) for other in own[1:]) for rows in parts.values()]
    times = [1, *times, len(own) - 2]
    groups = [np.asarray(z[rows], dtype=np.float64) for rows in (own[0], *parts.values(), control)]
    terms = [n**2 * group.var(0, ddof=1) / len(group) for n, group in zip(times, groups, strict=True)]
    variance = sum(terms)
    of_variance = sum(term**2 / (len(group) - 1) for term, group in zip(terms, groups, strict=True))
    together, *alone, start = (group.mean(0) for group in groups)
    observed = together - start
    additive = sum(n * (mean - start) for n, mean in zip(times[1:-1], alone, strict=True))
    df = np.divide(variance**2, of_variance, out=np.full_like(variance, np.inf), where=of_variance > 0)
    return pd.DataFrame({"observed": observed, "additive": additive, "error": np.sqrt(variance), "df": df})


def _corrected(table: pd.DataFrame, latents: list[str]) -> pd.DataFrame:
    """With the difference, its p and its q."""
    from scipy.stats import false_discovery_control, t

    table["latent"] = np.resize(latents, len(table))
    table["difference"] = table["observed"] - table["additive"]
    table["p"] = 2 * t.sf(table["difference"].abs() / table["error"].clip(lower=1e-12), table["df"])
    table["q"] = false_discovery_control(table["p"].to_numpy())
    return table


def _deviating(table: pd.DataFrame) -> str:
    """Latents that move otherwise than by the sum, the largest difference first."""
    chosen = table[table["q"] <= SIGNIFICANT]
    order = chosen["difference"].abs().sort_values(ascending=False, kind="stable").index
    return " ".join(f"{row.latent}:{row.difference:+.2f}" for row in chosen.loc[order].itertuples())
