"""scGen: latent vector arithmetic (Lotfollahi et al. 2019; baseline of the trVAE paper).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, squared error, no penalty. Neither
network sees the condition; a counterfactual adds the difference of two conditions' mean latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.base import Dimensions, Target
from cellalign.methods.vae import VAE
from cellalign.nn.batch import Batch
from cellalign.nn.likelihoods import Kind


class ScGen(VAE):
    """VAE that predicts by z + mean z(target) - mean z(source), cell types weighing the same where labels are given."""

    name = "scgen"
    summary = "VAE with latent vector arithmetic; --label weighs cell types alike"
    reference = "Lotfollahi et al. 2019"
    needs_condition = True

    class Hyperparameters(VAE.Hyperparameters):
        """The squared error of the paper, and its weight of the KL.

        Published as 0.0005 of averages over genes and latents: 0.01 of the sums here, at 2,000 genes and 100 latents.
        With 1 a cell type never seen stimulated is predicted badly (benchmarks/README.md).
        """

        beta: float = Field(0.01, ge=0, description="weight of the KL term")

        likelihood: Kind = Field("mse", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)")

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        self.centres: Tensor
        self.register_buffer("centres", torch.zeros(dimensions.conditions, self.hp.latent_dim))

    def finish(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Mean latent of every condition, over the cell types that all conditions share, each counting the same."""
        self.centres.copy_(self.means_by_condition(batches, self.embedding).mean(1))

    def intervene(self, z: Tensor, batch: Batch, to: Target) -> tuple[Tensor, Batch]:
        """z + delta, delta the difference of the conditions' mean latents."""
        return z + self.centres[to.codes[0]] - self.centres[batch.condition], batch
