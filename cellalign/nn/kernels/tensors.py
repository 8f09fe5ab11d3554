"""The likelihood of counts and its gradient as tensor operations, on any device and in any precision.

Counts below TABLED are looked up in a table per gene where a device has no float64. lgamma and digamma of large ones
are computed in float64: at t = 1e6 and x = 1e7 their differences would have no correct digit in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.nn.kernels import LEAST_LOG_THETA, LEAST_LOGIT, MOST_LOG_THETA, TABLED
from cellalign.nn.sparse import SparseRows


def exact(values: Tensor) -> Tensor:
    """In the precision that large counts need; MPS has no float64."""
    return values.to(torch.float64 if _has_float64(values.device) else torch.float32)


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def _at(values: Tensor, place: Tensor) -> Tensor:
    """What lies at these places of the flattened values: `take`, which MPS lacks."""
    return values.view(-1).index_select(0, place)


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


class _Terms:
    """What value and gradient of the likelihood share; the arguments are those of `ops.count_nll`.

    The softmax is taken here: its exponential is that of softplus(u) = log(1 + m / t) too.
    """

    def __init__(
        self, counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None
    ) -> None:
        log_theta = log_theta.to(logits.dtype).clamp(LEAST_LOG_THETA, MOST_LOG_THETA)
        self.flat, self.theta = counts.flat, log_theta.exp()
        self.rho = torch.softmax(logits.contiguous(), 1)
        self.ratio = (self.rho * library.to(logits.dtype)).mul_((-log_theta).exp())  # m / t
        self.softplus = self.ratio.log1p()
        self.stored = _Stored(counts, self.ratio, log_theta, self.theta, self.softplus)
        self.h = self.p = self.inflated = None
        if dropout is not None:
            # of a zero -log(p + (1 - p) NB(0)), p = sigmoid(h), is log(inflated) - log(p), where
            # inflated = p / (p + (1 - p) NB(0)) = sigmoid(h + t softplus(u)) is the chance that it is a dropout
            self.h = dropout.to(logits.dtype).clamp(min=LEAST_LOGIT).contiguous()
            self.p, self.inflated = self.h.sigmoid(), torch.addcmul(self.h, self.softplus, self.theta).sigmoid_()

    def nll(self) -> Tensor:
        """Of each cell, [B]."""
        nonzeros = self.stored.nll()
        if self.h is None or self.p is None or self.inflated is None:
            cost = self.softplus * self.theta
        else:
            cost = (self.inflated / self.p).log_()
            nonzeros += F.softplus(_at(self.h, self.flat))
        cost.view(-1).scatter_(0, self.flat, nonzeros)
        return cost.sum(1)

    def gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        """By logits, log theta and dropout logits, [B, G] each, the last [0, G] where there are none."""
        by_dropout = self.rho.new_empty(0, self.rho.shape[1])
        by_log_m = (1 + self.ratio).reciprocal_().mul_(self.ratio)  # sigmoid(u)
        nonzero_by_log_m, nonzero_by_log_t = self.stored.gradient(by_log_m)
        by_log_t = (self.softplus - by_log_m).mul_(self.theta)
        by_log_m *= self.theta
        if self.p is not None and self.inflated is not None:
            by_dropout = self.p - self.inflated
            by_dropout.view(-1).scatter_(0, self.flat, _at(self.p, self.flat))
            counted = 1 - self.inflated
            by_log_t *= counted
            by_log_m *= counted
        by_log_t.view(-1).scatter_(0, self.flat, nonzero_by_log_t)
        by_log_m.view(-1).scatter_(0, self.flat, nonzero_by_log_m)
        by_logits = by_log_m.addcmul_(self.rho, by_log_m.sum(1, keepdim=True), value=-1)
        return by_logits, by_log_t, by_dropout


def count_nll(
    counts: SparseRows,
    logits: Tensor,
    library: Tensor,
    log_theta: Tensor,
    dropout: Tensor | None,
    weight: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ops.count_nll`."""
    terms = _Terms(counts, logits, library, log_theta, dropout)
    cost = terms.nll()
    if not gradient:
        none = (0, logits.shape[1])
        return cost, logits.new_empty(none), logits.new_empty(none), logits.new_empty(none)
    by_logits, by_log_t, by_dropout = terms.gradient()
    if weight != 1:
        for values in (by_logits, by_log_t, by_dropout):
            values *= weight
    return cost, by_logits, by_log_t, by_dropout
