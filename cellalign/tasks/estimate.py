"""How long a training will take, and how much memory: by a few of its own steps, on a model that is thrown away."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellalign.memory import said as bytes_said

if TYPE_CHECKING:
    import torch

    from cellalign.methods.base import Method
    from cellalign.tasks.prepare import Prepared

STEPS = 3  # that are timed, after as many that warm caches up
VALIDATING = 0.4  # of a step's time takes a validation batch, which needs no gradients
FEW = 200  # steps of a training that is as soon over as estimated
CELLS = 1000  # on which a closed form is tried
COPIES = 6  # of the weights are held in training: themselves, gradients, Adam's moments, the first and the best ones


CLOSED_FORM, STACK = "a closed form", "a stack with networks, each trained again for every fold"


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes
    ----------
    epochs, steps : int
        At most: early stopping may end it sooner. Zero for a closed form.
    weights : int
        Numbers that are learned by steps.
    seconds : float, optional
        None where it was not measured.
    bytes : int, optional
        Largest memory of this process so far, and what the rest of training adds; None where the system does not say.
    form : str
        What it is where it takes no steps of its own.
    """

    epochs: int
    steps: int
    weights: int
    seconds: float | None = None
    bytes: int | None = None
    form: str = CLOSED_FORM

    @property
    def how(self) -> str:
        """By how many steps, in words."""
        if not self.steps:
            return self.form
        each = self.steps // self.epochs
        return f"at most {self.epochs:,} epochs of {each:,} step{'s' if each != 1 else ''}"

    @property
    def memory(self) -> str:
        """In words; empty where the system does not say."""
        return "" if self.bytes is None else bytes_said(float(f"{self.bytes:.2g}"))

    @property
    def said(self) -> str:
        """In words."""
        memory = f", {self.memory} of memory" if self.memory else ""
        if not self.steps:
            took = self.how if self.seconds is None else f"about {in_words(self.seconds)} ({self.how})"
            return f"{took}{memory}"
        if self.seconds is None:
            return f"{self.how}{memory}"
        return f"about {in_words(self.seconds)}{memory}; {self.how}, {self.weights:,} weights"


def in_words(seconds: float) -> str:
    """A duration as people say it, no more exact than it is known."""
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{float(f'{seconds:.1g}') if seconds < 10 else 5 * round(seconds / 5):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


@dataclass(frozen=True)
class Trial:
    """What a training will take, and what was made of a part of the cells to find that out.

    Attributes
    ----------
    estimate : Estimate
    module : Method, optional
        Networks that took a few steps; None where they were not needed, or that part could not be fitted.
    """

    estimate: Estimate
    module: Method | None = None


def estimated(prepared: Prepared, device: torch.device, *, seed: int = 0, always: bool = False) -> Estimate:
    """What a training will take on a device; parameters are those of `tried`."""
    return tried(prepared, device, seed=seed, always=always).estimate


def work_of(prepared: Prepared) -> float:
    """What the time of a training is in proportion to: steps and batches validated on, or cells of a closed form."""
    from cellalign.methods.base import Trains
    from cellalign.methods.registry import get

    plan, n = prepared.plan, len(prepared.train_rows)
    if not issubclass(get(prepared.record.method), Trains):
        return float(n)
    each = max(1, math.ceil(n / plan.batch_size))
    return plan.resolve_epochs(n) * (each + VALIDATING * math.ceil(len(prepared.validation_rows) / plan.batch_size))


def tried(prepared: Prepared, device: torch.device, *, seed: int = 0, always: bool = False) -> Trial:
    """Fit to a part of the cells, and say what a training will take; the caller's random numbers stay as they are.

    Parameters
    ----------
    prepared : Prepared
    device : torch.device
    seed : int
    always : bool
        Time short trainings too, and closed forms on a part of the cells.
    """
    import torch

    from cellalign.engine.ranks import current
    from cellalign.methods.base import Trains
    from cellalign.methods.capabilities import Stacks
    from cellalign.methods.registry import get
    from cellalign.model_directory import build_to_train

    plan, n = prepared.plan, len(prepared.train_rows)
    by_steps = issubclass(get(prepared.record.method), Trains)
    epochs = plan.resolve_epochs(n) if by_steps else 0
    per_epoch = max(1, math.ceil(n / plan.batch_size))
    found = Estimate(epochs, epochs * per_epoch, 0)
    if not current().alone or not (always or found.steps > FEW):  # ranks would have to be asked all alike
        return Trial(found)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        module = build_to_train(prepared.record)
        if isinstance(module, Stacks) and any(isinstance(member, Trains) for member in module.members.values()):
            # of which a part of the cells says little
            return Trial(replace(found, form=STACK, bytes=memory_of(0, device)))
        weights = sum(parameter.numel() for parameter in module.parameters()) if by_steps else 0
        seconds = _seconds_of(module, prepared, device, seed, found)
    found = replace(found, weights=weights, seconds=seconds, bytes=memory_of(weights, device))
    return Trial(found, None if seconds is None else module)


def _seconds_of(module: Method, prepared: Prepared, device: torch.device, seed: int, whole: Estimate) -> float | None:
    """By fitting to a part of the cells; None where that part cannot be fitted."""
    import numpy as np
    import torch

    from cellalign.data.said import untold
    from cellalign.engine.fit import fit

    rows, plan = prepared.train_rows, prepared.plan
    size = STEPS * plan.batch_size if whole.steps else CELLS
    part = np.sort(np.random.default_rng(seed).permutation(rows)[:size])
    taken = torch.from_numpy(part)
    plan = plan.model_copy(update={"epochs": 2, "validation": 0.0, "early_stopping": False})
    try:
        with untold():
            state = fit(module, prepared.cells, taken, taken[:0], plan, device=device, seed=seed)
            before = time.monotonic()
            if not whole.steps:  # again, without what the first of a process takes
                fit(module, prepared.cells, taken, taken[:0], plan, device=device, seed=seed)
    except Exception:  # whatever is wrong with a part of the cells; training says what is wrong with all
        return None
    if not whole.steps:
        return (time.monotonic() - before) * max(1.0, len(rows) / len(part))
    ends = [row["seconds"] for row in state.history]
    return (ends[-1] - ends[-2]) / max(1, math.ceil(len(part) / plan.batch_size)) * work_of(prepared)


def memory_of(weights: int, device: torch.device) -> int | None:
    """Bytes at the peak: of the GPU there, else of this process, which has read the cells and taken steps."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
        import sys
    except ImportError:  # not Unix
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + COPIES * 4 * weights // 2
