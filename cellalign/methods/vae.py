"""VAE: a variational autoencoder that is given nothing but the expression (Kingma & Welling 2014).

Encoder q(z | x) with learned scale, decoder p(x | z), standard normal prior, Gaussian or negative binomial likelihood.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.base import Width
from cellalign.nn.likelihoods import LikelihoodName


class VAE(VariationalAutoencoder):
    """Variational autoencoder with a Gaussian or a negative binomial likelihood."""

    name = "vae"
    summary = "variational autoencoder; knows no condition"
    reference = "Kingma & Welling 2014"
    shares_batches = True
    needs_condition = False


class CountHyperparameters(VariationalAutoencoder.Hyperparameters):
    """Networks of the sVAE+ paper (appendix C), with batch normalisation, which they do not have.

    It takes the average log count out of the encoder's input: on simulated shifts R^2 rises from 0.71 to 0.89 in the
    same number of steps (benchmarks/README.md).
    """

    latent_dim: int = Field(15, ge=1, le=10_000, description="number of latent dimensions")
    hidden: tuple[Width, ...] = Field(
        (128, 128), min_length=1, max_length=100, description="encoder widths; the decoder mirrors them"
    )
    negative_slope: float = Field(0.0, ge=0, le=1, description="slope of the leaky ReLU below zero")
    likelihood: LikelihoodName = Field(
        "nb", description="of normalised expression (gaussian, mse), or of counts (nb, zinb)"
    )


COUNT_PLAN: dict[str, Any] = {"lr": 4e-3, "weight_decay": 1e-6}
