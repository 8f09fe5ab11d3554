"""Negative binomial and zero-inflated negative binomial likelihoods that read the stored nonzeros only.

With mean m, inverse dispersion t and u = log m - log t, the negative log-likelihood of one count x is

    t softplus(u) + x softplus(-u) - [lgamma(x + t) - lgamma(t)] + lgamma(x + 1)

and of a zero just t softplus(u). So the dense work is one softplus per gene. The same is

    (t + x) softplus(u) - x log m + log x! - sum over k < x of log(1 + k / t)

where nothing large cancels: counts below 16, nearly all, are looked up in a table per gene. Of the others lgamma and
digamma are computed, in float64: at t = 1e6 and x = 1e7 their differences would have no correct digit in float32.
Forward and gradient are written out: autograd would keep ten B x G intermediates where three suffice, or five with
dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows

TABLED = 16  # counts below are looked up: 95 % of those stored of PBMCs; a larger table costs more than it saves
# What no data can tell apart is cut off, lest float32 overflow: chances of a dropout under e^-80, inverse dispersions
# under e^-40 or over e^20 (a Poisson). Gradients ignore the cuts, so that what lies beyond can come back.
LEAST_LOGIT, LEAST_LOG_THETA, MOST_LOG_THETA = -80.0, -40.0, 20.0


def negative_binomial_nll(counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor) -> Tensor:
    """Negative log-likelihood of counts under NB(l rho, inverse dispersion theta), summed over genes.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Not negative.
    logits : Tensor [B, G]
        Their softmax over genes is rho, the expected share of each gene (sVAE+ section 3.2).
    library : Tensor [B, 1]
        l, the counts per cell, at least 1: observed, so it gets no gradient.
    log_theta : Tensor [G]
        log of the inverse dispersion: variance = mean + mean^2 / theta.

    Returns
    -------
    Tensor [B]
    """
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
    library, log_theta : Tensor [B, 1], Tensor [G]
        As above.

    Returns
    -------
    Tensor [B]
    """
    return _SparseNLL.apply(logits, library, log_theta, dropout_logits, counts)


class _Terms(NamedTuple):
    """What value and gradient of single counts need, [n] each."""

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


def _at(values: Tensor, place: Tensor) -> Tensor:
    """What lies at these places of the flattened values: `take`, which MPS lacks."""
    return values.view(-1).index_select(0, place)


def exact(values: Tensor) -> Tensor:
    """In the precision that large counts need; MPS has no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


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


def _waits(device: torch.device) -> bool:
    """Whether finding out how many values are of a kind holds up a GPU."""
    return device.type != "cpu"


class _Stored:
    """Value and gradient of the nonzeros [nnz]: looked up, but for those `rare` ones that no table has."""

    def __init__(self, counts: SparseRows, ratio: Tensor, log_theta: Tensor, theta: Tensor, softplus: Tensor) -> None:
        self.counts, self.x = counts, counts.value.to(ratio.dtype)
        log_ratio = _at(ratio, counts.flat).clamp_(min=torch.finfo(ratio.dtype).tiny).log_()
        nearest = self.x.clamp(max=TABLED - 1).trunc_()
        self.tabled = self.x == nearest
        # where finding the rare ones would wait, all are computed exactly too; where most are rare, only so
        self.rare: slice | Tensor = slice(None)
        self.table: _Table | None = None
        looks_up = True
        if not _waits(ratio.device):
            rare = (~self.tabled).nonzero().squeeze(1)
            looks_up = 2 * len(rare) < len(self.x)
            self.rare = rare if looks_up else self.rare
        if looks_up:
            self.table = _Table.of(log_theta)
            self.place = nearest.long().add_(counts.column, alpha=TABLED)
            self.t, self.softplus = _at(theta, counts.column), _at(softplus, counts.flat)
            self.log_mean = log_ratio + _at(log_theta, counts.column)
        self.column, self.log_t_of_gene = counts.column[self.rare], exact(log_theta)
        log_t = self.log_t_of_gene[self.column]
        self.terms = _Terms.of(self.x[self.rare], log_ratio[self.rare].to(log_t.dtype), log_t)

    def nll(self) -> Tensor:
        """Negative log-likelihood under NB."""
        rare = self.terms.nll(self.of_t(torch.lgamma)).to(self.x.dtype)
        if self.table is None:
            return rare
        looked_up = (self.t + self.x).mul_(self.softplus).addcmul_(self.x, self.log_mean, value=-1)
        looked_up += _at(self.table.value, self.place)
        return self.merge(looked_up, rare)

    def gradient(self, sigmoid: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to log m and log t; sigmoid(u) [B, G]."""
        by_log_m, by_log_t = (part.to(self.x.dtype) for part in self.terms.gradient(self.of_t(torch.digamma)))
        if self.table is None:
            return by_log_m, by_log_t
        s = _at(sigmoid, self.counts.flat)
        looked_up = (self.softplus - s).mul_(self.t).addcmul_(self.x, s, value=-1)
        looked_up += _at(self.table.by_log_t, self.place)
        return self.merge((self.t + self.x).mul_(s).sub_(self.x), by_log_m), self.merge(looked_up, by_log_t)

    def merge(self, looked_up: Tensor, rare: Tensor) -> Tensor:
        """What was looked up, but for the rare ones."""
        if isinstance(self.rare, slice):
            return torch.where(self.tabled, looked_up, rare)
        looked_up[self.rare] = rare
        return looked_up

    def of_t(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the rare ones' t, computed per gene or per value, whichever are fewer."""
        if len(self.column) < len(self.log_t_of_gene):
            return function(self.terms.t)
        return function(self.log_t_of_gene.exp())[self.column]


class _SparseNLL(torch.autograd.Function):
    """NB, or with dropout_logits [B, G] zero-inflated NB, of data with many zeros.

    The softmax is taken here: its exponential is that of softplus(u) = log(1 + m / t) too.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None, counts: SparseRows
    ) -> Tensor:
        log_theta = log_theta.clamp(LEAST_LOG_THETA, MOST_LOG_THETA)
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
            h = dropout.clamp(min=LEAST_LOGIT).contiguous()
            slope = h.sigmoid()
            inflated = torch.addcmul(h, softplus, theta).sigmoid_()
            cost = (inflated / slope).log_()
            nonzeros += F.softplus(_at(h, counts.flat))
        cost.view(-1).scatter_(0, counts.flat, nonzeros)
        ctx.save_for_backward(theta, rho, ratio, softplus, slope, inflated)
        ctx.counts, ctx.stored = counts, stored
        return cost.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor | None, None]:
        theta, rho, ratio, softplus, slope, inflated = ctx.saved_tensors
        flat, by_dropout = ctx.counts.flat, None
        by_log_m = (1 + ratio).reciprocal_().mul_(ratio)  # sigmoid(u)
        nonzero_by_log_m, nonzero_by_log_t = ctx.stored.gradient(by_log_m)
        by_log_t = (softplus - by_log_m).mul_(theta)
        by_log_m *= theta
        if inflated is not None:
            by_dropout = slope - inflated
            by_dropout.view(-1).scatter_(0, flat, _at(slope, flat))
            by_dropout *= grad[:, None]
            counted = 1 - inflated
            by_log_t *= counted
            by_log_m *= counted
        by_log_t.view(-1).scatter_(0, flat, nonzero_by_log_t)
        by_log_m.view(-1).scatter_(0, flat, nonzero_by_log_m)
        by_log_m *= grad[:, None]
        by_logits = by_log_m.addcmul_(rho, by_log_m.sum(1, keepdim=True), value=-1)
        return by_logits, None, grad @ by_log_t, by_dropout, None
