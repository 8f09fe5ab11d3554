"""Linear baselines of a predicted response: what any network has to beat.

`shift` adds to a cell the mean change of the trained cell types; `ridge` lets the change depend on the cell's
principal components, by ridge regression over the cell types seen under both conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cellalign.methods.base import CONDITION, LABEL, Distribution, Layout, Minibatch, Point, Role
from cellalign.methods.capabilities import Batches
from cellalign.methods.condition_means import ConditionMeans, of_centres
from cellalign.methods.pca import PCA


class Linear(PCA):
    """Additive shift, or ridge regression on principal components; a label weighs cell types alike."""

    name = "linear"
    summary = "mean shift, or ridge regression of the change on principal components"
    reference = "baseline"
    needs_condition = True
    keeps_observed = False  # its changes are the observed ones
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION, LABEL)  # the change by condition, weighed by label
    plan_defaults: ClassVar[Mapping[str, Any]] = {"validation": 0.0}  # there is nothing to choose by cells kept back

    class Hyperparameters(PCA.Hyperparameters):
        """Which of the two, and how strongly it is shrunk."""

        change: Literal["shift", "ridge"] = Field("shift", description="mean change, or a change by cell state")
        ridge: float = Field(1.0, gt=0, le=1e6, description="shrinkage, relative to the spread of cell types")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.expression_means = ConditionMeans(layout, layout.n_genes)
        self.state: Tensor
        self.slope: Tensor
        self.register_load_state_dict_pre_hook(_from_means)

    @property
    def embedding_needs_condition(self) -> bool:
        """Components do not depend on the condition."""
        return False

    def fit_closed_form(self, batches: Batches) -> None:
        """Components; then the mean of every condition and cell type."""
        super().fit_closed_form(batches)
        self.expression_means.fit(batches, lambda batch: batch.x)

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
        change = self.expression_means.changes(batch.condition, target)
        if self.hp.change == "ridge":
            z = self.embedding(batch)
            for source in batch.condition.unique().tolist():
                rows = batch.condition == source
                change[rows] += self.by_state(z[rows], source, target)
        return change

    def by_state(self, z: Tensor, source: int, target: int) -> Tensor:
        """What cells of these components [n, p] change more than the mean, [n, G]: ridge regression over cell types."""
        if self.has_slopes:
            return (z - self.state[source]) @ self.slope[source, target]
        before, after = self.expression_means.pair(source, target)
        states, changes = (before - self.centre) @ self.components, after - before
        mean = states.mean(0)
        spread = states - mean
        gram = spread @ spread.T
        shrink = self.hp.ridge * gram.diagonal().mean().clamp(min=1e-12)
        # dual form: as many unknowns as cell types, not as components
        dual = torch.linalg.solve(gram + shrink * torch.eye(len(gram), device=gram.device), spread)
        return (z - mean) @ dual.T @ (changes - changes.mean(0))

    @property
    def has_slopes(self) -> bool:
        """Whether it is a model of before, which holds `state` [K, p] and `slope` [K, K, p, G] and no cell types."""
        return "slope" in self._buffers

    def caveats(self, sources: Sequence[int], targets: Sequence[int]) -> list[str]:
        """Conditions without a cell type in common."""
        return self.expression_means.caveats(sources, targets)


def _from_means(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Models of before hold one mean of each condition, and for ridge the regression between every two."""
    assert isinstance(module, Linear)
    if prefix + "mean" in weights:
        of_centres(weights, prefix + "mean", prefix + "expression_means.")
    state, slope = weights.get(prefix + "state"), weights.get(prefix + "slope")
    if state is None or slope is None:
        return
    if module.hp.change == "shift":
        del weights[prefix + "state"], weights[prefix + "slope"]
        return
    k, p, n_genes = module.layout.n_conditions, module.components.shape[1], module.layout.n_genes
    if (state.shape, slope.shape) == ((k, p), (k, k, p, n_genes)):
        module.register_buffer("state", torch.empty_like(state, device=module.centre.device))
        module.register_buffer("slope", torch.empty_like(slope, device=module.centre.device))
