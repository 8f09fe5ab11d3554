"""Distributions of latents and of expression: densities, draws, and what a decoder predicts.

Small functions on tensors, whose sums run over the last dimension, and the distributions of expression p(x | z) that
loss, bounds and predictions share: `Normal`, `NegativeBinomial`, `ZeroInflatedNegativeBinomial`, and `Point` where
there is no spread.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.nn import share
from cellalign.nn.counts import exact, negative_binomial_nll, zero_inflated_nll
from cellalign.nn.kernels import ops
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.once import once_differentiable
from cellalign.nn.sparse import SparseRows

LOG_2PI = math.log(2 * math.pi)


def gaussian_nll(x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Negative log-likelihood of x under N(mean, sd), one sd per cell, summed over genes.

    Parameters
    ----------
    x, mean : Tensor [B, G]
    sd : Tensor [B, 1]
        Standard deviation.

    Returns
    -------
    Tensor [B]
        CoMP eq. 5, reconstruction term (CoMP appendix D: one sd per cell).
    """
    return _gaussian(squared_error(x, mean), sd, x.shape[-1])


def _gaussian(squared: Tensor, sd: Tensor, n_genes: int) -> Tensor:
    """The same from squared errors [B]."""
    sd = sd.squeeze(-1)
    return 0.5 * squared / sd.square() + n_genes * (sd.log() + 0.5 * LOG_2PI)


def squared_error(x: Tensor, mean: Tensor) -> Tensor:
    """Squared distance of x [B, G] to mean [..., B, G], summed over genes: [..., B]."""
    return _SquaredError.apply(x, mean)


class _SquaredError(torch.autograd.Function):
    """Written out: the residuals are made once, for the value and for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor) -> Tensor:
        residual = mean - x
        ctx.save_for_backward(x, mean, residual)
        return torch.linalg.vecdot(residual, residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, mean, residual = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient is to have a gradient
            residual = mean - x
        by_mean = residual * (2 * grad).unsqueeze(-1)
        return -by_mean.sum_to_size(x.shape) if ctx.needs_input_grad[0] else None, by_mean


def _squared_error_of(batch: Minibatch, mean: Tensor) -> Tensor:
    """`squared_error` of a batch's expression; where it is sparse and loops are compiled it is not made dense."""
    if isinstance(batch.expression, SparseRows) and ops.has_compiled_squared_error(mean):
        return ops.squared_error(batch.expression, mean)
    return squared_error(batch.x, widened(mean))


def kl_to_standard_normal(mean: Tensor, sd: Tensor) -> Tensor:
    """KL(N(mean, sd) || N(0, 1)) summed over latent dimensions, in closed form.

    Parameters
    ----------
    mean, sd : Tensor [B, p]

    Returns
    -------
    Tensor [B]
    """
    return _NormalKL.apply(mean, sd)


class _NormalKL(torch.autograd.Function):
    """Written out: of batches this small, the operations cost more than what they compute."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, sd: Tensor) -> Tensor:
        ctx.save_for_backward(mean, sd)
        return mean.square().addcmul_(sd, sd).sub_(1).mul_(0.5).sub_(sd.log()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        mean, sd = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return mean * grad, (sd - sd.reciprocal()).mul_(grad)


def sd_of(log_variance: Tensor, least: float = 0.0) -> Tensor:
    """Standard deviation from a log variance; `least` is added to the variance.

    The bounds lie far outside what training reaches: exp must not overflow on a stray cell.
    """
    bounded = log_variance.clamp(-20, 20)
    return (bounded.exp() + least).sqrt() if least else (0.5 * bounded).exp()


def log_normal(z: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    """Log density of z [..., p] under N(mean, sd), summed over latent dimensions: [...]."""
    standard = (z - mean) / sd
    normaliser = torch.as_tensor(sd, dtype=z.dtype, device=z.device).log().expand_as(z).sum(-1)
    return -0.5 * (standard.square().sum(-1) + z.shape[-1] * LOG_2PI) - normaliser


def widened(values: Tensor) -> Tensor:
    """Values in bfloat16 as float32; others as they are."""
    return values.float() if values.dtype == torch.bfloat16 else values


def sample_normal(mean: Tensor, sd: Tensor) -> Tensor:
    """A reparameterised draw from N(mean, sd), of mean's shape."""
    return torch.addcmul(mean, sd, share.randn_like(mean))


def gumbel_sigmoid(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Draws of 0 or 1 with probability sigmoid(logits), differentiable by the straight-through estimator.

    The relaxed draw is sigmoid((logits + Logistic(0, 1) noise) / temperature) (Maddison et al. 2017); the value
    is that draw rounded, the gradient that of the draw itself.
    """
    uniform = share.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits + uniform.log() - torch.log1p(-uniform)) / temperature)
    return (soft > 0.5).to(soft.dtype) + soft - soft.detach()


class Distribution(ABC):
    """Of the expression [..., B, G] of a mini-batch's cells given their latents.

    Attributes
    ----------
    has_spread : bool
        Whether it says how cells vary around the mean.
    """

    has_spread: ClassVar[bool] = True

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected expression [..., B, G]."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Of each gene [..., B, G]."""

    @abstractmethod
    def nll(self, batch: Minibatch) -> Tensor:
        """Negative log-likelihood [..., B] of the batch's expression, summed over genes."""

    @abstractmethod
    def sample(self) -> Tensor:
        """One draw of every cell [..., B, G]."""

    def changed(self, others: Sequence[Any]) -> Distribution:
        """What it becomes with all that the others, of the same kind, change from it by themselves, added up."""
        return Point(_added(self.mean, [other.mean for other in others]))

    def shifted(self, change: Tensor) -> Distribution:
        """The same around another mean, [..., B, G] of change away; where that says nothing of the spread, the mean."""
        return Point(widened(self.mean) + change)


def _added(start: Tensor, others: Sequence[Tensor]) -> Tensor:
    """start + sum of (other - start)."""
    start = widened(start)
    return start + sum(widened(other) - start for other in others)


@dataclass(frozen=True, eq=False)
class Point(Distribution):
    """A mean without a spread; its `nll` is half the squared error, that of N(mean, 1) but for a constant.

    The reconstruction of trVAE and scGen is of this kind: its 1 is a convention, no estimate of how cells vary.
    """

    has_spread: ClassVar[bool] = False
    location: Tensor

    @property
    def mean(self) -> Tensor:
        """The location."""
        return widened(self.location)

    @property
    def variance(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.mean)

    def nll(self, batch: Minibatch) -> Tensor:
        """Half the squared error [..., B]."""
        return 0.5 * _squared_error_of(batch, self.location)

    def sample(self) -> Tensor:
        """The mean."""
        return self.mean


@dataclass(frozen=True, eq=False)
class Normal(Distribution):
    """N(location [..., B, G], sd [..., B, 1]); in training the location may be in bfloat16, as a product leaves it."""

    location: Tensor
    sd: Tensor

    @property
    def mean(self) -> Tensor:
        """The location."""
        return widened(self.location)

    @property
    def variance(self) -> Tensor:
        """The same for every gene of a cell."""
        return self.sd.square().expand_as(self.mean)

    def nll(self, batch: Minibatch) -> Tensor:
        """As `gaussian_nll`."""
        return _gaussian(_squared_error_of(batch, self.location), self.sd, self.location.shape[-1])

    def sample(self) -> Tensor:
        """Mean plus noise."""
        return sample_normal(self.mean, self.sd)

    def changed(self, others: Sequence[Normal]) -> Normal:
        """Means add up, and standard deviations on their logarithm."""
        sd = _added(self.sd.log(), [other.sd.log() for other in others]).exp()
        return Normal(_added(self.location, [other.location for other in others]), sd)

    def shifted(self, change: Tensor) -> Normal:
        """The mean moves, the spread stays."""
        return Normal(self.mean + change, self.sd)


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Distribution):
    """NB of mean l rho and inverse dispersion theta: variance = mean + mean^2 / theta.

    Attributes
    ----------
    logits : Tensor [..., B, G]
        Their softmax over genes is rho; in training they may be in bfloat16, as a product leaves them.
    library : Tensor [B, 1]
        l, at least 1.
    log_theta : Tensor [G]
    """

    logits: Tensor
    library: Tensor
    log_theta: Tensor

    @cached_property
    def log_mean(self) -> Tensor:
        """log(l rho) [..., B, G]."""
        return F.log_softmax(widened(self.logits), -1) + self.library.log()

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Expected counts [..., B, G] at the cells' own library size."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """mean + mean^2 / theta."""
        return self.mean + self.mean.square() * (-self.log_theta).exp()

    def nll(self, batch: Minibatch) -> Tensor:
        """As `negative_binomial_nll`; of several draws at once, what does not depend on them is computed once."""
        if self.logits.dim() == 2:
            return negative_binomial_nll(batch.nonzeros, self.logits, self.library, self.log_theta)
        log_t = exact(self.log_theta)
        t, x = log_t.exp(), exact(batch.x)
        constant = (torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1)).sum(-1)
        u = exact(self.log_mean) - log_t
        # t softplus(u) + x softplus(-u) = (t + x) softplus(u) - x u
        nll = torch.einsum("tbg,bg->tb", F.softplus(u), t + x) - torch.einsum("tbg,bg->tb", u, x) - constant
        return nll.to(self.logits.dtype)

    def sample(self) -> Tensor:
        """Integers: a Poisson of a gamma draw."""
        theta = self.log_theta.exp().expand_as(self.logits)
        return torch.poisson(torch._standard_gamma(theta) * (self.mean / theta))

    def changed(self, others: Sequence[NegativeBinomial]) -> NegativeBinomial:
        """Fold changes multiply, at the cell's library size."""
        logits = _added(self.log_mean, [other.log_mean for other in others])
        return NegativeBinomial(logits, self.library, self.log_theta)


@dataclass(frozen=True, eq=False)
class ZeroInflatedNegativeBinomial(Distribution):
    """Zero with probability sigmoid(dropout_logits [..., B, G]), and else as `counts` (Lopez et al. 2018)."""

    counts: NegativeBinomial
    dropout_logits: Tensor

    @cached_property
    def kept(self) -> Tensor:
        """The chance that a count is not dropped [..., B, G]."""
        return torch.sigmoid(-widened(self.dropout_logits))

    @property
    def mean(self) -> Tensor:
        """Expected counts [..., B, G]."""
        return self.counts.mean * self.kept

    @property
    def variance(self) -> Tensor:
        """(1 - p) (v + p m^2), of the dropouts' chance p and the counts' mean m and variance v."""
        return self.kept * (self.counts.variance + (1 - self.kept) * self.counts.mean.square())

    def nll(self, batch: Minibatch) -> Tensor:
        """As `zero_inflated_nll`."""
        given = self.counts
        if given.logits.dim() > 2:
            each = zip(given.logits, self.dropout_logits, strict=True)
            return torch.stack(
                [zero_inflated_nll(batch.nonzeros, x, given.library, given.log_theta, d) for x, d in each]
            )
        return zero_inflated_nll(batch.nonzeros, given.logits, given.library, given.log_theta, self.dropout_logits)

    def sample(self) -> Tensor:
        """Integers."""
        return self.counts.sample() * (torch.rand_like(self.kept) >= torch.sigmoid(widened(self.dropout_logits)))

    def changed(self, others: Sequence[ZeroInflatedNegativeBinomial]) -> ZeroInflatedNegativeBinomial:
        """Counts as theirs, and odds of a dropout multiply."""
        counts = self.counts.changed([other.counts for other in others])
        return ZeroInflatedNegativeBinomial(
            counts, _added(self.dropout_logits, [other.dropout_logits for other in others])
        )
