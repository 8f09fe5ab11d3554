"""Dependence between two blocks of latents: inVAE's total correlation (Aliee et al. 2023), and of normal variables.

Minibatch weighting tells nothing of more than a few latents: of 20 and 5, in batches of 512, every cell is all of its
own mixture, and independent blocks get 14.30 nats where blocks that share 2.86 get 14.28 (benchmarks/README.md).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cellalign.nn import share
from cellalign.nn.kernels.tensors import exact, has_float64
from cellalign.nn.penalties.blocks import NOTHING, Gradients, Groups, Scratch, by_blocks_here, exponentials, in_one_pass
from cellalign.nn.penalties.densities import BITS, Densities, pairwise_log_density

JITTER = 1e-10  # of a correlation matrix


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
        Mean over the batch, in nats. Differentiable once.
    """
    z, mean, sd = (share.everyone(rows) for rows in (z, mean, sd))
    domain = None if domain is None else share.everyone(domain)
    if not by_blocks_here(z):
        return share.whole(total_correlation_of_all_pairs(z, mean, sd, split, n_cells, domain))
    domain = torch.zeros(len(z), dtype=torch.int64) if domain is None else domain
    return share.whole(in_one_pass(partial(_by_blocks, Groups(domain), split, n_cells), z, mean, sd))


def gaussian_total_correlation(mean: Tensor, sd: Tensor, split: int, domain: Tensor | None = None) -> Tensor:
    """Dependence between two blocks of latents within domains, as if z were normal there with one covariance for all.

    (log det S_I + log det S_S - log det S) / 2, S the covariance of z within domains: that of the posterior means'
    residuals from their domain's mean, plus the mean posterior variances. In truth no less is shared, whatever the
    distribution: of all with this correlation the normal one has the least. Of n cells in d domains independent blocks
    get up to p_I p_S / (2 (n - d)) nats.

    Parameters
    ----------
    mean, sd : Tensor [B, p]
        Of the posteriors. Both are in it, not draws, so that no noise is, and S is never singular.
    split : int
        z_I are the first `split` dimensions.
    domain : Tensor [B], int64, optional
        Codes; without them all cells are of one domain. One with a single cell tells nothing.

    Returns
    -------
    Tensor []
        In nats.
    """
    mean, sd = share.everyone(mean), share.everyone(sd)
    domain = None if domain is None else share.everyone(domain)
    if len(mean) == 0:
        return (mean + sd).sum()
    with torch.autocast(mean.device.type, enabled=False):
        residual, freedom = _within(mean, domain)
        residual, sd = (exact(values) for values in (residual, sd))
        covariance = residual.T @ residual / freedom.clamp(min=1) + torch.diag(sd.square().mean(0))
        if not has_float64(mean.device):
            covariance = covariance.cpu().double()
        # as correlations, which share the same, so that latents of any scale are as exact
        scale = covariance.diagonal().clamp(min=1e-30).rsqrt()
        correlation = covariance * scale * scale[:, None] + JITTER * torch.eye(len(scale)).to(covariance)
        whole, second = (_log_pivots(c) for c in (correlation, correlation[split:, split:]))
        # the first pivots of S are those of S_I
        return share.whole((second.sum() - whole[split:].sum()).to(mean))


def _within(values: Tensor, domain: Tensor | None) -> tuple[Tensor, Tensor]:
    """Residuals [B, p] from the mean of each domain, and cells less domains []."""
    if domain is None:
        return values - values.mean(0), values.new_tensor(float(len(values) - 1))
    same = (domain[:, None] == domain).to(values.dtype)
    size = same.sum(1)
    return values - same @ values / size[:, None], len(values) - size.reciprocal().sum()


def _log_pivots(matrix: Tensor) -> Tensor:
    """Logs of the diagonal of a Cholesky factor, [p]: their sum is half the log determinant; NaN if none."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where(failed == 0, factor.diagonal(), torch.nan).log()


def _by_blocks(
    groups: Groups, split: int, n_cells: int, wanted: tuple[bool, ...], z: Tensor, mean: Tensor, sd: Tensor
) -> tuple[Tensor, Gradients]:
    """Value, and gradients of z, mean and sd."""
    n, blocks = len(z), groups.blocks()
    scratch = Scratch(blocks, max((block.width for block in blocks), default=0), z)
    latents = slice(None, split), slice(split, None)
    both = [Densities(z[:, which], mean[:, which], sd[:, which], groups) for which in latents]
    logs = []
    for block in blocks:
        shape = block.size, block.width
        parts = [d.scores(block, scratch(name, *shape)) for name, d in zip(("first", "second"), both, strict=True)]
        if not block.one_group:
            strange = groups.strangers(block, z)
            for part in parts:
                part.add_(strange, alpha=NOTHING)
        whole = torch.add(*parts, out=scratch("whole", *shape))
        most, total = exponentials(whole)
        whole.mul_(1 / (n * total))  # to its gradient, of the mean over cells
        for part, densities in zip(parts, both, strict=True):
            most_of_part, total_of_part = exponentials(part)
            most, total = most - most_of_part, total / total_of_part
            if any(wanted):
                densities.pass_back(torch.sub(whole, part.mul_(1 / (n * total_of_part)), out=part), block)
        logs.append((most + total.log2()) / BITS)
    log_pairs = (groups.size.to(z.dtype).square() * (n_cells / n)).log()
    value = torch.cat(logs).mean() + log_pairs.mean()
    if not any(wanted):
        return value, ()
    pairs = zip(*(densities.gradients(wanted) for densities in both), strict=True)
    return value, tuple(torch.cat([a, b], 1) for a, b in pairs if a is not None and b is not None)


def total_correlation_of_all_pairs(
    z: Tensor, mean: Tensor, sd: Tensor, split: int, n_cells: int, domain: Tensor | None = None
) -> Tensor:
    """The same of tensors [B, B], for any device."""
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
