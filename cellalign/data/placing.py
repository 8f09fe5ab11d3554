"""Outputs put in place: written in a hidden folder beside their name, and given it when they are whole and on disk.

A directory that is replaced changes places with the new one in one step where the file system can do that. Where it
cannot, the old one is moved aside first; a run that is killed just then leaves it where `put_back` finds it. What
killed runs leave behind is known by its name and removed by a later one that writes the same output, once whoever
wrote it is surely gone: nothing else is ever removed.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cellalign.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl: Any = None  # type: ignore[no-redef]

log = logging.getLogger("cellalign")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OLD, LOCK = "replaced", "lock"  # in the hidden folder: what stood at the output's name, and the lock of who writes
LONGEST = 180  # bytes of the output's name in that of the hidden folder; 255 are the most that file systems take
AT_ONCE = 16
A_DAY, A_MINUTE = 86400, 60  # in seconds
SWAP, ONLY_NEW = "swap", "only new"  # ways to rename
RENAMING = {"linux": ("renameat2", {SWAP: 2, ONLY_NEW: 1}), "darwin": ("renamex_np", {SWAP: 2, ONLY_NEW: 4})}
AT_CWD = -100  # paths are relative to the working directory, for renameat2
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV)


def place_of(path: str | os.PathLike[str]) -> Path:
    """Where an output lies: links are followed, so that a link to a file on another disk stays one."""
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} lies in the working directory, which is gone; change to another") from error


@contextmanager
def place_file(place: Path, force: bool) -> Iterator[Path]:
    """Yield a path to be filled in; it is put in place afterwards, and gone if anything fails."""
    with _hidden_folder(place) as folder:
        fresh = folder / place.name
        yield fresh
        _sync(fresh)
        if force:
            _keep_mode(place, fresh)
            os.replace(fresh, place)
        else:
            _rename_to_new(fresh, place)
        _sync_folder(place.parent)


@contextmanager
def place_directory(place: Path, force: bool) -> Iterator[Path]:
    """The same of a directory, which is there already when it is yielded."""
    put_back(place)
    with _hidden_folder(place) as folder:
        fresh = folder / place.name
        fresh.mkdir()
        yield fresh
        _sync_tree(fresh)
        if force and os.path.lexists(place):
            _keep_mode(place, fresh)
            _swap(fresh, place, folder / OLD)
        else:
            _rename_to_new(fresh, place)
        _sync_folder(place.parent)


def try_place(place: Path) -> None:
    """Write nothing under that name, as the output will be: whatever the system refuses is refused now (OSError)."""
    with _hidden_folder(place) as folder:
        (folder / place.name).touch()


def put_back(path: str | os.PathLike[str]) -> None:
    """Give a directory its name back if a run was killed while it was being replaced; it says so."""
    if "\0" in os.fspath(path) or os.path.lexists(place := place_of(path)):
        return
    for folder in _left_behind(place):
        if (folder / OLD).exists() and _is_dead(folder):
            with suppress(OSError):
                os.rename(folder / OLD, place)
                log.warning("%s is as it was before a run was killed that was about to replace it", path)
                return


@contextmanager
def _hidden_folder(place: Path) -> Iterator[Path]:
    """A folder of our own beside an output, locked while it is in use and removed afterwards."""
    for left in _left_behind(place):
        if _is_dead(left):
            with suppress(OSError):
                _discard(left, place)
    folder = place.with_name(f"{_prefix(place)}{secrets.token_hex(8)}.partial")
    folder.mkdir()
    handle = None
    try:
        handle = _locked(folder)
        yield folder
    finally:
        try:
            _discard(folder, place)
        finally:
            if handle is not None:
                os.close(handle)


def _discard(folder: Path, place: Path) -> None:
    """Remove a hidden folder; what it holds of an output that stands nowhere else goes back first."""
    if (folder / OLD).exists():
        if not os.path.lexists(place):
            os.rename(folder / OLD, place)
        else:  # replaced: half removed, it must not be taken for something to put back
            os.rename(folder / OLD, folder / "superseded")
    shutil.rmtree(folder, ignore_errors=True)


def _swap(fresh: Path, place: Path, aside: Path) -> None:
    """Put a new directory in the place of one that is there; `_discard` sees to it that either stays."""
    if not _rename(fresh, place, SWAP):
        os.rename(place, aside)
        os.rename(fresh, place)


def _rename_to_new(fresh: Path, place: Path) -> None:
    """Rename to a name that nothing has: FileExistsError where another program took it meanwhile."""
    if not _rename(fresh, place, ONLY_NEW):
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
        os.rename(fresh, place)


def _rename(a: Path, b: Path, how: str) -> bool:
    """Rename in one step of the kernel; False where the system or the file system has no such step."""
    name, flags = RENAMING.get(sys.platform, ("", {}))
    call = _of_the_c_library(name)
    if call is None:
        return False
    old, new = os.fsencode(a), os.fsencode(b)
    ctypes.set_errno(0)
    failed = call(AT_CWD, old, AT_CWD, new, flags[how]) if name == "renameat2" else call(old, new, flags[how])
    code = ctypes.get_errno()
    if failed and code not in CANNOT:
        raise OSError(code, os.strerror(code), str(b))
    return not failed


@functools.cache
def _of_the_c_library(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None


def _prefix(place: Path) -> str:
    """What our hidden folders beside an output begin with."""
    name = place.name
    while len(os.fsencode(name)) > LONGEST:
        name = name[:-1]
    return f".{name}.cellalign-"


def _left_behind(place: Path) -> list[Path]:
    """Our hidden folders beside an output, of runs that go on or were killed."""
    ours = re.compile(re.escape(_prefix(place)) + r"[0-9a-f]{16}\.partial")
    try:
        with os.scandir(place.parent) as entries:
            return [Path(e.path) for e in entries if ours.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _locked(folder: Path) -> int:
    """Lock a hidden folder as long as this process lives, and say on which machine."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(handle, os.fsencode(platform.node()))
    except OSError:  # no locks here: the time of the last change says who is alive
        pass
    return handle


def _is_dead(folder: Path) -> bool:
    """Whether whoever wrote there is surely gone: its lock is free here, or nothing changed for a day."""
    if fcntl is None or not (folder / LOCK).exists():
        empty = not any(folder.iterdir())  # killed, or about to lock it
        return _untouched(folder, A_MINUTE if empty else A_DAY)
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        here = os.read(handle, 1024) == os.fsencode(platform.node())
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return here or _untouched(folder)
    except BlockingIOError:
        return False
    except OSError:
        return _untouched(folder)
    finally:
        os.close(handle)


def _untouched(folder: Path, seconds: float = A_DAY) -> bool:
    """Whether nothing in a folder changed for so long."""
    try:
        newest = max(inner.lstat().st_mtime for inner in (folder, *folder.rglob("*")))
    except OSError:
        return False
    return time.time() - newest > seconds


def _keep_mode(place: Path, fresh: Path) -> None:
    """Give a replacement the permissions of what it replaces: what was private stays so."""
    with suppress(OSError):
        os.chmod(fresh, stat.S_IMODE(place.stat().st_mode))


def _sync(file: Path) -> None:
    """Have a file's content on the disk and not only in memory."""
    handle = os.open(file, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """The same of the names in a folder, where the system can do that."""
    with suppress(OSError):
        _sync(folder)


def _sync_tree(folder: Path) -> None:
    """The same of all files in a directory, then of the names in it and in each folder of it."""
    files, folders = [], []
    for inner, _, names in os.walk(folder):
        files += [Path(inner) / name for name in names]
        folders.append(Path(inner))
    if len(files) > AT_ONCE:  # stores have thousands, and a file system serves several at the cost of one
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(_sync, files))
    else:
        for file in files:
            _sync(file)
    for inner_folder in folders:
        _sync_folder(inner_folder)


@contextmanager
def one_line(path: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong while `path` is written, as one line: InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {reason(error, place_of(path))}; nothing was changed") from error


def reason(error: Exception, place: Path) -> str:
    """Why the system refused to write a file or a directory there."""
    code = error.errno if isinstance(error, OSError) else None
    folder = place.parent
    # HDF5 and others hide the system's error in their message
    if code in FULL or re.search(r"No space left|File too large|[Qq]uota exceeded", str(error)):
        return "the disk is full"
    if code in (errno.ENOENT, errno.ENOTDIR) and not folder.is_dir():
        file = next((above for above in folder.parents if above.exists() and not above.is_dir()), folder)
        return f"{file} is no folder" if file.exists() else f"there is no folder {folder}; create it first"
    known = {
        errno.EEXIST: "another program wrote it meanwhile",
        errno.EROFS: f"the file system of {folder} is read-only",
        errno.EACCES: f"the folder {folder} is not writable",
        errno.EPERM: f"the folder {folder} is not writable",
        errno.ENAMETOOLONG: "the name is too long",
        errno.ELOOP: "its links lead in a circle",
    }
    said = error.strerror if isinstance(error, OSError) else None
    return known.get(code or 0) or said or (str(error).splitlines() or [type(error).__name__])[0]
