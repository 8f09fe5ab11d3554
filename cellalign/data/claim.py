"""Claiming a name for as long as work on it goes on, so that two jobs never write the same model.

The lock is the operating system's, which ends with the process that holds it, however it ends. Some file systems of
clusters keep such locks to one machine: a file beside the lock says whose it is, and is touched as long as that process
lives, so that a claim of another machine is known too.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from cellalign.data.placing import reason
from cellalign.errors import InputError, UsageError, option

log = logging.getLogger("cellalign")
LOCK, OWNER = "lock", "owner.json"
TOUCHED_EVERY = 10  # seconds
DEAD_AFTER = 60  # without a touch, on another machine
ASKED_EVERY = 1.0
_held: dict[Path, int] = {}  # by which thread of this process


@contextmanager
def claimed(folder: Path, what: str, holds: Sequence[str] | None = None, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder, which is made if it is not there and removed afterwards if nothing else is in it.

    Who holds it already may ask again.

    Parameters
    ----------
    folder : path
    what : str
        What is being made in it, for messages: "the model kang-comp".
    holds : sequence of str, optional
        Names of what is kept in it, as patterns; a folder that holds anything else is somebody's own.
    wait : bool
        Wait until a job that holds it has ended, rather than refuse.

    Raises
    ------
    UsageError
        Another job holds it, or it is somebody's own.
    InputError
        The folder cannot be made or written.
    """
    folder = Path(os.path.abspath(folder))
    if _held.get(folder) == threading.get_ident():
        yield
        return
    _refuse_others(folder, what, holds)
    lock = FileLock(folder / LOCK, timeout=0)
    told = False
    while not _acquired(lock, folder):
        if not wait:
            raise _taken(folder, what)
        if not told:
            log.info("%s; waiting for its end", _holder(folder, what))
        told = True
        time.sleep(ASKED_EVERY)
    ended = threading.Event()
    toucher = threading.Thread(target=_touch, args=(folder / OWNER, ended), daemon=True)
    toucher.start()
    _held[folder] = threading.get_ident()
    try:
        yield
    finally:
        del _held[folder]
        ended.set()
        toucher.join()
        for ours in (OWNER, LOCK):  # while it is held: who waits finds the folder gone, and makes another
            (folder / ours).unlink(missing_ok=True)
        for probe in folder.glob(f"{OWNER}.*"):  # of a job that was killed while it looked
            probe.unlink(missing_ok=True)
        lock.release()
        try:
            folder.rmdir()
        except OSError:  # something else is in it, or another job has it already
            pass


def check_free(folder: Path, what: str, holds: Sequence[str] | None = None) -> None:
    """Refuse what `claimed` would without waiting, and make nothing; errors as those of `claimed`."""
    folder = Path(os.path.abspath(folder))
    _refuse_others(folder, what, holds)
    if not (folder / LOCK).exists():
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with lock:
            taken = _held_elsewhere(folder)
    except Timeout:
        taken = True
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror or error}") from error
    if taken:
        raise _taken(folder, what)


def _refuse_others(folder: Path, what: str, holds: Sequence[str] | None) -> None:
    """Refuse a folder that is somebody's own: UsageError."""
    ours = (LOCK, OWNER, f"{OWNER}.*", *(holds or ()))
    there = [entry.name for entry in folder.iterdir()] if holds and folder.is_dir() else []
    others = [name for name in there if not any(fnmatchcase(name, pattern) for pattern in ours)]
    if others or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is needed for {what}, but it is not cellalign's; rename it, or choose another name")


def _holder(folder: Path, what: str) -> str:
    return f"another job ({_said(folder)}) is making {what}"


def _taken(folder: Path, what: str) -> UsageError:
    wait = f"wait for its end with {option('wait', True)}"
    return UsageError(f"{_holder(folder, what)}; {wait}, or choose another name")


def _acquired(lock: FileLock, folder: Path) -> bool:
    """Whether the claim is ours now; it says so in the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except FileNotFoundError:  # its holder has just removed the folder
        return False
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror or error}") from error
    try:
        if _held_elsewhere(folder):
            lock.release()
            return False
        (folder / OWNER).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8")
    except OSError as error:
        for ours in (OWNER, LOCK):
            (folder / ours).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()
        raise InputError(f"cannot write in {folder}: {reason(error, folder / OWNER)}") from error
    except BaseException:
        lock.release()
        raise
    return True


def _held_elsewhere(folder: Path) -> bool:
    """Whether a process of another machine, whose lock does not reach this one, still touches its name."""
    owner = _owner(folder)
    if owner is None or owner.get("host") == socket.gethostname():
        return False  # this machine's lock was free
    probe = folder / f"{OWNER}.{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime  # by the clock of the file system, which may not be ours
        return now - (folder / OWNER).stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _touch(owner: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_EVERY):
        try:
            os.utime(owner)
        except OSError as error:
            log.debug("cannot touch %s: %s", owner, error)


def _owner(folder: Path) -> dict[str, object] | None:
    try:
        content = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _said(folder: Path) -> str:
    owner = _owner(folder) or {}
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'this machine')}"
