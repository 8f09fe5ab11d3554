"""Processes that are started together: who starts them, and what becomes of the others when one ends.

torchrun and SLURM start them by themselves. Otherwise the command does, once for each device of this machine, and
waits: what one rank ends with is what the command ends with, in one line, and none is left behind.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from cellalign.errors import TrainingError, UsageError, option, spoken
from cellalign.threads import asked_for, available

BY_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PARENT = "CELLALIGN_PARENT"  # who started this process as a rank
OWN_STEPS = 0xFFFFFFF0  # SLURM's steps from here on are no srun's: the batch script, an interactive shell
PATIENCE = 20.0  # seconds that ranks are given to notice that one has ended
PUT_AWAY = 5.0  # and, once they are told to, to end
FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


@dataclass(frozen=True)
class Started:
    """Processes that were started together, this one among them.

    Attributes
    ----------
    by : {"torchrun", "slurm"}
        Whose variables say so.
    local, nodes : int
        Processes on each machine, and machines.
    """

    by: Literal["torchrun", "slurm"]
    local: int
    nodes: int

    @property
    def world(self) -> int:
        """All processes."""
        return self.local * self.nodes


def started(devices: int | None, nodes: int | None) -> Started | None:
    """The processes that this one was started with, None where it is alone and shall be.

    Raises
    ------
    UsageError
        They are not as many as asked for.
    """
    asked = (devices or 1) * (nodes or 1)
    by = started_by(asked)
    if asked == 1 and (devices or nodes):  # who says so has processes that have nothing to do with each other
        return None
    if by is None:
        if asked > 1:
            torchrun = f"torchrun --nproc-per-node {devices or 1} SCRIPT"
            mend = spoken(python=f"start the script by `{torchrun}`", command=f"start it by {torchrun}, or by srun")
            raise UsageError(f"{_said(devices, nodes)} takes {asked} processes, and there is one: {mend}")
        return None
    world = int(os.environ["WORLD_SIZE" if by == "torchrun" else "SLURM_NTASKS"])
    if devices is None and nodes is None:
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        nodes = world // max(1, devices)
    found = Started(by, devices or 1, nodes or 1)
    if found.world != world:
        raise UsageError(f"{_said(devices, nodes)} asks for {found.world} processes, and {by} started {world}")
    return None if world == 1 else found


def started_by(asked: int) -> Literal["torchrun", "slurm"] | None:
    """Who started the processes; SLURM where several are asked for alone, as its variables are there in every job."""
    if all(name in os.environ for name in BY_TORCHRUN):
        return "torchrun"
    several = asked > 1 and int(os.environ.get("SLURM_NTASKS", 1)) > 1
    return "slurm" if several and _by_srun() else None


def _by_srun() -> bool:
    """Whether srun started this process, and not a batch script, which has the variables of its job's tasks too."""
    step = os.environ.get("SLURM_STEP_ID", os.environ.get("SLURM_STEPID", ""))
    in_step = step.isdigit() and int(step) < OWN_STEPS
    return in_step and "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def environment(there: Started) -> Any:
    """lightning-fabric's reading of their variables; UsageError where it finds them wrong."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if there.by == "torchrun":
        return TorchElasticEnvironment()
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        mend = f"--ntasks-per-node={there.local}"
        raise UsageError(f"SLURM has to be told `{mend}`, not the number of all tasks alone")
    return SLURMEnvironment(auto_requeue=False)


def _said(devices: int | None, nodes: int | None) -> str:
    given = {"devices": devices, "nodes": nodes}
    return " ".join(option(name, value) for name, value in given.items() if value is not None)


def several_to_start(devices: int | None, nodes: int | None) -> bool:
    """Whether the command has to start its ranks itself."""
    asked = (devices or 1) * (nodes or 1)
    return asked > 1 and started_by(asked) is None


def run_ranks(words: Sequence[str], devices: int, nodes: int = 1, threads: int | None = None) -> int:
    """Run the command once for each device of this machine, and give the exit status.

    Parameters
    ----------
    words : sequence of str
        The command line, after `cellalign`.
    devices, nodes : int
        With several machines the command is given on each, with NODE_RANK, MASTER_ADDR and MASTER_PORT set.
    threads : int, optional
        Of each rank; by default the CPUs are shared out.

    Raises
    ------
    UsageError
        Of several machines it is not said which is which.
    TrainingError
        A rank was killed.
    """
    common = _common(devices, nodes, threads)
    first = devices * int(common["GROUP_RANK"])
    ranks = []
    try:
        for local in range(devices):
            own = common | {"RANK": str(first + local), "LOCAL_RANK": str(local)}
            ranks.append(_Rank(words, own, shown=local == 0))
        with _forwarding(ranks):
            cause = _wait(ranks)
    finally:
        _end(ranks)
    return _status(ranks, cause)


def _common(devices: int, nodes: int, threads: int | None) -> dict[str, str]:
    """What torchrun would set for all of them."""
    given = os.environ
    if nodes > 1:
        missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in given]
        if missing:
            raise UsageError(
                f"{option('nodes', nodes)}: start it by srun or torchrun on all machines, or on each with "
                f"{', '.join(missing)} set"
            )
    if threads is None and asked_for() in (None, available()):  # as the command has it where nobody asked
        threads = max(1, available() // devices)
    names = () if threads is None else ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {name: str(threads) for name in names} | {
        "WORLD_SIZE": str(devices * nodes),
        "LOCAL_WORLD_SIZE": str(devices),
        "GROUP_RANK": given.get("NODE_RANK", "0") if nodes > 1 else "0",
        "MASTER_ADDR": given.get("MASTER_ADDR", "127.0.0.1") if nodes > 1 else "127.0.0.1",
        "MASTER_PORT": given["MASTER_PORT"] if nodes > 1 else str(_free_port()),
        PARENT: str(os.getpid()),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Rank:
    """A process; what others than the first say is kept, for the case that the first says nothing."""

    def __init__(self, words: Sequence[str], own: Mapping[str, str], *, shown: bool) -> None:
        self.number, self.put_away = own["RANK"], False
        self.said: IO[bytes] | None = None if shown else tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cellalign", *words],  # P: no module of the working directory is meant
            env=os.environ | dict(own),
            stdin=subprocess.DEVNULL,
            stdout=None if shown else subprocess.DEVNULL,
            stderr=self.said,
            process_group=0 if os.name == "posix" else None,  # signals reach it through this process
        )

    @property
    def code(self) -> int | None:
        """Its exit status, negative where a signal killed it; None while it runs."""
        return self.process.poll()

    def last_line(self) -> str:
        """Of what it said."""
        if self.said is None:
            return ""
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@contextmanager
def _forwarding(ranks: Sequence[_Rank]) -> Iterator[None]:
    """Signals go to the first rank, which tells the others; the second that would end the run to all."""
    came: list[int] = []

    def forward(number: int, _: Any) -> None:
        came.append(number)
        again = sum(each != getattr(signal, "SIGUSR1", None) for each in came) > 1
        for rank in ranks if again else ranks[:1]:
            if rank.code is None:
                rank.process.send_signal(number)

    before = {number: signal.getsignal(number) for number in FORWARDED}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    in_main = threading.current_thread() is threading.main_thread()
    for number in before if in_main else ():
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items() if in_main else ():
            signal.signal(number, handler)


def _wait(ranks: Sequence[_Rank]) -> _Rank | None:
    """Until all have ended, or one has failed and the others do not follow: the one to blame."""
    until = math.inf
    while time.monotonic() < until and any(rank.code is None for rank in ranks):
        if until == math.inf and any(rank.code for rank in ranks):
            until = time.monotonic() + PATIENCE
        time.sleep(0.05)
    failed = [rank for rank in ranks if rank.code]
    killed = [rank for rank in failed if (rank.code or 0) < 0]
    # that another has ended is noticed with the status of a training that failed
    by_itself = [rank for rank in failed if rank.code != TrainingError.exit_status]
    return next(iter(killed + by_itself + failed), None)


def _end(ranks: Sequence[_Rank]) -> None:
    """End those that still run."""
    for ask in ("terminate", "kill"):
        running = [rank for rank in ranks if rank.code is None]
        for rank in running:
            rank.put_away = True
            getattr(rank.process, ask)()
        until = time.monotonic() + PUT_AWAY
        while any(rank.code is None for rank in running) and time.monotonic() < until:
            time.sleep(0.05)


def _status(ranks: Sequence[_Rank], cause: _Rank | None) -> int:
    """What the command ends with: as the first rank does, unless it could not say why."""
    if cause is None:
        return 0
    first, code = ranks[0], cause.code or 0
    if not first.put_away and (first.code or 0) >= 0:
        if code > 0 and code != first.code and first.code:  # which says no more than that another has ended
            sys.stderr.write(f"rank {cause.number}: {cause.last_line()}\n")
        return first.code or 0
    if code > 0:
        raise TrainingError(f"rank {cause.number} has ended, and the others with it; it said: {cause.last_line()}")
    kept = next((line for rank in ranks[1:] if (line := rank.last_line())), "").partition("; ")[2]
    said = f"rank {cause.number} was ended by {signal.Signals(-code).name}, and the others with it"
    raise TrainingError(f"{said}; {kept}" if kept else said)


def end_with_parent() -> None:
    """Have a rank that the command started end when the command is gone, which a SIGKILL does not let it say."""
    parent = os.environ.get(PARENT)
    if parent is None or os.getppid() != int(parent):
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
