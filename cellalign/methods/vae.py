"""VAE: the autoencoder that knows no condition (Kingma & Welling 2014; the first baseline of three of the papers).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, Gaussian likelihood with one
scale per cell or negative binomial, no penalty. The other methods of this family change one choice each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from cellalign.methods import base
from cellalign.methods.base import BATCHES, CONDITION, Dimensions, Latent, Loss, Method, Step
from cellalign.nn.batch import Batch, SparseRows
from cellalign.nn.distributions import kl_to_standard_normal, log_normal, sample_normal, scale_of
from cellalign.nn.likelihoods import Kind, make_likelihood
from cellalign.nn.networks import MLP


class VAE(Method):
    """Variational autoencoder with a Gaussian or a negative binomial likelihood."""

    name = "vae"
    summary = "variational autoencoder; knows no condition"
    reference = "Kingma & Welling 2014"
    needs_condition = False
    encoder_sees: ClassVar[tuple[str, ...]] = ()
    decoder_sees: ClassVar[tuple[str, ...]] = ()
    encoder_shape: ClassVar[Mapping[str, Any]] = {}  # of its networks, beyond what the hyperparameters say
    decoder_shape: ClassVar[Mapping[str, Any]] = {}
    least_variance: ClassVar[float] = 0.0  # added to the posterior's

    class Hyperparameters(base.Hyperparameters):
        """Adds the posterior's scale and the likelihood."""

        posterior_scale: float | None = Field(
            None, gt=0, le=100, description="fixed posterior standard deviation; null learns it"
        )
        likelihood: Kind = Field(
            "gaussian", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )

        eta: float = Field(1.0, gt=0, description="weight of the reconstruction")
        averaged: bool = Field(
            False, description="average reconstruction over genes and KL over latents, as some published weights need"
        )

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        hp = self.hp
        self.encoder = self.network(dimensions.genes, hp.hidden, self.encoder_sees, **self.encoder_shape)
        self.to_mean = nn.Linear(self.encoder.n_out, self.n_latent)
        self.to_log_variance = nn.Linear(self.encoder.n_out, self.n_latent) if hp.posterior_scale is None else None
        self.decoder = self.network(self.n_latent, hp.hidden[::-1], self.decoder_sees, **self.decoder_shape)
        self.likelihood = make_likelihood(hp.likelihood, self.decoder.n_out, dimensions.genes)

    @classmethod
    def reads(cls, hyperparameters: Any) -> str:
        """Counts for the count likelihoods."""
        return "counts" if hyperparameters.likelihood in ("nb", "zinb") else "log"

    @property
    def n_latent(self) -> int:
        """Dimensions of z."""
        return self.hp.latent_dim

    def network(self, n_in: int, hidden: Sequence[int], seen: tuple[str, ...], **changes: Any) -> MLP:
        """A network of the hyperparameters' shape that is told what `seen` names."""
        hp = self.hp
        shape = dict(batch_norm=hp.batch_norm, dropout=hp.dropout, negative_slope=hp.negative_slope)
        return MLP(n_in, hidden, self.n_context(seen), **(shape | changes))

    @property
    def sees_condition(self) -> bool:
        """Whether the decoder sees the condition or the prior depends on it."""
        return self.needs_condition or CONDITION in self.decoder_sees

    @property
    def sees_batches(self) -> bool:
        """Whether the decoder sees the batches."""
        return BATCHES in self.decoder_sees

    @property
    def embedding_needs_condition(self) -> bool:
        """Whether the encoder sees the condition."""
        return CONDITION in self.encoder_sees

    def encoder_input(self, batch: Batch) -> Tensor | SparseRows:
        """Log expression as it is; counts as log(1 + x)."""
        if self.likelihood.reads == "log":
            return batch.expression
        x = batch.expression
        return x.map(torch.log1p) if isinstance(x, SparseRows) else x.log1p()

    def encode(self, batch: Batch) -> Latent:
        """q(z | x): mean, and the scale learned per cell or fixed."""
        return self.posterior(self.encoder(self.encoder_input(batch), self.encoder_context(batch)), batch)

    def encoder_context(self, batch: Batch) -> Tensor:
        """What the encoder is told besides the expression, [B, n_context]."""
        return self.context(batch, self.encoder_sees)

    def posterior(self, h: Tensor, batch: Batch) -> Latent:
        """The posterior that the encoder's last hidden units [B, H] stand for, and a draw."""
        mean = self.to_mean(h)
        if self.to_log_variance is None:
            scale = mean.new_tensor(self.hp.posterior_scale)
        else:
            scale = scale_of(self.to_log_variance(h), self.least_variance)
        return Latent(mean, scale, sample_normal(mean, scale))

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's last hidden units [B, H], from which the likelihood goes on."""
        return self.decoder(z, self.context(batch, self.decoder_sees))

    def predict(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean of p(x | z, .)."""
        return self.likelihood.mean(self.decode(z, batch), batch)

    def prior_mean(self, batch: Batch) -> Tensor | float:
        """Mean of the prior, whose scale is 1: zero, or [B, p] of a subclass."""
        return 0.0

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Log density of draws z [T, B, p] under the prior, [T, B]."""
        return log_normal(z, self.prior_mean(batch), 1.0)

    def penalty(self, step: Step) -> Tensor | None:
        """None: subclasses return a scalar, already weighted."""
        return None

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """All penalties by name: the one, where there is one."""
        penalty = self.penalty(step)
        return {} if penalty is None else {"penalty": penalty}

    def per_gene(self, weight: float) -> float:
        """A weight published for averaged losses, where the reconstruction is a sum over genes."""
        return weight if self.hp.averaged else weight * self.dimensions.genes

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """Negative ELBO summed over genes and latent dimensions, mean over cells, plus the penalty (CoMP eq. 5)."""
        context = self.encoder_context(batch)
        encoder_hidden = self.encoder.first_hidden(self.encoder_input(batch), context)
        latent = self.posterior(self.encoder.go_on(encoder_hidden, context), batch)
        context = self.context(batch, self.decoder_sees)
        decoder_hidden = self.decoder.first_hidden(latent.z, context)
        reconstruction = self.likelihood.nll(self.decoder.go_on(decoder_hidden, context), batch).mean()
        fixed, annealed = (part.mean() for part in self.costs(batch, latent))
        parts = {"reconstruction": reconstruction, "kl": fixed + annealed}
        n_genes, n_latent = (self.dimensions.genes, self.hp.latent_dim) if self.hp.averaged else (1, 1)
        total = self.hp.eta / n_genes * reconstruction + fixed / n_latent + self.hp.beta / n_latent * warmup * annealed
        for name, value in self.penalties(Step(batch, latent, encoder_hidden, decoder_hidden, warmup)).items():
            parts[name] = value
            total = total + value
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def costs(self, batch: Batch, latent: Latent) -> tuple[Tensor, Tensor]:
        """What the latents cost, [B] each: the part that KL warm-up leaves alone, and the part it scales."""
        kl = self.kl(batch, latent)
        return torch.zeros_like(kl), kl

    def kl(self, batch: Batch, latent: Latent) -> Tensor:
        """KL of the posterior to the prior, summed over latent dimensions, [B]."""
        return kl_to_standard_normal(latent.mean - self.prior_mean(batch), latent.scale.expand_as(latent.mean))

    def nelbo(self, batch: Batch) -> Tensor:
        """Negative evidence lower bound of each cell with one posterior draw, [B], in nats."""
        latent = self.encode(batch)
        return self.likelihood.nll(self.decode(latent.z, batch), batch) + self.kl(batch, latent)

    def importance_weighted_nll(self, batch: Batch, particles: int, at_once: int = 50) -> Tensor:
        """Negative importance-weighted ELBO of each cell, [B], in nats (sVAE+ eq. 18).

        Parameters
        ----------
        batch : Batch
        particles : int
            Posterior draws T per cell.
        at_once : int
            Draws decoded together: memory is at_once x B x G values.
        """
        latent = self.encode(batch)
        scale = latent.scale.expand_as(latent.mean)
        context = self.context(batch, self.decoder_sees)
        total = latent.mean.new_full((len(batch),), -math.inf)
        for start in range(0, particles, at_once):
            n = min(at_once, particles - start)
            z = latent.mean + scale * torch.randn(n, *latent.mean.shape, device=latent.mean.device)
            h = self.decoder(z.flatten(0, 1), context.repeat(n, 1)).unflatten(0, (n, len(batch)))
            weight = self.log_prior(z, batch) - log_normal(z, latent.mean, scale)
            total = torch.logaddexp(total, (weight - self.likelihood.particles_nll(h, batch)).logsumexp(0))
        return math.log(particles) - total


class CountHyperparameters(VAE.Hyperparameters):
    """Networks of the sVAE+ paper (appendix C), with batch normalisation, which they do not have.

    It takes the average log count out of the encoder's input: on simulated shifts R^2 rises from 0.71 to 0.89 in the
    same number of steps (benchmarks/README.md).
    """

    latent_dim: int = Field(15, ge=1, le=10_000, description="number of latent dimensions")
    hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="encoder widths; the decoder mirrors them")
    negative_slope: float = Field(0.0, ge=0, le=1, description="slope of the leaky ReLU below zero")
    likelihood: Kind = Field("nb", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)")


COUNT_PLAN = {"lr": 4e-3, "weight_decay": 1e-6}
