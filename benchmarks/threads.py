"""Ways to run the compiled loops in a training step of scVI, in turn within one process, 20 steps at a time.

    python benchmarks/threads.py
    python benchmarks/threads.py --batch-size 512 --rounds 10

Numba's prange, as it is; one thread; a pool of Python threads; tensor operations instead. Counts are simulated: 2,000
genes, 6.4 % nonzero, ZINB. Ratios are to prange, median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy import sparse

from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.methods.base import CONDITION, Fields, Layout
from cellalign.methods.registry import get
from cellalign.nn.kernels import ops
from cellalign.nn.kernels.jit import RangeKernel

POOL = ThreadPoolExecutor()
PRANGE, UNAVAILABLE = RangeKernel.run, ops.unavailable


def one_thread(kernel: RangeKernel, n: int, parts: int, arrays: tuple[Any, ...]) -> None:
    """All rows in one range."""
    kernel.serial(0, n, 0, arrays)


def pool(kernel: RangeKernel, n: int, parts: int, arrays: tuple[Any, ...]) -> None:
    """One range here, the others on Python threads; loops do not hold the interpreter's lock."""
    bounds = [n * part // parts for part in range(parts + 1)]
    others = [POOL.submit(kernel.serial, bounds[k], bounds[k + 1], k, arrays) for k in range(1, parts)]
    kernel.serial(0, bounds[1], 0, arrays)
    for other in others:
        other.result()


def use(way: Callable[..., None] | None) -> None:
    """Run kernels this way, or with None tensor operations instead."""
    RangeKernel.run = way or PRANGE  # type: ignore[method-assign]
    ops.unavailable = UNAVAILABLE if way else lambda: "of this benchmark"  # type: ignore[assignment]


def steps(options: argparse.Namespace) -> Callable[[int], float]:
    """Trains for so many steps; their median, in milliseconds."""
    torch.manual_seed(0)
    n, genes = 4 * options.batch_size, options.genes
    x = sparse.random(n, genes, 0.064, format="csr", dtype=np.float32, random_state=0)
    x.data[:] = np.random.default_rng(0).geometric(0.6, x.nnz)
    fields = Fields([Categorical(name="stim", role=CONDITION, categories=("0", "1"))])
    cells = Cells(as_matrix(x), fields, (torch.arange(n) % 2,), n)
    batches = [cells.batch(torch.randperm(n)[: options.batch_size]) for _ in range(8)]
    cls = get("scvi")
    method = cls(cls.Hyperparameters(hidden=(128, 128)), Layout(genes, fields, n)).train()
    optimiser = torch.optim.AdamW(method.parameters(), fused=True)

    def run(count: int) -> float:
        seconds = []
        for i in range(count):
            started = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            method(batches[i % len(batches)], 1.0).total.backward()
            optimiser.step()
            seconds.append(time.perf_counter() - started)
        return 1e3 * statistics.median(seconds[3:])

    return run


def main() -> None:
    """Print the median step and its ratio to that of prange."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    ways = {"prange": PRANGE, "one thread": one_thread, "pool": pool, "tensor operations": None}
    run = steps(options)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(options.rounds + 1):
        for name in list(ways)[:: 1 if i % 2 else -1]:
            use(ways[name])
            found[name].append(run(20))
    use(PRANGE)
    for name, medians in found.items():
        ratio = statistics.median(a / b for a, b in zip(medians[1:], found["prange"][1:], strict=True))
        print(f"{name:18} {statistics.median(medians[1:]):7.2f} ms  {ratio:6.3f}")
    print(f"{ops.compiled_loops()}; {torch.get_num_threads()} threads of torch")


if __name__ == "__main__":
    main()
