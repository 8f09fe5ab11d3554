"""Negative binomial and zero-inflated negative binomial likelihoods that read the stored nonzeros only.

With mean m, inverse dispersion t and u = log m - log t, the negative log-likelihood of one count x is

    t softplus(u) + x softplus(-u) - [lgamma(x + t) - lgamma(t)] + lgamma(x + 1)

and of a zero just t softplus(u). So the dense work is one softplus per gene (and one sigmoid for the gradient).
lgamma and digamma are computed for few nonzeros, in float64: at t = 1e6 and x = 1e7 their differences would have no
correct digit in float32. Counts below 16, nearly all, are looked up in a table per gene: the same is

    (t + x) softplus(u) - x log m + log x! - sum over k < x of log(1 + k / t)

where nothing large cancels. Forward and gradient are written out: autograd would keep ten B x G intermediates where
four suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows

DENSE_FROM = 0.5  # density above which gathering the nonzeros costs more than it saves
TABLED = 16  # counts below are looked up: 95 % of those stored of PBMCs; a larger table costs more than it saves
# near the least of float32, and beyond what data can tell: chance of a dropout e^-80, inverse dispersion e^-40
LEAST_LOGIT, LEAST_LOG_THETA = -80.0, -40.0


def negative_binomial_nll(counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor) -> Tensor:
    """Negative log-likelihood of counts under NB(l rho, inverse dispersion theta), summed over genes.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Not negative.
    logits : Tensor [B, G]
        Their softmax over genes is rho, the expected share of each gene (sVAE+ section 3.2).
    library : Tensor [B, 1]
        l, the counts per cell: observed, so it gets no gradient.
    log_theta : Tensor [G]
        log of the inverse dispersion: variance = mean + mean^2 / theta.

    Returns
    -------
    Tensor [B]
    """
    if counts.density > DENSE_FROM:
        return _DenseNLL.apply(F.log_softmax(logits, 1) + library.log(), log_theta, counts)
    return _SparseNLL.apply(logits, library, log_theta, None, counts)


def zero_inflated_nll(
    counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Negative log-likelihood under a zero-inflated negative binomial (Lopez et al. 2018), summed over genes.

    A count is zero with probability sigmoid(dropout_logits), and NB otherwise.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Zeros are not stored.
    logits, dropout_logits : Tensor [B, G]
    library : Tensor [B, 1]
    log_theta : Tensor [G]

    Returns
    -------
    Tensor [B]
    """
    return _SparseNLL.apply(logits, library, log_theta, dropout_logits, counts)


class _Terms(NamedTuple):
    """What value and gradient of single counts need; of the nonzeros [nnz], or of all values [B, G]."""

    x: Tensor
    t: Tensor
    u: Tensor
    softplus: Tensor

    @classmethod
    def of(cls, x: Tensor, u: Tensor, log_t: Tensor) -> _Terms:
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
        ctx.terms, ctx.log_t = _Terms.of(counts.dense(), log_mean.to(log_t.dtype) - log_t, log_t), log_t
        return ctx.terms.nll(torch.lgamma(log_t.exp())).sum(1).to(log_mean.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_mean, by_theta = ctx.terms.gradient(torch.digamma(ctx.log_t.exp()))
        weight = grad.to(by_mean.dtype)
        return (by_mean * weight[:, None]).to(grad.dtype), (weight @ by_theta).to(grad.dtype), None


class _Table(NamedTuple):
    """What counts x < TABLED of the genes add, [G, TABLED]."""

    value: Tensor
    by_log_t: Tensor

    @classmethod
    def of(cls, log_theta: Tensor) -> _Table:
        """log x! - sum over k < x of log(1 + k / t), and its derivative by log t: the sum of k / (t + k)."""
        k = torch.arange(TABLED - 1, dtype=log_theta.dtype, device=log_theta.device)
        share = (1 + k * (-log_theta).exp_()[:, None]).reciprocal_()  # t / (t + k)
        below = k.new_ones(TABLED - 1, TABLED).triu(1)  # adds up over k < x
        return cls(((k + 1) * share).log_() @ below, (1 - share) @ below)


class _Stored:
    """Value and gradient of the nonzeros: looked up, but for those `rare` ones that no table has."""

    def __init__(self, counts: SparseRows, ratio: Tensor, log_theta: Tensor, theta: Tensor, softplus: Tensor) -> None:
        self.counts, self.x = counts, counts.value.to(ratio.dtype)
        self.log_ratio = ratio.take(counts.flat).clamp_(min=torch.finfo(ratio.dtype).tiny).log_()
        # on a GPU all are rare: to find out which would make it wait
        self.table: _Table | None = None
        self.rare: slice | Tensor = slice(None)
        if self.x.device.type == "cpu":
            self.table = _Table.of(log_theta)
            self.t, self.log_t = theta.take(counts.column), log_theta.take(counts.column)
            self.softplus = softplus.take(counts.flat)
            tabled = self.x.clamp(max=TABLED - 1).trunc_()
            self.place = tabled.long().add_(counts.column, alpha=TABLED)
            self.rare = (self.x != tabled).nonzero().squeeze(1)
        self.column = counts.column[self.rare]
        self.of_gene = _exact(log_theta)
        log_t = self.of_gene[self.column]
        self.exact = _Terms.of(self.x[self.rare], self.log_ratio[self.rare].to(log_t.dtype), log_t)

    def nll(self) -> Tensor:
        """Negative log-likelihood [nnz] under NB."""
        exact = self.exact.nll(self._of_gene(torch.lgamma)).to(self.x.dtype)
        if self.table is None:
            return exact
        log_mean = self.log_ratio + self.log_t
        nll = (self.t + self.x).mul_(self.softplus).addcmul_(self.x, log_mean, value=-1)
        nll += self.table.value.take(self.place)
        nll[self.rare] = exact
        return nll

    def gradient(self, sigmoid: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives [nnz] with respect to log m and log t; sigmoid(u) [B, G]."""
        exact = (part.to(self.x.dtype) for part in self.exact.gradient(self._of_gene(torch.digamma)))
        if self.table is None:
            by_mean, by_theta = exact
            return by_mean, by_theta
        s = sigmoid.take(self.counts.flat)
        by_mean = (self.t + self.x).mul_(s).sub_(self.x)
        by_theta = (self.softplus - s).mul_(self.t).addcmul_(self.x, s, value=-1)
        by_theta += self.table.by_log_t.take(self.place)
        by_mean[self.rare], by_theta[self.rare] = exact
        return by_mean, by_theta

    def _of_gene(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of t, computed per gene or per rare value, whichever are fewer."""
        if len(self.column) < len(self.of_gene):
            return function(self.exact.t)
        return function(self.of_gene.exp())[self.column]


class _SparseNLL(torch.autograd.Function):
    """NB, or with dropout_logits [B, G] zero-inflated NB, of data with many zeros.

    The softmax is taken here: its exponential is that of softplus(u) = log(1 + m / t) too.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None, counts: SparseRows
    ) -> Tensor:
        log_theta = log_theta.clamp(min=LEAST_LOG_THETA)
        theta = log_theta.exp()
        rho = torch.softmax(logits, 1)
        ratio = (rho * library).mul_((-log_theta).exp())  # m / t
        softplus = ratio.log1p()
        stored = _Stored(counts, ratio, log_theta, theta, softplus)
        nonzeros, slope, inflated = stored.nll(), None, None
        if dropout is None:
            cost = softplus * theta
        else:
            # of a zero -log(p + (1 - p) NB(0)), p = sigmoid(h) = slope, is log(inflated) - log(slope), where
            # inflated = p / (p + (1 - p) NB(0)) = sigmoid(h + t softplus(u)) is the chance that it is a dropout
            h = dropout.clamp(min=LEAST_LOGIT)
            slope = h.sigmoid()
            inflated = torch.addcmul(h, softplus, theta).sigmoid_()
            cost = (inflated / slope).log_()
            nonzeros += F.softplus(h.take(counts.flat))
        cost.view(-1).scatter_(0, counts.flat, nonzeros)
        ctx.save_for_backward(theta, rho, ratio, softplus, slope, inflated)
        ctx.counts, ctx.stored = counts, stored
        return cost.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor | None, None]:
        theta, rho, ratio, softplus, slope, inflated = ctx.saved_tensors
        flat, by_dropout = ctx.counts.flat, None
        by_mean = (1 + ratio).reciprocal_().mul_(ratio)  # sigmoid(u)
        nonzero_mean, nonzero_theta = ctx.stored.gradient(by_mean)
        by_theta = (softplus - by_mean).mul_(theta)
        by_mean *= theta
        if inflated is not None:
            by_dropout = slope - inflated
            by_dropout.view(-1).scatter_(0, flat, slope.take(flat))
            by_dropout *= grad[:, None]
            counted = 1 - inflated
            by_theta *= counted
            by_mean *= counted
        by_theta.view(-1).scatter_(0, flat, nonzero_theta)
        by_mean.view(-1).scatter_(0, flat, nonzero_mean)
        by_mean *= grad[:, None]
        by_logits = by_mean.addcmul_(rho, by_mean.sum(1, keepdim=True), value=-1)
        return by_logits, None, grad @ by_theta, by_dropout, None
