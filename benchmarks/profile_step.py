"""Where each millisecond of a training step goes, by method, on one thread.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py comp scvi --batch-size 512 --precision bfloat16 --steps 50

Steps are those of the engine's own parts: the loader cuts the batch, the method computes its loss, autograd its
gradient, AdamW moves the weights. The total is measured without torch's profiler, in turn with steps under it, whose
operations are booked to the part of the method in which they run: the same product of matrices is one thing in a layer
and another in a penalty. Backwards, one goes where the operation whose gradient it is went. What is left of the total
is autograd and Python; what runs in no known part is "other", mostly the posterior's draw. Operations take a little
longer under the profiler, so that the rest comes out too small where there are many; the whole step under it is shown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from scipy import sparse
from step import Training, dtype_of
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from cellalign import simulate
from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells, shuffled
from cellalign.data.source import as_matrix
from cellalign.engine.device import own_process
from cellalign.engine.settings import resolve_settings
from cellalign.methods.base import BATCH, CONDITION, COVARIATE, Fields, Layout, Minibatch
from cellalign.methods.registry import get
from cellalign.nn import distributions
from cellalign.nn.networks import ContextLinear, Dropout
from cellalign.nn.products import products_in

PRODUCTS, LIKELIHOOD, PENALTY, PRIOR, NORMS, CUT, OPTIMISER, OTHER, REST = PARTS = (
    "products of layers",
    "likelihood",
    "penalty",
    "KL to the prior",
    "batch norm and activations",
    "batch cut",
    "optimiser",
    "other",
    "autograd and Python (the rest)",
)
MULTIPLIES = {"aten::linear", "aten::matmul", "aten::mm", "aten::addmm", "_Rounded"}
OF_LAYERS: dict[type[nn.Module], str] = {
    nn.Linear: PRODUCTS,
    ContextLinear: PRODUCTS,
    nn.BatchNorm1d: NORMS,
    nn.LeakyReLU: NORMS,
    Dropout: NORMS,
}
# all else but the shape of the data is the method's default
SETTINGS: dict[str, dict[str, Any]] = {"scvi": {"hidden": (128, 128)}, "svae+": {"latent_dim": 15}}
SIZES = {"svae+": 100, "invae": 1000}  # genes; 2,000 of the others
TURNS = 5  # of steps without and with the profiler
COLUMNS: dict[str, tuple[tuple[str, Any, int], ...]] = {
    "comp": (("stim", CONDITION, 2),),
    "cvae": (("stim", CONDITION, 2),),
    "trvae": (("stim", CONDITION, 3),),
    "scvi": (("stim", BATCH, 2),),
    "svae+": (("perturbation", CONDITION, 80),),
    "invae": (("site", BATCH, 3), ("donor", COVARIATE, 6), ("cell_type", COVARIATE, 8)),
}


def made_cells(method: str, n: int) -> Cells:
    """Cells with the columns that the method takes: log expression or counts, 6.4 % stored, or simulated shifts."""
    rng, genes = np.random.default_rng(0), SIZES.get(method, 2000)
    if method == "svae+":  # its counts are large, which is work of another kind
        made = simulate.sparse_shift(80, -(-n // 80), n_heldout=0, variant="code").X
        x = sparse.csr_matrix(made, dtype=np.float32)[rng.permutation(made.shape[0])[:n]]
    else:
        x = sparse.random(n, genes, 0.064, format="csr", dtype=np.float32, random_state=0)
        if method in ("scvi", "invae"):
            x.data[:] = rng.geometric(0.6, x.nnz)
    fields = [
        Categorical(name=name, role=role, categories=tuple(str(code) for code in range(k)))
        for name, role, k in COLUMNS[method]
    ]
    columns = tuple(torch.from_numpy(rng.integers(0, k, n)) for _, _, k in COLUMNS[method])
    return Cells(as_matrix(x), Fields(fields), columns, n)


def booked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    """The function, its operations booked to this part while the profiler runs."""

    @wraps(function)
    def within(*arguments: Any, **named: Any) -> Any:
        if not torch.autograd.profiler._is_profiler_enabled:
            return function(*arguments, **named)
        with record_function(part):
            return function(*arguments, **named)

    return within


def book(method: Any) -> None:
    """Book what the layers of a method do, its likelihood, prior and penalties."""
    for module in method.modules():
        part = next((part for kind, part in OF_LAYERS.items() if isinstance(module, kind)), None)
        if part is not None:
            module.forward = booked(module.forward, part)
    for name, part in (("penalties", PENALTY), ("costs", PRIOR)):
        setattr(method, name, booked(getattr(method, name), part))
    method.likelihood.forward = booked(method.likelihood.forward, LIKELIHOOD)
    for kind in (distributions.Point, distributions.Normal, distributions.NegativeBinomial):
        kind.nll = booked(kind.nll, LIKELIHOOD)  # type: ignore[method-assign]
    inflated = distributions.ZeroInflatedNegativeBinomial
    inflated.nll = booked(inflated.nll, LIKELIHOOD)  # type: ignore[method-assign]


class Steps:
    """Steps of a method over made-up cells, whose batches are cut as the engine cuts them."""

    def __init__(self, method: str, batch_size: int | None) -> None:
        torch.manual_seed(0)
        settings = SETTINGS.get(method, {}) | ({"batch_size": batch_size} if batch_size else {})
        _, plan = resolve_settings(get(method), settings=settings)
        self.cells = made_cells(method, 8 * plan.batch_size)
        layout = Layout(SIZES.get(method, 2000), self.cells.fields, len(self.cells))
        self.training = Training(method, layout, **settings)
        self.training.method.on_epoch_start(0.6, 0.01)  # when everything has set in
        self.next_batch, self.optimise = booked(self.next, CUT), booked(self.training.optimiser.step, OPTIMISER)
        book(self.training.method)
        self.shuffler = torch.Generator().manual_seed(0)
        self.batches = self.forever()

    def forever(self) -> Iterator[Minibatch]:
        """Batch after batch, in epochs of eight."""
        rows = torch.arange(len(self.cells))
        while True:
            yield from self.cells.batches(shuffled(rows, self.training.plan.batch_size, self.shuffler))

    def next(self) -> Minibatch:
        """The next one."""
        return next(self.batches)

    def run(self, number: int) -> float:
        """Milliseconds of so many steps."""
        started = time.perf_counter()
        for _ in range(number):
            loss = self.training.method(self.next_batch(), 1.0)
            for parameter in self.training.parameters:
                parameter.grad = None
            loss.total.backward()
            self.optimise(self.training.plan.lr)
        return 1e3 * (time.perf_counter() - started)


@contextmanager
def profiled() -> Iterator[profile]:
    """Torch's profiler, without the lines it writes to standard error at every start and stop."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            yield profiler
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def part_of(event: Any, forward: dict[int, Any]) -> str:
    """The innermost part in which an operation runs; of a gradient, that of the operation it belongs to."""
    multiplies = False
    while event is not None:
        multiplies = multiplies or event.name in MULTIPLIES
        if event.name in PARTS:
            # a likelihood multiplies by its layers' weights only, through whichever of their methods
            return PRODUCTS if multiplies and event.name == LIKELIHOOD else event.name
        if event.name.startswith("autograd::engine::evaluate_function"):
            origin = forward.get(event.sequence_nr)
            return REST if origin is None else part_of(origin, forward)
        event = event.cpu_parent
    return PRODUCTS if multiplies else OTHER


def is_backward(event: Any) -> bool:
    """Whether it runs within autograd's engine."""
    while event is not None and not event.name.startswith("autograd::engine"):
        event = event.cpu_parent
    return event is not None


def shares(events: Any) -> dict[str, float]:
    """Milliseconds of every part, by the operations' own time."""
    forward: dict[int, Any] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not is_backward(event):
            forward[event.sequence_nr] = event  # the last one before the number rises made the node
    found: dict[str, float] = defaultdict(float)
    for event in events:
        python = event.name in PARTS and event.name not in (CUT, OPTIMISER)
        if python or event.name.startswith(("autograd::engine", "ProfilerStep")):
            continue  # what lies between operations is the rest
        found[part_of(event, forward)] += event.self_cpu_time_total / 1e3
    return found


def measure(method: str, batch_size: int | None, precision: str, number: int) -> tuple[dict[str, float], float, int]:
    """Milliseconds of every part, of a whole step under the profiler, and the size of the batch."""
    steps, found, total, slower = Steps(method, batch_size), dict.fromkeys(PARTS, 0.0), 0.0, 0.0
    each = max(1, number // TURNS)
    with products_in(steps.training.method, dtype_of(precision)):
        steps.run(5)
        for _ in range(TURNS):
            total += steps.run(each)
            with profiled() as profiler:
                slower += steps.run(each)
            for part, value in shares(profiler.events()).items():
                found[part] += value
    found[REST] = total - sum(value for part, value in found.items() if part != REST)
    steps_taken = each * TURNS
    parts = {part: value / steps_taken for part, value in found.items()}
    return parts, slower / steps_taken, steps.training.plan.batch_size


def main() -> None:
    """Print a column for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(COLUMNS)} [all]")
    parser.add_argument("--batch-size", type=int, help="cells [each method's default]")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    methods = options.methods or list(COLUMNS)
    if set(methods) - set(COLUMNS):
        parser.error(f"methods are {', '.join(COLUMNS)}")
    own_process(threads=1)
    found = {name: measure(name, options.batch_size, options.precision, options.steps) for name in methods}
    heads = [f"`{name}`, {size} x {SIZES.get(name, 2000):,}" for name, (_, _, size) in found.items()]
    print(f"| ms a step (% of it) | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}")
    totals = {name: sum(parts.values()) for name, (parts, _, _) in found.items()}
    for part in PARTS:
        cells = [f"{parts[part]:.2f} ({parts[part] / totals[name]:.0%})" for name, (parts, _, _) in found.items()]
        print(f"| {part} | {' | '.join(cells)} |")
    print(f"| **step** | {' | '.join(f'{total:.2f}' for total in totals.values())} |")
    print(f"| under the profiler | {' | '.join(f'{slower:.2f}' for _, slower, _ in found.values())} |")
    print(f"\nProducts in {str(dtype_of(options.precision)).removeprefix('torch.')}, one thread, {options.steps} steps")


if __name__ == "__main__":
    main()
