"""The goals: what is compared with what, the bound on their ratio, what measures it and what that needs.

Nothing heavy is imported here: the list is printed at once, and a comparison's module is loaded when its turn comes.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ratios.measured import Bound, Measured, Run

DATA, BEFORE, PEER, BFLOAT16 = "data", "before", "peer", "bfloat16"
SAID = {
    DATA: "kang_2k.h5ad (in CELLALIGN_TEST_DATA)",
    BEFORE: "--before PATH, a checkout of an older version",
    PEER: "--peer PYTHON with scvi-tools",
    BFLOAT16: "a processor that multiplies bfloat16",
}


@dataclass(frozen=True)
class Goal:
    """One comparison.

    Attributes
    ----------
    name : str
        By which `--only` finds it.
    what, beside : str
        The two sides; their ratio is that of the first to the second.
    measure : str
        "module:function", which is called with the `Run` and `options` and returns one row or several.
    bound : Bound, optional
        None where the figure is for information.
    elsewhere : Bound, optional
        Instead of `bound` on processors without bfloat16.
    needs : tuple of str
        Of the names in `SAID`, or of a script beside bench.py that has to have a function `measure`.
    """

    name: str
    what: str
    beside: str
    measure: str
    bound: Bound | None = None
    elsewhere: Bound | None = None
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def said_bound(self) -> str:
        """The bound in words."""
        if self.elsewhere is not None:
            return f"{self.bound} (without bfloat16 {self.elsewhere})"
        return str(self.bound) if self.bound is not None else "-"

    def said_needs(self) -> str:
        """What it needs in words."""
        return "; ".join(map(told, self.needs)) or "nothing"

    def bound_here(self) -> Bound | None:
        """The bound on this machine."""
        return self.bound if self.elsewhere is None or has_bfloat16() else self.elsewhere

    def lacking(self, run: Run) -> str:
        """What it needs and does not have, in words; empty where it can be measured."""
        return "; ".join(told(need) for need in self.needs if not _there(need, run))

    def run(self, run: Run) -> list[Measured]:
        """Measure it."""
        module, _, function = self.measure.partition(":")
        found = getattr(importlib.import_module(module), function)(run, **self.options)
        return [found] if isinstance(found, Measured) else list(found)


def told(need: str) -> str:
    """A need in words."""
    return SAID.get(need) or f"benchmarks/{need} with a function measure"


def has_bfloat16() -> bool:
    """Whether the processor has."""
    from cellalign.engine.precision import processor_has_bfloat16

    return processor_has_bfloat16()


def _there(need: str, run: Run) -> bool:
    if need in (DATA, BEFORE, PEER):
        return getattr(run, need) is not None
    if need == BFLOAT16:
        return has_bfloat16()
    name = need.removesuffix(".py")
    return importlib.util.find_spec(name) is not None and hasattr(importlib.import_module(name), "measure")


def _steps() -> Iterable[Goal]:
    where = "512 cells x 2,000 genes"
    for precision, most, needs in (("float32", 1.03, ()), ("bfloat16", 1.10, (BFLOAT16,))):
        yield Goal(
            f"step-comp-{precision}", f"`comp` step, {where}, {precision}", "`cvae` step", "ratios.steps:penalty",
            Bound("<=", most), None, needs, {"method": "comp", "precision": precision},
        )  # fmt: skip
    for method in ("vfae", "trvae"):
        yield Goal(
            f"step-{method}", f"`{method}` step, {where}, 3 conditions, float32", "`cvae` step", "ratios.steps:penalty",
            options={"method": method, "conditions": 3},
        )  # fmt: skip


def _penalties() -> Iterable[Goal]:
    named = ("comp", "comp, 2 conditions"), ("mmd", "mmd, 40 latents, unbiased"), ("tc", "total correlation")
    for (slug, name), n in ((each, n) for each in named for n in (512, 1024, 4096)):
        judged = slug == "comp" and n == 4096
        yield Goal(
            f"penalty-{slug}-{n}", f"penalty of {n:,} cells, {name}, row blocks", "tensor form", "ratios.steps:blocks",
            Bound("<", 150, "ms CPU") if judged else None, needs=("penalties.py",),
            options={"name": name, "n": n, "absolute": judged},
        )  # fmt: skip


def _peers() -> Iterable[Goal]:
    cells, of = "20,000 cells x 2,000 genes, 128 x 2", "ratios.counts:scvi_tools"
    for precision in ("auto", "float32"):
        for size, least in ((128, 4), (512, 5)):
            yield Goal(
                f"scvi-tools-{size}" + ("" if precision == "auto" else f"-{precision}"),
                f"`scvi`, {cells}, batches of {size}, precision {precision}, cells/s", "scvi-tools' SCVI", of,
                Bound(">=", least) if precision == "auto" else None, None, (DATA, PEER),
                {"method": "scvi", "batch_size": size, "precision": precision},
            )  # fmt: skip
    yield Goal(
        "scanvi-tools-128", f"`scanvi`, {cells}, batches of 128, half labelled, precision auto, cells/s",
        "scvi-tools' SCANVI", of, Bound(">=", 4), None, (DATA, PEER),
        {"method": "scanvi", "batch_size": 128, "precision": "auto"},
    )  # fmt: skip


def _bare() -> Iterable[Goal]:
    for precision, needs in (("bfloat16", (BFLOAT16,)), ("float32", ())):
        for size in (128, 512):
            yield Goal(
                f"mlp-{size}-{precision}", f"`scvi`, batches of {size}, {precision}, cells/s",
                "bare MLP of these layers", "ratios.counts:bare_mlp", Bound(">=", 0.8), None, (DATA, *needs),
                {"batch_size": size, "precision": precision},
            )  # fmt: skip


def _beside_others() -> Iterable[Goal]:
    for method in ("comp", "scvi", "cvae"):
        yield Goal(
            f"busy-{method}", f"`{method}`, beside one busy process, and alone", "alone; as torch has threads wait",
            "beside_busy:measure", needs=("beside_busy.py",), options={"method": method},
        )  # fmt: skip


GOALS: tuple[Goal, ...] = (
    Goal(
        "training-comp", "`comp`, kang_2k, all defaults, whole training", "the version before",
        "ratios.versions:real_cells", Bound("<=", 0.38), Bound("<=", 1.0), (DATA, BEFORE),
    ),
    *_steps(),
    *_penalties(),
    *_peers(),
    *_bare(),
    Goal(
        "training-svae+", "`svae+`, 40,000 x 100 simulated cells, all defaults, whole training on one thread",
        "the version before", "ratios.versions:shifts", Bound("<=", 0.5), needs=(BEFORE,),
    ),
    Goal(
        "start-up", "CPU seconds of a command before its first work", "torch and anndata imported",
        "ratios.steps:start_up", needs=("start_up.py",),
    ),
    *_beside_others(),
    Goal("likelihood", "count likelihood with its gradient, 2,000 genes", "dense formula", "ratios.steps:likelihoods"),
    Goal("layers", "first layer with its gradient", "dense gradient", "ratios.steps:first_layers"),
)  # fmt: skip
