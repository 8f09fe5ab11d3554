"""Workers of a dask cluster at work: each opens the matrices, and applies a function to some of their rows.

Results come in the order of the rows, so that whatever is made of them is what one process makes.
"""

from __future__ import annotations

import platform
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from cellalign.data.stored import Run, Stored
from cellalign.errors import CellalignError, InputError, TrainingError

GONE = 60.0  # seconds without any worker after which no other is waited for
LOOK = 2.0  # seconds after which it is looked whether anybody is there
AHEAD = 3  # tasks a thread that are asked for before the first is used
LET_GO = 10.0  # seconds that tasks which are of no use any more are waited for

_at_work: Counter[str] = Counter()  # on a worker: how many tasks of a command
_counting = threading.Lock()


def address_of(client: Any) -> str:
    """Of a client's scheduler."""
    return str(client.scheduler.address) if client.scheduler is not None else ""


class Packed:
    """Matrices as they are sent to a worker, which opens them when it first needs them and as long as it does."""

    def __init__(self, content: bytes, version: str) -> None:
        self.content, self.version, self._opening = content, version, threading.Lock()
        self._matrices: Any = None

    @property
    def matrices(self) -> Any:
        """A matrix, or a list."""
        from cloudpickle import loads

        from cellalign import __version__

        if self.version != __version__:  # a worker that came later
            where = f"a worker on {platform.node()} has cellalign {__version__}, and the command {self.version}"
            raise InputError(f"{where}; install the same everywhere")
        with self._opening:
            if self._matrices is None:
                self._matrices = loads(self.content)
            return self._matrices

    def __reduce__(self) -> Any:
        return Packed, (self.content, self.version)

    def __sizeof__(self) -> int:
        return len(self.content)


def _work(packed: Packed, whose: str, function: Callable[..., Any], run: Run, arguments: tuple[Any, ...]) -> Any:
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


class Crew:
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

        from cellalign import __version__

        waiting: deque[Any] = deque()
        kept: list[Any] = []
        try:
            # a task, and not data that is scattered: dask can do it again where the worker that has it is gone
            whole = self._submit(Packed, dumps(matrices), __version__)
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
                f"the scheduler {address_of(self.client)} has had no workers for {GONE:.0f} s; start some and run again"
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
    return TrainingError(
        f"the connection to the scheduler {address_of(client)} is lost; see its messages, and run again"
    )
