"""How many threads compute: of torch, numba, BLAS, OpenMP and scikit-learn's workers alike. Imports none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cellalign import cgroups
from cellalign.errors import UsageError, option

# what libraries read when they are imported
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")
CPU_TIMES = Path("/proc/stat")
# how idle threads of OpenMP wait; who has set one of these is left alone
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_BESIDE_OTHERS = "1000"  # turns, some 20 microseconds, before a thread sleeps (benchmarks/README.md)
_OF_NUMBA = "NUMBA_NUM_THREADS"
_limit: int | None = None
_neighbours: Neighbours | None = None


def available() -> int:
    """CPUs this process may use: what its affinity, its cgroup's quota and its SLURM job leave of the machine's."""
    job = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [int(job)] if job.isdigit() and int(job) else []
    return max(1, min([len(_cpus()), *limits, *_quotas()]))


def asked_for() -> int | None:
    """What OMP_NUM_THREADS says, None where it says nothing."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


def workers() -> int:
    """How many jobs scikit-learn may run at a time: as many as torch has threads, and no more than there are CPUs."""
    if _limit is not None:
        return _limit
    torch = sys.modules.get("torch")
    known = [torch.get_num_threads()] if torch is not None else []
    return min([asked_for() or available(), *known])


@contextmanager
def limited(threads: int | None = None) -> Iterator[None]:
    """As many threads of all libraries within, and as many as before after it.

    Parameters
    ----------
    threads : int, optional
        Without it each library keeps its own number; but torch's, which numba changes when it starts, comes back.

    Raises
    ------
    UsageError
        There is no thread to compute with.
    """
    global _limit
    check(threads)
    before, torch = _limit, sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch is not None else 0
    if threads is None and "numba" not in sys.modules:  # what a call is given wins over the environment
        _tell_numba(asked_for())
    with ExitStack() as others:
        try:
            if threads is not None:
                _limit = threads
                _limit_others(threads, others)
                if torch is not None:
                    torch.set_num_threads(threads)
            yield
        finally:
            _limit = before
            others.close()
            if torch is not None and torch.get_num_threads() != torch_before:
                torch.set_num_threads(torch_before)


def _tell_numba(number: int | None) -> None:
    """Say to numba, before it is imported, how many threads were asked for: it does not read OMP_NUM_THREADS.

    scanpy and UMAP compute with it, and it starts OpenMP for all libraries: torch too, imported before or after, would
    have as many threads as there are cores.
    """
    if number is not None:
        os.environ.setdefault(_OF_NUMBA, str(number))


def check(threads: int | None) -> None:
    """Refuse a number below one: UsageError."""
    if threads is not None and threads < 1:
        raise UsageError(f"{option('threads')} must be at least 1, not {threads}")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within, BLAS computes on one thread: thousands of products of a few columns cost several threads more than one.

    Six logistic regressions of 33,000 cells on 40 latents take 6 s on one thread and 22 s on two.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def computes_alone() -> None:
    """What the calling thread computes takes no other thread of OpenMP: for one beside the thread that trains.

    Each thread that asks OpenMP for help gets helpers of its own. As soon as there are more of all of them than CPUs,
    GCC's OpenMP has every idle one sleep at once, and each product of a training then waits until they are awake: scvi
    trains 9,000 cells a second instead of 13,000, whatever it is that the other thread does.
    """
    from threadpoolctl import ThreadpoolController

    if "torch" in sys.modules:
        sys.modules["torch"].get_num_threads()  # which gives OpenMP torch's number in this thread, once, at first
    for library in ThreadpoolController().select(user_api="openmp").lib_controllers:
        library.set_num_threads(1)  # of this thread alone


@contextmanager
def folds_at_once() -> Iterator[None]:
    """Within, scikit-learn's cross-validation fits several folds at a time, each on one thread of BLAS."""
    from joblib import parallel_config

    with one_blas_thread(), parallel_config("threading", n_jobs=workers()):
        yield


def _limit_others(threads: int, stack: ExitStack) -> None:
    """BLAS, OpenMP and numba, until the stack is closed."""
    import numba
    from threadpoolctl import threadpool_limits

    numbas = numba.get_num_threads()  # starts OpenMP with as many as numba has, so that the others come after it
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    stack.callback(numba.set_num_threads, numbas)
    stack.enter_context(threadpool_limits(threads))


def tell_libraries(threads: int | None = None) -> None:
    """Say in the environment how many threads there are, for libraries that are not imported yet: the command line's.

    Parameters
    ----------
    threads : int, optional
        By default what OMP_NUM_THREADS says, else the CPUs this process may use, where these are not all.
    """
    if threads is not None:
        os.environ.update({name: str(threads) for name in (*VARIABLES, _OF_NUMBA)})
        return
    number = asked_for()
    if number is None and available() < (os.cpu_count() or 1):
        number = available()
        os.environ["OMP_NUM_THREADS"] = str(number)
    _tell_numba(number)


class Neighbours:
    """How many of this process's CPUs others keep busy, from the time it was made."""

    def __init__(self) -> None:
        self._began = _cpu_times()

    def busy(self) -> float:
        """CPUs' worth of others' work on the CPUs this process may run on; 0 where the system does not say."""
        now = _cpu_times()
        if now is None or self._began is None or now[2] - self._began[2] < 0.05:
            return 0.0
        all_of_them, own, seconds = (after - before for after, before in zip(now, self._began, strict=True))
        return max(0.0, (all_of_them - own) / seconds)


def watch_neighbours() -> None:
    """Begin to look at what others do; called as early as can be."""
    global _neighbours
    _neighbours = Neighbours()


def wait_as_neighbours_allow(threads: int | None = None) -> str | None:
    """Have idle threads sleep soon where others want the CPUs: the command line's, before torch is imported.

    A thread that waits for its next task in a busy loop is the fastest on CPUs of its own. Beside another process it
    keeps the thread from running that it waits for, and a training takes several times as long.

    Returns
    -------
    str or None
        What was done, for a log.
    """
    if _neighbours is None or "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return None
    busy, cpus = _neighbours.busy(), len(_cpus())
    if busy + (threads or asked_for() or available()) < cpus + 0.5:
        return None
    os.environ["GOMP_SPINCOUNT"] = SPIN_BESIDE_OTHERS
    return f"other processes keep {busy:.1f} of {cpus} CPUs busy; idle threads sleep soon"


def _cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpu_times() -> tuple[float, float, float] | None:
    """Seconds that the CPUs of this process have been busy, those of this process and its children, and the time."""
    try:
        lines = CPU_TIMES.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        named = {f"cpu{number}" for number in _cpus()}
        # user, nice, system, then idle and waiting for a disk, then interrupts, and what other guests of a host took
        rows = [[int(value) for value in line.split()[1:9]] for line in lines if line.split(" ", 1)[0] in named]
        busy = sum(sum(row) - row[3] - row[4] for row in rows) / tick
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    used = os.times()
    return busy, used.user + used.system + used.children_user + used.children_system, used.elapsed


def _quotas() -> list[int]:
    """CPUs' worth of time that the cgroups this process is in may use."""
    return [quota for folder in cgroups.folders("cpu") for quota in _quota(folder)]


def _quota(folder: Path) -> list[int]:
    """The CPUs that one cgroup may use, nothing where it has no quota; a part of one counts as one."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period"))
        return [-(-int(quota) // int(period))] if int(quota) > 0 and int(period) > 0 else []
    except (OSError, ValueError):  # no such file, or "max"
        return []
