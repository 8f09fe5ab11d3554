"""scGen: latent vector arithmetic (Lotfollahi et al. 2019; baseline of the trVAE paper).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, squared error, no penalty. Neither
network sees the condition; a counterfactual adds the difference of two conditions' mean latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.base import CONDITION, LABEL, FitsInClosedForm, Layout, Minibatch, Role
from cellalign.methods.capabilities import Batches, means_by_condition
from cellalign.nn.likelihoods import LikelihoodName


class ScGen(FitsInClosedForm, VariationalAutoencoder):
    """VAE that predicts by z + mean z(target) - mean z(source), cell types weighing the same where labels are given."""

    name = "scgen"
    summary = "VAE with latent vector arithmetic; a label weighs cell types alike"
    reference = "Lotfollahi et al. 2019"
    also_uses = (CONDITION, LABEL)  # the shift from one condition to another, weighed by label

    class Hyperparameters(VariationalAutoencoder.Hyperparameters):
        """The squared error of the paper, and its weight of the KL.

        Published as 0.0005 of averages over genes and latents: 0.01 of the sums here, at 2,000 genes and 100 latents.
        With 1 a cell type never seen stimulated is predicted badly (benchmarks/README.md).
        """

        beta: float = Field(0.01, ge=0, description="weight of the KL term")

        likelihood: LikelihoodName = Field(
            "mse", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.centres: Tensor
        self.register_buffer("centres", torch.zeros(layout.n_conditions, self.hp.latent_dim))

    def fit_closed_form(self, batches: Batches) -> None:
        """Mean latent of every condition, over the cell types that all conditions share, each counting the same."""
        means = means_by_condition(batches, self.embedding, self.layout.n_conditions, self.layout.n_labels)
        self.centres.copy_(means.mean(1))

    def intervene(self, z: Tensor, batch: Minibatch, do: Mapping[str, Any]) -> tuple[Tensor, Minibatch]:
        """z + delta, delta the difference of the conditions' mean latents."""
        target = self.layout.target(do)
        return z if target is None else z + self.centres[target] - self.centres[batch.condition], batch

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition, whose change moves z."""
        return frozenset({CONDITION})
