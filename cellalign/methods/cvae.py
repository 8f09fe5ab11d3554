"""CVAE: encoder and decoder both see the condition (Sohn et al. 2015; baseline of CoMP and trVAE).

Encoder q(z | x, c), decoder p(x | z, c), standard normal prior, Gaussian likelihood, no penalty. Nothing but
the prior asks z to be independent of c, so conditions usually stay apart in z.

Where the condition of some cells is unknown, a classifier q(c | x) learns from the others, and each step draws the
unknown ones from it (the discriminative half of Kingma et al. 2014, model M2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.autoencoder import Decoded, GivenContext, VariationalAutoencoder
from cellalign.methods.base import (
    BATCH,
    CONDITION,
    ContextWeight,
    InfersCondition,
    Latent,
    Layout,
    Loss,
    Minibatch,
)
from cellalign.nn import share
from cellalign.nn.networks import Classifier

KL_OF_NUMBER = 0.35  # times the root of the number of genes: 5 of 200, 11 of 1,000


class ConditionalAutoencoder(InfersCondition, GivenContext):
    """Autoencoder whose networks see the condition; technical covariates are seen like the condition."""

    encoder_sees = (CONDITION, BATCH)
    decoder_sees = (CONDITION, BATCH)
    removes = (CONDITION, BATCH)

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        missing = layout.condition is not None and layout.condition.may_be_missing
        self.classifier = Classifier(layout.n_genes, layout.n_conditions) if missing else None

    def context_weights(self) -> Mapping[str, ContextWeight]:
        """Of the classifier too, where the condition may be missing: an output for each."""
        outputs = () if self.classifier is None else ("classifier.out.weight", "classifier.out.bias")
        return {**super().context_weights(), **{name: ContextWeight((CONDITION,)) for name in outputs}}

    def inferred_condition(self, batch: Minibatch) -> Tensor:
        """q(c | x); 1 for the condition of a cell that has one."""
        assert self.classifier is not None
        guess = self.classifier(self.encoder_input(batch)).softmax(1)
        given = F.one_hot(batch.condition.clamp(min=0), self.layout.n_conditions).to(guess.dtype)
        return torch.where(batch.condition[:, None] >= 0, given, guess)

    def completed(self, batch: Minibatch) -> Minibatch:
        """The same cells, those of unknown condition under the one that is most probable."""
        # in training `forward` has completed them, and a GPU must not wait to be asked whether it has
        if self.classifier is None or self.training or batch.condition.dim() > 1:  # several at once are known
            return batch
        if not bool((batch.condition < 0).any()):
            return batch
        return batch.with_condition(self.inferred_condition(batch).argmax(1))

    def encode(self, batch: Minibatch) -> Latent:
        """q(z | x, c)."""
        return super().encode(self.completed(batch))

    def decode(self, z: Tensor, batch: Minibatch) -> Decoded:
        """p(x | z, c)."""
        return super().decode(z, self.completed(batch))

    def forward(self, batch: Minibatch, warmup: float = 1.0) -> Loss:
        """As of any autoencoder; with unknown conditions, the classifier's cross-entropy on the known ones besides."""
        if self.classifier is None:
            return super().forward(batch, warmup)
        logits, known = self.classifier(self.encoder_input(batch)), batch.condition >= 0
        if self.training:  # drawn, so that a doubtful cell is seen under each condition it may have
            of_all = share.everyone(logits.detach().softmax(1))
            guess = share.own(torch.multinomial(of_all, 1))[:, 0]
        else:
            guess = logits.argmax(1)
        loss = super().forward(batch.with_condition(torch.where(known, batch.condition, guess)), warmup)
        # the two networks share no weight, so no factor has to balance them
        error = F.cross_entropy(logits, batch.condition.clamp(min=0), reduction="none")
        entropy = (error * known).sum() / share.counted(known).clamp(min=1)
        return Loss(loss.total + entropy, {**loss.parts, "classifier": entropy.detach()})


class CVAE(ConditionalAutoencoder, VariationalAutoencoder):
    """Conditional variational autoencoder."""

    name = "cvae"
    summary = "conditional VAE: encoder and decoder see the condition, no penalty"
    reference = "Sohn et al. 2015"
    shares_batches = True
    condition_kinds: ClassVar[tuple[str, ...]] = ("categorical", "number")

    class Hyperparameters(VariationalAutoencoder.Hyperparameters):
        """Adds the prior's width, which CoMP's code has at 0.1 for VFAE and trVAE."""

        prior_scale: float = Field(1.0, gt=0, le=100, description="standard deviation of the prior")

    @classmethod
    def defaults_of_number(cls, n_features: int | None) -> Mapping[str, Any]:
        """A heavier KL: what z tells of a number, the decoder does not learn from it, and predicts too small a change.

        With 1 slopes of dose curves are 0.65 to 0.85 of the truth (benchmarks/README.md, "A dose as the condition").
        """
        return {"beta": round(KL_OF_NUMBER * math.sqrt(n_features), 1)} if n_features else {}

    @property
    def prior_sd(self) -> float:
        """The hyperparameter."""
        return self.hp.prior_scale
