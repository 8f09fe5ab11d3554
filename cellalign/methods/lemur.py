"""LEMUR: latent embedding multivariate regression (Ahlmann-Eltze & Huber 2025, Nature Genetics).

Each condition c has its mean gamma_c and a subspace R_c [G, p] of its own, all of one dimension. A cell is
x = gamma_c + R_c z, its latents z = R_c^T (x - gamma_c). Subspaces are points of the Grassmann manifold; a condition's
basis is where the geodesic from a common base point, the components of all cells less their condition's mean, leads to
its own components. Then an affine map of each condition moves its latents so that like cells of all conditions (soft
clusters that have all of them alike, as Harmony's) have the same mean; a counterfactual inverts the target's.

It departs from the published code in this: one factor (the condition) is modelled, of which every value has its own
subspace, so that geodesic regression is exact and takes no iteration; clusters move halfway, all cells at once, not
block by block; the alignment shrinks the map of each condition, not contrasts of conditions; a cell keeps what its
latents do not hold (residual transfer), as in all methods here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from cellalign.methods.base import CONDITION, Distribution, Latent, Layout, Minibatch, Point, Role
from cellalign.methods.capabilities import Batches, as_in_memory
from cellalign.methods.pca import OVERSAMPLING, PCA, leading_subspace
from cellalign.methods.states import SoftClusters, some

LEAST = 2  # cells of a condition that has a subspace of its own
ROUNDS = 10


class Lemur(PCA):
    """A subspace per condition on a geodesic from a common one, and aligned latents."""

    name = "lemur"
    summary = "LEMUR: a subspace for each condition, latents of the same cells aligned"
    reference = "Ahlmann-Eltze & Huber 2025"
    needs_condition = True
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION,)
    plan_defaults: ClassVar[Mapping[str, Any]] = {"validation": 0.0}

    class Hyperparameters(PCA.Hyperparameters):
        """How much the alignment may bend."""

        ridge: float = Field(0.01, gt=0, le=1e6, description="shrinkage of the alignment, per cell")
        clusters: int = Field(0, ge=0, le=1000, description="soft clusters to align by; 0: by the number of cells")

    offsets: Tensor  # [K, G] gamma
    bases: Tensor  # [K, G, p] orthonormal
    slopes: Tensor  # [K, p, p] z -> z + z slope + shift
    shifts: Tensor  # [K, p]

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        k, (genes, p) = layout.n_conditions, self.components.shape
        self.register_buffer("offsets", torch.zeros(k, genes))
        self.register_buffer("bases", torch.zeros(k, genes, p))
        self.register_buffer("slopes", torch.zeros(k, p, p))
        self.register_buffer("shifts", torch.zeros(k, p))

    def fit_closed_form(self, batches: Batches) -> None:
        """Means, the common subspace, those of the conditions, the alignment."""
        k = self.layout.n_conditions
        counts, sums = torch.zeros(k, device=self.offsets.device), torch.zeros_like(self.offsets)
        for batch in batches():
            member = (batch.condition[:, None] == torch.arange(k, device=batch.device)).float()
            counts += member.sum(0)
            sums += member.T @ batch.x
        self.offsets.copy_(sums / counts.clamp(min=1)[:, None])
        super().fit_closed_form(lambda: (self.centred(batch) for batch in batches()))
        self.find_bases(batches, counts)
        z = torch.cat([self.raw(batch) for batch in batches()])
        condition = torch.cat([batch.condition for batch in batches()])
        order = as_in_memory(batches, z)
        order = order[some(condition[order])]
        z, condition = z[order], condition[order]
        clusters = SoftClusters(z, condition, self.hp.clusters)
        for _ in range(ROUNDS):
            self.align(z, condition, clusters.of(self.moved(z, condition)))

    def centred(self, batch: Minibatch) -> Minibatch:
        """The cells less their condition's mean."""
        return Minibatch(batch.x - self.offsets[batch.condition], batch.fields, batch.columns)

    def find_bases(self, batches: Batches, counts: Tensor) -> None:
        """Each condition's components, turned to where the geodesic from the common ones leads."""
        genes, p = self.components.shape
        width = min(genes, p + OVERSAMPLING)
        for code in range(len(counts)):
            self.bases[code] = self.components
            if counts[code] < max(LEAST, p + 1):
                continue

            def scatter(basis: Tensor, code: int = code) -> Tensor:
                product = torch.zeros_like(basis)
                for batch in batches():
                    x = self.centred(batch).x[batch.condition == code]
                    product += x.T @ (x @ basis)
                return product

            basis = leading_subspace(scatter, torch.randn(genes, width, device=counts.device))
            vectors = torch.linalg.eigh(basis.T @ scatter(basis)).eigenvectors.flip(1)[:, :p]
            own = basis @ vectors
            # principal vectors of the common subspace go to those of the condition's
            u, _, vt = torch.linalg.svd(self.components.T @ own)
            self.bases[code] = own @ vt.T @ u.T

    def align(self, z: Tensor, condition: Tensor, belongs: Tensor) -> None:
        """The affine map of each condition, by ridge regression of each cell's way to where its kinds are on average.

        Parameters
        ----------
        z : Tensor [n, p]
        condition : Tensor [n]
        belongs : Tensor [n, kinds]
            Shares of each cell; zeros where its kind is not known.
        """
        found = condition.unique().tolist()
        weight = torch.stack([belongs[condition == c].sum(0) for c in found])
        sums = torch.stack([belongs[condition == c].T @ z[condition == c] for c in found])
        seen = weight > 1e-6
        means = torch.where(seen[..., None], sums / weight.clamp(min=1e-6)[..., None], 0.0)
        target = means.sum(0) / seen.sum(0).clamp(min=1)[:, None]
        self.slopes.zero_()
        self.shifts.zero_()
        for place, c in enumerate(found):
            rows = (condition == c) & (belongs.sum(1) > 0)
            ways = belongs[rows] @ torch.where(seen[place, :, None], target - means[place], 0.0)
            design = torch.cat([torch.ones(len(ways), 1, device=z.device), z[rows]], 1)
            penalty = self.hp.ridge * len(ways) * torch.eye(design.shape[1], device=z.device)
            solved = torch.linalg.solve(design.T @ design + penalty, design.T @ ways)
            self.shifts[c], self.slopes[c] = solved[0], solved[1:]

    def moved(self, z: Tensor, condition: Tensor) -> Tensor:
        """Latents [n, p] after the alignment."""
        return z + torch.einsum("bi,bij->bj", z, self.slopes[condition]) + self.shifts[condition]

    def raw(self, batch: Minibatch) -> Tensor:
        """Latents before the alignment, [B, p]."""
        x = self.centred(batch).x
        z = x.new_zeros(len(batch), self.components.shape[1])
        for code in batch.condition.unique().tolist():
            rows = batch.condition == code
            z[rows] = x[rows] @ self.bases[code]
        return z

    def encode(self, batch: Minibatch) -> Latent:
        """Aligned latents; no spread."""
        return Latent.point(self.moved(self.raw(batch), batch.condition))

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """What the aligned latents are under a condition, or under the cells' own."""
        target, z = self.layout.target(do), self.encode(batch).mean
        codes = batch.condition if target is None else torch.full_like(batch.condition, target)
        x = torch.zeros_like(batch.x)
        for code in codes.unique().tolist():
            rows = codes == code
            inverse = torch.eye(z.shape[1], device=z.device) + self.slopes[code]
            latent = torch.linalg.solve(inverse.T, (z[rows] - self.shifts[code]).T).T
            x[rows] = self.offsets[code] + latent @ self.bases[code].T
        return Point(x)
