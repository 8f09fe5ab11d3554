"""Passes over matrices that a dask cluster makes: its workers open the files, and look at or write some rows each.

Each computes what one process would of the same blocks of rows, and that is put together in their order, so that the
sums are the same to the last bit. dask carries tasks and results, and repeats those of a worker that is gone.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from cellalign import memory
from cellalign.data.crew import LET_GO, LOOK, Crew, address_of
from cellalign.data.formats.on_disk import SHARED
from cellalign.data.stored import helped_by
from cellalign.errors import InputError, UsageError, option
from cellalign.threads import available

log = logging.getLogger("cellalign")
LOCAL = "local"
ADDRESS = re.compile(r"(\w+://)?[\w.\-]*:\d+|(tcp|tls|ucx|ws|wss|inproc)://\S+|\[[0-9a-fA-F:]+\]:\d+")
PATIENCE = 30.0  # seconds that a scheduler, its file and the first worker are waited for


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
        with helped_by(Crew(client)):
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
    import dask
    from distributed import LocalCluster

    # nobody looks at where their time goes, which is asked a hundred times a second
    stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
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
            f"the scheduler {address_of(client)} has no workers after {PATIENCE:.0f} s; start some: "
            f"dask worker {address_of(client)}"
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
    log.info("%d workers, %d tasks at a time (%s)", len(answers), n, address_of(client))


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
