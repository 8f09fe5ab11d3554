"""CVAE: encoder and decoder both see the condition (Sohn et al. 2015; baseline of CoMP and trVAE).

Encoder q(z | x, c), decoder p(x | z, c), standard normal prior, Gaussian likelihood, no penalty. Nothing but
the prior asks z to be independent of c, so conditions usually stay apart in z.

Where the condition of some cells is unknown, a classifier q(c | x) learns from the others, and each step draws the
unknown ones from it (the discriminative half of Kingma et al. 2014, model M2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.base import BATCHES, CONDITION, Dimensions, Latent, Loss
from cellalign.methods.vae import VAE
from cellalign.nn.batch import Batch
from cellalign.nn.networks import Classifier


class CVAE(VAE):
    """Conditional variational autoencoder; technical covariates are seen like the condition."""

    name = "cvae"
    summary = "conditional VAE: encoder and decoder see the condition, no penalty"
    reference = "Sohn et al. 2015"
    needs_condition = True
    takes_continuous = True
    takes_unknown = True
    encoder_sees = (CONDITION, BATCHES)
    decoder_sees = (CONDITION, BATCHES)

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        self.classifier = Classifier(dimensions.genes, dimensions.conditions) if dimensions.unknown else None

    def inferred_condition(self, batch: Batch) -> Tensor:
        """q(c | x); 1 for the condition of a cell that has one."""
        assert self.classifier is not None
        guess = self.classifier(self.encoder_input(batch)).softmax(1)
        given = F.one_hot(batch.condition.clamp(min=0), self.dimensions.conditions).to(guess.dtype)
        return torch.where(batch.condition[:, None] >= 0, given, guess)

    def completed(self, batch: Batch) -> Batch:
        """The same cells, those of unknown condition under the one that is most probable."""
        if self.classifier is None or not bool((batch.condition < 0).any()):
            return batch
        return replace(batch, condition=self.inferred_condition(batch).argmax(1))

    def encode(self, batch: Batch) -> Latent:
        """q(z | x, c)."""
        return super().encode(self.completed(batch))

    def predict(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean of p(x | z, c)."""
        return super().predict(z, self.completed(batch))

    def nelbo(self, batch: Batch) -> Tensor:
        """Negative evidence lower bound of each cell with one posterior draw, [B], in nats."""
        return super().nelbo(self.completed(batch))

    def importance_weighted_nll(self, batch: Batch, particles: int, at_once: int = 50) -> Tensor:
        """Negative importance-weighted ELBO of each cell, [B], in nats (sVAE+ eq. 18)."""
        return super().importance_weighted_nll(self.completed(batch), particles, at_once)

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """As the VAE's; with unknown conditions, the classifier's cross-entropy on the known ones besides."""
        if self.classifier is None:
            return super().loss(batch, warmup)
        logits, known = self.classifier(self.encoder_input(batch)), batch.condition >= 0
        if self.training:  # drawn, so that a doubtful cell is seen under each condition it may have
            guess = torch.multinomial(logits.detach().softmax(1), 1)[:, 0]
        else:
            guess = logits.argmax(1)
        loss = super().loss(replace(batch, condition=torch.where(known, batch.condition, guess)), warmup)
        # the two networks share no weight, so no factor has to balance them
        error = F.cross_entropy(logits, batch.condition.clamp(min=0), reduction="none")
        entropy = (error * known).sum() / known.sum().clamp(min=1)
        return Loss(loss.total + entropy, {**loss.parts, "classifier": entropy.detach()})
