"""Celligner: contrastive PCA, then mutual nearest neighbours (Warren et al. 2021; baseline of the CoMP paper).

Clusters within each condition; the directions in which the covariance within clusters differs most from the
reference's, removed from all cells; principal components; in their space each condition is moved onto the reference
by the way to its mutual nearest neighbours, smoothed by a kernel, so that new cells can be moved too.

It departs from the published method and its code in these points:

- Neighbours are found among principal components, not among differentially expressed genes, and it is the
  components that move, not all genes.
- Clusters are k-means on principal components, not Louvain on a neighbour graph.
- Between conditions far apart, mutual neighbours are the cells at the near edges, so one correction falls short. The
  published code levels all cells along the mean correction, which is wrong where cell types have other shares; here
  neighbours are sought again from where the last correction put the cells (`rounds`).
- A Gaussian kernel over all anchors smooths, not a tricube kernel over the nearest few.
- Any number of conditions: each is set against the reference, and the directions of all are removed.
- Directions are ranked by the size of their eigenvalue, whatever its sign, as the published fast option does.
- It predicts; the published method only aligns. The contrastive directions are missing from the embedding alone: a
  counterfactual moves a cell along them as along the components, to its neighbours' place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cellalign.errors import UsageError
from cellalign.methods.base import CONDITION, Distribution, Latent, Layout, Minibatch, Point, Role
from cellalign.methods.capabilities import Batches, as_in_memory
from cellalign.methods.pca import OVERSAMPLING, PCA, leading_subspace

MOST_CLUSTERS = 100  # where their number follows from the cells
NEAREST = 5  # anchors whose distance sets the kernel's width
REFINEMENTS = 5  # of the inverse; each multiplies its error by the slope of the correction
SAME = 0.1  # singular value below which directions of two conditions count as one
CHUNK = 4096  # cells moved at a time


class Celligner(PCA):
    """Principal components without contrastive directions, every condition moved onto the reference.

    Notes
    -----
    A cell of condition c has coordinates y, its scores on the components and then on the contrastive directions. The
    reference stays; another condition's cell moves to y + v_c(y), with v a kernel average by distance in the
    components. The embedding is the components of that. Under condition d it would be at t, where t + v_d(t) = y +
    v_c(y), so two other conditions are linked by the reference; what the coordinates do not hold stays as it is.
    """

    name = "celligner"
    summary = "contrastive PCA, then mutual nearest neighbours onto the reference condition"
    reference = "Warren et al. 2021"
    removes = (CONDITION,)
    needs_condition = True
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION,)

    class Hyperparameters(PCA.Hyperparameters):
        """The published numbers of directions and neighbours."""

        clusters: int = Field(0, ge=0, le=10_000, description="clusters in each condition; 0: by its number of cells")
        contrastive: int = Field(4, ge=0, le=1000, description="contrastive directions removed per other condition")
        k_reference: int = Field(50, ge=1, description="neighbours of a reference cell in the other condition")
        k_condition: int = Field(5, ge=1, description="neighbours of another condition's cell in the reference")
        rounds: int = Field(5, ge=1, le=100, description="times that mutual neighbours are sought")
        bandwidth: float = Field(1.0, ge=1e-6, description="kernel width, in distances to the nearest anchors")
        max_anchors: int = Field(2000, ge=1, description="most anchors kept per condition")

    mean: Tensor  # [G] where coordinates are zero
    directions: Tensor  # [G, D] contrastive: orthonormal, or zero where there are fewer
    anchors: Tensor  # [A, p] components of cells that have mutual neighbours, condition by condition
    vectors: Tensor  # [A, p + D] the way from there to the mean of those
    places: Tensor  # [A, p] where the smoothed way leads
    limits: Tensor  # [K + 1] where each condition's anchors begin; the last is their number

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        k, genes, p = layout.n_conditions, layout.n_genes, self.components.shape[1]
        removed = self.hp.contrastive * (k - 1)
        if removed >= genes:
            raise UsageError(
                f"contrastive={self.hp.contrastive} for each of {k - 1} conditions leaves nothing of {genes} genes; "
                f"lower it, to {(genes - 1) // (k - 1)} at most"
            )
        self.base = layout.control or 0  # the condition that stays
        most = min((k - 1) * self.hp.max_anchors, layout.n_cells)
        self.register_buffer("mean", torch.zeros(genes))
        self.register_buffer("directions", torch.zeros(genes, removed))
        self.register_buffer("anchors", torch.zeros(most, p))
        self.register_buffer("vectors", torch.zeros(most, p + removed))
        self.register_buffer("places", torch.zeros(most, p))
        self.register_buffer("limits", torch.zeros(k + 1, dtype=torch.int64))

    def fit_closed_form(self, batches: Batches) -> None:
        """All of it, in some 25 passes; the batches must come in the same order each time."""

        def cells() -> Iterator[Minibatch]:
            return (self.residual(batch) for batch in batches())

        def coordinates() -> Tensor:
            return torch.cat([self.coordinates(batch) for batch in batches()])

        condition = torch.cat([batch.condition for batch in batches()])
        order = as_in_memory(batches, condition)
        stays = condition == self.base
        self.directions.zero_()
        self.mean.copy_(torch.stack([batch.x.sum(0) for batch in batches()]).sum(0) / len(condition))
        if self.directions.shape[1]:
            super().fit_closed_form(cells)
            cluster = torch.zeros_like(condition)
            cluster[order] = self.clustered(coordinates()[order], condition[order])
            found = self.contrast(cells, cluster, condition)
            self.directions[:, : found.shape[1]] = found
            if stays.any():  # a cell rebuilt from its components has the reference's mean along the directions
                self.mean += self.directions @ coordinates()[stays, self.components.shape[1] :].mean(0)
        super().fit_closed_form(cells)
        self.align(coordinates()[order], condition[order])

    @property
    def basis(self) -> Tensor:
        """What the coordinates are of, [G, p + D]."""
        return torch.cat([self.components, self.directions], 1)

    def residual(self, batch: Minibatch) -> Minibatch:
        """The cells less the mean, without the contrastive directions."""
        x = batch.x - self.mean
        return replace(batch, expression=x - x @ self.directions @ self.directions.T)

    def coordinates(self, batch: Minibatch) -> Tensor:
        """Scores on the components and on the contrastive directions, [B, p + D]."""
        return torch.cat([super().encode(self.residual(batch)).mean, (batch.x - self.mean) @ self.directions], 1)

    def clustered(self, y: Tensor, condition: Tensor) -> Tensor:
        """A cluster for every cell [n], numbered on from condition to condition."""
        from sklearn.cluster import KMeans

        cluster, first = torch.zeros_like(condition), 0
        seed = int(torch.randint(2**31 - 1, ()))
        for code in condition.unique().tolist():
            rows = condition == code
            n = int(rows.sum())
            wanted = min(n, self.hp.clusters or max(1, min(MOST_CLUSTERS, round((n / 2) ** 0.5))))
            found = KMeans(wanted, n_init=1, random_state=seed).fit_predict(y[rows].cpu().numpy())
            cluster[rows] = first + torch.from_numpy(found).to(cluster)
            first += wanted
        return cluster

    def contrast(self, cells: Batches, cluster: Tensor, condition: Tensor) -> Tensor:
        """Contrastive directions [G, at most contrastive * (K - 1)] of all conditions, orthonormal or zero.

        Those of a condition are the eigenvectors, by size of eigenvalue, of its covariance within clusters less the
        reference's. Neither matrix is formed.
        """
        k = self.layout.n_conditions
        sizes = torch.bincount(cluster)
        owner = torch.zeros_like(sizes).index_copy_(0, cluster, condition)[sizes > 0]
        freedom = torch.bincount(condition, minlength=k) - torch.bincount(owner, minlength=k)
        # a condition with a cell per cluster has no covariance to compare
        others = [code for code in range(k) if code != self.base and min(freedom[code], freedom[self.base]) > 0]
        if not others:
            return self.directions[:, :0]
        parts = cluster.split([len(batch) for batch in cells()])
        centres = torch.zeros(len(sizes), len(self.centre), device=cluster.device)
        for batch, ids in zip(cells(), parts, strict=True):
            centres.index_add_(0, ids, batch.x / sizes[ids, None])

        def difference(basis: Tensor) -> Tensor:
            product = torch.zeros_like(basis)
            for batch, ids in zip(cells(), parts, strict=True):
                x = (batch.x - centres[ids]) / freedom[batch.condition, None].clamp(min=1).sqrt()
                for place, code in enumerate(others):
                    own = x[batch.condition == code]
                    product[place] += own.T @ (own @ basis[place])
                own = x[batch.condition == self.base]
                product -= own.T @ (own @ basis)
            return product

        width = min(len(self.centre), self.hp.contrastive + OVERSAMPLING)
        start = torch.randn(len(others), len(self.centre), width, device=cluster.device)
        basis = leading_subspace(difference, start)
        values, vectors = torch.linalg.eigh(basis.mT @ difference(basis))
        order = values.abs().argsort(1, descending=True)[:, None, : self.hp.contrastive]
        found = basis @ vectors.gather(2, order.expand(-1, width, -1))
        pooled = torch.linalg.svd(found.transpose(0, 1).flatten(1), full_matrices=False)
        return pooled.U * (pooled.S > SAME)

    def align(self, y: Tensor, condition: Tensor) -> None:
        """The anchors of every condition but the reference."""
        self.limits.zero_()
        target, stop = y[condition == self.base], 0
        for code in range(self.layout.n_conditions):
            moved = own = y[condition == code]
            if code != self.base and len(own) and len(target):
                for _ in range(self.hp.rounds):
                    at, vectors = self.paired(own, moved, target)
                    moved = torch.cat(
                        [part + smoothed(part, at, vectors, self.hp.bandwidth) for part in own.split(CHUNK)]
                    )
                rows = slice(stop, stop := stop + len(at))
                self.anchors[rows], self.vectors[rows] = at, vectors
                self.places[rows] = at + smoothed(at, at, vectors, self.hp.bandwidth)[:, : at.shape[1]]
            self.limits[code + 1 :] = stop

    def paired(self, own: Tensor, moved: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Components [A, p] of cells that have mutual neighbours from where they moved, the way to those [A, p + D]."""
        p, most, goal = self.components.shape[1], self.hp.max_anchors, target.cpu().numpy()
        pairs = mutual_neighbours(moved[:, :p].cpu().numpy(), goal[:, :p], self.hp.k_condition, self.hp.k_reference)
        number = np.asarray(pairs.sum(1)).ravel()
        found = np.flatnonzero(number)
        if len(found) > most:
            found = found[torch.randperm(len(found))[:most].numpy()]
        at = own[torch.from_numpy(found).to(own.device)]
        return at[:, :p], torch.from_numpy(pairs[found] @ goal / number[found, None]).to(at) - at

    def correction(self, y: Tensor, condition: Tensor, at: Tensor) -> Tensor:
        """Kernel average of the vectors [B, p + D] by condition, `at` their places; zero where there are none."""
        result, limits = torch.zeros_like(y), self.limits.tolist()
        for code in condition.unique().tolist():
            own, rows = slice(limits[code], limits[code + 1]), condition == code
            if own.start < own.stop:
                result[rows] = smoothed(y[rows], at[own], self.vectors[own], self.hp.bandwidth)
        return result

    def moved(self, y: Tensor, condition: Tensor) -> Tensor:
        """Coordinates moved onto the reference."""
        return y + self.correction(y, condition, self.anchors)

    def moved_back(self, y: Tensor, condition: Tensor) -> Tensor:
        """The coordinates that `moved` moves to y under a condition."""
        t = y - self.correction(y, condition, self.places)
        for _ in range(REFINEMENTS):
            t = y - self.correction(t, condition, self.anchors)
        return t

    def encode(self, batch: Minibatch) -> Latent:
        """Scores on the components, moved onto the reference; no spread."""
        z = self.moved(self.coordinates(batch), batch.condition)[:, : self.components.shape[1]]
        return Latent.point(z)

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """The cell with its coordinates moved; what they do not hold stays as it is."""
        target = self.layout.target(do)
        if target is None:
            return Point(batch.x)
        y = self.coordinates(batch)
        t = self.moved_back(self.moved(y, batch.condition), torch.full_like(batch.condition, target))
        return Point(batch.x + (t - y) @ self.basis.T)


def mutual_neighbours(own: np.ndarray, target: np.ndarray, k_own: int, k_target: int) -> Any:
    """Which cells are among each other's nearest: a scipy CSR matrix [n, m], 1 where they are.

    Parameters
    ----------
    own, target : arrays [n, p] and [m, p]
    k_own, k_target : int
        Neighbours that a cell of `own` has in `target`, and one of `target` in `own`; at most all.
    """
    from sklearn.neighbors import NearestNeighbors

    ours = NearestNeighbors(n_neighbors=min(k_own, len(target))).fit(target).kneighbors_graph(own)
    theirs = NearestNeighbors(n_neighbors=min(k_target, len(own))).fit(own).kneighbors_graph(target)
    return ours.multiply(theirs.T).tocsr()


def smoothed(y: Tensor, at: Tensor, vectors: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel average [B, m] of `vectors` [A, m] around `at` [A, p], by distance in the first p of y [B, >= p].

    The kernel is as wide as `bandwidth` times the median distance to the NEAREST anchors, so that weight is shared
    far from all of them too.
    """
    distance = torch.cdist(y[:, : at.shape[1]], at)
    near = distance.topk(min(NEAREST, len(at)), largest=False).values.median(1, keepdim=True).values
    width = bandwidth * near.clamp(min=1e-12)  # a cell may lie on its anchors
    return torch.softmax(-0.5 * (distance / width).square(), 1) @ vectors
