"""Negative binomial and zero-inflated negative binomial likelihoods that read the stored nonzeros only.

With mean m, inverse dispersion t and u = log m - log t, the negative log-likelihood of one count x is

    t softplus(u) + x softplus(-u) - [lgamma(x + t) - lgamma(t)] + lgamma(x + 1)

and of a zero just t softplus(u). So the dense work is one softplus per gene. The same is

    (t + x) softplus(u) - x log m + log x! - sum over k < x of log(1 + k / t)

where nothing large cancels while x is small: counts below 16, nearly all, can be looked up in a table per gene. Of
large ones lgamma and digamma are computed, in float64: at t = 1e6 and x = 1e7 their differences would have no correct
digit in float32. Value and gradient are written out, in `kernels.tensors` as tensor operations, in `kernels.likelihood`
compiled: that takes a quarter of the time on two cores. `kernels.ops` chooses.
"""

from __future__ import annotations

from torch import Tensor

from cellalign.nn.kernels.ops import count_nll
from cellalign.nn.kernels.tensors import exact
from cellalign.nn.sparse import SparseRows

__all__ = ["exact", "negative_binomial_nll", "zero_inflated_nll"]


def negative_binomial_nll(counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor) -> Tensor:
    """Negative log-likelihood of counts under NB(l rho, inverse dispersion theta), summed over genes.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Not negative.
    logits : Tensor [B, G]
        Their softmax over genes is rho, the expected share of each gene (sVAE+ section 3.2).
    library : Tensor [B, 1]
        l, the counts per cell, at least 1: observed, so it gets no gradient.
    log_theta : Tensor [G]
        log of the inverse dispersion: variance = mean + mean^2 / theta.

    Returns
    -------
    Tensor [B]
    """
    return count_nll(counts, logits, library, log_theta)


def zero_inflated_nll(
    counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Negative log-likelihood under a zero-inflated negative binomial (Lopez et al. 2018), summed over genes.

    A count is zero with probability sigmoid(dropout_logits), and NB otherwise.

    Parameters
    ----------
    counts : SparseRows [B, G]
        Zeros are not stored.
    logits, dropout_logits : Tensor [B, G]
    library, log_theta : Tensor [B, 1], Tensor [G]
        As above.

    Returns
    -------
    Tensor [B]
    """
    return count_nll(counts, logits, library, log_theta, dropout_logits)
