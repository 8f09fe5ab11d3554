"""Panel identifiability: whether latents and graph are the simulated ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellalign.data.values import known
from cellalign.errors import option
from cellalign.evaluation.inputs import Inputs, OfAnotherKind
from cellalign.evaluation.metrics import identifiability as ident
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row


@dataclass(frozen=True)
class Identifiability(Panel):
    """MCC and R^2 of the latents against the simulated ones; precision, recall and F1 of the graph.

    The graph is scored under the matching of absolute correlations, and, as system "signed", of signed ones, as
    the authors' script does: a latent found with its sign reversed is then matched to another.
    """

    name = "identifiability"
    summary = "Whether latents, and the graph from perturbations to latents, are those that were simulated."
    metrics = ident.METRICS
    order = 60
    version = 2

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """The latents, and the graph where the model has one; NotApplicable without a simulated truth."""
        truth: Any = inputs.adata.uns.get("truth")
        if truth is None or "truth" not in inputs.adata.obsm:
            raise OfAnotherKind("the input holds no simulated truth; make one with `cellalign simulate sparse-shift`")
        z, true = inputs.latents(), np.asarray(inputs.adata.obsm["truth"])
        for metric in (ident.pearson_mcc, ident.spearman_mcc, ident.linear_r2):
            yield self.row("latents", "all", metric, metric(true, z), len(z))
        yield from self._graph(inputs, truth, ident.correlations(true, z), len(z))

    def _graph(self, inputs: Inputs, truth: Any, correlation: np.ndarray, n: int) -> Iterator[Row]:
        """The graph over the simulated interventions that the model was trained on."""
        from cellalign.graph import targets
        from cellalign.methods.base import LearnsGraph

        if inputs.model is None or not isinstance(inputs.model.method, LearnsGraph):
            inputs.notes.append(f"the graph is scored where {option('model')} has one")
            return
        graph = targets(inputs.model)
        names = [str(name) for name in truth.get("interventions", ())]
        own = known(tuple(graph.obs_names))
        called = {name: own.name(name) for name in names}  # as the model calls them
        shared = [name for name in names if called[name] and not graph.obs.loc[called[name], "transferred"]]
        if not shared:
            inputs.notes.append("the model was trained on none of the simulated interventions")
            return
        real = np.asarray(truth["graph"])[[names.index(name) for name in shared]]
        found = np.asarray(graph[[called[name] for name in shared]].layers["edge"])
        declared = by_name(ident.GRAPH)
        for system, weights in (("graph", np.abs(correlation)), ("graph, signed matching", correlation)):
            for name, value in ident.graph_scores(real, found, ident.match(weights)).items():
                yield self.row(system, "all", declared[name], value, n)
