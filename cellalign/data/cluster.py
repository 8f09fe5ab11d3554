"""Passes over matrices that a dask cluster makes: its workers open the files, and look at or write some rows each.

Each computes what one process would of the same blocks of rows, and that is put together in their order, so that the
sums are the same to the last bit. dask carries tasks and results, and repeats those of a worker that is gone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from cellalign import memory
from cellalign.data.formats.on_disk import SHARED
from cellalign.data.stored import Run, Stored, helped_by
from cellalign.errors import CellalignError, InputError, TrainingError, UsageError, option
from cellalign.threads import available

log = logging.getLogger("cellalign")
LOCAL = "local"
ADDRESS = re.compile(r"(\w+://)?[\w.\-]*:\d+|(tcp|tls|ucx|ws|wss|inproc)://\S+|\[[0-9a-fA-F:]+\]:\d+")
PATIENCE = 30.0  # seconds that a scheduler, its file and the first worker are waited for
GONE = 60.0  # seconds without any worker after which no other is waited for
LOOK = 2.0  # seconds after which it is looked whether anybody is there
AHEAD = 3  # tasks a thread that are asked for before the first is used
LET_GO = 10.0  # seconds that tasks which are of no use any more are waited for

_at_work: Counter[str] = Counter()  # on a worker: how many tasks of a command
_counting = threading.Lock()


@contextmanager
def connected(address: str, reads: Iterable[Path], writes: Path | None, threads: int | None = None) -> Iterator[None]:
    """Within, passes over matrices on disk are made by the workers of a cluster.

    Parameters
    ----------
    address : str
        Of the scheduler; the path of the file that it wrote; or "local", for processes of this command's own.
    reads : iterable of path
        Files that workers have to see.
    writes : path, optional
        A store that they write.
    threads : int, optional
        How many processes of its own; by default one for each processor.

    Raises
    ------
    UsageError
        It is no address, or dask is not installed.
    InputError
        No scheduler, no worker, one without these files, or of another version.
    """
    _import()
    with ExitStack() as stack:
        client = _client(address, threads, stack)
        # what is not there at all says whoever reads it
        _check(client, [os.path.abspath(path) for path in reads if os.path.exists(path)], writes)
        with helped_by(_Crew(client)):
            yield


def _import() -> None:
    """Import dask's client, which says nothing of itself but with -v."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{option('cluster')} needs dask: pip install 'cellalign[cluster]'") from error
    if not log.isEnabledFor(logging.DEBUG):
        for name in [*logging.root.manager.loggerDict, "asyncio"]:  # many of dask's have a level of their own
            if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _client(address: str, threads: int | None, stack: ExitStack) -> Any:
    """A client of the scheduler."""
    from distributed import Client

    if address == LOCAL:
        found: Any = _own_workers(threads, stack)
    elif ADDRESS.fullmatch(address) and not os.path.exists(address):
        found = address
    else:
        found = _written_in(address)
    try:
        # of a cluster of our own a line is drawn under it even where a signal comes meanwhile
        client = Client(found, timeout=PATIENCE, set_as_default=False, name="cellalign")
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"no dask scheduler answers at {address} ({reason}); start one: dask scheduler") from error
    stack.callback(_closed, client)
    return client


def _closed(client: Any) -> None:
    with suppress(Exception):
        client.close(timeout=LOOK)


def _written_in(path: str) -> str:
    """The address in a scheduler's file, which may be about to be written."""
    named = os.path.exists(path) or os.sep in path or Path(path).suffix != ""
    if not named or not Path(path).absolute().parent.is_dir():
        raise UsageError(
            f"{option('cluster', path)} is no address (tcp://HOST:8786), no scheduler's file, and not {LOCAL!r}"
        )
    until, said = time.monotonic() + PATIENCE, False
    while True:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(Path(path).read_text())["address"])
        if time.monotonic() > until:
            what = "is no file that a dask scheduler writes" if os.path.exists(path) else "is not there"
            start = f"dask scheduler --scheduler-file {path}"
            raise InputError(f"{path} {what}; start one: {start}")
        if not said:
            log.info("waiting for %s, which the scheduler writes", path)
            said = True
        time.sleep(0.1)


def _own_workers(threads: int | None, stack: ExitStack) -> Any:
    """Processes of our own on this machine."""
    from distributed import LocalCluster

    n, free = threads or available(), memory.available()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cellalign-", ignore_cleanup_errors=True))
    options: dict[str, Any] = {
        "n_workers": n,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "silence_logs": logging.CRITICAL + 1,
        "local_directory": folder,
        "memory_limit": "auto" if free is None else int(free / n),
    }
    # in a thread: a signal that comes meanwhile leaves none that is half built
    pool = stack.enter_context(ThreadPoolExecutor(1, "cellalign-cluster"))
    with _kept_from_children():
        building = pool.submit(LocalCluster, **options)
    stack.callback(_all_ended, building)
    return building.result()


@contextmanager
def _kept_from_children() -> Iterator[None]:
    """Threads started within, and what they start, are not sent a terminal's signals: this process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or it is started later, and has these signals arrive again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _all_ended(building: Future[Any]) -> None:
    with suppress(Exception):
        building.result(timeout=LET_GO).close(timeout=LET_GO)


def _check(client: Any, reads: Sequence[str], writes: Path | None) -> None:
    """Whether there are workers that can do the work, which is said."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(
            f"the scheduler {_address(client)} has no workers after {PATIENCE:.0f} s; start some: "
            f"dask worker {_address(client)}"
        ) from error
    _check_pythons(client)
    with _probe(writes) as shown:
        needed = [*reads, *([shown] if shown else [])]
        answers = client.run(_about(needed))
    from cellalign import __version__

    for worker, (host, version, missing) in answers.items():
        where = f"the worker {worker} on {host}"
        if version is None:
            raise InputError(f"{where} has no cellalign; start workers in the environment of this command")
        if version != __version__:
            raise InputError(f"{where} has cellalign {version}, and this is {__version__}; install the same everywhere")
        if missing:
            place = str(writes.parent) if writes is not None and missing[0] == shown else missing[0]
            raise InputError(f"{where} does not see {place}: {SHARED}")
    n = sum(client.nthreads().values())
    log.info("%d workers, %d tasks at a time (%s)", len(answers), n, _address(client))


def _check_pythons(client: Any) -> None:
    """Refuse workers of another Python: what is sent to them is compiled."""
    own = list(map(str, sys.version_info[:2]))
    for worker, about in client.get_versions()["workers"].items():
        found = str(about["host"]["python"]).split(".")[:2]
        if found != own:
            raise InputError(
                f"the worker {worker} runs Python {'.'.join(found)}, and this is {'.'.join(own)}; start workers in the "
                "environment of this command"
            )


def _about(paths: Sequence[str]) -> Callable[[], Any]:
    """What a worker says of itself: its machine, its cellalign, which of the files it does not see."""

    def about() -> Any:  # sent as it is: there may be no cellalign to import it from
        import os
        import platform

        try:
            from cellalign import __version__
        except ImportError:
            return platform.node(), None, []
        return platform.node(), __version__, [path for path in paths if not os.path.exists(path)]

    return about


@contextmanager
def _probe(writes: Path | None) -> Iterator[str | None]:
    """A file for a moment where a store is to be written: a folder of that name may be another one elsewhere."""
    if writes is None:
        yield None
        return
    with tempfile.NamedTemporaryFile(dir=writes.absolute().parent, prefix=f".{writes.name[:100]}.cellalign-") as file:
        yield file.name


def _address(client: Any) -> str:
    return str(client.scheduler.address) if client.scheduler is not None else ""


class _Packed:
    """Matrices as they are sent to a worker, which opens them when it first needs them and as long as it does."""

    def __init__(self, content: bytes) -> None:
        self.content, self._opening = content, threading.Lock()
        self._matrices: Any = None

    @property
    def matrices(self) -> Any:
        """A matrix, or a list."""
        from cloudpickle import loads

        with self._opening:
            if self._matrices is None:
                self._matrices = loads(self.content)
            return self._matrices

    def __reduce__(self) -> Any:
        return _Packed, (self.content,)

    def __sizeof__(self) -> int:
        return len(self.content)


def _work(packed: _Packed, whose: str, function: Callable[..., Any], run: Run, arguments: tuple[Any, ...]) -> Any:
    """On a worker: a function of some rows."""
    with _counting:
        _at_work[whose] += 1
    try:
        matrices = packed.matrices
        if isinstance(matrices, Stored):
            return function(matrices.runs([run]), *arguments)
        return function([matrix.runs([run]) for matrix in matrices], *arguments)
    finally:
        with _counting:
            _at_work[whose] -= 1


def _is_at_work(whose: str) -> bool:
    """On a worker: whether it still does something of a command."""
    return _at_work[whose] > 0


class _Crew:
    """The workers of a cluster."""

    def __init__(self, client: Any) -> None:
        self.client, self.name = client, uuid.uuid4().hex
        self.alone_since: float | None = None
        self.room, self.looked = AHEAD, -LOOK

    def over(
        self, matrices: Any, function: Callable[..., Any], asked: Iterable[tuple[Run, tuple[Any, ...]]]
    ) -> Iterator[Any]:
        """`function` of each run's rows, in order; a few of them are computed ahead."""
        from cloudpickle import dumps

        waiting: deque[Any] = deque()
        kept: list[Any] = []
        try:
            # a task, and not data that is scattered: dask can do it again where the worker that has it is gone
            whole = self._submit(_Packed, dumps(matrices))
            kept.append(whole)
            for run, arguments in asked:
                waiting.append(self._submit(_work, whole, self.name, function, run, arguments))
                if len(waiting) >= self._room():
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        except BaseException:
            self._let_go([*waiting, *kept])
            raise

    def _room(self) -> int:
        """How many tasks are asked for at a time; workers come and go."""
        if time.monotonic() - self.looked > LOOK:
            try:
                self.room = AHEAD * max(1, sum(self.client.nthreads().values()))
            except Exception as error:
                raise _lost(self.client) from error
            self.looked = time.monotonic()
        return self.room

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        key = f"cellalign-{function.__name__.strip('_').lower()}-{uuid.uuid4().hex}"
        return self.client.submit(function, *arguments, key=key, pure=False)

    def _result(self, future: Any) -> Any:
        """What a task gave, however long it takes, as long as anybody works at it."""
        while True:
            try:
                return future.result(timeout=LOOK)
            except TimeoutError as error:
                if future.status == "error":  # one of the task's own
                    raise
                self._look(error)
            except CellalignError:
                raise
            except Exception as error:
                raise _in_words(error, self.client) from error

    def _look(self, error: Exception) -> None:
        """Whether anybody is there."""
        try:
            there = self.client.nthreads()
        except Exception as lost:
            raise _lost(self.client) from lost
        if there:
            self.alone_since = None
            return
        self.alone_since = self.alone_since or time.monotonic()
        if time.monotonic() - self.alone_since > GONE:
            raise TrainingError(
                f"the scheduler {_address(self.client)} has had no workers for {GONE:.0f} s; start some and run again"
            ) from error

    def _let_go(self, futures: Sequence[Any]) -> None:
        """Take back what nobody waits for any more; what has begun ends before something else is done to its files."""
        with suppress(Exception):
            self.client.cancel(futures, force=True)
            until = time.monotonic() + LET_GO
            while time.monotonic() < until and any(self.client.run(_is_at_work, self.name).values()):
                time.sleep(0.05)


def _in_words(error: Exception, client: Any) -> Exception:
    """What went wrong with the cluster, as one line; other errors as they are."""
    from asyncio import CancelledError

    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        where = error.last_worker.address if error.last_worker is not None else "a worker"
        times = (error.allowed_failures or 0) + 1
        return TrainingError(
            f"{times} workers died one after the other over the same rows, the last {where}: out of memory, or ended; "
            "give each more memory or fewer threads (dask worker --nthreads 1 --memory-limit 4GB)"
        )
    if isinstance(error, MemoryError):
        fewer = "dask worker --nthreads 1"
        return TrainingError(f"a worker ran out of memory; give each more, or fewer threads ({fewer})")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "cellalign":
        return InputError("a worker has no cellalign, or another version; start workers in this command's environment")
    if isinstance(error, CancelledError) or type(error).__name__ == "FutureCancelledError":
        return _lost(client)
    return error


def _lost(client: Any) -> Exception:
    return TrainingError(f"the connection to the scheduler {_address(client)} is lost; see its messages, and run again")
