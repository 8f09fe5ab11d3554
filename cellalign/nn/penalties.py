"""Alignment penalties on the latent space of a mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_log_density(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log q(z_i | x_j) for all pairs, up to the constant -p/2 log(2 pi) that cancels between two mixtures.

    The square is expanded so that the work is matrix products of [B, p] by [p, B]: memory B^2, never B^2 p.

    Parameters
    ----------
    z, mean : Tensor [B, p]
        Posterior draws and posterior means.
    scale : Tensor [] or [B, p]
        Posterior standard deviation: one number shared by all cells, or one per cell and dimension.

    Returns
    -------
    Tensor [B, B]
        Row i: the draw z_i under every cell's posterior.
    """
    # Distances do not change when everything is shifted; centring keeps the expanded square exact in float32.
    centre = mean.detach().mean(0)
    z, mean = z - centre, mean - centre
    if scale.dim() == 0:
        squared = z.square().sum(1, keepdim=True) - 2 * (z @ mean.T) + mean.square().sum(1)
        return squared / (-2 * scale.square())
    precision = scale.square().reciprocal()
    weighted = mean * precision
    squared = z.square() @ precision.T - 2 * (z @ weighted.T) + (mean * weighted).sum(1)
    return -0.5 * squared - scale.log().sum(1)


def misalignment(
    z: Tensor, mean: Tensor, scale: Tensor, condition: Tensor, *, include_self: bool = True, floor: float | None = None
) -> Tensor:
    """CoMP misalignment penalty (Foster et al. 2022, eq. 4).

    An upper bound on sum_c p(c) KL(q(z | c) || q(z | not c)) when every cell counts in its own mixture
    (theorem 2). A cell without a cell of its own or of another condition in the batch contributes zero.

    Parameters
    ----------
    z, mean : Tensor [B, p]
        Posterior draws and posterior means.
    scale : Tensor [] or [B, p]
        Posterior standard deviation; a scalar is the fixed scale of the paper.
    condition : Tensor [B], int64
        Condition codes, any number of conditions.
    include_self : bool
        True is eq. 4 as printed. False leaves cell i out of its own mixture as the authors' code does; the
        penalty is then unbounded below.
    floor : float, optional
        A cell counts at least -floor, in nats: one that is already more at home among the others than among
        its own no longer pulls. Without it and without itself in its mixture a cell gains by leaving its own
        condition behind for ever.

    Returns
    -------
    Tensor []
        Mean over the batch.
    """
    log_q = pairwise_log_density(z, mean, scale)
    own = condition[:, None] == condition[None, :]
    other = ~own
    if not include_self:
        own = own & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    n_own, n_other = own.sum(1), other.sum(1)
    has_both = (n_own > 0) & (n_other > 0)
    # A large finite fill, not -inf: an empty row must not turn the gradient into NaN.
    log_own = log_q.masked_fill(~own, -1e30).logsumexp(1) - n_own.clamp(min=1).to(z.dtype).log()
    log_other = log_q.masked_fill(~other, -1e30).logsumexp(1) - n_other.clamp(min=1).to(z.dtype).log()
    difference = log_own - log_other
    if floor is not None:
        difference = difference.clamp(min=-floor)
    return torch.where(has_both, difference, 0.0).mean()
