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

from cellalign.methods.base import Dimensions, Latent, Loss
from cellalign.methods.scvi import SCVI
from cellalign.nn.batch import Batch
from cellalign.nn.distributions import kl_to_standard_normal, log_normal, sample_normal, scale_of
from cellalign.nn.networks import MLP


class Normal(nn.Module):
    """A network from z and a one-hot label to mean and standard deviation of a normal over p latents."""

    def __init__(self, p: int, n_labels: int, hidden: tuple[int, ...], dropout: float, least_variance: float) -> None:
        super().__init__()
        self.body = MLP(p, hidden, n_labels, negative_slope=0.0, dropout=dropout, deep=True, momentum=0.01, eps=1e-3)
        self.to_mean = nn.Linear(self.body.n_out, p)
        self.to_log_variance = nn.Linear(self.body.n_out, p)
        self.least_variance = least_variance

    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, p], label [B, labels] -> [B, p] each."""
        h = self.body(z, label)
        return self.to_mean(h), scale_of(self.to_log_variance(h), self.least_variance)


class SCANVI(SCVI):
    """scVI that learns from cell types, of which some or most may be missing."""

    name = "scanvi"
    summary = "scANVI: scVI with cell types, known for some cells; predicts the others'"
    reference = "Xu et al. 2021"
    needs_label = True

    class Hyperparameters(SCVI.Hyperparameters):
        """Adds the classifier's weight."""

        classification_ratio: float = Field(50.0, ge=0, le=1e6, description="weight of the classifier's cross-entropy")

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        hp, k = self.hp, dimensions.labels
        self.encoder_u = Normal(hp.latent_dim, k, hp.hidden, hp.dropout, self.least_variance)
        self.decoder_u = Normal(hp.latent_dim, k, hp.hidden[::-1], 0.0, 0.0)
        self.body = MLP(hp.latent_dim, hp.hidden, negative_slope=0.0, dropout=hp.dropout)
        self.to_logits = nn.Linear(self.body.n_out, k)

    def logits(self, z: Tensor) -> Tensor:
        """Of q(y | z), [B, labels]."""
        return self.to_logits(self.body(z, z.new_empty(len(z), 0)))

    def label_probability(self, batch: Batch) -> Tensor:
        """q(y | z) at the posterior mean, [B, labels]."""
        return self.logits(self.encode(batch).mean).softmax(1)

    def kl(self, batch: Batch, latent: Latent) -> Tensor:
        """What z, u and y cost, [B]: log q(z) - E log p(z | u, y), KL of u and of y, the labels weighed by q(y | z)."""
        fixed, annealed = self.costs(latent)
        return fixed + annealed

    def costs(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """The part that KL warm-up leaves alone, and the part it scales, [B] each."""
        z, k = latent.z, self.dimensions.labels
        weights = self.logits(z).softmax(1)
        labels = torch.eye(k, device=z.device).repeat_interleave(len(z), 0)
        each = z.repeat(k, 1)  # every cell under every label, label by label
        mean, scale = self.encoder_u(each, labels)
        prior_mean, prior_scale = self.decoder_u(sample_normal(mean, scale), labels)
        from_prior = -log_normal(each, prior_mean, prior_scale).view(k, -1).T
        kl_u = kl_to_standard_normal(mean, scale).view(k, -1).T
        kl_y = (weights * (weights.clamp(min=1e-12) * k).log()).sum(1)
        fixed = log_normal(z, latent.mean, latent.scale) + (weights * from_prior).sum(1)
        return fixed, (weights * kl_u).sum(1) + kl_y

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Log of an unbiased estimate of p(z) = sum_y p(y) E_u p(z | u, y), one u drawn from q(u | z, y): [T, B]."""
        k, flat = self.dimensions.labels, z.flatten(0, 1)
        labels = torch.eye(k, device=z.device).repeat_interleave(len(flat), 0)
        each = flat.repeat(k, 1)
        mean, scale = self.encoder_u(each, labels)
        u = sample_normal(mean, scale)
        joint = log_normal(u, 0.0, 1.0) + log_normal(each, *self.decoder_u(u, labels)) - log_normal(u, mean, scale)
        return (joint.view(k, -1).logsumexp(0) - math.log(k)).view(z.shape[:2])

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """Negative ELBO with the labels summed over, and the classifier's cross-entropy on labelled cells."""
        latent = self.encode(batch)
        reconstruction = self.likelihood.nll(self.decode(latent.z, batch), batch).mean()
        fixed, annealed = (part.mean() for part in self.costs(latent))
        known = batch.label >= 0
        error = F.cross_entropy(self.logits(latent.mean), batch.label.clamp(min=0), reduction="none")
        classifier = (error * known).sum() / known.sum().clamp(min=1)
        total = self.hp.eta * reconstruction + fixed + self.hp.beta * warmup * annealed
        parts = {"reconstruction": reconstruction, "kl": fixed + annealed, "classifier": classifier}
        total = total + self.hp.classification_ratio * classifier
        return Loss(total, {name: value.detach() for name, value in parts.items()})
