"""The autoencoder, composed of six choices; and the variational one, which has a likelihood.

    loss = reconstruction(x | decoder(z, .)) + beta * KL(q(z | .) || prior) + gamma * penalty

A method says what its encoder and decoder see, its posterior, prior, likelihood and penalties. There is one forward
pass: loss, bounds, embedding and prediction all go through `encode` and `decode`, so what a method changes there holds
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from cellalign.methods import base
from cellalign.methods.base import (
    BATCH,
    CONDITION,
    CombinesConditions,
    ContextWeight,
    Distribution,
    Expression,
    HasLikelihood,
    Latent,
    Layout,
    LearnsOn,
    Loss,
    Method,
    Minibatch,
    Predicts,
    Reconstructs,
    Role,
    Trains,
)
from cellalign.methods.capabilities import Rule
from cellalign.nn import share
from cellalign.nn.distributions import kl_to_standard_normal, log_normal, sample_normal, sd_of
from cellalign.nn.likelihoods import OF_COUNTS, Counts, LikelihoodName, make_likelihood
from cellalign.nn.networks import MLP
from cellalign.nn.products import WideLinear
from cellalign.nn.sparse import SparseRows


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of latents: p(x | z, .), and the units of its first hidden layer [..., B, H]."""

    distribution: Distribution
    hidden: Tensor


@dataclass(frozen=True)
class Step:
    """What a penalty may look at: one forward pass over a batch.

    Attributes
    ----------
    batch : Minibatch
    latent : Latent
    decoded : Decoded
    warmup : float
        In [0, 1], rises over the first epochs.
    """

    batch: Minibatch
    latent: Latent
    decoded: Decoded
    warmup: float


class Autoencoder(Trains, Reconstructs, Predicts, Method):
    """Encoder and decoder with a posterior, a prior and a likelihood; its subclasses are the published methods.

    Attributes
    ----------
    encoder_sees, decoder_sees : tuple of roles
        Fields that the networks are given.
    encoder_shape, decoder_shape : mapping
        Of its networks, beyond what the hyperparameters say.
    least_variance : float
        Added to the posterior's.
    """

    encoder_sees: ClassVar[tuple[Role, ...]] = ()
    decoder_sees: ClassVar[tuple[Role, ...]] = ()
    encoder_shape: ClassVar[Mapping[str, Any]] = {}
    decoder_shape: ClassVar[Mapping[str, Any]] = {}
    least_variance: ClassVar[float] = 0.0
    also_uses: ClassVar[tuple[Role, ...]] = ()

    class Hyperparameters(base.Hyperparameters):
        """Adds the posterior's standard deviation and the likelihood."""

        posterior_scale: float | None = Field(
            None, gt=0, le=100, description="fixed posterior standard deviation; null learns it"
        )
        likelihood: LikelihoodName = Field(
            "gaussian", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )

        eta: float = Field(1.0, gt=0, description="weight of the reconstruction")
        averaged: bool = Field(
            False, description="average reconstruction over genes and KL over latents, as some published weights need"
        )
        decoder_dropout: float | None = Field(
            None,
            ge=0,
            lt=1,
            description="share of the decoder's hidden units dropped in training; null is the method's",
        )
        norm_momentum: float = Field(0.1, gt=0, le=1, description="how fast batch normalisation forgets (torch's way)")
        norm_eps: float = Field(1e-5, gt=0, le=1, description="added to the variances of batch normalisation")
        speedup: float = Field(
            10.0, gt=0, le=1000, description="how many times as far a step moves dispersions, shifts and mask logits"
        )

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.encoder = self.make_encoder()
        self.to_mean = WideLinear(self.encoder.n_out, self.n_latent)
        self.to_log_variance = self.make_log_variance()
        self.decoder = self.make_decoder()
        self.likelihood = make_likelihood(
            self.hp.likelihood, self.decoder.n_out, layout.n_genes, self.decoded_pixels, signed=layout.signed
        )
        if isinstance(self.likelihood, Counts):
            self.likelihood.log_theta.restart(torch.zeros(layout.n_genes), self.hp.speedup)

    def make_encoder(self) -> Any:
        """The network of `encode`: `layers(x, context)` gives its first and last hidden units, `n_out` of them."""
        return self.network(self.layout.n_genes, self.hp.hidden, self.encoder_sees, **self.encoder_shape)

    def make_decoder(self) -> Any:
        """The network of `decode`, alike; of latents."""
        hp, own = self.hp, dict(self.decoder_shape)
        own["batch_norm"] = hp.batch_norm is True
        if hp.decoder_dropout is not None:
            own["dropout"] = hp.decoder_dropout
        return self.network(self.n_latent, hp.hidden[::-1], self.decoder_sees, **own)

    @property
    def decoded_pixels(self) -> bool:
        """Whether the decoder's last units are the means of the genes themselves."""
        return False

    def make_log_variance(self) -> nn.Module | None:
        """What gives the posterior's log variance; None where its standard deviation is fixed."""
        return nn.Linear(self.encoder.n_out, self.n_latent) if self.hp.posterior_scale is None else None

    @classmethod
    def reads(cls, hyperparameters: Any) -> Expression:
        """Counts for the count likelihoods."""
        return "counts" if hyperparameters.likelihood in OF_COUNTS else "log"

    @classmethod
    def uses(cls) -> frozenset[Role]:
        """What its networks see, and what it uses besides."""
        seen = (cls.encoder_sees, cls.decoder_sees, cls.also_uses)
        # a method whose decoder sees what its hyperparameters say has a property there; its encoder sees as much
        return frozenset(role for roles in seen if isinstance(roles, tuple) for role in roles)

    @property
    def n_latent(self) -> int:
        """Dimensions of z."""
        return self.hp.latent_dim

    def network(self, n_in: int, hidden: Sequence[int], seen: Sequence[Role], **changes: Any) -> MLP:
        """A network of the hyperparameters' shape that is given the fields of the roles in `seen`."""
        hp = self.hp
        shape = dict(batch_norm=hp.batch_norm, dropout=hp.dropout, negative_slope=hp.negative_slope)
        shape |= dict(momentum=hp.norm_momentum, eps=hp.norm_eps)
        return MLP(n_in, hidden, self.layout.fields.width(seen), **(shape | changes))

    @property
    def embedding_needs_condition(self) -> bool:
        """Whether the encoder sees the condition."""
        return CONDITION in self.encoder_sees

    @property
    def responds_to(self) -> frozenset[Role]:
        """What the decoder sees, and the condition where conditions shift z."""
        seen = {role for role in (CONDITION, BATCH) if role in self.decoder_sees}
        return frozenset(seen | ({CONDITION} if isinstance(self, CombinesConditions) else set()))

    @property
    def combines_in(self) -> tuple[Rule, ...]:
        """In the latents where conditions shift them; else in expression, or in what the decoder is given."""
        if isinstance(self, CombinesConditions):
            return "latent", "expression"
        return ("expression", "latent") if CONDITION in self.decoder_sees else ("expression",)

    # the forward pass

    def encode(self, batch: Minibatch) -> Latent:
        """q(z | x, .): mean, standard deviation, and a draw."""
        hidden, last = self.encoder.layers(self.encoder_input(batch), self.encoder_context(batch))
        mean = self.posterior_mean(last)
        sd = self.posterior_sd(mean, last)
        return Latent(mean, sd, sample_normal(mean, sd), hidden)

    def encoder_input(self, batch: Minibatch) -> Tensor | SparseRows:
        """Log expression as it is; counts as log(1 + x)."""
        x = batch.expression
        if self.likelihood.expression == "log":
            return x
        return x.map(torch.log1p) if isinstance(x, SparseRows) else x.log1p()

    def encoder_context(self, batch: Minibatch) -> Tensor:
        """What the encoder is given besides the expression, [B, n_context]."""
        return batch.context(self.encoder_sees)

    def posterior_mean(self, last: Tensor) -> Tensor:
        """Mean of the posterior [B, p] from the last hidden units."""
        return self.to_mean(last)

    def posterior_sd(self, mean: Tensor, last: Tensor) -> Tensor:
        """Standard deviation of the posterior: learned per cell [B, p] from the last hidden units, or fixed []."""
        if self.to_log_variance is None:
            return mean.new_tensor(self.hp.posterior_scale)
        return sd_of(self.to_log_variance(last), self.least_variance)

    def decode(self, z: Tensor, batch: Minibatch) -> Decoded:
        """p(x | z, .) of latents z [B, p], or of several draws at once [T, B, p]."""
        context = batch.context(self.decoder_sees)
        draws = z.shape[:-2]
        if draws:
            context = context.repeat(math.prod(draws), 1)
        hidden, last = self.decoder.layers(z.flatten(0, -2), context)
        if draws:
            hidden, last = (h.unflatten(0, (*draws, len(batch))) for h in (hidden, last))
        return Decoded(self.likelihood(last, batch), hidden)

    # the objective

    def kl(self, batch: Minibatch, latent: Latent) -> Tensor:
        """KL of the posterior to the prior, summed over latent dimensions, [B]."""
        mean, sd = latent.mean - self.prior_mean(batch), latent.sd.expand_as(latent.mean)
        width = self.prior_sd
        return kl_to_standard_normal(mean, sd) if width == 1 else kl_to_standard_normal(mean / width, sd / width)

    def prior_mean(self, batch: Minibatch) -> Tensor | float:
        """Mean of the prior: zero, or [B, p] of a subclass."""
        return 0.0

    @property
    def prior_sd(self) -> float:
        """Standard deviation of the prior."""
        return 1.0

    def costs(self, batch: Minibatch, latent: Latent) -> tuple[Tensor, Tensor]:
        """What the latents cost, [B] each: the part that KL warm-up leaves alone, and the part it scales."""
        kl = self.kl(batch, latent)
        return torch.zeros_like(kl), kl

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """Scalars added to the loss, already weighted, by name: none."""
        return {}

    def per_gene(self, weight: float) -> float:
        """A weight published for averaged losses, where the reconstruction is a sum over genes."""
        return weight if self.hp.averaged else weight * self.layout.n_genes

    def forward(self, batch: Minibatch, warmup: float = 1.0) -> Loss:
        """Negative ELBO summed over genes and latent dimensions, mean over cells, plus the penalties (CoMP eq. 5)."""
        latent = self.encode(batch)
        decoded = self.decode(latent.z, batch)
        reconstruction = share.mean(decoded.distribution.nll(batch))
        fixed, annealed = (share.mean(part) for part in self.costs(batch, latent))
        parts = {"reconstruction": reconstruction, "kl": fixed + annealed}
        n_genes, n_latent = (self.layout.n_genes, self.hp.latent_dim) if self.hp.averaged else (1, 1)
        total = self.hp.eta / n_genes * reconstruction + fixed / n_latent + self.hp.beta / n_latent * warmup * annealed
        for name, value in self.penalties(Step(batch, latent, decoded, warmup)).items():
            parts[name] = value
            total = total + value
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def nll_of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Tensor:
        """The reconstruction [B] of cells that were all alike, by its likelihood."""
        return self.likelihood.of_alike(batch, mean, variance).nll(batch)

    # predictions

    def intervene(self, z: Tensor, batch: Minibatch, do: Mapping[str, Any]) -> tuple[Tensor, Minibatch]:
        """What an intervention changes: what the decoder sees, and z stays (CoMP eq. 1); or conditions shift z.

        Where conditions combine (sVAE+ section 3.4), z - mu_a + mu_a', the shifts of several adding up. A decoder that
        sees the condition is given those of several at once, less the reference's for each but one.

        Parameters
        ----------
        z : Tensor [B, p]
            Latents of the batch's cells under their own condition.
        do : mapping of column to value
            Not empty.
        """
        if not isinstance(self, CombinesConditions):
            return z, batch.do(do)
        targets = self.layout.targets(do)
        if targets:
            shifts = self.shifts()
            z = z - shifts[batch.condition] + shifts[list(targets)].sum(0)
        return z, batch.do(self.layout.without_condition(do))

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """Abduct z, act on it or on what the decoder sees, decode (CoMP eq. 1)."""
        latent = self.encode(batch)
        z, moved = latent.z if draw else latent.mean, batch
        if do:
            z, moved = self.intervene(z, batch, do)
        return self.decode(z, moved).distribution


class GivenContext(LearnsOn, Autoencoder):
    """An autoencoder whose networks are given conditions, batches or covariates."""

    def context_weights(self) -> Mapping[str, ContextWeight]:
        """Those of the layers of encoder and decoder that the context enters."""
        networks = (("encoder", self.encoder, self.encoder_sees), ("decoder", self.decoder, self.decoder_sees))
        return {
            f"{name}.{layer}context": ContextWeight(tuple(seen), embeds=name == "encoder")
            for name, network, seen in networks
            for layer in network.given_context()
        }


class VariationalAutoencoder(HasLikelihood, Autoencoder):
    """An autoencoder whose posterior has a spread and whose cells have a likelihood: the evidence lower bound."""

    @property
    def comparable(self) -> bool:
        """Whether the prior's normaliser is known: it is."""
        return True

    def log_prior(self, z: Tensor, batch: Minibatch) -> Tensor:
        """Log density of draws z [T, B, p] under the prior, [T, B]."""
        return log_normal(z, self.prior_mean(batch), self.prior_sd)

    def nelbo(self, batch: Minibatch) -> Tensor:
        """Negative evidence lower bound of each cell with one posterior draw, [B], in nats."""
        latent = self.encode(batch)
        return self.decode(latent.z, batch).distribution.nll(batch) + self.kl(batch, latent)

    def importance_weighted_nll(self, batch: Minibatch, particles: int, at_once: int = 50) -> Tensor:
        """Negative importance-weighted ELBO of each cell, [B], in nats (sVAE+ eq. 18).

        Parameters
        ----------
        batch : Minibatch
        particles : int
            Posterior draws T per cell.
        at_once : int
            Draws decoded together: memory is at_once x B x G values.
        """
        latent = self.encode(batch)
        sd = latent.sd.expand_as(latent.mean)
        total = latent.mean.new_full((len(batch),), -math.inf)
        for start in range(0, particles, at_once):
            n = min(at_once, particles - start)
            z = latent.mean + sd * torch.randn(n, *latent.mean.shape, device=latent.mean.device)
            weight = self.log_prior(z, batch) - log_normal(z, latent.mean, sd)
            nll = self.decode(z, batch).distribution.nll(batch)
            total = torch.logaddexp(total, (weight - nll).logsumexp(0))
        return math.log(particles) - total
