"""MMD autoencoder, SAUCIE-style (Amodio et al. 2019; baseline of the trVAE paper, table 9).

Encoder z = f(x, c) without noise, decoder g(z, c), no prior, squared error, and MMD between the conditions'
bottlenecks. Without noise there is no evidence lower bound: it is an autoencoder, not a variational one.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods.autoencoder import Step
from cellalign.methods.base import Latent, Layout, Minibatch, Role
from cellalign.methods.cvae import ConditionalAutoencoder
from cellalign.methods.vfae import VFAE, alignment, weight
from cellalign.nn.likelihoods import LikelihoodName
from cellalign.nn.normalisation import BatchNorm1d


class MMDAE(ConditionalAutoencoder):
    """Deterministic conditional autoencoder whose bottleneck is aligned across conditions by MMD."""

    name = "mmd-ae"
    summary = "SAUCIE-style autoencoder: no noise, no prior, MMD penalty on the bottleneck"
    reference = "Amodio et al. 2019"
    shares_batches = True

    class Hyperparameters(VFAE.Hyperparameters):
        """A small bottleneck and the squared error of the paper; there is no posterior to scale and no KL to weigh."""

        latent_dim: int = Field(20, ge=1, le=10_000, description="number of latent dimensions")
        likelihood: LikelihoodName = Field(
            "mse", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )
        posterior_scale: None = Field(None, description="has no meaning here: z carries no noise")
        beta: float = Field(0.0, ge=0, le=0, description="has no meaning here: there is no prior")
        prior_scale: float = Field(1.0, ge=1, le=1, description="has no meaning here: there is no prior")
        leaky_bottleneck: bool = Field(False, description="pass the bottleneck through a leaky ReLU as well")
        tell_decoder: bool = Field(
            True, description="give the decoder the condition; false is SAUCIE, which can predict no other condition"
        )

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        # no prior tells where z lies, MMD sees differences alone, and the decoder's normalisation takes the rest away
        first = self.decoder.after_first[0]
        if isinstance(first, BatchNorm1d) and not self.hp.leaky_bottleneck:
            first.after(self.to_mean)

    @property
    def decoder_sees(self) -> tuple[Role, ...]:  # type: ignore[override]
        """What the encoder does, or z alone."""
        return self.encoder_sees if self.hp.tell_decoder else ()

    def posterior_mean(self, last: Tensor) -> Tensor:
        """The bottleneck."""
        z = super().posterior_mean(last)
        return F.leaky_relu(z, self.hp.negative_slope) if self.hp.leaky_bottleneck else z

    def make_log_variance(self) -> nn.Module | None:
        """None: z has no spread."""
        return None

    def posterior_sd(self, mean: Tensor, last: Tensor) -> Tensor:
        """Zero: mean and draw are the same."""
        return mean.new_zeros(())

    def kl(self, batch: Minibatch, latent: Latent) -> Tensor:
        """Zero, [B]: no prior."""
        return torch.zeros(len(batch), device=latent.mean.device)

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """As VFAE's."""
        aligned = step.latent.z if self.hp.penalty_on == "z" else step.latent.hidden
        return {"penalty": self.per_gene(weight(self.hp, self.layout)) * alignment(self.hp, aligned, step.batch)}
