"""Drawn cells of log expression: a real cell that gains or loses counts until the mean has moved as predicted.

A predicted change is one of the mean. Added to every cell it leaves no zeros where a gene rises, and a rank test then
finds each gene that rises by a thousandth. Real cells change by counts: where a gene rises a few more cells have one
of it, where it falls a few fewer. So a drawn cell is a real one to whose counts a Poisson number is added, or from
which each count is kept with some probability (binomial thinning); how many, or how probably, follows for each gene
from the mean that is to be reached. The size of one count in a cell is its smallest expression that is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.methods.base import Method, Minibatch

NEIGHBOURS = 15  # among which a draw looks for what the model does not explain of a cell
POOL = 4096  # cells among which those neighbours are sought
CALIBRATED_BY = 256  # cells of the pool by which the effect of counts on the mean is known
FEW = 9  # counts up to which their number is summed over; above it is normal
GAINS, LOSSES = 48, 24  # points of the curves


@dataclass(frozen=True)
class Pool:
    """Cells from which draws take what the model does not explain: all, or of many some that are drawn once.

    Attributes
    ----------
    cells : Cells
    rows : Tensor [m], int64
        On the CPU.
    z : Tensor [m, p]
        Their embedding.
    """

    cells: Cells
    rows: Tensor
    z: Tensor

    @classmethod
    def of(cls, method: Method, cells: Cells, device: torch.device, seed: int) -> Pool:
        """Those of a data set, the same for every batch of it."""
        order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
        rows = order[:POOL].sort().values
        with torch.inference_mode():
            parts = [method.embedding(cells.batch(part.to(cells.device)).to(device)) for part in rows.split(1024)]
        return cls(cells, rows, torch.cat(parts))

    def alike(self, z: Tensor, rows: Tensor) -> Minibatch:
        """For each cell, of embedding z [B, p] and these rows, another one drawn among its nearest; itself if alone."""
        k = min(NEIGHBOURS, len(self.rows) - 1)
        if k < 1:
            chosen = rows
        else:
            distance = torch.cdist(z, self.z)
            distance.masked_fill_((self.rows == rows[:, None]).to(z.device), torch.inf)
            near = distance.topk(k, largest=False).indices
            chosen = self.rows[near.gather(1, torch.randint(k, (len(z), 1), device=z.device))[:, 0].cpu()]
        return self.cells.batch(chosen.to(self.cells.device)).to(z.device)

    @cached_property
    def counts(self) -> CountNoise:
        """How the means of these cells' genes follow their counts."""
        some = self.rows[torch.linspace(0, len(self.rows) - 1, min(CALIBRATED_BY, len(self.rows))).long()]
        return CountNoise.of(self.cells.batch(some.to(self.cells.device)).to(self.z.device).x)


def unit(x: Tensor) -> Tensor:
    """Expression of one count in each cell [B, 1] on the scale of expm1: its smallest that is not zero; 1 of none."""
    least = torch.where(x > 0, x, torch.inf).amin(1, keepdim=True)
    return torch.where(least.isfinite(), least, torch.ones_like(least).log1p()).expm1()


@dataclass(frozen=True)
class CountNoise:
    """How far the mean log expression of each gene moves when cells gain or lose counts.

    Attributes
    ----------
    gains : Tensor [S]
        What is added to a cell's expression on the scale of expm1, in the mean over draws.
    rises : Tensor [G, S]
        How far the mean log expression rises by it.
    kept : Tensor [R]
        Probability by which a count is kept, falling from 1 to 0.
    falls : Tensor [G, R]
        How far the mean falls.
    """

    gains: Tensor
    rises: Tensor
    kept: Tensor
    falls: Tensor

    @classmethod
    def of(cls, x: Tensor) -> CountNoise:
        """From some cells [n, G] of log expression."""
        steps = torch.logspace(-4, 5, GAINS - 1, dtype=torch.float64, device=x.device)
        gains = torch.cat([steps.new_zeros(1), steps]).to(x.dtype)
        kept = torch.linspace(1, 0, LOSSES, dtype=x.dtype, device=x.device)
        one, here = unit(x), x > 0
        cell = here.nonzero()[:, 0]
        level, own = x[here].expm1(), one[cell, 0]
        gene = here.nonzero()[:, 1]
        none = (~here).to(x.dtype)

        def per_gene(values: Tensor) -> Tensor:
            return x.new_zeros(x.shape[1]).index_add(0, gene, values)

        rises, falls = [], []
        for gain in gains:
            of_none = _mean_log(torch.zeros_like(one[:, 0]), one[:, 0], gain / one[:, 0])
            rises.append(of_none @ none + per_gene(_mean_log(level, own, gain / own) - level.log1p()))
        for share in kept:
            falls.append(per_gene(level.log1p() - _mean_log_kept(level, own, share)))
        return cls(gains, torch.stack(rises, 1) / len(x), kept, torch.stack(falls, 1) / len(x))

    def moved(self, x: Tensor, change: Tensor) -> Tensor:
        """Cells [B, G] of log expression of which the mean of each gene is changed by `change` [B, G]."""
        if x.device.type == "mps":  # which draws neither Poisson nor binomial numbers
            here = CountNoise(*(each.cpu() for each in (self.gains, self.rises, self.kept, self.falls)))
            return here.moved(x.cpu(), change.cpu()).to(x.device)
        one, level = unit(x), x.expm1()
        level = level + one * torch.poisson(_inverse(self.rises, self.gains, change.clamp(min=0)) / one)
        losing = (change < 0) & (x > 0)  # few: most counts are 0
        if bool(losing.any()):
            counts = (level / one)[losing]
            whole = (counts + torch.rand_like(counts)).floor()  # of values that are no counts, the mean is right
            share = _inverse(self.falls, self.kept, (-change).clamp(min=0))[losing].clamp(0, 1)
            level[losing] = torch.binomial(whole, share) * one.expand_as(level)[losing]
        return level.log1p()


def _inverse(rising: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """For each gene the value [B, G] at which its curve [G, S] is `at` [B, G], linear between the points."""
    curve, wanted = rising.contiguous(), at.T.contiguous()
    right = torch.searchsorted(curve, wanted).clamp(1, curve.shape[1] - 1)
    low, high = curve.gather(1, right - 1), curve.gather(1, right)
    part = ((wanted - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return (values[right - 1] + part * (values[right] - values[right - 1])).T


# Gauss and Hermite's three points of a standard normal, and their weights
POINTS = ((-(3.0**0.5), 1 / 6), (0.0, 2 / 3), (3.0**0.5, 1 / 6))


def _mean_log(level: Tensor, one: Tensor, rate: Tensor) -> Tensor:
    """Mean of log(1 + level + one K) over K of the Poisson distribution of a rate; all [n]."""
    term, few = (-rate).exp(), torch.zeros_like(level)
    for k in range(FEW + 1):
        few = few + term * (level + one * k).log1p()
        term = term * rate / (k + 1)
    many = sum(w * (level + one * (rate + p * rate.sqrt()).clamp(min=0)).log1p() for p, w in POINTS)
    return torch.where(rate <= FEW / 4, few, many)


def _mean_log_kept(level: Tensor, one: Tensor, share: Tensor) -> Tensor:
    """Mean of log(1 + one K) over K of the binomial distribution of level / one counts that are kept with a share."""
    n = (level / one).round()
    few, log_n = torch.zeros_like(level), torch.lgamma(n + 1)
    safe = share.clamp(1e-6, 1 - 1e-6)
    for k in range(1, FEW + 1):
        chosen = log_n - torch.lgamma((n - k).clamp(min=0) + 1) - torch.lgamma(torch.full_like(n, k + 1.0))
        chance = (chosen + k * safe.log() + (n - k).clamp(min=0) * (1 - safe).log()).exp()
        few = few + torch.where(n >= k, chance * (one * k).log1p(), 0.0)
    mean, spread = n * share, (n * share * (1 - share)).sqrt()
    many = sum(w * (one * (mean + p * spread).clamp(min=0)).log1p() for p, w in POINTS)
    return torch.where(n <= FEW, few, many)
