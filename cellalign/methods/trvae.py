"""trVAE: CVAE with MMD on the decoder's first hidden layer (Lotfollahi et al. 2020).

Encoder q(z | x, c) with learned scale, decoder p(x | z, c), standard normal prior, squared error (or Gaussian, or
negative binomial), and MMD between the conditions' units y of the first layer after z meets c (eq. 8 to 10).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from cellalign.methods.base import Step
from cellalign.methods.cvae import CVAE
from cellalign.nn.penalties import mmd


class TrVAE(CVAE):
    """CVAE whose decoder's first layer is aligned across conditions by MMD."""

    name = "trvae"
    summary = "transfer VAE: MMD on the decoder's first hidden layer"
    reference = "Lotfollahi et al. 2020"

    class Hyperparameters(CVAE.Hyperparameters):
        """Adds the penalty."""

        gamma: float = Field(20_000.0, ge=0, le=1e6, description="weight of the MMD penalty")

    def penalty(self, step: Step) -> Tensor:
        """gamma times the MMD of the decoder's first hidden layer over all pairs of conditions (eq. 8)."""
        return self.hp.gamma * mmd(step.decoder_hidden, step.batch.condition)
