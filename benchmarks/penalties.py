"""CPU time of each penalty with its gradient, as tensors of all pairs and by blocks of rows.

    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python benchmarks/penalties.py
    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python benchmarks/penalties.py --sizes 512 --only "comp, 2 conditions"

On one thread, in a process prepared as the command line prepares it. Blocks of rows are what CPUs compute, all pairs
what other devices do. Ratios are of runs side by side, median of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cellalign.engine.device import own_process
from cellalign.nn.penalties import misalignment, mmd, total_correlation
from cellalign.nn.penalties.dependence import total_correlation_of_all_pairs
from cellalign.nn.penalties.discrepancy import mmd_of_all_pairs
from cellalign.nn.penalties.mixtures import misalignment_of_all_pairs

LATENTS, SPLIT, UNITS = 40, 20, 512
PAIRS = {512: 40, 1024: 20, 4096: 5}

Case = tuple[str, list[Tensor], Callable[..., Tensor], Callable[..., Tensor]]


def cases(n: int) -> Iterator[Case]:
    """Name, inputs to differentiate by, and the penalty of them in either form."""
    mean = torch.randn(n, LATENTS)
    z, sd, hidden = mean + torch.randn(n, LATENTS), torch.rand(n, LATENTS) + 0.5, torch.randn(n, UNITS).relu()
    two, fifty, dose, domain = torch.arange(n) % 2, torch.randint(50, (n,)), torch.rand(n), torch.arange(n) % 12
    comp: dict[str, Any] = {"include_self": False, "floor": 5.0}
    for name, condition in (("2 conditions", two), ("50 conditions", fifty), ("a dose", dose)):
        fixed = {"sd": torch.tensor(1.0), "condition": condition, **comp}
        yield f"comp, {name}", [z, mean], partial(misalignment, **fixed), partial(misalignment_of_all_pairs, **fixed)
    learned = {"condition": two, **comp}
    yield (
        "comp, learned sd",
        [z, mean, sd],
        partial(misalignment, **learned),
        partial(misalignment_of_all_pairs, **learned),
    )
    for name, units in ((f"{LATENTS} latents", z), (f"{UNITS} units", hidden)):
        for unbiased in (True, False):
            how: dict[str, Any] = {"condition": two, "unbiased": unbiased}
            said = f"mmd, {name}, {'unbiased' if unbiased else 'biased'}"
            yield said, [units], partial(mmd, **how), partial(mmd_of_all_pairs, **how)
    for name, codes in (("", None), (", 12 domains", domain)):
        fixed = {"split": SPLIT, "n_cells": 10 * n, "domain": codes}
        inputs, said = [z[:, :25], mean[:, :25], sd[:, :25]], f"total correlation{name}"
        yield said, inputs, partial(total_correlation, **fixed), partial(total_correlation_of_all_pairs, **fixed)


def milliseconds(penalty: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Of value and gradient, in CPU time."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    start = time.process_time()
    penalty(*leaves).backward()
    return 1e3 * (time.process_time() - start)


def measure(name: str, n: int, rounds: int) -> tuple[float, float]:
    """CPU milliseconds of a penalty in a batch of n, medians of so many rounds on one thread: all pairs, row blocks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # others, while they wait, would count as CPU time
    torch.manual_seed(0)
    _, inputs, by_rows, all_pairs = next(case for case in cases(n) if case[0] == name)
    pairs = [[milliseconds(f, inputs) for f in (all_pairs, by_rows)] for _ in range(rounds + 1)][1:]
    torch.set_num_threads(before)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def main() -> None:
    """Print milliseconds and ratios by penalty and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(PAIRS))
    parser.add_argument("--only", default="", help="penalties whose name contains this")
    options = parser.parse_args()
    own_process(threads=1)
    torch.manual_seed(0)
    print(f"{'penalty':32} {'batch':>6} {'all pairs':>10} {'by rows':>8} {'ratio':>6}")
    for n in options.sizes:
        for name, inputs, by_rows, all_pairs in cases(n):
            if options.only not in name:
                continue
            repeats = PAIRS.get(n, 5)
            pairs = [[milliseconds(f, inputs) for f in (all_pairs, by_rows)] for _ in range(repeats + 1)][1:]
            slow, fast = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name:32} {n:6} {slow:10.2f} {fast:8.2f} {ratio:6.1f}", flush=True)
    print(f"CPU milliseconds of value and gradient; {torch.get_num_threads()} thread")


if __name__ == "__main__":
    main()
