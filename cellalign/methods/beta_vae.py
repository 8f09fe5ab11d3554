"""beta-VAE: a VAE whose KL term weighs more than one (Higgins et al. 2017; baseline of the sVAE+ paper).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, negative binomial likelihood. The KL
term warms up: with its whole weight from the start most latents collapse before they carry anything.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.vae import COUNT_PLAN, CountHyperparameters


class BetaVAE(VariationalAutoencoder):
    """VAE with beta > 1; knows no condition."""

    name = "beta-vae"
    summary = "VAE with a heavier KL term; knows no condition"
    reference = "Higgins et al. 2017"
    shares_batches = True
    needs_condition = False
    disentangles = True
    plan_defaults: ClassVar = COUNT_PLAN | {"warmup_epochs": 20}

    class Hyperparameters(CountHyperparameters):
        """The sVAE+ paper's, of its grid of 8, 10 and 30 for beta the first."""

        beta: float = Field(8.0, ge=0, description="weight of the KL term")
