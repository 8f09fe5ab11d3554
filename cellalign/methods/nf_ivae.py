"""NF-iVAE: a prior that depends on covariates and does not factorise (Lu et al. 2022; baseline of the inVAE paper).

Encoder q(z | x, d, b), decoder p(x | z), prior p(z | d, b) of the exponential family (inVAE eq. 5) fitted by score
matching, negative binomial likelihood. d are the biological, b the technical covariates. With `prior=factorised` the
prior is N(m(d, b), s(d, b)): the iVAE of Khemakhem et al. 2020 as the inVAE paper runs it.

In training the encoder is given neither d nor b for a share of the cells, so that it embeds cells of which they are
not known: query cells without annotation, cells of a batch it has never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import GivenContext, Step, VariationalAutoencoder
from cellalign.methods.base import BATCH, COVARIATE, ContextWeight, Latent, Layout, Minibatch, Role
from cellalign.methods.vae import COUNT_PLAN, CountHyperparameters
from cellalign.nn import share
from cellalign.nn.distributions import log_normal
from cellalign.nn.priors import ExponentialFamilyPrior, NormalPrior


class NFIVAE(GivenContext, VariationalAutoencoder):
    """VAE whose prior is given covariates; technical ones count like biological ones."""

    name = "nf-ivae"
    summary = "identifiable VAE whose prior depends on all covariates and need not factorise"
    reference = "Lu et al. 2022"
    shares_batches = True
    needs_condition = False
    encoder_sees = (COVARIATE, BATCH)
    prior_sees: ClassVar[tuple[Role, ...]] = (COVARIATE, BATCH)
    least_variance = 1e-4
    # the loss holds an unnormalised density: it ranks no epochs, so no cells are kept for that
    plan_defaults: ClassVar = COUNT_PLAN | {"validation": 0.0}
    renamed_settings: ClassVar = {"hide": "covariate_dropout"}

    class Hyperparameters(CountHyperparameters):
        """Adds the prior."""

        latent_dim: int = Field(20, ge=1, le=10_000, description="number of latent dimensions")
        prior: Literal["non-factorised", "factorised"] = Field(
            "non-factorised", description="whether latents may depend on each other given the covariates"
        )
        score_regularisation: float = Field(
            0.0, ge=0, le=100, description="weight of squared second derivatives in score matching"
        )
        covariate_dropout: float = Field(
            0.5, ge=0, le=1, description="share of cells whose covariates the encoder is not given in training"
        )

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        n_context = layout.fields.width(self.prior_sees)
        self.prior: NormalPrior | ExponentialFamilyPrior
        if self.hp.prior == "factorised":
            self.prior = NormalPrior(self.hp.latent_dim, n_context)
        else:
            self.prior = ExponentialFamilyPrior(self.hp.latent_dim, n_context)

    def context_weights(self) -> Mapping[str, ContextWeight]:
        """Those of the prior's networks too."""
        networks = [f"prior.{name}." for name in self.prior.of_context]
        return {**super().context_weights(), **given_by_prior(networks, self.prior_sees)}

    @property
    def comparable(self) -> bool:
        """Whether the prior is the normal one."""
        return self.hp.prior == "factorised"

    @property
    def embeds_without_covariates(self) -> bool:
        """Whether they are hidden from the encoder for some cells in training."""
        return self.hp.covariate_dropout > 0

    def encoder_context(self, batch: Minibatch) -> Tensor:
        """One-hot covariates; in training zeros for a share of the cells."""
        context = super().encoder_context(batch)
        if not self.training or self.hp.covariate_dropout == 0:
            return context
        noise = share.drawn(len(batch), lambda n: torch.rand(n, 1, device=context.device))
        given = noise >= self.hp.covariate_dropout
        return context * given

    def posterior_sd(self, mean: Tensor, last: Tensor) -> Tensor:
        """One per cell and latent, [B, p], also where it is fixed."""
        return super().posterior_sd(mean, last).expand_as(mean)

    def invariant(self, latent: Latent) -> Latent:
        """The dimensions the prior is over: all."""
        return latent

    def kl(self, batch: Minibatch, latent: Latent) -> Tensor:
        """KL of the posterior to the prior, [B]; but for a constant where the prior's normaliser is not known."""
        latent, context = self.invariant(latent), batch.context(self.prior_sees)
        if isinstance(self.prior, NormalPrior):
            return self.prior.kl(latent.mean, latent.sd, context)
        return self.prior.kl(latent.z, latent.sd, context)

    def log_prior(self, z: Tensor, batch: Minibatch) -> Tensor:
        """Log density of draws z [T, B, p] under the prior, [T, B], where its normaliser is known."""
        assert isinstance(self.prior, NormalPrior)
        return log_normal(z, *self.prior(batch.context(self.prior_sees)))

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """Score matching, which moves the prior alone (inVAE eq. 9)."""
        if isinstance(self.prior, NormalPrior):
            return {}
        z, context = self.invariant(step.latent).z, step.batch.context(self.prior_sees)
        return {"score_matching": self.prior.score_matching(z, context, self.hp.score_regularisation)}


def given_by_prior(networks: Sequence[str], roles: tuple[Role, ...]) -> dict[str, ContextWeight]:
    """What the networks of a prior, as their parameters' names begin, have for each column of the context."""
    return {f"{name}first.weight": ContextWeight(roles, dim=1, before=1, embeds=False) for name in networks}
