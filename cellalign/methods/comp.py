"""CoMP: contrastive mixture of posteriors (Foster et al. 2022).

Encoder q(z | x, c) with a fixed scale, decoder p(x | z, c), standard normal prior, Gaussian likelihood, and
the misalignment penalty of eq. 4: an upper bound on sum_c p(c) KL(q(z | c) || q(z | not c)) (theorem 2).

The authors' code leaves a cell out of its own mixture. The penalty is then no bound: it is below zero where cells of
unlike condition lie nearer than those of like one, so that conditions repel each other, on the cells that were trained
on and on no others. The default is the equation as printed, with a weight chosen by mixing of cells held back
(benchmarks/README.md): a light one is met by remembering the cells trained on. Presets keep what their numbers were
published with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import Step
from cellalign.methods.cvae import CVAE
from cellalign.nn.penalties import misalignment

NARROW = 500  # columns up to which a table is narrow
MANY = 10_000  # cells from which none counts in its own mixture, by default, of a narrow table
PER_GENE, LIGHTEST, HEAVIEST = 0.025, 10.0, 50.0  # weight of the penalty by default


class CoMP(CVAE):
    """CVAE whose latent space is aligned across conditions by mixtures of its own posteriors."""

    name = "comp"
    summary = "contrastive mixture of posteriors: z made independent of the condition"
    reference = "Foster et al. 2022"
    shares_batches = True
    # at twice the rate fewer steps do; at four times, types never seen are predicted worse (benchmarks/README.md)
    plan_defaults: ClassVar[Mapping[str, Any]] = {"lr": 2e-3, "epoch_rule": "fewer-steps"}

    class Hyperparameters(CVAE.Hyperparameters):
        """Adds the penalty's weight; the posterior's scale is also the penalty's bandwidth."""

        posterior_scale: float | None = Field(
            1.0, gt=0, le=100, description="fixed posterior standard deviation and bandwidth; null learns it"
        )
        gamma: float | None = Field(
            None,
            ge=0,
            le=10_000,
            description="weight of the misalignment penalty; null is 0.025 per gene, from 10 to 50",
        )
        include_self: bool = Field(
            True,
            description="count a cell in its own mixture (eq. 4); false as in the authors' code",
        )

        kernel_width: float = Field(
            0.5, gt=0, le=100, description="of a continuous condition: how near two values count as one, in s.d."
        )

        floor: float | None = Field(
            None, ge=0, le=1e9, description="least a cell counts is minus this, in nats; null is the published penalty"
        )

    @classmethod
    def defaults_of_any(cls, n_features: int | None, n_cells: int | None = None) -> Mapping[str, Any]:
        """A narrow posterior, and of a narrow table small networks and few latents (benchmarks/README.md).

        Steps and rate are those that these were chosen with. The penalty sees draws: what a wide posterior covers is
        hidden from it, and a forest reads it from the means. Of a narrow table of many cells a cell is not in its own
        mixture, as in the authors' code: within 0.1 of a draw there are few others, so that it would outweigh its whole
        condition. Few cells would be remembered so, at the cost of cell types; without a floor they diverge.
        """
        general = {"posterior_scale": 0.1, "gamma": 5.0, "batch_size": 1024, "lr": 1e-3, "epoch_rule": "steps"}
        if not n_features or n_features > NARROW:
            return general
        general |= {"hidden": (64, 64), "latent_dim": 16, "lr": 3e-3}
        if not n_cells or n_cells < MANY:
            return general
        return general | {"include_self": False, "floor": 50.0, "gamma": 2.0, "epoch_rule": "double-steps"}

    @classmethod
    def defaults_of_number(cls, n_features: int | None) -> Mapping[str, Any]:
        """None: its penalty keeps the number out of z, which of `cvae` the KL has to."""
        return {}

    @property
    def weight(self) -> float:
        """Gamma; by default it grows with the reconstruction, which is a sum over genes."""
        gamma = self.hp.gamma
        return min(max(PER_GENE * self.layout.n_genes, LIGHTEST), HEAVIEST) if gamma is None else float(gamma)

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """gamma times the misalignment penalty (eq. 4), own and other weighed by a kernel over continuous values."""
        latent, batch = step.latent, step.batch
        value = misalignment(
            latent.z,
            latent.mean,
            latent.sd,
            batch.condition,
            kernel_width=self.hp.kernel_width,
            include_self=self.hp.include_self,
            floor=self.hp.floor,
        )
        return {"penalty": self.weight * value}
