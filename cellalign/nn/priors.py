"""Priors of z given covariates: a normal, and an exponential family whose normaliser is not known.

    log p~(z | d) = <T(z), L(d)> + <[z, z^2], L_f(d)>                                      (inVAE appendix E)

T, L and L_f are networks. The first product lets latents depend on each other; without it the family factorises.
Such a density is fitted by score matching (Hyvarinen 2005), which needs its first derivatives and the diagonal of its
Hessian but no normaliser. Both are carried forward through T, one coordinate of z beside the other, so that fitting is
one backward pass and not p of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn import share
from cellalign.nn.distributions import LOG_2PI, sd_of

UNIT = math.log(math.e - 1)  # softplus of it is 1


class ContextNetwork(nn.Module):
    """A network of the context alone, one hidden layer; without any context its output is a parameter."""

    def __init__(self, n_context: int, n_out: int, hidden: int = 64) -> None:
        super().__init__()
        # the constant lets an empty context through
        self.first, self.last = nn.Linear(n_context + 1, hidden), nn.Linear(hidden, n_out)

    def forward(self, context: Tensor) -> Tensor:
        """[B, n_context] -> [B, n_out]."""
        return self.last(F.relu(self.first(F.pad(context, (1, 0), value=1.0))))


class NormalPrior(nn.Module):
    """N(m(d), s(d)), one sd per latent.

    Attributes
    ----------
    of_context : tuple of str
        Its networks of the context.

    Parameters
    ----------
    centred : bool
        m is fixed at 0.
    apart : float
        Standard deviation of m over contexts at the start, about.
    """

    of_context = ("network",)

    def __init__(self, n_latent: int, n_context: int, *, centred: bool = False, apart: float = 0.0) -> None:
        super().__init__()
        self.n_latent, self.centred = n_latent, centred
        self.network = ContextNetwork(n_context, n_latent * (1 if centred else 2))
        if apart and n_context and not centred:
            contexts = torch.cat([torch.zeros(1, n_context), torch.eye(n_context)])
            with torch.no_grad():
                spread = self.network(contexts)[:, :n_latent].std(0)
                self.network.last.weight[:n_latent] *= (apart / spread.clamp(min=1e-3))[:, None]

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, p] under the context [B, n_context]."""
        *mean, log_variance = self.network(context).split(self.n_latent, 1)
        sd = sd_of(log_variance, 1e-4)
        return mean[0] if mean else torch.zeros_like(sd), sd

    def kl(self, mean: Tensor, sd: Tensor, context: Tensor) -> Tensor:
        """KL of N(mean, sd) [B, p] to the prior, summed over latents: [B]."""
        centre, width = self(context)
        ratio = sd / width
        return (0.5 * (((mean - centre) / width).square() + ratio.square() - 1) - ratio.log()).sum(1)


class ExponentialFamilyPrior(nn.Module):
    """The unnormalised density of inVAE eq. 5 and appendix E.

    T has softplus units: with ReLU its second derivatives, of which score matching lives, would be zero wherever they
    exist. The coefficients of z^2 are negative, so that the density can be normalised.

    Parameters
    ----------
    n_latent, n_context : int
    hidden : sequence of int
        Widths of T; its last layer gives `n_statistics`.
    """

    of_context = ("weights", "natural")

    def __init__(
        self, n_latent: int, n_context: int, *, hidden: Sequence[int] = (64, 64), n_statistics: int = 32
    ) -> None:
        super().__init__()
        widths = [n_latent, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.statistics = nn.Linear(widths[-1], n_statistics, bias=False)  # a bias would only change the normaliser
        self.weights = ContextNetwork(n_context, n_statistics)
        self.natural = ContextNetwork(n_context, 2 * n_latent)
        with torch.no_grad():  # at the start the standard normal, for every d
            for network in (self.weights, self.natural):
                network.last.weight.mul_(0.01)
                network.last.bias.zero_()
            self.natural.last.bias[n_latent:] = UNIT

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """log p~(z | d) [B] of z [B, p] under context [B, n_context]."""
        h = z
        for layer in self.layers:
            h = F.softplus(layer(h))
        linear, square = self._natural(context)
        return (self.statistics(h) * self.weights(context)).sum(1) + (linear * z + square * z.square()).sum(1)

    def derivatives(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """d log p~ / dz_j and d2 log p~ / dz_j^2, [B, p] each: the second is the diagonal of the Hessian."""
        h: Tensor = z
        first = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)  # [B, p, units]
        second = torch.zeros_like(first)
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            h = layer(h)
            first, second = first @ layer.weight.T, second @ layer.weight.T
            slope = torch.sigmoid(h)[:, None]
            second = slope * (1 - slope) * first.square() + slope * second
            first, h = slope * first, F.softplus(h)
        along = (self.weights(context) @ self.statistics.weight)[:, :, None]
        linear, square = self._natural(context)
        return (first @ along)[..., 0] + linear + 2 * square * z, (second @ along)[..., 0] + 2 * square

    def score_matching(self, z: Tensor, context: Tensor, regularisation: float = 0.0) -> Tensor:
        """Objective whose minimum over this prior's parameters fits it to the z given (inVAE eq. 9 and 18).

        Parameters
        ----------
        z : Tensor [B, p]
            Draws; no gradient flows into them.
        regularisation : float
            Weight of the squared second derivatives (appendix C).

        Returns
        -------
        Tensor []
            Mean over the batch of sum_j d2_j + d1_j^2 / 2 + regularisation d2_j^2.
        """
        first, second = self.derivatives(z.detach(), context)
        return share.mean((second + 0.5 * first.square() + regularisation * second.square()).sum(1))

    def kl(self, z: Tensor, sd: Tensor, context: Tensor) -> Tensor:
        """E log q - log p~(z | d) but for the log normaliser, [B], this prior's parameters held fixed.

        Parameters
        ----------
        z, sd : Tensor [B, p]
            A draw of the posterior, and its standard deviation.
        """
        frozen = {name: value.detach() for name, value in self.named_parameters()}
        entropy = (sd.log() + 0.5 * (1 + LOG_2PI)).sum(1)
        return -entropy - torch.func.functional_call(self, frozen, (z, context))

    def _natural(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of z and of z^2, [B, p] each."""
        linear, square = self.natural(context).chunk(2, 1)
        return linear, -0.5 * F.softplus(square)
