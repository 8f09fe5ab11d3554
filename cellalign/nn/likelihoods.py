"""Likelihoods as the decoder's last layer: from its hidden units to p(x | z)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn.batch import Batch
from cellalign.nn.counts import exact, negative_binomial_nll, zero_inflated_nll
from cellalign.nn.distributions import gaussian_nll
from cellalign.nn.networks import Fast

Kind = Literal["gaussian", "mse", "nb", "zinb"]


class Gaussian(nn.Module):
    """N(m_g(h), s(h)) with one scale per cell, s = 0.01 + softplus (CoMP appendix D)."""

    reads: ClassVar[str] = "log"

    def __init__(self, n_hidden: int, n_genes: int) -> None:
        super().__init__()
        self.to_mean = nn.Linear(n_hidden, n_genes)
        self.to_scale = nn.Linear(n_hidden, 1)

    def mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Expected expression [..., B, G] of hidden units h [..., B, H]."""
        return self.to_mean(h)

    def nll(self, h: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood [..., B] of the batch's cells, summed over genes."""
        return gaussian_nll(batch.x, self.to_mean(h), 0.01 + F.softplus(self.to_scale(h)))

    particles_nll = nll


class SquaredError(nn.Module):
    """Half the squared error of a ReLU output, summed over genes (trVAE and scGen): N(m_g(h), 1) but for a constant."""

    reads: ClassVar[str] = "log"

    def __init__(self, n_hidden: int, n_genes: int) -> None:
        super().__init__()
        self.to_mean = nn.Linear(n_hidden, n_genes)

    def mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Expected expression [..., B, G], not negative."""
        return F.relu(self.to_mean(h))

    def nll(self, h: Tensor, batch: Batch) -> Tensor:
        """Half the squared error [..., B]."""
        return 0.5 * (batch.x - self.mean(h, batch)).square().sum(-1)

    particles_nll = nll


class Counts(nn.Module):
    """NB(l rho_g(h), theta_g), rho a softmax over genes, l the observed library size (sVAE+ section 3.2).

    Zero-inflated, each gene also has a dropout logit (Lopez et al. 2018).
    """

    reads: ClassVar[str] = "counts"

    def __init__(self, n_hidden: int, n_genes: int, *, zero_inflated: bool = False) -> None:
        super().__init__()
        self.to_logits = nn.Linear(n_hidden, n_genes)
        self.log_theta = Fast(torch.zeros(n_genes))
        self.to_dropout = nn.Linear(n_hidden, n_genes) if zero_inflated else None

    @staticmethod
    def library(batch: Batch) -> Tensor:
        """l [B, 1]; a cell without a single count is taken to have one."""
        return batch.library_size.clamp(min=1)

    def log_mean(self, h: Tensor, batch: Batch) -> Tensor:
        """log(l rho) [..., B, G]."""
        return F.log_softmax(self.to_logits(h), -1) + self.library(batch).log()

    def mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Expected counts [..., B, G] at the cells' own library size."""
        mean = self.log_mean(h, batch).exp()
        return mean if self.to_dropout is None else mean * torch.sigmoid(-self.to_dropout(h))

    def nll(self, h: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood [B] of the batch's counts, summed over genes."""
        logits, library = self.to_logits(h), self.library(batch)
        if self.to_dropout is not None:
            return zero_inflated_nll(batch.nonzeros, logits, library, self.log_theta(), self.to_dropout(h))
        return negative_binomial_nll(batch.nonzeros, logits, library, self.log_theta())

    def particles_nll(self, h: Tensor, batch: Batch) -> Tensor:
        """The same for T draws at once, h [T, B, H] -> [T, B]; what does not depend on h is computed once."""
        if self.to_dropout is not None:
            return torch.stack([self.nll(draw, batch) for draw in h])
        log_t = exact(self.log_theta())
        t, x = log_t.exp(), exact(batch.x)
        constant = (torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1)).sum(-1)
        u = exact(self.log_mean(h, batch)) - log_t
        # t softplus(u) + x softplus(-u) = (t + x) softplus(u) - x u
        return (torch.einsum("tbg,bg->tb", F.softplus(u), t + x) - torch.einsum("tbg,bg->tb", u, x) - constant).to(
            h.dtype
        )


def make_likelihood(kind: Kind, n_hidden: int, n_genes: int) -> Gaussian | SquaredError | Counts:
    """The likelihood of that name."""
    if kind == "gaussian":
        return Gaussian(n_hidden, n_genes)
    if kind == "mse":
        return SquaredError(n_hidden, n_genes)
    return Counts(n_hidden, n_genes, zero_inflated=kind == "zinb")
