"""Cost of a penalty: a training step of CoMP (or another) beside a CVAE step, and of the batch beside both.

    python benchmarks/step.py
    python benchmarks/step.py --precision bfloat16
    python benchmarks/step.py --methods vfae trvae --conditions 3

Steps of the methods are timed in turn, A B B A, so that a machine whose speed drifts treats all alike, each on a cut of
its own of the same cells: a mini-batch keeps what was made of it, which the next method would find done.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from scipy import sparse

from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.engine.device import own_process
from cellalign.engine.optimiser import AdamW
from cellalign.engine.precision import DTYPES, settle
from cellalign.engine.settings import resolve_settings
from cellalign.methods.base import CONDITION, Fields, Layout, Minibatch
from cellalign.methods.registry import get
from cellalign.nn.products import products_in

WARM_UP = 3  # rounds


class Training:
    """A method with its optimiser, and one step of it as the engine takes it."""

    def __init__(self, name: str, layout: Layout, **settings: Any) -> None:
        cls = get(name)
        hyperparameters, self.plan = resolve_settings(cls, settings=settings)
        self.method = cls(hyperparameters, layout).train()
        self.parameters = list(self.method.parameters())
        self.optimiser = AdamW(self.parameters, weight_decay=self.plan.weight_decay, eps=self.plan.adam_eps)

    def step(self, batch: Minibatch) -> None:
        """Loss, gradient, optimiser."""
        loss = self.method(batch, 1.0)
        for parameter in self.parameters:
            parameter.grad = None
        loss.total.backward()
        self.optimiser.step(self.plan.lr)


def dtype_of(precision: Any) -> torch.dtype:
    """Of products on the CPU."""
    return DTYPES[settle(precision, torch.device("cpu"))]


def made_cells(n: int, genes: int, conditions: int) -> Cells:
    """Log expression of which 6.4 % are stored, under so many conditions in turn."""
    x = sparse.random(n, genes, 0.064, format="csr", dtype=np.float32, random_state=0)
    names = tuple(str(code) for code in range(conditions))
    fields = Fields([Categorical(name="stim", role=CONDITION, categories=names)])
    return Cells(as_matrix(x), fields, (torch.arange(n) % conditions,), n)


def measure(
    methods: Iterable[str],
    *,
    conditions: int = 2,
    genes: int = 2000,
    batch_size: int = 512,
    rounds: int = 40,
    precision: str = "float32",
) -> dict[str, list[float]]:
    """Seconds of a step of each method in every round, and of cutting a batch ("batch")."""
    torch.manual_seed(0)
    n = 4 * batch_size
    cells = made_cells(n, genes, conditions)
    trained = {name: Training(name, Layout(genes, cells.fields, n)) for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in (*trained, "batch")}
    with ExitStack() as stack:
        for training in trained.values():
            stack.enter_context(products_in(training.method, dtype_of(precision)))
        for i in range(rounds + WARM_UP):
            rows = torch.randperm(n)[:batch_size]
            for name in list(trained)[:: -1 if i % 2 else 1]:
                started = time.perf_counter()
                batch = cells.batch(rows)
                cut = time.perf_counter()
                trained[name].step(batch)
                seconds[name].append(time.perf_counter() - cut)
            seconds["batch"].append(cut - started)
    return {name: found[WARM_UP:] for name, found in seconds.items()}


def main() -> None:
    """Print the median step of each method, their ratio, and the cut of one batch."""
    own_process()  # as the command line prepares its process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["comp"])
    parser.add_argument("--conditions", type=int, default=2)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    options = vars(parser.parse_args())
    methods = options.pop("methods")
    seconds = measure(dict.fromkeys(["cvae", *methods]), **options)
    medians = {name: 1e3 * statistics.median(found) for name, found in seconds.items()}
    print(", ".join(f"{name} {value:.2f} ms" for name, value in medians.items()))
    done = str(dtype_of(options["precision"])).removeprefix("torch.")
    for name in methods:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["cvae"], strict=True))
        print(f"{name} / cvae, median of pairs: {ratio:.3f}  ({done}, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
