"""Posteriors and likelihoods as small functions on tensors; sums run over the last dimension."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_2PI = math.log(2 * math.pi)


def gaussian_nll(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Negative log-likelihood of x under N(mean, scale), one scale per cell, summed over genes.

    Parameters
    ----------
    x, mean : Tensor [B, G]
    scale : Tensor [B, 1]
        Standard deviation.

    Returns
    -------
    Tensor [B]
        CoMP eq. 5, reconstruction term (CoMP appendix D: one scale per cell).
    """
    squared = (x - mean).square().sum(-1)
    scale = scale.squeeze(-1)
    return 0.5 * squared / scale.square() + x.shape[-1] * (scale.log() + 0.5 * LOG_2PI)


def kl_to_standard_normal(mean: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, scale) || N(0, 1)) summed over latent dimensions, in closed form.

    Parameters
    ----------
    mean, scale : Tensor [B, p]

    Returns
    -------
    Tensor [B]
    """
    return _NormalKL.apply(mean, scale)


class _NormalKL(torch.autograd.Function):
    """Written out: of batches this small, the operations cost more than what they compute."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(mean, scale)
        return mean.square().addcmul_(scale, scale).sub_(1).mul_(0.5).sub_(scale.log()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return mean * grad, (scale - scale.reciprocal()).mul_(grad)


def scale_of(log_variance: Tensor, least: float = 0.0) -> Tensor:
    """Standard deviation from a log variance; `least` is added to the variance.

    The bounds lie far outside what training reaches: exp must not overflow on a stray cell.
    """
    bounded = log_variance.clamp(-20, 20)
    return (bounded.exp() + least).sqrt() if least else (0.5 * bounded).exp()


def log_normal(z: Tensor, mean: Tensor | float, scale: Tensor | float) -> Tensor:
    """Log density of z [..., p] under N(mean, scale), summed over latent dimensions: [...]."""
    standard = (z - mean) / scale
    normaliser = torch.as_tensor(scale, dtype=z.dtype, device=z.device).log().expand_as(z).sum(-1)
    return -0.5 * (standard.square().sum(-1) + z.shape[-1] * LOG_2PI) - normaliser


def sample_normal(mean: Tensor, scale: Tensor) -> Tensor:
    """A reparameterised draw from N(mean, scale), of mean's shape."""
    return torch.addcmul(mean, scale, torch.randn_like(mean))


def gumbel_sigmoid(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Draws of 0 or 1 with probability sigmoid(logits), differentiable by the straight-through estimator.

    The relaxed draw is sigmoid((logits + Logistic(0, 1) noise) / temperature) (Maddison et al. 2017); the value
    is that draw rounded, the gradient that of the draw itself.
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits + uniform.log() - torch.log1p(-uniform)) / temperature)
    return (soft > 0.5).to(soft.dtype) + soft - soft.detach()
