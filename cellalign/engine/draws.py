"""Drawn cells of log expression: a real cell that gains or loses counts, in the mean as many as is predicted of it.

Added to a cell, a predicted change leaves no zeros where a gene rises, and a rank test then finds each gene that rises
by a thousandth. Real cells change by counts: where a gene rises a few more cells have one of it, where it falls a few
fewer. So a drawn cell is a real one to whose counts a Poisson number is added, or of which each count is kept with some
probability (binomial thinning); how many, or how probably, is what moves the mean of that cell's log expression by its
change. The size of one count in a cell is its smallest expression that is not zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellalign.methods.base import Method, Minibatch

MOVED_TOGETHER = 2**23  # values: each takes some fifty bytes while it is moved
TOGETHER = 24  # cells at most of a leaf, within which draws exchange what the model does not explain
BINS = 8  # of a number, within which cells are of one group
COUNT = 1e-3  # of a count, that a rounding may take from it
FEW = 40  # counts up to which thinning is tabulated
SELDOM = 0.1  # a count that is kept by less than this is of a Poisson number, as good as
MOST_NEAR = 50  # cells that are near to one, a tenth of all at most
NEARLY = 1.5  # times as far as these may be what changes places
SIZES = (-7.0, 9.0, 97)  # log of a count, as a part of what a cell has and 1: first, last and number of points
RISES = (-12.0, 3.0, 121)  # log of a rise
SHARES = 65  # parts of its expression that a gene keeps


def alike(method: Method, batch: Minibatch) -> Iterator[Minibatch]:
    """The cells of a batch themselves, then again and again others of their groups that are like them."""
    yield batch
    z, groups = method.embedding(batch), groups_of(batch.columns, len(batch), batch.device)
    near = how_near(z)
    while True:
        yield batch.taken(exchanged(z, leaves(z, groups), near).to(batch.device))


def leaves(z: Tensor, groups: Tensor) -> Tensor:
    """Cells [B] of one group, halved along random directions until few are together: many of them are near each other.

    Parameters
    ----------
    z : Tensor [B, p]
        What is near in it is near.
    groups : Tensor [B, F]
        Cells of the same row are of one group.

    Returns
    -------
    Tensor [B], int64
        On the CPU.
    """
    z, leaf = z.float().cpu(), torch.unique(groups.cpu(), dim=0, return_inverse=True)[1].reshape(-1)
    while len(leaf) and int(leaf.bincount().max()) > TOGETHER:
        _, rank, size = _ranked(leaf, z @ torch.randn(z.shape[1]))
        leaf = 2 * leaf + ((2 * rank >= size) & (size > TOGETHER)).long()
        leaf = torch.unique(leaf, return_inverse=True)[1]
    return leaf


def how_near(z: Tensor) -> Tensor:
    """How far from each cell, of z [B, p], what changes places with it may be, [B]: about as its nearest are."""
    z, n = z.float().cpu(), len(z)
    if n < 4:  # there are no others to be nearer than
        return z.new_zeros(n)
    return NEARLY * torch.cdist(z, z).kthvalue(1 + min(MOST_NEAR, max(1, n // 10)), dim=1).values


def exchanged(z: Tensor, leaf: Tensor, near: Tensor) -> Tensor:
    """For each cell [B] another one of its leaf; each is taken once, so that all means stay.

    In pairs they change places, if each is as near to the other as `how_near` says; the others stay. (Of the nearest
    neighbours, one drawn at random would be one that is near to many: their mean is another.)
    """
    z, chosen = z.float().cpu(), torch.arange(len(leaf))
    order, rank, size = _ranked(leaf, z @ torch.randn(z.shape[1]))
    at = ((rank % 2 == 0) & (rank + 1 < size))[order].nonzero()[:, 0]
    first, other = order[at], order[at + 1]
    alike = (z[first] - z[other]).norm(dim=1) <= torch.minimum(near[first], near[other])
    first, other = first[alike], other[alike]
    chosen[first], chosen[other] = other, first
    return chosen


def groups_of(columns: Sequence[Tensor], n: int, device: torch.device) -> Tensor:
    """Codes [n, F] of cells that are of one kind where they are the same: categories, and numbers in a few steps."""
    codes = [torch.zeros(n, dtype=torch.int64, device=device)]
    for column in columns:
        if column.dim() == 2:
            codes += list((column != 0).long().T)
        elif column.is_floating_point():  # by rank, so that cells of one number are in one step
            codes.append(torch.searchsorted(column.sort().values, column) * BINS // max(1, n))
        else:
            codes.append(column.long())
    return torch.stack(codes, 1)


def _ranked(leaf: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells [B], leaf by leaf, by their values; of each its rank within its leaf, from 0, and how many are in it."""
    order, size = values.argsort(), leaf.bincount()
    order = order[leaf[order].argsort(stable=True)]
    rank = torch.empty_like(leaf)
    rank[order] = torch.arange(len(leaf)) - (size.cumsum(0) - size)[leaf[order]]
    return order, rank, size[leaf]


def unit(x: Tensor) -> Tensor:
    """Expression of one count in each cell [B, 1] on the scale of expm1: its smallest that is not zero; 1 of none."""
    least = torch.where(x > 0, x, torch.inf).amin(1, keepdim=True)
    return torch.where(least.isfinite(), least, torch.ones_like(least).log1p()).expm1()


def moved(x: Tensor, change: Tensor) -> Tensor:
    """Cells [B, G] of log expression that gain and lose counts, each in the mean over draws by its `change` [B, G].

    What would fall below 0 is 0. A change that is not finite makes what it changes so.
    """
    if x.device.type == "mps":  # which draws neither Poisson nor binomial numbers
        return moved(x.cpu(), change.cpu()).to(x.device)
    if len(x) > (rows := max(1, MOVED_TOGETHER // max(1, x.shape[1]))):
        return torch.cat([moved(*part) for part in zip(x.split(rows), change.split(rows), strict=True)])
    one = unit(x).expand_as(x)
    known = change.isfinite()
    found = torch.where(known, x, change)
    gains = (change > 0) & known
    if bool(gains.any()):
        level, size = x[gains].expm1(), one[gains]
        found[gains] = (level + size * torch.poisson(gaining(size / (1 + level), change[gains]))).log1p()
    losing = (change < 0) & (x > 0) & known  # few: most counts are 0
    if bool(losing.any()):
        own, size = x[losing], one[losing]
        counts = own.expm1() / size
        share = keeping(counts, size, (1 + change[losing] / own).clamp(min=0))
        whole = (counts + COUNT).floor()  # of values that are no counts what is over falls by its share
        found[losing] = (size * (torch.binomial(whole, share) + share * (counts - whole)).clamp(min=0)).log1p()
    return found


def gaining(size: Tensor, rise: Tensor) -> Tensor:
    """Rate of the Poisson number K of which log(1 + size K) has the mean `rise`; all [n]."""
    table, steps = _rates().to(size), (_Steps(*SIZES), _Steps(*RISES))
    (i, a), (j, b) = (axis.at(values.log()) for axis, values in zip(steps, (size, rise), strict=True))
    log_ratio = _between(table, i, a, j, b)
    return log_ratio.exp() * rise / size.log1p()


def keeping(counts: Tensor, size: Tensor, part: Tensor) -> Tensor:
    """Probability to keep a count, so that the mean of log(1 + size K) is a part of log(1 + size counts); all [n]."""
    few = counts.round().clamp(1, FEW).long() - 1
    steps = _Steps(*SIZES)
    (i, a), (j, b) = steps.at(size.log()), _Steps(0.0, 1.0, SHARES).at(part)
    tabulated = _between(_kept().to(size), i, a, j, b, few)
    return torch.where(counts.round() <= FEW, tabulated, _of_many(counts, size, part)).clamp(0, 1)


def _of_many(counts: Tensor, size: Tensor, part: Tensor) -> Tensor:
    """The same of many counts, of which few are kept, or so many that E log(1 + m) follows from mean and variance."""
    wanted = part * (size * counts).log1p()
    share = wanted.expm1() / (size * counts)
    for _ in range(3):
        mean = size * counts * share
        spread = size * (1 - share) * mean / (2 * (1 + mean).square())
        share = ((wanted + spread).expm1() / (size * counts)).clamp(0, 1)
    seldom = gaining(size, wanted.clamp(min=1e-6)) / counts
    return torch.where(part > 0, torch.where(seldom < SELDOM, seldom, share), 0.0)


class _Steps(NamedTuple):
    """Equal steps of a table's axis."""

    first: float
    last: float
    n: int

    def at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of values the step they are in, and how far; those beyond the ends are at these."""
        place = ((values - self.first) * ((self.n - 1) / (self.last - self.first))).clamp(0, self.n - 1)
        step = place.floor().clamp(max=self.n - 2)
        return step.long(), place - step

    def points(self) -> np.ndarray:
        return np.linspace(self.first, self.last, self.n)


def _between(table: Tensor, i: Tensor, a: Tensor, j: Tensor, b: Tensor, k: Tensor | None = None) -> Tensor:
    """Values of a table [(K,) N, M] between its points."""
    rows = i if k is None else k * table.shape[-2] + i
    flat, width = table.reshape(-1), table.shape[-1]
    low, high = (flat[at] + b * (flat[at + 1] - flat[at]) for at in (rows * width + j, (rows + 1) * width + j))
    return low + a * (high - low)


@cache
def _rates() -> Tensor:
    """log of rate log(1 + size) / rise, [sizes, rises]: 0 of small rises."""
    from scipy.special import gammaln, xlogy

    sizes, rises = np.exp(_Steps(*SIZES).points()), _Steps(*RISES).points()
    rates = np.exp(np.linspace(-22, 12, 341))
    small = rates < 400
    k = np.arange(700)
    log_of = np.log1p(sizes[:, None] * k)
    mean = np.empty((len(sizes), len(rates)))
    chance = np.exp(xlogy(k[:, None], rates[small]) - rates[small] - gammaln(k + 1)[:, None])
    mean[:, small] = log_of @ chance
    many = rates[~small]
    at = sizes[:, None] * many
    mean[:, ~small] = np.log1p(at) - sizes[:, None] * at / (2 * (1 + at) ** 2)
    found = [np.interp(rises, np.log(own), np.log(rates)) for own in mean]
    return torch.from_numpy(np.array(found) + np.log(np.log1p(sizes))[:, None] - rises)


@cache
def _kept() -> Tensor:
    """Probability to keep a count of 1, ..., FEW, [FEW, sizes, parts]."""
    from scipy.special import comb, xlog1py, xlogy

    sizes, parts = np.exp(_Steps(*SIZES).points()), np.linspace(0, 1, SHARES)
    shares = np.linspace(0, 1, 401) ** 2
    found = np.empty((FEW, len(sizes), SHARES))
    for n in range(1, FEW + 1):
        k = np.arange(n + 1)
        log_of = np.log1p(sizes[:, None] * k)
        chance = comb(n, k)[:, None] * np.exp(xlogy(k[:, None], shares) + xlog1py((n - k)[:, None], -shares))
        mean = log_of @ chance
        found[n - 1] = [np.interp(parts, own / own[-1], shares) for own in mean]
    return torch.from_numpy(found)
