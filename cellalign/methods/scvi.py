"""scVI, as scvi-tools trains it by default (Lopez et al. 2018).

Encoder q(z | x) with learned scale, which does not see the batch; decoder p(x | z, b) that sees condition and batches
in every layer; standard normal prior; zero-inflated negative binomial likelihood with one dispersion per gene and the
observed library size; KL warm-up over 400 epochs, no penalty.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from cellalign.methods.autoencoder import GivenContext, VariationalAutoencoder
from cellalign.methods.base import BATCH, CONDITION, Layout, Width
from cellalign.nn.likelihoods import Counts, LikelihoodName


class SCVI(GivenContext, VariationalAutoencoder):
    """Variational inference of counts; the batches to remove are the condition and the technical covariates."""

    name = "scvi"
    summary = "scVI: counts, decoder given the batch; scvi-tools' defaults"
    reference = "Lopez et al. 2018"
    shares_batches = True
    needs_condition = False
    decoder_sees = (CONDITION, BATCH)
    removes = (CONDITION, BATCH)
    decoder_shape: ClassVar = {"deep": True, "dropout": 0.0}
    least_variance = 1e-4
    plan_defaults: ClassVar = {
        "epoch_rule": "cells",
        "batch_size": 128,
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "adam_eps": 0.01,
        "schedule": "constant",
        "warmup_epochs": 400,
        "early_stopping": False,
    }

    class Hyperparameters(VariationalAutoencoder.Hyperparameters):
        """scvi-tools' defaults."""

        latent_dim: int = Field(10, ge=1, le=10_000, description="number of latent dimensions")
        hidden: tuple[Width, ...] = Field(
            (128,), min_length=1, max_length=100, description="encoder widths; the decoder mirrors them"
        )
        dropout: float = Field(0.1, ge=0, lt=1, description="share of the encoder's hidden units dropped in training")
        negative_slope: float = Field(0.0, ge=0, le=1, description="slope of the leaky ReLU below zero")
        norm_momentum: float = Field(0.01, gt=0, le=1, description="how fast batch normalisation forgets (torch's way)")
        norm_eps: float = Field(1e-3, gt=0, le=1, description="added to the variances of batch normalisation")
        speedup: float = Field(1.0, gt=0, le=1000, description="how many times as far a step moves dispersions")
        likelihood: LikelihoodName = Field(
            "zinb", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
        )

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        if isinstance(self.likelihood, Counts):
            self.likelihood.log_theta.restart(torch.randn(layout.n_genes), self.hp.speedup)
