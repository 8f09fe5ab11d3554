"""Runs the panels: all that the inputs allow, or those asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from anndata import AnnData

from cellalign.data.checks import column, nearest
from cellalign.errors import InputError, UsageError
from cellalign.evaluation.causal import identifiability, likelihood
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.latent import mixing, probe, transfer
from cellalign.evaluation.response import response
from cellalign.evaluation.table import Evaluation, Row
from cellalign.model import Model

PANELS: dict[str, Callable[[Inputs], Iterator[Row]]] = {
    "mixing": mixing,
    "probe": probe,
    "transfer": transfer,
    "response": response,
    "identifiability": identifiability,
    "likelihood": likelihood,
}


def evaluate(
    adata: AnnData,
    *,
    condition: str | None = None,
    label: str | None = None,
    control: str | None = None,
    against: AnnData | None = None,
    embedding: str | None = None,
    panels: Sequence[str] | None = None,
    k: int = 100,
    alpha: float = 0.1,
    min_cells: int | None = None,
    model: Model | None = None,
    particles: int = 100,
    device: str = "auto",
    seed: int = 0,
) -> Evaluation:
    """Score embedded cells, or a counterfactual against real cells.

    Parameters
    ----------
    adata : AnnData
        Cells with an embedding in obsm, or what `counterfactual` returned.
    condition, label, control : str
        obs columns, and the reference value of the condition.
    against : AnnData, optional
        Real cells on the same scale as a counterfactual's X.
    embedding : str, optional
        obsm key; default the one cellalign wrote.
    panels : sequence of str, optional
        Default: all that can run.
    k, alpha : int, float
        Neighbours and test level of the mixing panel.
    min_cells : int, optional
        Smallest cell type for m-kBET and m-s; default 4 k.
    model : Model, optional
        For the panels identifiability (its graph) and likelihood; it also embeds cells without an embedding.
    particles : int
        Posterior draws per cell of the importance-weighted likelihood (the sVAE+ paper takes 5,000).

    Returns
    -------
    Evaluation
        Its `scatter` and `violin` draw what the response panel scored.

    Raises
    ------
    UsageError
        Unknown panel, or no condition.
    InputError
        A panel asked for by name cannot run, or the inputs do not fit.
    """
    record = adata.uns.get("cellalign", {})
    chosen = list(PANELS) if panels is None else [name.strip() for name in panels]
    for name in chosen:
        if name not in PANELS:
            raise UsageError(f"unknown panel {name!r}.{nearest(name, PANELS)} Panels: {', '.join(PANELS)}")
    condition = condition or str(record.get("condition", "")) or (model.condition if model else None)
    if condition is None:
        raise UsageError("--condition KEY is needed: the obs column whose mixing or effect is scored")
    continuous = condition == record.get("condition") and bool(record.get("continuous"))
    if not continuous:
        column(adata.obs, condition, purpose="condition")
    if label is not None:
        column(adata.obs, label, purpose="label")
    is_prediction = record.get("kind") == "counterfactual"
    z = None
    if not is_prediction:
        has_none = embedding is None and "key" not in record and not _embeddings(adata)
        z = model.embed(adata, device=device) if model is not None and has_none else _embedding(adata, embedding)
    result = Evaluation()
    inputs = Inputs(
        adata,
        against,
        condition,
        label,
        control,
        z,
        k,
        alpha,
        min_cells,
        seed,
        result,
        model,
        particles,
        device,
        continuous,
    )
    for name in chosen:
        try:
            result.rows += list(PANELS[name](inputs))
        except NotApplicable as reason:
            if panels is not None:
                raise InputError(f"panel {name} cannot run: {reason}") from reason
            result.left_out[name] = str(reason)
    if not result.rows:
        raise InputError("no panel can run: " + "; ".join(f"{k}: {v}" for k, v in result.left_out.items()))
    return result


def _embeddings(adata: AnnData) -> list[str]:
    """obsm keys that may be a method's latents."""
    return [k for k in adata.obsm if k.startswith("X_") and k not in ("X_umap", "X_pca", "X_tsne")]


def _embedding(adata: AnnData, key: str | None) -> np.ndarray:
    """The embedding to score."""
    known = _embeddings(adata)
    key = key or adata.uns.get("cellalign", {}).get("key")
    if key is None:
        if len(known) != 1:
            found = ", ".join(known) or "none"
            raise InputError(
                f"no single embedding X_* in obsm (found: {found}); run cellalign embed or give --embedding"
            )
        key = known[0]
    if key not in adata.obsm:
        raise InputError(f"no embedding {key!r} in obsm.{nearest(key, adata.obsm)} There: {', '.join(adata.obsm)}")
    z = np.asarray(adata.obsm[key], dtype=np.float32)
    if not np.isfinite(z).all():
        raise InputError(f"embedding {key!r} holds NaN or infinite values")
    return z
