"""CoMP's contrastive mixtures of posteriors (Foster et al. 2022)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from cellalign.nn import share
from cellalign.nn.penalties.blocks import (
    NOTHING,
    Block,
    Gradients,
    Groups,
    Scratch,
    by_blocks_here,
    exponentials,
    in_one_pass,
)
from cellalign.nn.penalties.densities import BITS, Densities, pairwise_log_density

_Split = tuple[Tensor, Tensor, Tensor | float, Tensor | float]


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
        Mean over the batch, in nats. Differentiable once.
    """
    z, mean, sd, condition = (share.everyone(rows) for rows in (z, mean, sd, condition))
    if not by_blocks_here(z):
        return share.whole(misalignment_of_all_pairs(z, mean, sd, condition, include_self, floor, kernel_width))
    if condition.is_floating_point():
        mixtures: _Codes | _Values = _Values(condition.detach().to(z.dtype), include_self, kernel_width)
    else:
        mixtures = _Codes(condition, include_self)
    return share.whole(in_one_pass(partial(_by_blocks, mixtures, floor), z, mean, sd))


def _by_blocks(
    mixtures: _Codes | _Values, floor: float | None, wanted: tuple[bool, ...], z: Tensor, mean: Tensor, sd: Tensor
) -> tuple[Tensor, Gradients]:
    """Value, and gradients of z, mean and sd. Everything is in bits until the mean over cells."""
    n, blocks = len(z), mixtures.groups.blocks()
    densities, scratch = Densities(z, mean, sd, mixtures.groups), Scratch(blocks, n, z)
    counted = []
    for block in blocks:
        scores = densities.scores(block, scratch("scores", block.size, n))
        own, other, balance, weight = mixtures.split(scores, block, scratch)
        most_own, total_own = exponentials(own)
        most_other, total_other = exponentials(other)
        difference = (total_own / total_other).log2_().add_(most_own).sub_(most_other).add_(balance).mul_(weight)
        if floor is not None:
            weight = weight * (difference >= -floor * BITS)
            difference.clamp_(min=-floor * BITS)
        counted.append(difference[:, 0])
        if any(wanted):
            own.mul_(weight / total_own.mul_(n))
            other.mul_(weight / total_other.mul_(-n))
            if other.shape[1] == n:  # all columns are of the other mixture, and its own stands elsewhere
                scores[:, : own.shape[1]] += own
            densities.pass_back(scores, block)
    value = torch.cat(counted).mean() / BITS
    return value, densities.gradients(wanted) if any(wanted) else ()


class _Codes:
    """Mixtures of the same condition and of the others: a block's columns begin with those of its conditions."""

    def __init__(self, condition: Tensor, include_self: bool) -> None:
        self.groups, self.include_self = Groups(condition), include_self

    def split(self, scores: Tensor, block: Block, scratch: Scratch) -> _Split:
        """Divide a block's scores [R, B] between two mixtures.

        Returns
        -------
        own : Tensor [R, m]
            Scores of the first m columns, NOTHING of cells that are not in the mixture.
        other : Tensor [R, B - m] or [R, B]
            Of the columns behind, where they stand; or of all, in place of what is given.
        balance : Tensor [R, 1] or float
            log2 of cells in the other mixture over cells in its own.
        weight : Tensor [R, 1] or float
            1, or 0 where one of them is empty.
        """
        n, window = scores.shape[1], scores[:, : block.width]
        own, other = window, scores[:, block.width :]
        if not block.one_group:
            strange = self.groups.strangers(block, scores)
            size = block.width - strange.sum(1, keepdim=True)
            own, other = torch.add(window, strange, alpha=NOTHING), scores
            window.add_(strange.sub_(1), alpha=-NOTHING)
        left_out = 0 if self.include_self else 1
        if left_out:
            own.diagonal(block.rows.start - block.columns.start).fill_(NOTHING)
        if not block.one_group:
            return own, other, *_balance(size - left_out, n - size)
        n_own, n_other = block.width - left_out, n - block.width
        if n_own == 0 or n_other == 0:
            return own, other, 0.0, 0.0
        return own, other, math.log2(n_other / n_own), 1.0


class _Values:
    """Mixtures weighed by a kernel of the condition's values; all cells are in both."""

    def __init__(self, condition: Tensor, include_self: bool, width: float) -> None:
        self.groups, self.include_self = Groups(torch.zeros_like(condition, dtype=torch.int64)), include_self
        self.value = condition * (math.sqrt(0.5 * BITS) / width)  # the kernel is 2^-(difference^2)

    def split(self, scores: Tensor, block: Block, scratch: Scratch) -> _Split:
        """As of codes, sizes being sums of weights; scores of the other mixture stand where these do."""
        shape = scores.shape
        difference = torch.sub(self.value[block.rows, None], self.value, out=scratch("kernel", *shape))
        exponent = difference.square_().neg_()
        own = torch.add(scores, exponent, out=scratch("own", *shape))
        kernel = exponent.exp2_()
        rest = torch.sub(1, kernel, out=scratch("rest", *shape))
        n_other = rest.sum(1, keepdim=True)
        other = scores.add_(rest.log_(), alpha=BITS)
        if not self.include_self:
            for weight, nothing in ((own, NOTHING), (kernel, 0.0)):
                weight.diagonal(block.rows.start).fill_(nothing)
        return own, other, *_balance(kernel.sum(1, keepdim=True), n_other)


def _balance(n_own: Tensor, n_other: Tensor) -> tuple[Tensor, Tensor]:
    """log2(n_other / n_own), and 1 where neither is nothing, else 0. The first is finite, or NaN if a weight is."""
    least = torch.finfo(n_own.dtype).tiny
    balance = n_other.clamp(min=least).log2() - n_own.clamp(min=least).log2()
    return balance, ((n_own >= least) & (n_other >= least)).to(n_own.dtype)


def _has_both(n_own: Tensor, n_other: Tensor) -> Tensor:
    """Whether neither mixture is empty; of a weight that is NaN, which has to show, True."""
    return ~((n_own <= 0) | (n_other <= 0))


def misalignment_of_all_pairs(
    z: Tensor,
    mean: Tensor,
    sd: Tensor,
    condition: Tensor,
    include_self: bool = True,
    floor: float | None = None,
    kernel_width: float = 0.5,
) -> Tensor:
    """The same of tensors [B, B], for any device."""
    log_q = pairwise_log_density(z, mean, sd)
    own = _kinship(condition, kernel_width)
    other = ~own if own.dtype is torch.bool else 1 - own
    if not include_self:
        own = own.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0)
    n_own, n_other = own.sum(1), other.sum(1)
    difference = _log_mixture(log_q, own, n_own) - _log_mixture(log_q, other, n_other)
    if floor is not None:
        difference = difference.clamp(min=-floor)
    return torch.where(_has_both(n_own, n_other), difference, 0.0).mean()


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
