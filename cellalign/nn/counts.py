"""Negative binomial and zero-inflated negative binomial likelihoods that read the stored nonzeros only.

With mean m, inverse dispersion t and u = log m - log t, the negative log-likelihood of one count x is

    t softplus(u) + x softplus(-u) - [lgamma(x + t) - lgamma(t)] + lgamma(x + 1)

and of a zero just t softplus(u). So the dense work is one softplus per gene. The same is

    (t + x) softplus(u) - x log m + log x! - sum over k < x of log(1 + k / t)

where nothing large cancels while x is small: counts below 16, nearly all, can be looked up in a table per gene. Of
large ones lgamma and digamma are computed, in float64: at t = 1e6 and x = 1e7 their differences would have no correct
digit in float32. Forward and gradient are written out, as tensor operations here, and in `kernels` compiled: that
takes a quarter of the time on two cores, while most counts are small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cellalign.nn.sparse import SparseRows

TABLED = 16  # counts below are small: 95 % of those stored of PBMCs; a larger table costs more than it saves
A_CORE = 4  # a core's compiled loops beat as many threads' tensor operations (2.5 beside 6.3 ms on two; extrapolated)
LEAST_CELLS = 16  # worth a core: what is computed per gene takes as long as two
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
    return _form(logits, counts).apply(logits, library, log_theta, None, counts)


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
    return _form(logits, counts).apply(logits, library, log_theta, dropout_logits, counts)


def exact(values: Tensor) -> Tensor:
    """In the precision that large counts need; MPS has no float64."""
    return values.to(torch.float64 if _has_float64(values.device) else torch.float32)


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def _at(values: Tensor, place: Tensor) -> Tensor:
    """What lies at these places of the flattened values: `take`, which MPS lacks."""
    return values.view(-1).index_select(0, place)


def _form(logits: Tensor, counts: SparseRows) -> type[torch.autograd.Function]:
    """Compiled where that runs and is faster: it takes large counts one by one."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return _TensorNLL
    if 2 * int((counts.value >= TABLED).sum()) > len(counts.value):
        return _TensorNLL
    from cellalign.nn.kernels.team import parts_of  # numba takes half a second to import

    cores = parts_of(len(counts), LEAST_CELLS)
    return _TensorNLL if torch.get_num_threads() > A_CORE * cores else _CompiledNLL


class _CompiledNLL(torch.autograd.Function):
    """Value and gradient at once: the gradient of the mean over cells, which training asks for."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None, counts: SparseRows
    ) -> Tensor:
        log_theta = log_theta.clamp(LEAST_LOG_THETA, MOST_LOG_THETA)
        n = len(counts)
        cost, *gradient = _compiled(counts, logits, library, log_theta, dropout, logits.new_full((n,), _share(n)))
        ctx.save_for_backward(logits, library, log_theta, dropout, *gradient)
        ctx.counts = counts
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor | None, None]:
        logits, library, log_theta, dropout, by_logits, by_log_t, by_dropout = ctx.saved_tensors
        weight = grad.detach().numpy()
        scale = float(weight[0]) / _share(len(grad)) if len(grad) else 1.0
        if not (weight == weight[:1]).all():
            _, by_logits, by_log_t, by_dropout = _compiled(ctx.counts, logits, library, log_theta, dropout, grad)
        elif scale != 1:
            by_logits, by_log_t = by_logits * scale, by_log_t * scale
            by_dropout = None if by_dropout is None else by_dropout * scale
        return by_logits, None, by_log_t, by_dropout, None


def _share(n: int) -> float:
    """The weight of one of n cells in their mean, to the bit."""
    return float(np.float32(1) / np.float32(max(1, n)))


def _compiled(
    counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cost of each cell, and the derivatives of their weighted sum by logits, log theta and dropout logits."""
    from cellalign.nn.kernels.likelihood import likelihood  # numba takes half a second to import

    settings = {"least_logit": int(LEAST_LOGIT), "tabled": TABLED, "least_cells": LEAST_CELLS}
    return likelihood(counts, logits, library, log_theta, dropout, weight, **settings)


class _Stored:
    """Value and gradient of the nonzeros [nnz]: exact in float64; on a device without it small ones are looked up."""

    def __init__(self, counts: SparseRows, ratio: Tensor, log_theta: Tensor, theta: Tensor, softplus: Tensor) -> None:
        log_ratio = _at(ratio, counts.flat).clamp_(min=torch.finfo(ratio.dtype).tiny).log_()
        self.column, self.log_t_of_gene, self.dtype = counts.column, exact(log_theta), ratio.dtype
        self.u, self.x = exact(log_ratio), exact(counts.value)
        self.t, self.softplus = self.of_t(torch.exp), F.softplus(self.u, threshold=40)
        self.small: _Small | None = None
        if not _has_float64(ratio.device):
            log_mean = log_ratio + _at(log_theta, counts.column)
            self.small = _Small(counts, log_mean, log_theta, theta, softplus)

    def of_t(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of log t, computed per gene."""
        return function(self.log_t_of_gene)[self.column]

    def nll(self) -> Tensor:
        """Negative log-likelihood under NB; softplus(-u) = softplus(u) - u."""
        nll = (self.t + self.x) * self.softplus - self.x * self.u + torch.lgamma(self.x + 1)
        nll += self.of_t(lambda log_t: torch.lgamma(log_t.exp())) - torch.lgamma(self.x + self.t)
        nll = nll.to(self.dtype)
        return nll if self.small is None else torch.where(self.small.tabled, self.small.nll(), nll)

    def gradient(self, sigmoid: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to log m and log t; sigmoid(u) [B, G]."""
        s = torch.sigmoid(self.u)
        rising = torch.digamma(self.x + self.t) - self.of_t(lambda log_t: torch.digamma(log_t.exp()))
        by_log_t = (self.t * (self.softplus - s - rising) + self.x * (1 - s)).to(self.dtype)
        by_log_m = ((self.t + self.x) * s - self.x).to(self.dtype)
        if self.small is None:
            return by_log_m, by_log_t
        small_m, small_t = self.small.gradient(sigmoid)
        return torch.where(self.small.tabled, small_m, by_log_m), torch.where(self.small.tabled, small_t, by_log_t)


class _Small:
    """The same for counts below TABLED, by a table per gene, so that float32 suffices; of others it is nonsense."""

    def __init__(self, counts: SparseRows, log_mean: Tensor, log_theta: Tensor, theta: Tensor, softplus: Tensor):
        nearest = counts.value.clamp(max=TABLED - 1).trunc_()
        self.x, self.tabled, self.log_mean = counts.value, counts.value == nearest, log_mean
        self.flat, self.place = counts.flat, nearest.long().add_(counts.column, alpha=TABLED)
        self.t, self.softplus = _at(theta, counts.column), _at(softplus, counts.flat)
        self.value, self.by_log_t = self.table(log_theta)

    @staticmethod
    def table(log_theta: Tensor) -> tuple[Tensor, Tensor]:
        """log x! - sum over k < x of log(1 + k / t), and its derivative by log t, the sum of k / (t + k)."""
        k = torch.arange(TABLED - 1, dtype=log_theta.dtype, device=log_theta.device)
        share = (1 + k * (-log_theta).exp_()[:, None]).reciprocal_()  # t / (t + k)
        below = k.new_ones(TABLED - 1, TABLED).triu(1)  # adds up over k < x
        return ((k + 1) * share).log_() @ below, (1 - share) @ below

    def nll(self) -> Tensor:
        looked_up = (self.t + self.x).mul_(self.softplus).addcmul_(self.x, self.log_mean, value=-1)
        return looked_up.add_(_at(self.value, self.place))

    def gradient(self, sigmoid: Tensor) -> tuple[Tensor, Tensor]:
        s = _at(sigmoid, self.flat)
        by_log_t = (self.softplus - s).mul_(self.t).addcmul_(self.x, s, value=-1)
        return (self.t + self.x).mul_(s).sub_(self.x), by_log_t.add_(_at(self.by_log_t, self.place))


class _TensorNLL(torch.autograd.Function):
    """NB, or with dropout_logits [B, G] zero-inflated NB, on any device and in any precision.

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
