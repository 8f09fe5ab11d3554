"""Cost of a penalty: a training step of CoMP (or another) beside a CVAE step, and of the batch beside both.

    python benchmarks/step.py
    python benchmarks/step.py --methods vfae trvae --conditions 3

Steps of the methods are timed in turn, A B A B, so that a machine whose speed drifts treats all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy import sparse

from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.methods.base import CONDITION, Fields, Layout
from cellalign.methods.registry import get


def main() -> None:
    """Print the median step of each method, their ratio, and the cut of one batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["comp"])
    parser.add_argument("--conditions", type=int, default=2)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.manual_seed(0)
    n = 4 * options.batch_size
    x = sparse.random(n, options.genes, 0.064, format="csr", dtype=np.float32, random_state=0)
    names = tuple(str(code) for code in range(options.conditions))
    fields = Fields([Categorical(name="stim", role=CONDITION, categories=names)])
    cells = Cells(as_matrix(x), fields, (torch.arange(n) % options.conditions,), n)
    methods = {}
    for name in ("cvae", *options.methods):
        cls = get(name)
        method = cls(cls.Hyperparameters(), Layout(options.genes, fields, n)).train()
        methods[name] = method, torch.optim.AdamW(method.parameters(), fused=True)
    seconds: dict[str, list[float]] = {name: [] for name in (*methods, "batch")}
    for _ in range(options.rounds + 3):
        rows = torch.randperm(n)[: options.batch_size]
        started = time.perf_counter()
        batch = cells.batch(rows)
        seconds["batch"].append(time.perf_counter() - started)
        for name, (method, optimiser) in methods.items():
            started = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            method(batch, 1.0).total.backward()
            optimiser.step()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: 1e3 * statistics.median(found[3:]) for name, found in seconds.items()}
    print(", ".join(f"{name} {value:.2f} ms" for name, value in medians.items()))
    for name in options.methods:
        ratio = statistics.median(a / b for a, b in zip(seconds[name][3:], seconds["cvae"][3:], strict=True))
        print(f"{name} / cvae, median of pairs: {ratio:.3f}  ({torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
