"""The likelihood of counts and its gradient as tensor operations, on any device and in any precision.

Counts below TABLED are looked up in a table per gene where a device has no float64. lgamma and digamma of large ones
are computed in float64: at t = 1e6 and x = 1e7 their differences would have no correct digit in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.nn.kernels import LEAST_LOG_THETA, LEAST_LOGIT, MOST_LOG_THETA, SMALL_RATIO, TABLED
from cellalign.nn.sparse import SparseRows


def exact(values: Tensor) -> Tensor:
    """In the precision that large counts need; MPS has no float64."""
    return values.to(torch.float64 if has_float64(values.device) else torch.float32)


def has_float64(device: torch.device) -> bool:
    """All but MPS."""
    return device.type != "mps"


def _at(values: Tensor, place: Tensor) -> Tensor:
    """What lies at these places of the flattened values: `take`, which MPS lacks."""
    return values.view(-1).index_select(0, place)


class _Stored:
    """Value and gradient of the nonzeros [nnz]: exact in float64; on a device without it small ones are looked up.

    log m is given, not made of m, which float32 may not hold.
    """

    def __init__(
        self, counts: SparseRows, log_mean: Tensor, ratio: Tensor, log_theta: Tensor, softplus: Tensor
    ) -> None:
        self.column, self.log_t_of_gene, self.dtype = counts.column, exact(log_theta), ratio.dtype
        self.u, self.x = log_mean - self.of_t(torch.clone), exact(counts.value)
        self.t, self.softplus = self.of_t(torch.exp), F.softplus(self.u, threshold=40)
        self.small: _Small | None = None
        if not has_float64(ratio.device):
            self.small = _Small(counts, log_mean.to(self.dtype), ratio, log_theta, softplus)

    def of_t(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of log t, computed per gene."""
        return function(self.log_t_of_gene)[self.column]

    def nll(self) -> Tensor:
        """Negative log-likelihood under NB; softplus(-u) = softplus(u) - u."""
        nll = (self.t + self.x) * self.softplus - self.x * self.u + torch.lgamma(self.x + 1)
        nll += self.of_t(lambda log_t: torch.lgamma(log_t.exp())) - torch.lgamma(self.x + self.t)
        nll = nll.to(self.dtype)
        return nll if self.small is None else torch.where(self.small.tabled, self.small.nll(), nll)

    def gradient(self, more: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to log m and log t; softplus(u) - sigmoid(u) [B, G] for the small ones."""
        s, rest = torch.sigmoid(self.u), torch.sigmoid(-self.u)  # of t / m, not 1 - s, which a small t is lost in
        rising = torch.digamma(self.x + self.t) - self.of_t(lambda log_t: torch.digamma(log_t.exp()))
        by_log_t = (self.t * (self.softplus - s - rising) + self.x * rest).to(self.dtype)
        by_log_m = (self.t * s - self.x * rest).to(self.dtype)
        if self.small is None:
            return by_log_m, by_log_t
        small_m, small_t = self.small.gradient(more)
        return torch.where(self.small.tabled, small_m, by_log_m), torch.where(self.small.tabled, small_t, by_log_t)


class _Small:
    """The same for counts below TABLED, by a table per gene, so that float32 suffices; of others it is nonsense."""

    def __init__(self, counts: SparseRows, log_mean: Tensor, ratio: Tensor, log_theta: Tensor, softplus: Tensor):
        nearest = counts.value.clamp(max=TABLED - 1).trunc_()
        self.x, self.tabled, self.log_mean = counts.value, counts.value == nearest, log_mean
        self.flat, self.place = counts.flat, nearest.long().add_(counts.column, alpha=TABLED)
        self.t, self.ratio = _at(log_theta.exp(), counts.column), _at(ratio, counts.flat)
        self.softplus = _at(softplus, counts.flat)
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

    def gradient(self, more: Tensor) -> tuple[Tensor, Tensor]:
        rest = (1 + self.ratio).reciprocal_()
        by_log_t = (_at(more, self.flat) * self.t).addcmul_(self.x, self.ratio * rest, value=-1)
        # t s - x (1 - s) = (m - x) / (1 + m / t), in which nothing cancels but mean and count
        by_log_m = (self.ratio * self.t).sub_(self.x).mul_(rest)
        return by_log_m, by_log_t.add_(_at(self.by_log_t, self.place))


def _more(ratio: Tensor, softplus: Tensor, sigmoid: Tensor) -> Tensor:
    """log(1 + r) - r / (1 + r): of a small r by its series, since both are nearly r."""
    series = ratio.square() * (0.5 - ratio * (2 / 3 - 0.75 * ratio))
    return torch.where(ratio < SMALL_RATIO, series, softplus - sigmoid)


class _Terms:
    """What value and gradient of the likelihood share; the arguments are those of `ops.count_nll`.

    The softmax is taken here: its exponential is that of softplus(u) = log(1 + m / t) too.
    """

    def __init__(
        self, counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None
    ) -> None:
        logits, log_theta = logits.contiguous(), log_theta.to(logits.dtype).clamp(LEAST_LOG_THETA, MOST_LOG_THETA)
        self.flat, self.theta = counts.flat, log_theta.exp()
        most = logits.amax(1, keepdim=True)
        self.rho = (logits - most).exp_()
        total = self.rho.sum(1, keepdim=True)
        self.rho /= total
        self.ratio = (self.rho * library.to(logits.dtype)).mul_((-log_theta).exp())  # m / t
        self.softplus = self.ratio.log1p()
        of_cell = (exact(library).log() - exact(most) - exact(total).log())[:, 0]
        log_mean = exact(_at(logits, self.flat)) + of_cell[self.flat // logits.shape[1]]
        self.stored = _Stored(counts, log_mean, self.ratio, log_theta, self.softplus)
        self.h = self.p = self.inflated = self.counted = None
        if dropout is not None:
            # of a zero -log(p + (1 - p) NB(0)), p = sigmoid(h), is log(inflated) - log(p), where
            # inflated = p / (p + (1 - p) NB(0)) = sigmoid(h + t softplus(u)) is the chance that it is a dropout
            self.h = dropout.to(logits.dtype).clamp(min=LEAST_LOGIT).contiguous()
            self.p, odds = self.h.sigmoid(), torch.addcmul(self.h, self.softplus, self.theta)
            self.inflated, self.counted = odds.sigmoid(), odds.neg_().sigmoid_()

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
        more = _more(self.ratio, self.softplus, by_log_m)
        nonzero_by_log_m, nonzero_by_log_t = self.stored.gradient(more)
        by_log_t = more.mul_(self.theta)
        by_log_m *= self.theta
        if self.p is not None and self.inflated is not None and self.counted is not None:
            by_dropout = self.p - self.inflated
            by_dropout.view(-1).scatter_(0, self.flat, _at(self.p, self.flat))
            by_log_t *= self.counted
            by_log_m *= self.counted
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
