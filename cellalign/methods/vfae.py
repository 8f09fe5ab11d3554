"""VFAE: CVAE with a maximum mean discrepancy penalty (Louizos et al. 2016; MMD-CVAE of the trVAE paper).

Encoder q(z | x, c) with learned or fixed scale, decoder p(x | z, c), standard normal prior, Gaussian likelihood,
and MMD between the conditions' latents, or between the units of the encoder's first hidden layer.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import Step
from cellalign.methods.cvae import CVAE
from cellalign.nn.minibatch import Layout, Minibatch
from cellalign.nn.penalties import MULTI_SCALE, mmd, weight_of_mmd

OF_TWO = 1.0  # weight of the penalty per gene, with two conditions


class VFAE(CVAE):
    """CVAE whose latent space (or first encoder layer) is aligned across conditions by MMD."""

    name = "vfae"
    summary = "CVAE with an MMD penalty on the latent space"
    reference = "Louizos et al. 2016"
    shares_batches = True
    condition_kinds = ("categorical",)  # MMD compares groups of cells

    class Hyperparameters(CVAE.Hyperparameters):
        """Adds the penalty."""

        gamma: float | None = Field(
            None,
            ge=0,
            le=1e6,
            description="weight of the MMD penalty, per gene; null is 1 over the number of pairs of conditions",
        )
        unbiased: bool = Field(True, description="MMD without each cell's kernel with itself; false is the published")
        kernel: Literal["multi-scale", "rbf"] = Field("multi-scale", description="kernel of the MMD")
        kernel_length: float = Field(2.0, gt=0, description="length of the rbf kernel")
        penalty_on: Literal["z", "encoder"] = Field("z", description="what is aligned: z, or the first encoder layer")

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """The weighted MMD over all pairs of conditions."""
        aligned = step.latent.z if self.hp.penalty_on == "z" else step.latent.hidden
        return {"penalty": self.per_gene(weight(self.hp, self.layout)) * alignment(self.hp, aligned, step.batch)}


def weight(hp: Any, layout: Layout) -> float:
    """Gamma; by default what the penalty weighs on a cell does not grow with the number of conditions."""
    return weight_of_mmd(hp.gamma, OF_TWO, layout.n_conditions)


def alignment(hp: Any, aligned: Tensor | None, batch: Minibatch) -> Tensor:
    """MMD between the conditions' units [B, H], by the kernel that the hyperparameters name."""
    assert aligned is not None
    sigmas = MULTI_SCALE if hp.kernel == "multi-scale" else (hp.kernel_length**2,)
    return mmd(aligned, batch.condition, sigmas, unbiased=hp.unbiased)
