"""trVAE: CVAE with MMD on the decoder's first hidden layer (Lotfollahi et al. 2020).

Encoder q(z | x, c) with learned scale, decoder p(x | z, c), standard normal prior, squared error (or Gaussian, or
negative binomial), and MMD between the conditions' units y of the first layer after z meets c (eq. 8 to 10).
Batches hold as many cells of every condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import Step
from cellalign.methods.cvae import CVAE
from cellalign.nn.penalties import mmd


class TrVAE(CVAE):
    """CVAE whose decoder's first layer is aligned across conditions by MMD."""

    name = "trvae"
    summary = "transfer VAE: MMD on the decoder's first hidden layer"
    reference = "Lotfollahi et al. 2020"
    plan_defaults: ClassVar[Mapping[str, Any]] = {"balanced": True}
    condition_kinds = ("categorical",)  # MMD compares groups of cells

    class Hyperparameters(CVAE.Hyperparameters):
        """Adds the penalty."""

        gamma: float = Field(35.0, ge=0, le=1e6, description="weight of the MMD penalty, per gene")
        unbiased: bool = Field(True, description="MMD without each cell's kernel with itself; false is the published")

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """The weighted MMD of the decoder's first hidden layer over all pairs of conditions (eq. 8)."""
        distance = mmd(step.decoded.hidden, step.batch.condition, unbiased=self.hp.unbiased)
        return {"penalty": self.per_gene(self.hp.gamma) * distance}
