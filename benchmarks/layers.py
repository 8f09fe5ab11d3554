"""The first layer with its gradient, of sparse cells: the gradient by a compiled loop against a dense product.

    python benchmarks/layers.py

Ratios are of runs side by side, median of pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from cellalign.nn.networks import ContextLinear
from cellalign.nn.sparse import SparseRows

PAIRS = 60


def compiled(layer: ContextLinear, stored: SparseRows, grad: torch.Tensor) -> None:
    """As it is."""
    layer(stored, grad.new_empty(len(grad), 0)).backward(grad)


def dense(layer: ContextLinear, stored: SparseRows, grad: torch.Tensor) -> None:
    """The same product, its gradient a dense one."""
    with torch.no_grad():
        layer(stored, grad.new_empty(len(grad), 0))
        layer.weight.grad, layer.bias.grad = stored.dense().T @ grad, grad.sum(0)


def milliseconds(way: Callable[..., None], layer: ContextLinear, stored: SparseRows, grad: torch.Tensor) -> float:
    """Of product and gradient."""
    layer.weight.grad = layer.bias.grad = None
    fresh = SparseRows(stored.start, stored.column, stored.value, stored.n_columns)
    start = time.perf_counter()
    way(layer, fresh, grad)
    return 1e3 * (time.perf_counter() - start)


def measure(size: int, genes: int, width: int, share: float, pairs: int = PAIRS) -> list[tuple[float, float]]:
    """Milliseconds of the compiled and the dense form in every pair."""
    torch.manual_seed(0)
    layer, grad, x = ContextLinear(genes, width), torch.randn(size, width), torch.rand(size, genes)
    stored = SparseRows.of(x * (x < share))

    def one(way: Callable[..., None]) -> float:
        return milliseconds(way, layer, stored, grad)

    return [(one(compiled), one(dense)) for _ in range(pairs + 5)][5:]


def main() -> None:
    """Print milliseconds and ratios by batch, genes, width and share of stored values."""
    print("batch x genes x width  nonzero  dense  compiled  ratio")
    for size, genes, width in ((128, 2000, 128), (512, 2000, 512), (128, 10_000, 512)):
        for share in (0.03, 0.06, 0.12, 0.24):
            pairs = measure(size, genes, width, share)
            fast, slow = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"{size} x {genes} x {width:<8} {share:7} {slow:9.2f} {fast:8.2f} {ratio:6.1f}")
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
