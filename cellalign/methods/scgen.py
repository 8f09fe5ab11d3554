"""scGen: latent vector arithmetic (Lotfollahi et al. 2019; baseline of the trVAE paper).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, squared error, no penalty. Neither
network sees the condition; a counterfactual adds the difference of two conditions' mean latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.base import CONDITION, LABEL, FitsInClosedForm, Layout, Minibatch, Role
from cellalign.methods.capabilities import Batches, Rule
from cellalign.methods.condition_means import ConditionMeans, of_centres
from cellalign.nn.likelihoods import LikelihoodName


class ScGen(FitsInClosedForm, VariationalAutoencoder):
    """VAE that predicts by z + mean z(target) - mean z(source), over the cell types that both have, each alike."""

    name = "scgen"
    summary = "VAE with latent vector arithmetic; a label weighs cell types alike"
    reference = "Lotfollahi et al. 2019"
    shares_batches = True
    also_uses = (CONDITION, LABEL)  # the shift from one condition to another, weighed by label

    class Hyperparameters(VariationalAutoencoder.Hyperparameters):
        """The squared error of the paper, and its weight of the KL.

        Its code halves squared errors, sums them over genes and the KL over latents, as is done here: 0.0005 is 0.0005.
        With 1 a cell type never seen stimulated is predicted badly (benchmarks/README.md).
        """

        beta: float = Field(0.0005, ge=0, description="weight of the KL term")

        likelihood: LikelihoodName = Field(
            "mse", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )

    keeps_observed = False  # differences of its latents add up as well as what was observed (`benchmarks/doubles.py`)

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.latents = ConditionMeans(layout, self.hp.latent_dim)
        self.register_load_state_dict_pre_hook(_from_centres)

    def fit_closed_form(self, batches: Batches) -> None:
        """Mean latent of every condition and cell type."""
        self.latents.fit(batches, self.embedding)

    def intervene(self, z: Tensor, batch: Minibatch, do: Mapping[str, Any]) -> tuple[Tensor, Minibatch]:
        """z + delta, delta the difference of the conditions' mean latents over the cell types that both have."""
        targets = self.layout.targets(do)
        return z + self.latents.added(batch.condition, targets) if targets else z, batch

    @property
    def combines_in(self) -> tuple[Rule, ...]:
        """Differences of mean latents add up as well."""
        return "expression", "latent"

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition, whose change moves z."""
        return frozenset({CONDITION})

    def caveats(self, sources: Sequence[int], targets: Sequence[int]) -> list[str]:
        """Conditions without a cell type in common."""
        return self.latents.caveats(sources, targets)


def _from_centres(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Models of before hold one mean of each condition, over the types that all of them share."""
    if prefix + "centres" in weights:
        of_centres(weights, prefix + "centres", prefix + "latents.")
