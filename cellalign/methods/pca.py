"""PCA: the linear embedding every other has to beat. Fitted in closed form, in a few passes over sparse batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cellalign.methods.base import (
    Distribution,
    FitsInClosedForm,
    Latent,
    Layout,
    Method,
    Minibatch,
    Point,
    Predicts,
    Role,
)
from cellalign.methods.capabilities import Batches

PASSES, OVERSAMPLING = 6, 10


def leading_subspace(product: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a symmetric matrix [G, G] has its eigenvalues of largest size (Halko, Martinsson & Tropp 2011).

    Parameters
    ----------
    product : callable
        Multiplies the matrix, which nobody needs to hold, by a basis.
    start : Tensor [..., G, width]
        Random; the wanted eigenvectors and OVERSAMPLING more.

    Returns
    -------
    Tensor [..., G, width]
        Orthonormal basis.
    """
    basis = torch.linalg.qr(start).Q
    for _ in range(PASSES):
        basis = torch.linalg.qr(product(basis)).Q
    return basis


class PCA(FitsInClosedForm, Predicts, Method):
    """Principal components by randomised subspace iteration (Halko, Martinsson & Tropp 2011)."""

    name = "pca"
    summary = "principal components; knows no condition"
    reference = "Pearson 1901"
    needs_condition = False
    also_uses: ClassVar[tuple[Role, ...]] = ()

    class Hyperparameters(BaseModel):
        """How many components."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        latent_dim: int = Field(40, ge=1, le=10_000, description="number of components")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.centre: Tensor
        self.components: Tensor
        self.register_buffer("centre", torch.zeros(layout.n_genes))
        self.register_buffer("components", torch.zeros(layout.n_genes, min(self.hp.latent_dim, layout.n_genes)))

    def fit_closed_form(self, batches: Batches) -> None:
        """Centre and components; the largest weight of every component is positive."""
        n, total = 0, torch.zeros_like(self.centre)
        for batch in batches():
            n, total = n + len(batch), total + batch.x.sum(0)
        self.centre.copy_(total / n)
        genes, wanted = self.components.shape
        width = min(genes, wanted + OVERSAMPLING)

        def scatter(basis: Tensor) -> Tensor:
            product = torch.zeros_like(basis)
            for batch in batches():
                x = batch.x - self.centre
                product += x.T @ (x @ basis)
            return product

        basis = leading_subspace(scatter, torch.randn(genes, width, device=total.device))
        inner = torch.zeros(width, width, device=total.device)
        for batch in batches():
            y = (batch.x - self.centre) @ basis
            inner += y.T @ y
        vectors = torch.linalg.eigh(inner).eigenvectors.flip(1)[:, :wanted]
        components = basis @ vectors
        signs = torch.sign(components.gather(0, components.abs().argmax(0, keepdim=True)))
        self.components.copy_(components * signs)

    def encode(self, batch: Minibatch) -> Latent:
        """Scores on the components; no spread."""
        return Latent.point((batch.x - self.centre) @ self.components)

    @property
    def responds_to(self) -> frozenset[Role]:
        """Nothing: a cell is rebuilt as it is."""
        return frozenset()

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """The cell rebuilt from its components."""
        return Point(self.encode(batch).mean @ self.components.T + self.centre)
