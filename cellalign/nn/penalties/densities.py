"""log q(z_i | x_j) of pairs of cells: of all at once, and of blocks of rows with what they pass back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cellalign.nn.penalties.blocks import Block, Gradients, Groups

BITS = 1 / math.log(2)  # in a nat


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


class Densities:
    """log2 q(z_i | x_j) by blocks of rows: a product of what is known of i and of j, and an offset of j.

    What depends on i alone is left out, -|z_i|^2 / (2 sd^2) of a shared sd: it cancels between two mixtures. Hence the
    weights that a row passes back have to add up to 0. Rows and columns are of sorted cells; columns go round: number
    B + j is cell j again, so that the cells not of a group, too, are one range.

    Parameters
    ----------
    z, mean : Tensor [B, p]
    sd : Tensor [] or [B, p]
    groups : Groups
        By which they are sorted.
    """

    def __init__(self, z: Tensor, mean: Tensor, sd: Tensor, groups: Groups) -> None:
        centre = mean.mean(0)  # as above
        self.groups, self.n, order = groups, len(z), groups.order
        self.z, self.mean = z.index_select(0, order) - centre, mean.index_select(0, order) - centre
        self.sd = sd if sd.dim() == 0 else sd.index_select(0, order)
        self.precision = self.sd.square().reciprocal()
        natural = self.mean * self.precision
        offset = -0.5 * (natural * self.mean).sum(1)
        self.features = self.z
        if sd.dim():
            self.features = torch.cat([self.z, self.z.square()], 1)
            natural = torch.cat([natural, -0.5 * self.precision], 1)
            offset = offset - self.sd.log().sum(1)
        self.natural = torch.cat([natural, natural]).mul_(BITS)
        self.offset = torch.cat([offset, offset]).mul_(BITS)
        # gradients of the features [B, k], transposed of the natural parameters [k, 2 B], and of the offset [2 B]
        self.by_features = torch.empty_like(self.features)
        self.by_natural = natural.new_zeros(natural.shape[1], 2 * self.n)
        self.by_offset = torch.zeros_like(self.offset)

    def scores(self, block: Block, out: Tensor) -> Tensor:
        """In bits, of the block's rows and so many columns as `out` [R, n] has, from the block's first on."""
        columns = slice(block.columns.start, block.columns.start + out.shape[1])
        return torch.addmm(self.offset[columns], self.features[block.rows], self.natural[columns].T, out=out)

    def pass_back(self, weight: Tensor, block: Block) -> None:
        """Take the gradient [R, n] of these scores, in nats."""
        columns = slice(block.columns.start, block.columns.start + weight.shape[1])
        # given where to write, products stay in float32 under autocast
        torch.mm(weight, self.natural[columns], out=self.by_features[block.rows])
        self.by_natural[:, columns].addmm_(self.features[block.rows].T, weight)
        self.by_offset[columns] += weight.sum(0)

    def gradients(self, wanted: tuple[bool, ...]) -> Gradients:
        """Of z, mean and sd, cells in the order they were given in."""
        z, mean, sd, precision, n = self.z, self.mean, self.sd, self.precision, self.n
        p = z.shape[1]
        by_z = self.by_features[:, :p]
        by_natural = (self.by_natural[:, :n] + self.by_natural[:, n:]).T.contiguous()
        by_offset = (self.by_offset[:n] + self.by_offset[n:])[:, None]
        pulled = by_natural[:, :p] - by_offset * mean
        by_mean, by_sd = pulled * precision, None
        if sd.dim():
            by_z = by_z.addcmul(z, self.by_features[:, p:], value=2)
            square = by_natural[:, p:] - mean * (by_natural[:, :p] + pulled)
            by_sd = self._as_given((square * precision - by_offset) / sd)
        elif wanted[2]:
            by_sd = ((by_offset * mean.square()).sum() * precision - 2 / BITS * (z * by_z).sum()) / sd
        return self._as_given(by_z.div(BITS)), self._as_given(by_mean), by_sd

    def _as_given(self, values: Tensor) -> Tensor:
        return values.index_select(0, self.groups.place)
