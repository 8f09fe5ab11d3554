"""Negative binomial and zero-inflated negative binomial likelihoods that read the stored nonzeros only.

With mean m, inverse dispersion t and u = log m - log t, the negative log-likelihood of one count x is

    t softplus(u) + x softplus(-u) - [lgamma(x + t) - lgamma(t)] + lgamma(x + 1)

and of a zero just t softplus(u). So the dense work is one softplus per gene (and one sigmoid for the gradient);
lgamma and digamma are computed for nonzeros alone, in float64: at t = 1e6 and x = 1e7 their differences would
have no correct digit in float32. Forward and gradient are written out: autograd would keep ten B x G
intermediates where two suffice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows

DENSE_FROM = 0.5  # density above which gathering the nonzeros costs more than it saves


def negative_binomial_nll(counts: SparseRows, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Negative log-likelihood of counts under NB(mean, inverse dispersion theta), summed over genes.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Not negative.
    log_mean : Tensor [B, G]
        log(l rho): library size times the expected share of each gene (sVAE+ section 3.2).
    log_theta : Tensor [G]
        log of the inverse dispersion: variance = mean + mean^2 / theta.

    Returns
    -------
    Tensor [B]
    """
    if counts.density > DENSE_FROM:
        return _DenseNLL.apply(log_mean, log_theta, counts)
    return _SparseNLL.apply(log_mean, log_theta, None, counts)


def zero_inflated_nll(counts: SparseRows, log_mean: Tensor, log_theta: Tensor, dropout_logits: Tensor) -> Tensor:
    """Negative log-likelihood under a zero-inflated negative binomial (Lopez et al. 2018), summed over genes.

    A count is zero with probability sigmoid(dropout_logits), and NB otherwise.

    Parameters
    ----------
    counts : SparseRows [B, G]
    log_mean, dropout_logits : Tensor [B, G]
    log_theta : Tensor [G]

    Returns
    -------
    Tensor [B]
    """
    return _SparseNLL.apply(log_mean, log_theta, dropout_logits, counts)


class _Terms(NamedTuple):
    """What value and gradient of single counts need; of the nonzeros [nnz], or of all values [B, G]."""

    x: Tensor
    t: Tensor
    u: Tensor
    softplus: Tensor

    @classmethod
    def of(cls, x: Tensor, log_mean: Tensor, log_t: Tensor) -> _Terms:
        u = log_mean.to(log_t.dtype) - log_t
        return cls(x.to(log_t.dtype), log_t.exp(), u, F.softplus(u))

    def nll(self, lgamma_t: Tensor) -> Tensor:
        """t softplus(u) + x softplus(-u) and the lgamma terms; softplus(-u) = softplus(u) - u."""
        dense = (self.t + self.x) * self.softplus - self.x * self.u
        return dense - torch.lgamma(self.x + self.t) + lgamma_t + torch.lgamma(self.x + 1)

    def gradient(self, digamma_t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to log m and log t."""
        s = torch.sigmoid(self.u)
        by_log_t = self.t * (self.softplus - s + digamma_t - torch.digamma(self.x + self.t)) + self.x * (1 - s)
        return (self.t + self.x) * s - self.x, by_log_t


def _exact(log_theta: Tensor) -> Tensor:
    """In the precision that single counts need; MPS has no float64."""
    return log_theta.to(torch.float32 if log_theta.device.type == "mps" else torch.float64)


class _DenseNLL(torch.autograd.Function):
    """NB of data with few zeros: all values in full precision, nothing gathered."""

    @staticmethod
    def forward(ctx: Any, log_mean: Tensor, log_theta: Tensor, counts: SparseRows) -> Tensor:
        log_t = _exact(log_theta)
        ctx.terms, ctx.log_t = _Terms.of(counts.dense(), log_mean, log_t), log_t
        return ctx.terms.nll(torch.lgamma(log_t.exp())).sum(1).to(log_mean.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_mean, by_theta = ctx.terms.gradient(torch.digamma(ctx.log_t.exp()))
        weight = grad.to(by_mean.dtype)
        return (by_mean * weight[:, None]).to(grad.dtype), (weight @ by_theta).to(grad.dtype), None


class _SparseNLL(torch.autograd.Function):
    """NB, or with dropout_logits [B, G] zero-inflated NB, of data with many zeros."""

    @staticmethod
    def forward(ctx: Any, log_mean: Tensor, log_theta: Tensor, dropout: Tensor | None, counts: SparseRows) -> Tensor:
        theta = log_theta.exp()
        u = log_mean - log_theta
        softplus = F.softplus(u)
        if dropout is None:
            # the nonzeros' share is taken out as 0 and put in, exact, below
            zero = softplus.view(-1).index_fill(0, counts.flat, 0).view_as(u) @ theta
        else:
            # -log(sigmoid(h) + (1 - sigmoid(h)) NB(0)) = softplus(h) - log(exp(h) + NB(0))
            part = F.softplus(dropout) - torch.logaddexp(dropout, softplus * -theta)
            zero = part.view(-1).index_fill_(0, counts.flat, 0).view_as(u).sum(1)
        log_t = _exact(log_theta)
        terms = _Terms.of(counts.value, log_mean.reshape(-1)[counts.flat], log_t[counts.column])
        nll = terms.nll(torch.lgamma(log_t.exp())[counts.column])
        if dropout is not None:
            nll += F.softplus(dropout.reshape(-1)[counts.flat].to(nll.dtype))
        ctx.save_for_backward(log_theta, u, softplus, dropout)
        ctx.counts, ctx.terms = counts, terms
        return zero + counts.sums(nll).to(zero.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        log_theta, u, softplus, dropout = ctx.saved_tensors
        counts, theta = ctx.counts, log_theta.exp()
        by_mean = torch.sigmoid(u)
        by_theta, by_dropout = softplus - by_mean, None
        by_mean *= theta
        if dropout is not None:
            inflated = torch.sigmoid(dropout + theta * softplus)  # probability that a zero is a dropout
            slope = torch.sigmoid(dropout)
            by_dropout = slope - inflated
            by_dropout.view(-1)[counts.flat] = slope.view(-1)[counts.flat]
            by_dropout *= grad[:, None]
            by_theta *= 1 - inflated
            by_mean *= 1 - inflated
        nonzero_mean, nonzero_theta = ctx.terms.gradient(torch.digamma(_exact(log_theta).exp())[counts.column])
        by_mean.view(-1)[counts.flat] = nonzero_mean.to(by_mean.dtype)
        by_mean *= grad[:, None]
        by_theta.view(-1)[counts.flat] = 0
        weighted = nonzero_theta * grad[counts.row]
        total = torch.zeros_like(log_theta, dtype=weighted.dtype).index_add_(0, counts.column, weighted)
        return by_mean, (grad @ by_theta) * theta + total.to(theta.dtype), by_dropout, None
