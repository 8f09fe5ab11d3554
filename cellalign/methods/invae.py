"""inVAE: invariant and spurious latents with a prior each (Aliee et al. 2023).

Encoder q(z_I, z_S | x, d, b), decoder p(x | z_I, z_S), prior p(z_I | d) of the exponential family fitted by score
matching (eq. 5, 9), or factorised; prior p(z_S | b) = N(m(b), s(b)) (eq. 6); negative binomial likelihood; penalty the
total correlation of z_I and z_S (eq. 10). d are the biological covariates, b the technical ones: what b explains costs
nothing in z_S and much in z_I, whose prior does not know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.autoencoder import Step
from cellalign.methods.base import BATCH, COVARIATE, ContextWeight, Latent, Layout, Minibatch, Role
from cellalign.methods.nf_ivae import NFIVAE, given_by_prior
from cellalign.nn.distributions import log_normal
from cellalign.nn.penalties import gaussian_total_correlation, total_correlation
from cellalign.nn.priors import NormalPrior


class INVAE(NFIVAE):
    """VAE with a block of latents for the biology and one for the technique."""

    name = "invae"
    summary = "invariant VAE: biology in z_I, technical effects in z_S"
    reference = "Aliee et al. 2023"
    shares_batches = True
    prior_sees = (COVARIATE,)
    removes = (BATCH,)
    renamed_settings: ClassVar = NFIVAE.renamed_settings | {"within_domain": "correlation_estimate"}

    class Hyperparameters(NFIVAE.Hyperparameters):
        """Adds the spurious block and the penalty.

        The KL weighs less than 1, with which the disease of a donor can be lost: the prior follows the posterior by
        score matching and draws donors together (benchmarks/README.md).
        """

        beta: float = Field(0.6, ge=0, description="weight of the KL term")
        latent_dim: int = Field(20, ge=1, le=10_000, description="number of invariant latents")
        spurious_dim: int = Field(5, ge=1, le=10_000, description="number of spurious latents")
        inject: bool = Field(False, description="give the decoder the technical covariates instead of learning z_S")
        spurious_mean: bool = Field(
            True, description="the spurious prior's mean depends on b (eq. 6); false fixes it at 0 as the authors' code"
        )
        total_correlation: float = Field(
            1.0, ge=0, le=1e4, description="weight of the total correlation, beta of eq. 12"
        )
        correlation_estimate: Literal["gaussian", "within-domain", "whole-batch"] = Field(
            "gaussian",
            description="total correlation of covariances among cells of the same d and b; or by minibatch weighting, "
            "among these (eq. 11) or of the whole batch (the authors' code), which has no signal beyond a few latents",
        )

        @field_validator("correlation_estimate", mode="before")
        @classmethod
        def as_earlier_versions_say(cls, value: Any) -> Any:
            """Of the setting `within_domain`, true or false, when there was minibatch weighting alone."""
            return {True: "within-domain", False: "whole-batch"}[value] if isinstance(value, bool) else value

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.spurious_prior = None
        if not self.hp.inject:
            n_context = layout.fields.width((BATCH,))
            self.spurious_prior = NormalPrior(
                self.hp.spurious_dim, n_context, centred=not self.hp.spurious_mean, apart=2.0
            )

    def context_weights(self) -> Mapping[str, ContextWeight]:
        """Those of the spurious prior too, whose mean the spurious latents are counted from."""
        spurious = () if self.spurious_prior is None else ("spurious_prior.network.",)
        return {**super().context_weights(), **given_by_prior(spurious, (BATCH,))}

    @property
    def n_latent(self) -> int:
        """Invariant latents, then spurious ones."""
        return self.hp.latent_dim + (0 if self.hp.inject else self.hp.spurious_dim)

    @property
    def decoder_sees(self) -> tuple[Role, ...]:  # type: ignore[override]
        """z alone, or with it the technical covariates."""
        return (BATCH,) if self.hp.inject else ()

    @property
    def responds_to(self) -> frozenset[Role]:
        """Another batch is another z_S, or given to the decoder."""
        return frozenset({BATCH})

    def invariant(self, latent: Latent) -> Latent:
        """z_I: [B, latent_dim]."""
        keep = slice(None, self.hp.latent_dim)
        return Latent(latent.mean[:, keep], latent.sd[:, keep], latent.z[:, keep])

    def encode(self, batch: Minibatch) -> Latent:
        """q(z_I, z_S | x, d, b), z_S as a difference from its prior's mean.

        What b explains is then in z_S from the first step on, at no cost, and z_I need not learn it first.
        """
        latent = super().encode(batch)
        if self.spurious_prior is None or not self.hp.spurious_mean:
            return latent
        centre = F.pad(self.spurious_prior(batch.context((BATCH,)))[0], (self.hp.latent_dim, 0))
        return replace(latent, mean=latent.mean + centre, z=latent.z + centre)

    def kl(self, batch: Minibatch, latent: Latent) -> Tensor:
        """KL of both blocks to their priors, [B]; but for a constant where z_I's prior does not factorise."""
        kl = super().kl(batch, latent)
        if self.spurious_prior is None:
            return kl
        spurious, p = batch.context((BATCH,)), self.hp.latent_dim
        return kl + self.spurious_prior.kl(latent.mean[:, p:], latent.sd[:, p:], spurious)

    def log_prior(self, z: Tensor, batch: Minibatch) -> Tensor:
        """Log density of draws of both blocks [T, B, p] under their priors, [T, B]."""
        invariant, spurious = z.tensor_split([self.hp.latent_dim], -1)
        found = super().log_prior(invariant, batch)
        if self.spurious_prior is None:
            return found
        return found + log_normal(spurious, *self.spurious_prior(batch.context((BATCH,))))

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """Score matching, and the total correlation, which sets in as the KL does."""
        found = super().penalties(step)
        weight = self.hp.total_correlation * step.warmup
        if self.hp.inject or weight == 0:
            return found
        latent, p, estimate = step.latent, self.hp.latent_dim, self.hp.correlation_estimate
        domain = None if estimate == "whole-batch" else self.domains(step.batch)
        if estimate == "gaussian":
            value = gaussian_total_correlation(latent.mean, latent.sd, p, domain)
        else:
            value = total_correlation(latent.z, latent.mean, latent.sd, p, self.layout.n_cells, domain)
        return found | {"total_correlation": weight * value}

    def domains(self, batch: Minibatch) -> Tensor:
        """Codes [B] of the combinations of all categorical covariates."""
        code = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
        for field, column in [*batch.of(COVARIATE), *batch.of(BATCH)]:
            if field.kind == "categorical":
                code = code * (len(field.categories) + 1) + column + 1
        return code

    def parts(self, z: Tensor) -> dict[str, Tensor]:
        """z_I, and z_S as X_invae_spurious."""
        invariant, spurious = z.tensor_split([self.hp.latent_dim], 1)
        return {"": invariant} if self.hp.inject else {"": invariant, "_spurious": spurious}

    def intervene(self, z: Tensor, batch: Minibatch, do: Mapping[str, Any]) -> tuple[Tensor, Minibatch]:
        """Another batch: z_S at the same quantile of that batch's prior; z_I stays."""
        _, moved = super().intervene(z, batch, do)
        if self.spurious_prior is None:
            return z, moved
        invariant, spurious = z.tensor_split([self.hp.latent_dim], 1)
        mean, sd = self.spurious_prior(batch.context((BATCH,)))
        new_mean, new_sd = self.spurious_prior(moved.context((BATCH,)))
        return torch.cat([invariant, new_mean + new_sd * (spurious - mean) / sd], 1), moved
