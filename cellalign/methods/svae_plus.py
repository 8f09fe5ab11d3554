"""sVAE+: Bayesian sparse mechanism shift (Lopez et al. 2023).

Encoder q(z | x) with learned scale, decoder p(x | z), prior N(m_a mu_a, 1) with m_a ~ Bernoulli(pi_a) and
pi_a ~ Beta(1, alpha), negative binomial likelihood. pi is a point estimate and q(m) = Bernoulli(pi), so that of
the terms of eq. 13 only -log Beta(pi; 1, alpha) is left beside the cells' ELBO.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.svae import SVAE


class SVAEPlus(SVAE):
    """sVAE with a Beta(1, alpha) prior on each edge's probability instead of a penalty."""

    name = "svae+"
    summary = "sparse VAE with a Bayesian graph: which latents each intervention targets"
    reference = "Lopez et al. 2023"
    shares_batches = True
    # half the steps at twice the rate find the same latents and graph (benchmarks/README.md); sVAE's graph they do not
    plan_defaults: ClassVar = SVAE.plan_defaults | {"lr": 8e-3, "epoch_rule": "half-steps"}

    class Hyperparameters(SVAE.Hyperparameters):
        """Its prior's strength; `rotate_at: []` is the paper's gradient descent alone."""

        alpha: float | None = Field(
            None, ge=0, le=1e6, description="strength of sparsity; null is the number of interventions"
        )

    def sparsity_term(self) -> Tensor:
        """- sum log Beta(pi; 1, alpha) over all edges, per training cell (eq. 13)."""
        # log Beta(pi; 1, alpha) = log alpha + (alpha - 1) log(1 - pi), and -log(1 - sigmoid(L)) = softplus(L)
        log_prior = (math.log(max(self.alpha, 1e-30)) - (self.alpha - 1) * F.softplus(self.mask_logits())) * self.acts
        return -log_prior.sum() / self.layout.n_cells
