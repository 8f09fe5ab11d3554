"""Clusters of cells under several conditions at once, where no label says which cells are of one type."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CELLS_PER_STATE, MOST_STATES, ROUNDS = 50, 12, 5
MOST_CELLS, LEAST = 50_000, 10  # cells drawn of many, and of a condition, as far as there are
SIGMA, THETA, STEPS = 0.1, 2.0, 20  # of soft clusters


def states(y: Tensor, condition: Tensor, wanted: int = 0) -> tuple[Tensor, Tensor]:
    """Clusters after the conditions' means within clusters are levelled, found in turn.

    Parameters
    ----------
    y : Tensor [n, p]
        Cells among components.
    condition : Tensor [n]
        Codes.
    wanted : int
        Clusters; 0: by the number of cells of the smallest condition.

    Returns
    -------
    centres : Tensor [states, p]
    levels : Tensor [conditions, p]
        What has to be taken from the cells of each condition before they are compared with the centres.
    """
    from sklearn.cluster import KMeans

    n = int(condition.max()) + 1
    sample = some(condition)
    y, condition = y[sample], condition[sample]
    smallest = int(condition.unique(return_counts=True)[1].min())
    wanted = min(len(y), wanted or int(np.clip(smallest // CELLS_PER_STATE, 1, MOST_STATES)))
    seed = int(torch.randint(2**31 - 1, ()))
    state = torch.zeros_like(condition)
    for _ in range(ROUNDS):
        level = levels(y, condition, state, n)
        moved = (y - level[condition]).cpu().numpy()
        fitted = KMeans(wanted, n_init=3, random_state=seed).fit(moved)
        state = torch.from_numpy(fitted.labels_.astype(np.int64)).to(condition)
    return torch.from_numpy(fitted.cluster_centers_).to(y), level


def some(condition: Tensor) -> Tensor:
    """Rows of all cells, or of MOST_CELLS drawn at random: more do not change where clusters lie.

    Of conditions of which fewer than LEAST would be among them more are drawn: what is not seen is not aligned.
    """
    n = len(condition)
    if n <= MOST_CELLS:
        return torch.arange(n, device=condition.device)
    drawn, rest = torch.randperm(n).split([MOST_CELLS, n - MOST_CELLS])
    code = condition.cpu()
    there = code[drawn].bincount(minlength=int(code.max()) + 1)
    rest = rest[code[rest].argsort(stable=True)]
    left = code[rest].bincount(minlength=len(there))
    rank = torch.arange(len(rest)) - (left.cumsum(0) - left)[code[rest]]
    return torch.cat([drawn, rest[rank < LEAST - there[code[rest]]]]).sort().values.to(condition.device)


def levels(y: Tensor, condition: Tensor, state: Tensor, n: int) -> Tensor:
    """By how much cells of each condition deviate from the mean of all, clusters counting alike, [n, p]."""
    found = torch.zeros(n, y.shape[1], device=y.device)
    means = {code: y[state == code].mean(0) for code in state.unique().tolist()}
    for code in condition.unique().tolist():
        own = condition == code
        present = state[own].unique().tolist()
        found[code] = torch.stack([y[own & (state == s)].mean(0) - means[s] for s in present]).mean(0)
    return found


class SoftClusters:
    """Clusters that have cells of every condition alike, as Harmony finds them (Korsunsky et al. 2019, Nature Methods).

    A cell belongs to cluster k by exp(-2 (1 - cos) / sigma), times (expected / observed)^theta of the share that its
    condition has in the cluster.
    """

    def __init__(self, z: Tensor, condition: Tensor, wanted: int = 0) -> None:
        from sklearn.cluster import KMeans

        wanted = min(len(z), wanted or int(np.clip(round(len(z) / 30), 1, 100)))
        seed = int(torch.randint(2**31 - 1, ()))
        fitted = KMeans(wanted, n_init=1, random_state=seed).fit(unit(z).cpu().numpy())
        self.centres = unit(torch.from_numpy(fitted.cluster_centers_).to(z))
        self.member = torch.nn.functional.one_hot(condition, int(condition.max()) + 1).to(z.dtype)
        self.share = self.member.mean(0)

    def of(self, z: Tensor) -> Tensor:
        """Shares [n, clusters] of cells at latents [n, p], summing up to 1; centres go along."""
        cosine, favour = unit(z), torch.zeros(len(self.centres), self.member.shape[1], device=z.device)
        for _ in range(STEPS):
            belongs = (2 * (cosine @ self.centres.T - 1) / SIGMA + (self.member @ favour.T)).softmax(1)
            observed = belongs.T @ self.member
            expected = belongs.sum(0)[:, None] * self.share
            favour = 0.5 * favour + 0.5 * THETA * ((expected + 1) / (observed + 1)).log()  # halfway: it would swing
            self.centres = unit(belongs.T @ cosine)
        return belongs


def unit(z: Tensor) -> Tensor:
    """Rows of length 1."""
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
