"""Maximum mean discrepancy between the conditions of a batch (Gretton et al. 2012; Lotfollahi et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellalign.nn import share
from cellalign.nn.once import once_differentiable
from cellalign.nn.penalties.blocks import Block, Gradients, Groups, Scratch, by_blocks_here, in_one_pass
from cellalign.nn.penalties.densities import BITS

# bandwidths of the multi-scale kernel (trVAE and CoMP repositories): exp(-|u - v|^2 / (2 sigma))
MULTI_SCALE = (*(10.0**i for i in range(-6, 0)), 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
NARROW, NEGLIGIBLE = 1.0, 40.0  # kernels of a smaller sigma are narrow; exp(-40) is nothing beside 1
PORTION = 0.5  # of a block's usual pairs, since five numbers are held of each
MANY = 8  # if not one in so many pairs is near, narrow kernels are computed of those that are
# An expanded square is wrong by about a rounding of the squares it comes from. Where it is less than ROUNDINGS of these
# the narrow kernels are computed from the difference itself, AT_ONCE pairs at a time, unless even the widest of them is
# below exp(-SLIGHT).
ROUNDINGS, AT_ONCE, SLIGHT = 30_000, 2**14, 10.0
# Where cells lie so far from their mean that one rounding is more than SEEN of the narrowest wide kernel, squares of
# less than BLURRED roundings are computed from the difference for all kernels, so that cells that are alike are at 0.
BLURRED, SEEN = 64, 1e-5


def weight_of_mmd(given: float | None, of_two: float, n_conditions: int) -> float:
    """The weight of `mmd` that is given, or one that weighs on a cell as `of_two` does where there are two conditions.

    The penalty is a sum over n (n - 1) / 2 pairs, by which the latter is divided.
    """
    return of_two / max(1, n_conditions * (n_conditions - 1) // 2) if given is None else float(given)


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
        cells of one distribution is about 2 / n, and falls as they draw together whatever their conditions. A condition
        of one cell counts as absent: it has no pair of its own to estimate mean k(p, p') from.

    Returns
    -------
    Tensor []
        Conditions that the batch lacks contribute nothing. Differentiable once.
    """
    z, condition = share.everyone(z), share.everyone(condition)
    if not by_blocks_here(z):
        return share.whole(mmd_of_all_pairs(z, condition, sigmas, unbiased))
    return share.whole(in_one_pass(partial(_by_blocks, Groups(condition), sigmas, unbiased), z))


def _by_blocks(
    groups: Groups, sigmas: tuple[float, ...], unbiased: bool, wanted: tuple[bool, ...], z: Tensor
) -> tuple[Tensor, Gradients]:
    """Value, and gradient of z. A pair is looked at once: columns begin with the block's own rows."""
    pairs = _Pairs(z, groups, sigmas, unbiased, wanted[0])
    for block in pairs.blocks:
        pairs.add(block)
    value = pairs.value / len(sigmas)
    if not unbiased:  # every cell with itself, whose kernel is 1
        value += pairs.within.sum(dtype=torch.float64)
    value = value.to(z.dtype)
    if not any(wanted):
        return value, ()
    return value, (pairs.slope.mul_(2 / len(sigmas)).index_select(0, groups.place),)


class _Matrices(NamedTuple):
    """Of pairs of cells: squared distances, sums of kernels and of their slopes, memory for one kernel; one shape."""

    squared: Tensor
    kernel: Tensor
    slope: Tensor
    one: Tensor

    @classmethod
    def of(cls, squared: Tensor) -> _Matrices:
        """Without any kernels yet."""
        return cls(squared, torch.zeros_like(squared), torch.zeros_like(squared), torch.empty_like(squared))

    def add(self, kernels: list[tuple[float, bool]], gradient: bool) -> None:
        """Add kernels as `_halving` gives them."""
        for sigma, from_double in kernels:
            # the square of the kernel twice as wide, or a power of two: see blocks.exponentials
            self.one.square_() if from_double else torch.mul(self.squared, -0.5 * BITS / sigma, out=self.one).exp2_()
            self.kernel.add_(self.one)
            if gradient:
                self.slope.add_(self.one, alpha=-0.5 / sigma)


class _Pairs:
    """Sums over pairs of the kernels, each with its weight, and of what they pass back.

    The sum over pairs of conditions of S_aa + S_bb - 2 S_ab, S being the means over blocks, is present * trace(S) -
    sum(S). So a pair within a condition weighs (present - 1) / pairs of that condition, another -1 / (n_a n_b), and
    all those of a condition that does not count 0.

    Attributes
    ----------
    value : Tensor [], float64
        Sum over all i != j of w_ij sum_sigma exp(-|z_i - z_j|^2 / (2 sigma)): what is within conditions and what is
        between them nearly cancel.
    slope : Tensor [B, p]
        Half its gradient, of sorted cells. With g_ij = 2 w_ij times the kernel's slope it is z_i sum_j g_ij -
        sum_j g_ij z_j.
    """

    def __init__(self, z: Tensor, groups: Groups, sigmas: tuple[float, ...], unbiased: bool, gradient: bool) -> None:
        self.groups, self.gradient = groups, gradient
        self.narrow, self.wide = (_halving(s for s in sigmas if (s < NARROW) == narrow) for narrow in (True, False))
        self.narrowest, widest = min(sigmas), max((sigma for sigma, _ in self.narrow), default=0)
        self.limit = 2 * NEGLIGIBLE * widest
        self.given = z
        self.z = z.index_select(0, groups.order).sub_(z.mean(0))  # keeps the expanded square exact
        self.norm = self.z.square().sum(1)
        self.rounding = ROUNDINGS * torch.finfo(z.dtype).eps
        self.unsure = (2 * self.rounding * self.norm.max()).clamp(max=2 * SLIGHT * widest)
        one = 2 * torch.finfo(z.dtype).eps * float(self.norm.max())
        seen = one > SEEN * min((sigma for sigma, _ in self.wide), default=widest)
        self.blurred = BLURRED * one if seen else 0.0
        size, counts = groups.size.to(z.dtype), groups.size >= _fewest(unbiased)
        pairs = size * (size - 1).clamp(min=1) if unbiased else size.square()
        present = int((groups.counts >= _fewest(unbiased)).sum())
        self.share, self.within = counts / size, counts * (present - 1) / pairs
        self.value, self.slope = z.new_zeros((), dtype=torch.float64), torch.zeros_like(z)
        self.blocks = groups.blocks(PORTION)
        self.scratch = Scratch(self.blocks, len(z), z)

    def add(self, block: Block) -> None:
        """The pairs of a block's rows with themselves and with all rows behind them."""
        n, shape = block.size, (block.size, len(self.z) - block.rows.start)
        rows, columns = self.z[block.rows], self.z[block.rows.start :]
        found = _Matrices(*(self.scratch(name, *shape) for name in _Matrices._fields))
        torch.addmm(self.norm[block.rows.start :], rows, columns.T, alpha=-2, out=found.squared)
        found.squared.add_(self.norm[block.rows, None]).clamp_(min=0)
        found.squared.diagonal().fill_(torch.inf)  # a cell with itself is not one of these pairs
        if self.blurred and found.squared.amin() < self.blurred:
            self.sharpen(block, found.squared)
        found.kernel.zero_(), found.slope.zero_()
        weight = self.weights(block, self.scratch("weight", *shape))
        found.add(self.wide, self.gradient)
        if self.narrow:
            self.add_narrow(block, found, weight)
        by_row = found.kernel.mul_(weight).sum(1) - 0.5 * found.kernel[:, :n].sum(1)
        self.value += by_row.sum(dtype=torch.float64)
        if self.gradient:
            slope, rest = found.slope.mul_(weight), found.slope[:, n:]
            own, behind = self.slope[block.rows], self.slope[block.rows.stop :]
            own.addcmul_(slope.sum(1, keepdim=True), rows).addmm_(slope, columns, alpha=-1)
            behind.addcmul_(rest.sum(0)[:, None], columns[n:]).addmm_(rest.T, rows, alpha=-1)

    def weights(self, block: Block, out: Tensor) -> Tensor:
        """2 w_ij, [R, n]."""
        block = block._replace(columns=slice(block.rows.start, block.columns.stop))
        torch.mul(-2 * self.share[block.rows, None], self.share[block.rows.start :], out=out)
        own, within = out[:, : block.width], 2 * self.within[block.rows, None]
        if block.one_group:
            own.copy_(within.expand_as(own))
        else:
            strange = self.groups.strangers(block, own)
            own.mul_(strange).addcmul_(strange.sub_(1), within, value=-1)
        return out

    def differences(self, block: Block, at: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of pairs by their places in the flattened [R, n]: both cells, and their difference [pairs, p]."""
        i, j = at // n + block.rows.start, at % n + block.rows.start
        # of the cells as given, since centring rounds
        return i, j, self.given[self.groups.order[i]] - self.given[self.groups.order[j]]

    def sharpen(self, block: Block, squared: Tensor) -> None:
        """Compute squared distances that are rounding and nothing else from the differences."""
        flat = squared.view(-1)
        for at in (flat < self.blurred).nonzero()[:, 0].split(AT_ONCE):
            flat[at] = self.differences(block, at, squared.shape[1])[2].square().sum(1)

    def add_narrow(self, block: Block, found: _Matrices, weight: Tensor) -> None:
        """Add the narrow kernels, which mostly are 0 but for the few pairs of cells that nearly coincide."""
        least = found.squared.amin()  # a NaN is never above a limit, and has to show
        if least >= self.limit:
            return
        if not least >= self.unsure:
            self.add_coinciding(block, found, weight)
        near = ~(found.squared >= self.limit)
        if MANY * near.count_nonzero() > near.numel():
            return found.add(self.narrow, self.gradient)
        near = near.view(-1).nonzero()[:, 0]
        some = _Matrices.of(found.squared.view(-1)[near])
        some.add(self.narrow, self.gradient)
        found.kernel.view(-1)[near] += some.kernel
        found.slope.view(-1)[near] += some.slope

    def add_coinciding(self, block: Block, found: _Matrices, weight: Tensor) -> None:
        """Add the narrow kernels of pairs whose squared distance is mostly rounding, and drop these distances."""
        squared, n = found.squared.view(-1), found.squared.shape[1]
        pairs = (squared < self.unsure).nonzero()[:, 0]
        for at in pairs.split(AT_ONCE):
            i, j = at // n + block.rows.start, at % n + block.rows.start
            unsure = self.rounding * (self.norm[i] + self.norm[j])
            doubtful = (squared[at] < unsure) & (unsure > self.narrowest)
            at = at[doubtful]
            i, j, difference = self.differences(block, at, n)
            some = _Matrices.of(difference.square().sum(1))
            some.add(self.narrow, self.gradient)
            found.kernel.view(-1)[at] += some.kernel
            difference *= (some.slope * weight.view(-1)[at])[:, None]
            behind = j >= block.rows.stop
            self.slope.index_add_(0, i, difference)
            self.slope.index_add_(0, j[behind], difference[behind], alpha=-1)
            squared[at] = torch.inf


def _fewest(unbiased: bool) -> int:
    """Cells of a condition, below which it counts as absent."""
    return 2 if unbiased else 1


def _halving(sigmas: Iterable[float]) -> list[tuple[float, bool]]:
    """The same numbers, a half right behind its double where there are both, which is then said of it."""
    left, order = sorted(sigmas), []
    while left:
        sigma = left.pop()
        order.append((sigma, False))
        while sigma / 2 in left:
            sigma /= 2
            left.remove(sigma)
            order.append((sigma, True))
    return order


def mmd_of_all_pairs(
    z: Tensor, condition: Tensor, sigmas: tuple[float, ...] = MULTI_SCALE, unbiased: bool = False
) -> Tensor:
    """The same of tensors [B, B], for any device."""
    size = torch.bincount(condition)
    n = size[condition].to(z.dtype)
    # sum over pairs of (S_aa + S_bb - 2 S_ab) = present * trace(S) - sum(S), S the means over blocks
    same, counts = condition[:, None] == condition, n >= _fewest(unbiased)
    pairs = n[:, None] * n
    if unbiased:
        pairs = torch.where(same, (pairs - n).clamp(min=1), pairs)
    weights = ((size >= _fewest(unbiased)).sum() * same - 1) / pairs * (counts[:, None] & counts)
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
        # from the differences: cells that are alike are at 0 exactly, where the narrowest kernels would see a rounding
        squared = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square_()
        z = z - z.mean(0)  # keeps the gradient's product exact
        total, slope = weights.new_zeros(()), torch.zeros_like(squared)
        for sigma in sigmas:
            kernel = (squared * (-0.5 / sigma)).exp_()
            total += torch.dot(kernel.view(-1), weights.reshape(-1))
            slope.add_(kernel, alpha=-0.5 / sigma)
        slope.masked_fill_(squared == 0, 0)  # nor do they draw each other, and no cell draws itself
        ctx.save_for_backward(z, slope.mul_(weights).div_(len(sigmas)))
        return total / len(sigmas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, g = ctx.saved_tensors
        return 4 * grad * (g.sum(1, keepdim=True) * z - g @ z), None, None
