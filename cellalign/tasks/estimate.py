"""How long a training will take, and how much memory: by a few of its own steps, on a model that is thrown away."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cellalign.errors import counted
from cellalign.memory import said as bytes_said

if TYPE_CHECKING:
    import torch

    from cellalign.engine.plan import Plan
    from cellalign.methods.base import Method
    from cellalign.tasks.prepare import Prepared

STEPS = 6  # that an epoch of a trial has, so that what each begins with counts little
EPOCHS = 3  # of a trial: the first warms caches up, and of the others one may do what is done once in a training
VALIDATING = 0.4  # of a step's time takes a validation batch, which needs no gradients
FEW = 200  # steps of a training that is as soon over as estimated
CELLS, SHARE, MOST_CELLS = 2000, 0.1, 10_000  # a closed form is tried on so many, of many on a share of them
WARM = 300  # cells on which it is tried first: without what the first of a process takes
FEW_FITS = 3  # of a closed form that is as soon over as estimated
COPIES = 6  # of the weights are held in training: themselves, gradients, Adam's moments, the first and the best ones


@dataclass(frozen=True)
class Training:
    """What is trained by steps: a network, by which plan, and how often over (a part counts as a part)."""

    name: str
    plan: Plan
    times: float

    def steps(self, n: int) -> int:
        """At most, on n cells."""
        return round(self.times * self.plan.resolve_epochs(n)) * max(1, math.ceil(n / self.plan.batch_size))

    def work(self, n: int, checked: int) -> float:
        """Steps, and batches of `checked` cells validated on, in steps."""
        each = max(1, math.ceil(n / self.plan.batch_size)) + VALIDATING * math.ceil(checked / self.plan.batch_size)
        return self.times * self.plan.resolve_epochs(n) * each


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes
    ----------
    epochs, steps : int
        At most: early stopping may end it sooner. Zero for a closed form; of several trainings steps are of all.
    weights : int
        Numbers that are learned by steps.
    seconds : float, optional
        None where it was not measured.
    bytes : int, optional
        Largest memory of this process so far, and what the rest of training adds; None where the system does not say.
    networks : tuple of str
        Those inside a stack, each trained again for every fold.
    refits : int
        Trainings over again, which calibrate; `steps` are of one.
    fits : int
        Of closed forms in one training, at most: those of a stack are fitted in every fold.
    """

    epochs: int
    steps: int
    weights: int
    seconds: float | None = None
    bytes: int | None = None
    networks: tuple[str, ...] = ()
    refits: int = 0
    fits: int = 1

    @property
    def how(self) -> str:
        """By how many steps, in words."""
        refits = f", and {self.refits} refits to calibrate" if self.refits else ""
        return self._each + refits

    @property
    def _each(self) -> str:
        if not self.steps:
            return "a closed form" if self.fits == 1 else f"closed forms, fitted at most {self.fits} times"
        if self.networks:
            return f"at most {counted(self.steps, 'step')} of {', '.join(self.networks)}, trained anew for every fold"
        each = self.steps // self.epochs
        return f"at most {counted(self.epochs, 'epoch')} of {counted(each, 'step')}"

    @property
    def memory(self) -> str:
        """In words; empty where the system does not say."""
        return "" if self.bytes is None else bytes_said(float(f"{self.bytes:.2g}"))

    @property
    def said(self) -> str:
        """In words."""
        memory = f", {self.memory} of memory" if self.memory else ""
        if not self.steps:
            most = "at most about" if self.fits > 1 else "about"
            took = self.how if self.seconds is None else f"{most} {in_words(self.seconds)} ({self.how})"
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
    n, checked = map(len, prepared.rows)
    return sum(one.work(n, checked) for one in trainings(prepared)) or float(n)


def trainings(prepared: Prepared) -> list[Training]:
    """What is trained by steps; nothing of a closed form, every network of a stack."""
    from cellalign.engine.stacking import times_trained
    from cellalign.methods.base import Trains
    from cellalign.methods.capabilities import Stacks
    from cellalign.methods.registry import get

    cls, plan = get(prepared.record.method), prepared.plan
    if issubclass(cls, Trains):
        return [Training(cls.name, plan, 1)]
    if not issubclass(cls, Stacks):
        return []
    settings = cls.Hyperparameters(**prepared.record.hyperparameters)
    return [Training(*one) for one in times_trained(settings, plan, len(prepared.train_rows))]


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
    from cellalign.engine.stacking import fits_of
    from cellalign.methods.registry import get
    from cellalign.model_directory import build_to_train

    n, trained = len(prepared.train_rows), trainings(prepared)
    networks = tuple(one.name for one in trained) if [one.name for one in trained] != [prepared.record.method] else ()
    epochs = sum(one.plan.resolve_epochs(n) for one in trained)
    times, fits = 1 + prepared.refits, 1 if trained else fits_of(get(prepared.record.method))
    steps = sum(one.steps(n) for one in trained)
    found = Estimate(epochs, steps, 0, networks=networks, refits=prepared.refits, fits=fits)
    soon = times * steps <= FEW if trained else times * fits <= FEW_FITS
    if not current().alone or (soon and not always):  # ranks would have to be asked all alike
        return Trial(found)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        module: Any = build_to_train(prepared.record)
        learned: Sequence[Any] = [module.members[name] for name in networks] if networks else [module]
        weights = sum(parameter.numel() for one in learned for parameter in one.parameters()) if trained else 0
        if trained:
            pairs = zip(learned, trained, strict=True)
            each = [_seconds_by_steps(network, prepared, device, seed, one) for network, one in pairs]
            seconds = None if None in each else sum(one for one in each if one is not None)
        else:
            seconds = _seconds_at_once(module, prepared, device, seed)
        seconds = None if seconds is None else times * fits * seconds
    found = replace(found, weights=weights, seconds=seconds, bytes=memory_of(weights, device))
    return Trial(found, None if seconds is None or networks else module)


def _part(prepared: Prepared, size: int, seed: int) -> torch.Tensor:
    """So many rows of those trained on, at random."""
    import numpy as np
    import torch

    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(prepared.train_rows)[:size]))


def _fitted(module: Method, prepared: Prepared, plan: Plan, size: int, device: torch.device, seed: int) -> Any:
    """The state of a fit to so many cells; None where these cannot be fitted."""
    from cellalign.data.said import untold
    from cellalign.engine.fit import fit

    part = _part(prepared, size, seed)
    try:
        with untold():
            return fit(module, prepared.cells, part, part[:0], plan, device=device, seed=seed)
    except Exception:  # whatever is wrong with a part of the cells; training says what is wrong with all
        return None


def _seconds_by_steps(
    network: Method, prepared: Prepared, device: torch.device, seed: int, training: Training
) -> float | None:
    """By a few steps, after as many; None where they cannot be taken.

    An epoch may begin with what is done once or twice in a training (a latent space is turned): the fastest has not.
    """
    plan = training.plan.model_copy(update={"epochs": EPOCHS, "validation": 0.0, "early_stopping": False})
    state = _fitted(network, prepared, plan, STEPS * plan.batch_size, device, seed)
    if state is None:
        return None
    n, checked = map(len, prepared.rows)
    ends = [row["seconds"] for row in state.history]
    steps = max(1, math.ceil(min(STEPS * plan.batch_size, n) / plan.batch_size))
    fastest = min(after - before for before, after in itertools.pairwise(ends))
    return float(fastest) / steps * training.work(n, checked)


def _seconds_at_once(module: Any, prepared: Prepared, device: torch.device, seed: int) -> float | None:
    """Of a closed form, or all of a stack once, by fitting to a part of the cells; None where that cannot be fitted.

    Of what does not grow with the cells it says too much, and the less the more of them are tried.
    """
    from cellalign.methods.capabilities import Stacks

    n = len(prepared.train_rows)
    size = max(CELLS, min(round(SHARE * n), MOST_CELLS))
    each: list[Any] = list(module.members.values()) if isinstance(module, Stacks) else [module]
    for tried_on in (min(WARM, size), size):
        before = time.monotonic()
        if None in [_fitted(one, prepared, prepared.plan, tried_on, device, seed) for one in each]:
            return None
    return (time.monotonic() - before) * max(1.0, n / min(n, size))


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
