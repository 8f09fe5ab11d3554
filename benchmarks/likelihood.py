"""The count likelihoods with their gradients: stored nonzeros against the dense formulas through autograd.

    python benchmarks/likelihood.py

Both from logits [B, 2000] through the softmax; ratios are of runs side by side, median of pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.nn.counts import negative_binomial_nll, zero_inflated_nll
from cellalign.nn.sparse import SparseRows

GENES, PAIRS = 2000, 30


def dense_nb(x: Tensor, logits: Tensor, library: Tensor, log_theta: Tensor) -> Tensor:
    """The negative binomial as papers print it, [B, G]."""
    log_mean = F.log_softmax(logits, -1) + library.log()
    mean, theta = log_mean.exp(), log_theta.exp()
    both = (theta + mean).log()
    log_p = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return -(log_p + theta * (log_theta - both) + x * (log_mean - both))


def dense_zinb(x: Tensor, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor) -> Tensor:
    """Zero-inflated, [B, G]."""
    nb = -dense_nb(x, logits, library, log_theta)
    zero = torch.logaddexp(F.logsigmoid(dropout), nb + F.logsigmoid(-dropout))
    return -torch.where(x == 0, zero, nb + F.logsigmoid(-dropout))


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(size: int, rate: float, name: str, pairs: int = PAIRS) -> tuple[float, list[tuple[float, float]]]:
    """Density of counts [size, 2000] of such a rate, and the seconds of stored and dense form in every pair."""
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(size, GENES) * 2 * rate)
    sparse, library = SparseRows.of(x), x.sum(1, keepdim=True)
    leaves = [torch.randn(size, GENES), torch.randn(GENES), torch.randn(size, GENES)]
    logits, log_theta, dropout = (leaf.requires_grad_() for leaf in leaves)
    more = (dropout,) if name == "zinb" else ()
    plain: Callable[..., Tensor] = dense_zinb if more else dense_nb
    stored: Callable[..., Tensor] = zero_inflated_nll if more else negative_binomial_nll

    def run(nll: Callable[..., Tensor], counts: object) -> None:
        for leaf in leaves:
            leaf.grad = None
        nll(counts, logits, library, log_theta, *more).mean().backward()

    found = [(seconds(lambda: run(stored, sparse)), seconds(lambda: run(plain, x))) for _ in range(pairs + 3)]
    return sparse.density, found[3:]


def main() -> None:
    """Print milliseconds and ratios by batch size and density."""
    print("likelihood  batch  density  dense ms  stored ms  ratio  cells/s")
    for size in (128, 512):
        for rate in (0.05, 0.07, 0.11, 1.5):
            for name in ("nb", "zinb"):
                density, pairs = measure(size, rate, name)
                fast, slow = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
                ratio = statistics.median(b / a for a, b in pairs)
                print(
                    f"{name:10s} {size:6d} {density:8.3f} {1e3 * slow:9.1f} {1e3 * fast:10.1f} {ratio:6.2f} "
                    f"{size / fast:8.0f}"
                )
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
