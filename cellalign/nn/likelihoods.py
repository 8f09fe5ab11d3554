"""Likelihoods as the decoder's last layer: from its hidden units to the distribution p(x | z).

A new one is a class here, its name in `LikelihoodName` and `LIKELIHOODS`, and where its distribution is new too, that
class beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn.distributions import Distribution, NegativeBinomial, Normal, Point, ZeroInflatedNegativeBinomial
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.networks import ScaledParameter
from cellalign.nn.products import Linear, rounded

LikelihoodName = Literal["gaussian", "mse", "nb", "zinb"]


class Likelihood(nn.Module):
    """What all are: a module from hidden units [..., B, H] to a `Distribution` [..., B, G].

    Attributes
    ----------
    expression : {"log", "counts"}
        What it is of: normalised log1p expression, or raw counts.
    """

    expression: ClassVar[Literal["log", "counts"]] = "log"

    def forward(self, h: Tensor, batch: Minibatch) -> Distribution:
        """p(x | z)."""
        raise NotImplementedError

    def of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Distribution:
        """One p(x) for all cells, of the genes' means and variances [G]."""
        raise NotImplementedError


class Gaussian(Likelihood):
    """N(m_g(h), s(h)) with one standard deviation per cell, s = 0.01 + softplus (CoMP appendix D)."""

    def __init__(self, n_hidden: int, n_genes: int, *, given: bool = False) -> None:
        super().__init__()
        self.to_mean = nn.Identity() if given else Linear(n_hidden, n_genes)
        self.to_scale = nn.Linear(n_hidden, 1)

    def forward(self, h: Tensor, batch: Minibatch) -> Distribution:
        """A normal of every gene."""
        return Normal(rounded(self.to_mean, h), 0.01 + F.softplus(self.to_scale(h)))

    def of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Distribution:
        """The best there is with one standard deviation for all genes."""
        cells = len(batch)
        return Normal(mean.expand(cells, -1), 0.01 + variance.mean().sqrt().expand(cells, 1))


class SquaredError(Likelihood):
    """A ReLU output judged by half its squared error, summed over genes (trVAE and scGen).

    Of values that may be negative the output is linear, as a ReLU could not give them.
    """

    def __init__(self, n_hidden: int, n_genes: int, *, given: bool = False, signed: bool = False) -> None:
        super().__init__()
        self.to_mean = nn.Identity() if given else Linear(n_hidden, n_genes)
        self.signed = signed

    def forward(self, h: Tensor, batch: Minibatch) -> Distribution:
        """A mean without a spread; not negative unless the values may be."""
        mean = rounded(self.to_mean, h)
        return Point(mean if self.signed else F.relu(mean))

    def of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Distribution:
        """The means."""
        return Point(mean.expand(len(batch), -1))


class Counts(Likelihood):
    """NB(l rho_g(h), theta_g), rho a softmax over genes, l the observed library size (sVAE+ section 3.2).

    Zero-inflated, each gene also has a dropout logit (Lopez et al. 2018).
    """

    expression = "counts"

    def __init__(self, n_hidden: int, n_genes: int, *, zero_inflated: bool = False) -> None:
        super().__init__()
        self.to_logits = Linear(n_hidden, n_genes)
        self.log_theta = ScaledParameter(torch.zeros(n_genes))
        self.to_dropout = Linear(n_hidden, n_genes) if zero_inflated else None

    def forward(self, h: Tensor, batch: Minibatch) -> Distribution:
        """NB or zero-inflated NB; a cell without a single count is taken to have one."""
        counts = NegativeBinomial(rounded(self.to_logits, h), batch.library_size.clamp(min=1), self.log_theta())
        return counts if self.to_dropout is None else ZeroInflatedNegativeBinomial(counts, rounded(self.to_dropout, h))

    def of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Distribution:
        """The genes' shares of all counts, with the dispersion of an untrained model."""
        shares = (mean / mean.sum()).clamp(min=1e-8).log().expand(len(batch), -1)
        return NegativeBinomial(shares, batch.library_size.clamp(min=1), torch.zeros_like(mean))


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "gaussian": Gaussian,
    "mse": SquaredError,
    "nb": Counts,
    "zinb": partial(Counts, zero_inflated=True),
}
OF_COUNTS = frozenset({"nb", "zinb"})


def make_likelihood(
    name: LikelihoodName, n_hidden: int, n_genes: int, given: bool = False, *, signed: bool = False
) -> Likelihood:
    """The likelihood of that name, of values that may be negative where `signed`.

    `given`, the hidden units are the means of the genes (not of counts).
    """
    more = ({"given": True} if given else {}) | ({"signed": True} if signed and name == "mse" else {})
    return LIKELIHOODS[name](n_hidden, n_genes, **more)
