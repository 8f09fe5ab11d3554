"""Panels on methods that model interventions: recovery of the simulated truth, and likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cellalign.data.checks import column
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.table import Row
from cellalign.graph import targets
from cellalign.methods.base import LearnsGraph
from cellalign.metrics import identifiability as ident
from cellalign.model import sees_condition


def identifiability(inputs: Inputs) -> Iterator[Row]:
    """MCC and R^2 of the latents against the simulated ones; precision, recall and F1 of the graph.

    The graph is scored under the matching of absolute correlations, and, as system "signed", of signed ones, as
    the authors' script does: a latent found with its sign reversed is then matched to another.
    """
    truth: Any = inputs.adata.uns.get("truth")
    if truth is None or "truth" not in inputs.adata.obsm:
        raise NotApplicable("the input holds no simulated truth; make one with `cellalign simulate sparse-shift`")
    z, true = inputs.latents(), np.asarray(inputs.adata.obsm["truth"])
    n = len(z)
    for kind in ("pearson", "spearman"):
        yield Row("identifiability", "latents", "all", f"{kind}_mcc", ident.mcc(true, z, kind), n)
    yield Row("identifiability", "latents", "all", "r2", ident.linear_r2(true, z), n)
    if inputs.model is None or not isinstance(inputs.model.method, LearnsGraph):
        inputs.notes.append("the graph is scored where --model has one")
        return
    graph = targets(inputs.model)
    names = [str(name) for name in truth["interventions"]]
    shared = [name for name in names if name in graph.obs_names and not graph.obs.loc[name, "transferred"]]
    if not shared:
        inputs.notes.append("the model was trained on none of the simulated interventions")
        return
    real = np.asarray(truth["graph"])[[names.index(name) for name in shared]]
    found = np.asarray(graph[shared].layers["edge"])
    correlation = ident.correlations(true, z)
    for system, weights in (("graph", np.abs(correlation)), ("graph, signed matching", correlation)):
        for metric, value in ident.graph_scores(real, found, ident.match(weights)).items():
            yield Row("identifiability", system, "all", metric, value, n)


def likelihood(inputs: Inputs) -> Iterator[Row]:
    """Negative ELBO and importance-weighted negative log-likelihood per cell, in nats."""
    model = inputs.model
    if model is None:
        raise NotApplicable("it needs --model DIR")
    if not model.has_likelihood:
        raise NotApplicable(f"method {model.name!r} has no likelihood")
    groups: dict[str, np.ndarray] = {}
    everything = np.ones(inputs.adata.n_obs, dtype=bool)
    by_name = not model.continuous and not model.condition_may_be_missing
    if model.condition is not None and sees_condition(model.method) and by_name:
        names = np.asarray(column(inputs.adata.obs, model.condition, purpose="condition")).astype(str)
        transferred = np.isin(names, model.transferred)
        known = np.isin(names, model.conditions)
        groups = {"trained interventions": known & ~transferred, "transferred interventions": transferred}
        if not known.all():
            inputs.notes.append(
                f"likelihood leaves out {int((~known).sum())} cells of interventions the model does not know; "
                "transfer it to them first"
            )
    else:
        groups = {"all": everything}
    validation = model.validation_rows(inputs.adata)
    if validation is not None and len(validation):
        cells = inputs.adata[validation]
        value = float(model.nelbo(cells, seed=inputs.seed, device=inputs.device).mean())
        yield Row("likelihood", "validation cells", "all", "nelbo", value, len(validation))
    for name, mask in groups.items():
        if not mask.any():
            continue
        cells = inputs.adata[np.flatnonzero(mask)]
        n = int(mask.sum())
        options: dict[str, Any] = {"seed": inputs.seed, "device": inputs.device}
        yield Row("likelihood", name, "all", "nelbo", float(model.nelbo(cells, **options).mean()), n)
        nll = model.nll(cells, particles=inputs.particles, **options)
        yield Row("likelihood", name, "all", "nll", float(nll.mean()), n)
    if not any(mask.any() for mask in groups.values()):
        raise NotApplicable("the model knows none of the interventions")
