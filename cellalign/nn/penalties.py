"""Alignment penalties on the latent space (or a hidden layer) of a mini-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# bandwidths of the multi-scale kernel (trVAE and CoMP repositories): exp(-|u - v|^2 / (2 sigma))
MULTI_SCALE = (*(10.0**i for i in range(-6, 0)), 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
NARROW, NEGLIGIBLE = 1.0, 40.0  # kernels of a smaller sigma are narrow; exp(-40) is nothing beside 1


def pairwise_log_density(z: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """log q(z_i | x_j) for all pairs, up to the constant -p/2 log(2 pi) that cancels between two mixtures.

    The square is expanded so that the work is matrix products of [B, p] by [p, B]: memory B^2, never B^2 p.

    Parameters
    ----------
    z, mean : Tensor [B, p]
        Posterior draws and posterior means.
    sd : Tensor [] or [B, p]
        Posterior standard deviation: one number shared by all cells, or one per cell and dimension.

    Returns
    -------
    Tensor [B, B]
        Row i: the draw z_i under every cell's posterior.
    """
    # Distances do not change when everything is shifted; centring keeps the expanded square exact in float32.
    centre = mean.detach().mean(0)
    z, mean = z - centre, mean - centre
    if sd.dim() == 0:
        squared = z.square().sum(1, keepdim=True) - 2 * (z @ mean.T) + mean.square().sum(1)
        return squared / (-2 * sd.square())
    precision = sd.square().reciprocal()
    weighted = mean * precision
    squared = z.square() @ precision.T - 2 * (z @ weighted.T) + (mean * weighted).sum(1)
    return -0.5 * squared - sd.log().sum(1)


def total_correlation(
    z: Tensor, mean: Tensor, sd: Tensor, split: int, n_cells: int, domain: Tensor | None = None
) -> Tensor:
    """Dependence between two blocks of latents, KL(q(z) || q(z_I) q(z_S)), by minibatch-weighted sampling.

    Each aggregated posterior is log q(z_i) = log sum_j q(z_i | x_j) - log(B N) (inVAE eq. 10 and 11), where i and j
    are of one domain, B of them in the batch and N among all cells.

    Parameters
    ----------
    z, mean, sd : Tensor [B, p]
        Posterior draws, means and standard deviations.
    split : int
        z_I are the first `split` dimensions.
    n_cells : int
        Cells trained on; those of a domain are reckoned from its share of the batch.
    domain : Tensor [B], int64, optional
        Codes; without them all cells are of one domain, as in the authors' code.

    Returns
    -------
    Tensor []
        Mean over the batch, in nats.
    """
    blocks = slice(None, split), slice(split, None)
    invariant, spurious = (pairwise_log_density(z[:, b], mean[:, b], sd[:, b]) for b in blocks)
    size = z.new_full((len(z),), len(z))
    if domain is not None:
        same = domain[:, None] == domain
        size = same.sum(1).to(z.dtype)
        invariant, spurious = (log_q.masked_fill(~same, -torch.inf) for log_q in (invariant, spurious))
    log_pairs = (size * size * (n_cells / len(z))).log()
    whole = (invariant + spurious).logsumexp(1)
    return (whole - invariant.logsumexp(1) - spurious.logsumexp(1) + log_pairs).mean()


def misalignment(
    z: Tensor,
    mean: Tensor,
    sd: Tensor,
    condition: Tensor,
    *,
    include_self: bool = True,
    floor: float | None = None,
    kernel_width: float = 0.5,
) -> Tensor:
    """CoMP misalignment penalty (Foster et al. 2022, eq. 4).

    An upper bound on sum_c p(c) KL(q(z | c) || q(z | not c)) when every cell counts in its own mixture
    (theorem 2). A cell without a cell of its own or of another condition in the batch contributes zero.

    Of a continuous condition each cell j belongs to i's own mixture with weight k_ij = exp(-(c_i - c_j)^2 / (2 w^2))
    and to the other with 1 - k_ij:

        mean_i log [ sum_j k_ij q(z_i | x_j) / sum_j k_ij ] - log [ sum_j (1 - k_ij) q(z_i | x_j) / sum_j (1 - k_ij) ]

    which is eq. 4 as w falls to 0 and values repeat, and is 0 where z is independent of c.

    Parameters
    ----------
    z, mean : Tensor [B, p]
        Posterior draws and posterior means.
    sd : Tensor [] or [B, p]
        Posterior standard deviation; a scalar is the fixed one of the paper.
    condition : Tensor [B]
        int64: codes, any number of conditions. Floating point: values of a continuous condition.
    include_self : bool
        True is eq. 4 as printed. False leaves cell i out of its own mixture as the authors' code does; the
        penalty is then unbounded below.
    floor : float, optional
        A cell counts at least -floor, in nats: one that is already more at home among the others than among
        its own no longer pulls. Without it and without itself in its mixture a cell gains by leaving its own
        condition behind for ever.
    kernel_width : float
        w, of continuous values.

    Returns
    -------
    Tensor []
        Mean over the batch.
    """
    log_q = pairwise_log_density(z, mean, sd)
    own = _kinship(condition, kernel_width)
    other = ~own if own.dtype is torch.bool else 1 - own
    if not include_self:
        own = own.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0)
    n_own, n_other = own.sum(1), other.sum(1)
    has_both = (n_own > 0) & (n_other > 0)
    difference = _log_mixture(log_q, own, n_own) - _log_mixture(log_q, other, n_other)
    if floor is not None:
        difference = difference.clamp(min=-floor)
    return torch.where(has_both, difference, 0.0).mean()


def _kinship(condition: Tensor, width: float) -> Tensor:
    """How much each cell is of another's condition, [B, B]: bool for codes, in [0, 1] for values."""
    if condition.is_floating_point():
        return torch.exp((condition[:, None] - condition).square() / (-2 * width**2))
    return condition[:, None] == condition


def _log_mixture(log_q: Tensor, weight: Tensor, size: Tensor) -> Tensor:
    """log of the mean density over the cells, weighted, [B]."""
    # A large finite fill, not -inf: an empty row must not turn the gradient into NaN.
    if weight.dtype is not torch.bool:
        log_q = log_q + weight.clamp(min=1e-30).log()
        return log_q.masked_fill(weight <= 0, -1e30).logsumexp(1) - size.clamp(min=1e-30).log()
    return log_q.masked_fill(~weight, -1e30).logsumexp(1) - size.clamp(min=1).to(log_q.dtype).log()


def mmd(z: Tensor, condition: Tensor, sigmas: tuple[float, ...] = MULTI_SCALE, *, unbiased: bool = False) -> Tensor:
    """Maximum mean discrepancy between the conditions of a batch, summed over all pairs (trVAE eq. 8).

    mmd(P, Q) = mean k(p, p') + mean k(q, q') - 2 mean k(p, q), means over all pairs, a cell with itself included.
    Distances of the whole batch and their kernels are computed once, whatever the number of conditions.

    Parameters
    ----------
    z : Tensor [B, p]
        Latents, or units of a hidden layer.
    condition : Tensor [B], int64
    sigmas : tuple of float
        The kernel is the mean of exp(-|u - v|^2 / (2 sigma)) over them; an rbf kernel of length l is sigma = l^2.
    unbiased : bool
        Leave a cell's kernel with itself out of the means (Gretton et al. 2012, lemma 6). With it the penalty of n
        cells of one distribution is about 2 / n, and falls as they draw together whatever their conditions.

    Returns
    -------
    Tensor []
        Conditions that the batch lacks contribute nothing.
    """
    size = torch.bincount(condition)
    n = size[condition].to(z.dtype)
    # sum over pairs of (S_aa + S_bb - 2 S_ab) = present * trace(S) - sum(S), S the means over blocks
    same = condition[:, None] == condition
    pairs = n[:, None] * n
    if unbiased:
        pairs = torch.where(same, (pairs - n).clamp(min=1), pairs)
    weights = ((size > 0).sum() * same - 1) / pairs
    if unbiased:
        weights.fill_diagonal_(0)
    return _WeightedKernel.apply(z, weights, sigmas)


class _WeightedKernel(torch.autograd.Function):
    """sum_ij w_ij mean_sigma exp(-|z_i - z_j|^2 / (2 sigma)), w symmetric; value and slope in one pass.

    Autograd would keep a matrix per sigma. Here the gradient is one product: with g_ij = w_ij times the kernel's slope
    it is 4 (z_i sum_j g_ij - sum_j g_ij z_j).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, weights: Tensor, sigmas: tuple[float, ...]) -> Tensor:
        z = z - z.mean(0)  # keeps the expanded square exact
        norm = z.square().sum(1)
        squared = torch.addmm(norm[:, None] + norm, z, z.T, alpha=-2).clamp_(min=0)
        # exactly 0 from a cell to itself: the narrowest kernel would see the rounding
        squared.fill_diagonal_(0)
        total, slope = weights.new_zeros(()), torch.zeros_like(squared)
        narrow = [sigma for sigma in sigmas if sigma < NARROW] if z.device.type == "cpu" else []
        if narrow:
            # narrow kernels are 0 but for the few pairs of cells that nearly coincide
            near = (squared.view(-1) < 2 * NEGLIGIBLE * max(narrow)).nonzero()[:, 0]
            pairs, weight = squared.view(-1)[near], weights.view(-1)[near]
            slope.view(-1)[near] = _add_kernels(pairs, weight, narrow, total, torch.zeros_like(pairs))
        _add_kernels(squared, weights, [sigma for sigma in sigmas if sigma not in narrow], total, slope)
        ctx.save_for_backward(z, slope.mul_(weights).div_(len(sigmas)))
        return total / len(sigmas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, g = ctx.saved_tensors
        return 4 * grad * (g.sum(1, keepdim=True) * z - g @ z), None, None


def _add_kernels(squared: Tensor, weights: Tensor, sigmas: list[float], total: Tensor, slope: Tensor) -> Tensor:
    """Add the weighted kernels to `total` and their slopes to `slope`, which is returned."""
    for sigma in sigmas:
        kernel = (squared * (-0.5 / sigma)).exp_()
        total += torch.dot(kernel.view(-1), weights.reshape(-1))
        slope.add_(kernel, alpha=-0.5 / sigma)
    return slope
