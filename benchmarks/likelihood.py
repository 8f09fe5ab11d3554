"""The negative binomial likelihood with its gradient: stored nonzeros against the dense formula through autograd.

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

from cellalign.nn.batch import SparseRows
from cellalign.nn.counts import negative_binomial_nll

GENES, PAIRS = 2000, 30


def dense(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """The formula of the paper as written."""
    mean, theta = log_mean.exp(), log_theta.exp()
    both = (theta + mean).log()
    log_p = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return -(log_p + theta * (log_theta - both) + x * (log_mean - both)).sum(1)


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print milliseconds and ratios by batch size and density."""
    torch.manual_seed(0)
    print("batch  density  dense ms  stored ms  ratio  cells/s")
    for size in (128, 512):
        for rate in (0.05, 0.07, 0.11, 1.5):
            x = torch.poisson(torch.rand(size, GENES) * 2 * rate)
            sparse = SparseRows.of(x)
            logits = torch.randn(size, GENES, requires_grad=True)
            log_theta = torch.randn(GENES, requires_grad=True)
            library = x.sum(1, keepdim=True).log()

            def run(nll: Callable[..., Tensor], counts: object) -> None:
                logits.grad = log_theta.grad = None  # noqa: B023
                nll(counts, F.log_softmax(logits, -1) + library, log_theta).mean().backward()  # noqa: B023

            pairs = []
            for _ in range(PAIRS + 3):
                a, b = seconds(lambda: run(dense, x)), seconds(lambda: run(negative_binomial_nll, sparse))  # noqa: B023
                pairs.append((a, b))
            slow, fast = (statistics.median(pair[i] for pair in pairs[3:]) for i in (0, 1))
            ratio = statistics.median(a / b for a, b in pairs[3:])
            print(
                f"{size:5d} {sparse.density:8.3f} {1e3 * slow:9.1f} {1e3 * fast:10.1f} {ratio:6.2f} {size / fast:8.0f}"
            )
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
