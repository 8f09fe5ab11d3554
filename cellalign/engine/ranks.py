"""The processes that compute together, a device each: which one this is, and what they tell each other.

lightning-fabric finds out who there is (torchrun, SLURM) and connects them, by gloo between CPUs and by nccl between
GPUs. Everything they say to each other passes through `Ranks`; alone, there is nobody to talk to and nothing is done.

Notable: all ranks draw the same random numbers and come to the same decisions, since they see the same sums; what only
one can do (write, look whether there is a file) the first one does, and tells.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cellalign.engine.launch import Started, end_with_parent, environment, started
from cellalign.engine.meeting import meet
from cellalign.errors import TrainingError, UsageError, option
from cellalign.methods.base import Method
from cellalign.nn.share import Share

log = logging.getLogger("cellalign")
PATIENCE = timedelta(hours=4)  # of those that wait while one looks through 10^8 cells; one that ends is noticed at once
T = TypeVar("T")


class RankLost(TrainingError):
    """Another rank has ended; this one cannot go on."""

    def __init__(self) -> None:
        super().__init__("another rank has ended, and this one with it")


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that compute together.

    Attributes
    ----------
    rank, world : int
        Its number, from 0, and how many there are.
    device : torch.device
        What tensors lie on that are told.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def sizes(self, n: int) -> tuple[int, ...]:
        """How many of n rows each rank has."""
        return tuple(n // self.world + (rank < n % self.world) for rank in range(self.world))

    def share_of(self, n: int) -> Share | None:
        """The share of a batch of n rows; None alone, and of a batch too small to be shared, which all compute."""
        return None if self.alone or n < self.world else Share(self.sizes(n), self.rank, self.stack)

    def own(self, rows: Tensor) -> Tensor:
        """The rows [b] of this rank's share of a batch [B]."""
        share = self.share_of(len(rows))
        return rows if share is None else rows[share.rows]

    def counts(self, n: int) -> bool:
        """Whether what this rank computes of a batch of n rows is to be added up."""
        return self.first or n >= self.world

    def stack(self, values: Tensor) -> Tensor:
        """Values [...] of all ranks, [ranks, ...]."""
        found = values.new_empty(self.world * values.numel())
        with _heard():
            _gather(found, values.reshape(-1))
        return found.view(self.world, *values.shape)

    def add(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if not self.alone:
            with _heard():
                torch.distributed.all_reduce(values)
        return values

    def told(self, find: Callable[[], T]) -> T:
        """What the first rank finds; of the others none looks."""
        if self.alone:
            return find()
        box: list[Any] = [find() if self.first else None]
        with _heard():
            torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def together(self, own: T) -> list[T]:
        """What each rank has, in their order."""
        if self.alone:
            return [own]
        found: list[Any] = [None] * self.world
        with _heard():
            torch.distributed.all_gather_object(found, own)
        return found

    def sent_to_first(self, own: T) -> list[T]:
        """What each rank has, in their order, on the first; nothing on the others."""
        if self.alone:
            return [own]
        found: list[Any] | None = [None] * self.world if self.first else None
        with _heard():
            torch.distributed.gather_object(own, found)
        return found or []

    def one_after_another(self, parts: Iterator[T], number: int) -> Iterator[T]:
        """So many parts in their order, of which rank r computes each (r + i world)-th; all ranks are given all."""
        for _ in range(-(-number // self.world)):
            yield from [part for part in self.together(next(parts, None)) if part is not None]

    def wait(self) -> None:
        """Until all are here."""
        if not self.alone:
            self.together(None)

    def equalise(self, module: nn.Module) -> None:
        """Have the first rank's weights and statistics on all."""
        if self.alone:
            return
        with _heard(), torch.no_grad():
            for value in module.state_dict().values():
                given = value.contiguous()
                torch.distributed.broadcast(given, src=0)
                value.copy_(given)


def _gather(into: Tensor, values: Tensor) -> None:
    """torch's, which had another name before 2.13."""
    new = getattr(torch.distributed, "all_gather_single", None)
    (new or torch.distributed.all_gather_into_tensor)(into, values)


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """Those that are connected, or this process alone."""
    return _current


@contextmanager
def connected(devices: int | None = None, nodes: int | None = None, device: str = "auto") -> Iterator[Ranks]:
    """Connect the processes that were started together, as many as asked for; within, `current` gives them.

    Parameters
    ----------
    devices, nodes : int, optional
        Processes on each machine, and machines; by default as many as torchrun started, else one.
    device : str
        As `pick_device` takes it, without a number: each rank has its own.

    Raises
    ------
    UsageError
        Other numbers were started, or lightning-fabric is not installed.
    TrainingError
        They do not find each other.
    """
    global _current
    if not _current.alone:
        yield _current
        return
    there = started(devices, nodes)
    if there is None:
        yield ALONE
        return
    _current = _connect(there, device)
    end_with_parent()
    if not _current.first:
        log.setLevel(max(log.level, logging.ERROR))
    try:
        yield _current
        _current.wait()  # the first may still write, and a queue may end it soon after another has left
    finally:
        _current = ALONE


def _connect(there: Started, name: str) -> Ranks:
    """By lightning-fabric."""
    from cellalign.engine.device import pick_device

    kind = pick_device(name)
    if kind.index is not None or kind.type == "mps":
        raise UsageError(f"{option('device', name)} is one device; with {option('devices')} say cuda or cpu")
    if kind.type == "cuda" and there.local > torch.cuda.device_count():
        found = torch.cuda.device_count()
        seen = f"this process sees {found} GPU{'s' if found > 1 else ''}"
        mend = "ask for so many, and SLURM for --gpus-per-node"
        raise UsageError(f"{option('devices', there.local)}: {seen}; {mend}")
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise UsageError(f"{option('devices')} needs lightning-fabric: pip install 'cellalign[distributed]'") from error
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # who there is, is said below
    backend = "nccl" if kind.type == "cuda" else "gloo"
    by = environment(there)
    strategy = DDPStrategy(cluster_environment=by, process_group_backend=backend, timeout=PATIENCE)
    fabric = Fabric(accelerator=kind.type, devices=there.local, num_nodes=there.nodes, strategy=strategy)
    try:
        # torchrun has had all of them come before it starts any, and keeps the store itself
        agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = None if agents else meet(by.main_address, by.main_port, by.global_rank(), there.world)
        fabric.launch()
        del store
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise TrainingError(f"the {there.world} ranks do not find each other: {said}") from error
    found = Ranks(fabric.global_rank, fabric.world_size, fabric.device)
    if found.first:
        threads = torch.get_num_threads()
        each = "a GPU" if kind.type == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
        where = f" on {there.nodes} machines" if there.nodes > 1 else ""
        faster = "; one process with as many threads is faster" if kind.type == "cpu" and there.nodes == 1 else ""
        log.info("%d ranks%s compute together, each on %s%s", found.world, where, each, faster)
    return found


@contextmanager
def _heard() -> Iterator[None]:
    """A rank that has ended breaks what is said; the backends have no class for it."""
    try:
        yield
    except RankLost:
        raise
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise RankLost from error


def check_shares(cls: type[Method]) -> None:
    """Refuse a method that several ranks cannot compute together, where there are several: UsageError."""
    if _current.alone or shares_batches(cls):
        return
    from cellalign.methods.registry import loadable

    able = ", ".join(sorted(name for name, other in loadable() if shares_batches(other)))
    raise UsageError(f"method {cls.name!r} is fitted by one process: leave out {option('devices')}; several fit {able}")


def shares_batches(cls: type[Method]) -> bool:
    """Whether a method's class says so of itself; of what it inherits nobody knows whether it still holds."""
    return bool(vars(cls).get("shares_batches", False))
