"""sVAE: an intervention shifts few latents (Lachapelle et al. 2022; baseline of the sVAE+ paper).

Encoder q(z | x) with learned scale, decoder p(x | z), prior N(m_a mu_a, 1) with a mask m_a of zeros and ones,
negative binomial likelihood, penalty alpha times the mean probability of an edge. An edge pays where
|mu| > sqrt(2 alpha / p) (the penalty of one edge of A p against mu^2 / 2 in one cell of A).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.autoencoder import Step
from cellalign.methods.base import Fields, Graph, Layout
from cellalign.methods.ivae import IVAE, ROTATE_AT, Part
from cellalign.methods.vae import COUNT_PLAN
from cellalign.nn import share
from cellalign.nn.distributions import gumbel_sigmoid
from cellalign.nn.networks import ScaledParameter

OPEN = 20.0  # logit of a mask that is as good as 1
AJAR = 0.5  # above the logit of the threshold, of edges that a rotation opens: training soon closes what does not pay
NEGLIGIBLE = 0.01  # shift that needs no edge, in standard deviations of the prior


class SVAE(IVAE):
    """iVAE whose shifts are masked by Gumbel-sigmoid draws, one per cell."""

    name = "svae"
    summary = "sparse VAE: each intervention shifts few latents, by an L1 penalty"
    reference = "Lachapelle et al. 2022"
    shares_batches = True
    # with the KL's whole weight from the start a latent collapses on one seed in three (benchmarks/README.md)
    plan_defaults: ClassVar = COUNT_PLAN | {"warmup_share": 0.33}

    class Hyperparameters(IVAE.Hyperparameters):
        """Adds the penalty and the mask's start; its masks are the graph, whether z is rotated or not."""

        alpha: float | None = Field(
            10.0, ge=0, le=1e6, description="strength of sparsity; null is the number of interventions"
        )
        mask_start: float = Field(5.0, ge=-10, le=10, description="logit of every edge at the start")
        sparsity_from: float = Field(
            0.25, ge=0, lt=0.6, description="part of the epochs before sparsity; half as much later it has its weight"
        )
        rotate_at: tuple[Part, ...] = Field((0.25, 0.5), description=ROTATE_AT)
        threshold: float = Field(0.5, gt=0, lt=1, description="probability from which an edge counts")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.sparsity = 1.0
        self.mask_logits = ScaledParameter(torch.full_like(self.shift(), self.hp.mask_start), self.hp.speedup)

    @property
    def alpha(self) -> float:
        """Strength of sparsity: the hyperparameter, or the number of interventions."""
        return float(self.acts.sum()) if self.hp.alpha is None else self.hp.alpha

    def mask(self, codes: Tensor) -> Tensor:
        """One draw of zeros and ones per cell and latent, [B, p]; its gradient passes straight through."""
        return gumbel_sigmoid(F.embedding(codes, self.mask_logits()))

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """The sparsity term; in training it sets in at `sparsity_from`, in validation it always counts."""
        weight = step.warmup * (self.sparsity if self.training else 1.0)
        return {"penalty": weight * share.once(self.sparsity_term())}

    def sparsity_term(self) -> Tensor:
        """alpha times the mean edge probability of the interventions (Lachapelle et al. 2022)."""
        probability = torch.sigmoid(self.mask_logits()) * self.acts
        return self.alpha * probability.sum() / (self.acts.sum() * self.hp.latent_dim)

    def on_epoch_start(self, progress: float, epoch_share: float) -> None:
        """Let sparsity set in, once the shifts are learned; rotate as iVAE does."""
        start = self.hp.sparsity_from
        self.sparsity = 1.0 if start == 0 else min(1.0, max(0.0, (progress - start) / (start / 2)))
        super().on_epoch_start(progress, epoch_share)

    def set_shifts(self, shifts: Tensor) -> None:
        """Open the edges that they need as well: a turned shift has other zeros."""
        super().set_shifts(shifts)
        closed = torch.sigmoid(self.mask_logits()) <= self.hp.threshold
        ajar = math.log(self.hp.threshold / (1 - self.hp.threshold)) + AJAR
        self.mask_logits.set(torch.where(closed & (shifts.abs() > NEGLIGIBLE), ajar, self.mask_logits()))

    def shifts(self) -> Tensor:
        """Shifts along the edges of the graph, zero elsewhere, [conditions, p]."""
        return super().shifts() * (torch.sigmoid(self.mask_logits()) > self.hp.threshold)

    def graph(self) -> Graph:
        """Edge probability pi and effect mu, masked by the graph (sVAE+ section 3.4)."""
        return Graph(
            (self.shift() * self.acts).detach().cpu(), (torch.sigmoid(self.mask_logits()) * self.acts).detach().cpu()
        )

    def with_conditions(self, fields: Fields, shifts: np.ndarray) -> IVAE:
        """As iVAE's; the masks of the new conditions are 1."""
        wider = super().with_conditions(fields, shifts)
        assert isinstance(wider, SVAE)
        wider.mask_logits.set(torch.tensor(OPEN), slice(self.layout.n_conditions, None))
        return wider
