"""VAE: the autoencoder that knows no condition (Kingma & Welling 2014; the first baseline of the CoMP paper).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, Gaussian likelihood with one
scale per cell, no penalty. The other methods of this family change one choice each.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods import base
from cellalign.methods.base import Dimensions, Latent, Loss, Method
from cellalign.nn.batch import Batch
from cellalign.nn.distributions import gaussian_nll, kl_to_standard_normal, sample_normal
from cellalign.nn.networks import MLP


class VAE(Method):
    """Variational autoencoder with a Gaussian likelihood."""

    name = "vae"
    summary = "variational autoencoder; knows no condition"
    reference = "Kingma & Welling 2014"
    needs_condition = False
    encoder_sees: ClassVar[tuple[str, ...]] = ()
    decoder_sees: ClassVar[tuple[str, ...]] = ()

    class Hyperparameters(base.Hyperparameters):
        """Adds the posterior's scale."""

        posterior_scale: float | None = Field(
            None, gt=0, le=100, description="fixed posterior standard deviation; null learns it"
        )

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        hp = self.hp
        shape = dict(batch_norm=hp.batch_norm, dropout=hp.dropout, negative_slope=hp.negative_slope)
        self.encoder = MLP(dimensions.genes, hp.hidden, self.cardinalities(self.encoder_sees), **shape)
        self.to_mean = nn.Linear(self.encoder.n_out, hp.latent_dim)
        self.to_log_variance = nn.Linear(self.encoder.n_out, hp.latent_dim) if hp.posterior_scale is None else None
        self.decoder = MLP(hp.latent_dim, hp.hidden[::-1], self.cardinalities(self.decoder_sees), **shape)
        self.to_expression = nn.Linear(self.decoder.n_out, dimensions.genes)
        self.to_cell_scale = nn.Linear(self.decoder.n_out, 1)

    def encode(self, batch: Batch) -> Latent:
        """q(z | x): mean, and the scale learned per cell or fixed."""
        h = self.encoder(batch.x, self.codes(batch, self.encoder_sees))
        mean = self.to_mean(h)
        if self.to_log_variance is None:
            scale = mean.new_tensor(self.hp.posterior_scale)
        else:
            # bounds far outside what training reaches: exp must not overflow on a stray cell
            scale = (0.5 * self.to_log_variance(h).clamp(-20, 20)).exp()
        return Latent(mean, scale, sample_normal(mean, scale))

    def decode(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """p(x | z, .): expected expression [B, G] and the cell's scale [B, 1] = 0.01 + softplus."""
        h = self.decoder(z, self.codes(batch, self.decoder_sees))
        return self.to_expression(h), 0.01 + F.softplus(self.to_cell_scale(h))

    def predict(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean of p(x | z, .)."""
        return self.decode(z, batch)[0]

    def penalty(self, batch: Batch, latent: Latent) -> Tensor | None:
        """None: subclasses return a scalar, already weighted."""
        return None

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """Negative ELBO summed over genes and latent dimensions, mean over cells, plus the penalty (CoMP eq. 5)."""
        latent = self.encode(batch)
        mean, scale = self.decode(latent.z, batch)
        parts = {
            "reconstruction": gaussian_nll(batch.x, mean, scale).mean(),
            "kl": kl_to_standard_normal(latent.mean, latent.scale.expand_as(latent.mean)).mean(),
        }
        total = parts["reconstruction"] + self.hp.beta * warmup * parts["kl"]
        penalty = self.penalty(batch, latent)
        if penalty is not None:
            parts["penalty"] = penalty
            total = total + penalty
        return Loss(total, {name: value.detach() for name, value in parts.items()})
