"""MMD autoencoder, SAUCIE-style (Amodio et al. 2019; baseline of the trVAE paper, table 9).

Encoder z = f(x, c) without noise, decoder g(z, c), no prior, squared error, and MMD between the conditions'
bottlenecks.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.base import Dimensions, Latent, Method
from cellalign.methods.vfae import VFAE
from cellalign.nn.batch import Batch
from cellalign.nn.likelihoods import Kind


class MMDAE(VFAE):
    """Deterministic conditional autoencoder whose bottleneck is aligned across conditions by MMD."""

    name = "mmd-ae"
    summary = "SAUCIE-style autoencoder: no noise, no prior, MMD penalty on the bottleneck"
    reference = "Amodio et al. 2019"
    # without noise there is no evidence lower bound: the likelihood panel is not for it
    nelbo = Method.nelbo
    importance_weighted_nll = Method.importance_weighted_nll  # type: ignore[assignment]

    class Hyperparameters(VFAE.Hyperparameters):
        """A small bottleneck and the squared error of the paper; there is no posterior to scale and no KL to weigh."""

        latent_dim: int = Field(20, ge=1, le=10_000, description="number of latent dimensions")
        likelihood: Kind = Field("mse", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)")
        posterior_scale: None = Field(None, description="has no meaning here: z carries no noise")
        beta: float = Field(0.0, ge=0, le=0, description="has no meaning here: there is no prior")

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        self.to_log_variance = None  # nothing to learn

    def posterior(self, h: Tensor, batch: Batch) -> Latent:
        """The bottleneck: mean and draw are the same, [B, p]."""
        z = self.to_mean(h)
        return Latent.without_spread(z)

    def kl(self, batch: Batch, latent: Latent) -> Tensor:
        """Zero, [B]: no prior."""
        return torch.zeros(len(batch), device=latent.mean.device)
