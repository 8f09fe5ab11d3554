"""scANVI, as scvi-tools trains it by default: scVI whose prior depends on the cell type (Xu et al. 2021).

Encoder q(z | x), decoder p(x | z, b), and above z a second autoencoder: q(u | z, y), p(z | u, y), u standard normal.
A classifier q(y | z) gives each cell its labels' weights; cells without a label count like the others, and those with
one train the classifier besides. Likelihood, networks and plan are scVI's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods.autoencoder import Step
from cellalign.methods.base import LABEL, Labels, Latent, Layout, Minibatch
from cellalign.methods.scvi import SCVI
from cellalign.nn import share
from cellalign.nn.distributions import kl_to_standard_normal, log_normal, sample_normal, sd_of
from cellalign.nn.networks import MLP


class LabelledNormal(nn.Module):
    """A network from z and a one-hot label to mean and standard deviation of a normal over p latents."""

    def __init__(self, p: int, n_labels: int, hidden: tuple[int, ...], least_variance: float, **shape: Any) -> None:
        super().__init__()
        self.body = MLP(p, hidden, n_labels, deep=True, **shape)
        self.to_mean = nn.Linear(self.body.n_out, p)
        self.to_log_variance = nn.Linear(self.body.n_out, p)
        self.least_variance = least_variance

    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, p], label [B, labels] -> [B, p] each."""
        h = self.body(z, label)
        return self.to_mean(h), sd_of(self.to_log_variance(h), self.least_variance)


class SCANVI(Labels, SCVI):
    """scVI that learns from cell types, of which some or most may be missing."""

    name = "scanvi"
    summary = "scANVI: scVI with cell types, known for some cells; predicts the others'"
    reference = "Xu et al. 2021"
    shares_batches = True
    needs_label = True
    also_uses = (LABEL,)  # its prior and its classifier

    class Hyperparameters(SCVI.Hyperparameters):
        """Adds the classifier's weight."""

        classification_ratio: float = Field(50.0, ge=0, le=1e6, description="weight of the classifier's cross-entropy")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        hp, k = self.hp, layout.n_labels
        shape: dict[str, Any] = {"batch_norm": hp.batch_norm, "negative_slope": hp.negative_slope}
        shape |= {"momentum": hp.norm_momentum, "eps": hp.norm_eps}
        self.encoder_u = LabelledNormal(hp.latent_dim, k, hp.hidden, self.least_variance, dropout=hp.dropout, **shape)
        self.decoder_u = LabelledNormal(hp.latent_dim, k, hp.hidden[::-1], 0.0, **shape)
        self.body = MLP(hp.latent_dim, hp.hidden, dropout=hp.dropout, **shape)
        self.to_logits = nn.Linear(self.body.n_out, k)

    def logits(self, z: Tensor) -> Tensor:
        """Of q(y | z), [B, labels]."""
        return self.to_logits(self.body(z, z.new_empty(len(z), 0)))

    def label_probability(self, z: Tensor) -> Tensor:
        """q(y | z), [B, labels]."""
        return self.logits(z).softmax(1)

    def under_every_label(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, p] and one-hot labels, every cell under every label, label by label: [labels * n, ...]."""
        k = self.layout.n_labels
        return z.repeat(k, 1), torch.eye(k, device=z.device).repeat_interleave(len(z), 0)

    def kl(self, batch: Minibatch, latent: Latent) -> Tensor:
        """What z, u and y cost, [B]: log q(z) - E log p(z | u, y), KL of u and of y, the labels weighed by q(y | z)."""
        fixed, annealed = self.costs(batch, latent)
        return fixed + annealed

    def costs(self, batch: Minibatch, latent: Latent) -> tuple[Tensor, Tensor]:
        """As of a VAE; scvi-tools anneals the KL of u and y alone."""
        z, k = latent.z, self.layout.n_labels
        weights = self.logits(z).softmax(1)
        each, labels = self.under_every_label(z)
        mean, sd = self.encoder_u(each, labels)
        prior_mean, prior_sd = self.decoder_u(sample_normal(mean, sd), labels)
        from_prior = -log_normal(each, prior_mean, prior_sd).view(k, -1).T
        kl_u = kl_to_standard_normal(mean, sd).view(k, -1).T
        kl_y = (weights * (weights.clamp(min=1e-12) * k).log()).sum(1)
        fixed = log_normal(z, latent.mean, latent.sd) + (weights * from_prior).sum(1)
        return fixed, (weights * kl_u).sum(1) + kl_y

    def log_prior(self, z: Tensor, batch: Minibatch) -> Tensor:
        """Log of an unbiased estimate of p(z) = sum_y p(y) E_u p(z | u, y), one u drawn from q(u | z, y): [T, B]."""
        k = self.layout.n_labels
        each, labels = self.under_every_label(z.flatten(0, 1))
        mean, sd = self.encoder_u(each, labels)
        u = sample_normal(mean, sd)
        joint = log_normal(u, 0.0, 1.0) + log_normal(each, *self.decoder_u(u, labels)) - log_normal(u, mean, sd)
        return (joint.view(k, -1).logsumexp(0) - math.log(k)).view(z.shape[:2])

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """The classifier's cross-entropy on labelled cells."""
        label = step.batch.label
        known = label >= 0
        error = F.cross_entropy(self.logits(step.latent.mean), label.clamp(min=0), reduction="none")
        return {"classifier": self.hp.classification_ratio * (error * known).sum() / share.counted(known).clamp(min=1)}
