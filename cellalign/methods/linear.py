"""Linear baselines of a predicted response: what any network has to beat.

`shift` adds to a cell the mean change of the trained cell types; `ridge` lets the change depend on the cell's
principal components, by ridge regression over the cell types seen under both conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.base import CONDITION, LABEL, Distribution, Layout, Minibatch, Point, Role
from cellalign.methods.capabilities import Batches, means_by_condition
from cellalign.methods.pca import PCA


class Linear(PCA):
    """Additive shift, or ridge regression on principal components; a label weighs cell types alike."""

    name = "linear"
    summary = "mean shift, or ridge regression of the change on principal components"
    reference = "baseline"
    needs_condition = True
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION, LABEL)  # the change by condition, weighed by label

    class Hyperparameters(PCA.Hyperparameters):
        """Which of the two, and how strongly it is shrunk."""

        change: Literal["shift", "ridge"] = Field("shift", description="mean change, or a change by cell state")
        ridge: float = Field(1.0, gt=0, le=1e6, description="shrinkage, relative to the spread of cell types")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        k, p = layout.n_conditions, self.components.shape[1]
        self.mean: Tensor
        self.state: Tensor
        self.slope: Tensor
        self.register_buffer("mean", torch.zeros(k, layout.n_genes))  # over cell types, by condition
        self.register_buffer("state", torch.zeros(k, p))  # its components
        pairs = k if self.hp.change == "ridge" else 0
        self.register_buffer("slope", torch.zeros(pairs, pairs, p, layout.n_genes))  # from, to

    @property
    def embedding_needs_condition(self) -> bool:
        """Components do not depend on the condition."""
        return False

    def fit_closed_form(self, batches: Batches) -> None:
        """Components; then for every condition the mean over cell types, and for ridge its slope on their state."""
        super().fit_closed_form(batches)
        k = self.layout.n_conditions
        means = means_by_condition(batches, lambda batch: batch.x, k, self.layout.n_labels)
        self.mean.copy_(means.mean(1))
        if self.hp.change == "shift":
            return
        states = (means - self.centre) @ self.components
        self.state.copy_(states.mean(1))
        for source in range(k):
            spread = states[source] - self.state[source]
            gram = spread @ spread.T
            shrink = self.hp.ridge * gram.diagonal().mean().clamp(min=1e-12)
            # dual form: as many unknowns as cell types, not as components
            dual = torch.linalg.solve(gram + shrink * torch.eye(len(gram), device=gram.device), spread)
            for to in range(k):
                change = (means[to] - means[source]) - (self.mean[to] - self.mean[source])
                self.slope[source, to] = dual.T @ change

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """The cell plus the predicted change."""
        target = self.layout.target(do)
        return Point(batch.x if target is None else batch.x + self.change(batch, target))

    def change(self, batch: Minibatch, target: int) -> Tensor:
        """From each cell's condition to the target's, [B, G]."""
        change = self.mean[target] - self.mean[batch.condition]
        if self.hp.change == "ridge":
            z = self.embedding(batch)
            for source in batch.condition.unique():
                rows = batch.condition == source
                change[rows] += (z[rows] - self.state[source]) @ self.slope[source, target]
        return change
