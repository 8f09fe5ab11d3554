"""Where compiled functions may be kept: in folders that the user alone can write.

What numba keeps are pickles of machine code, which run when they are read: whoever can write one, or swap a folder on
the way to it, has the user's rights. So a folder serves where it and all on the way to it belong to the user or to
root, and nobody else, not even a group, can write to it or put another in its place.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

import numba
from numba.core.caching import _CacheLocator, _SourceFileBackedLocatorMixin
from numba.misc.appdirs import AppDirs

log = logging.getLogger("cellalign")
LINKS = 40  # as many as Linux follows
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class PrivateLocator(_SourceFileBackedLocatorMixin, _CacheLocator):
    """Says numba where a function of a source file is kept, always somewhere; neither writing nor asking raises."""

    def __init__(self, function: object, file: str) -> None:
        self._py_file = file
        self._lineno = function.__code__.co_firstlineno  # type: ignore[attr-defined]
        self._folder = str(folder_for(Path(file), self.get_suitable_cache_subpath(file)))

    @classmethod
    def from_function(cls, py_func: object, py_file: str) -> PrivateLocator | None:
        """None for a function of no file, such as of a notebook."""
        return cls(py_func, py_file) if os.path.exists(py_file) else None

    def get_cache_path(self) -> str:
        """The folder."""
        return self._folder

    def ensure_cache_path(self) -> None:
        """Nothing: a folder that has become unwritable since is noticed when a file is written."""


def folder_for(source: Path, name: str) -> Path:
    """Where functions of a source file are kept: the first place that only the user can write, and where he can.

    Where NUMBA_CACHE_DIR says; beside the source; in the user's cache; in a folder that goes with this process.

    Parameters
    ----------
    source : Path
    name : str
        Of a folder for this source, where sources of several folders lie together.
    """
    asked = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    if asked:
        if usable(Path(asked) / name):
            return Path(asked) / name
        if _exposed(Path(asked)):
            _say_refused(asked)
    found = [source.parent / "__pycache__", Path(AppDirs(appname="cellalign", appauthor=False).user_cache_dir) / name]
    return next((folder for folder in found if usable(folder)), temporary_folder() / name)


def usable(folder: Path) -> bool:
    """Whether files can be kept in a folder, which is made where it is not there, and only by the user."""
    try:
        missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
        if not is_private(folder if not missing else missing[-1].parent, to_make_in=bool(missing)):
            return False
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        if missing and not is_private(folder):
            return False
        tempfile.TemporaryFile(dir=folder).close()
        return True
    except OSError as error:
        log.debug("nothing compiled is kept in %s: %s", folder, error)
        return False


def is_private(folder: Path, *, to_make_in: bool = False) -> bool:
    """Whether nobody but the user and root can put files into a folder, or another folder in its place.

    Parameters
    ----------
    folder : Path
        One that is there.
    to_make_in : bool
        Whether it is enough that what the user makes there is his own, as in /tmp.
    """
    if not hasattr(os, "geteuid"):  # Windows, whose users have caches of their own
        return True
    left, at, links = list(reversed(folder.absolute().parts[1:])), Path(folder.absolute().anchor), 0
    while True:
        about = at.lstat()
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if about.st_uid not in (0, os.geteuid()) or links > LINKS:
                return False
            target = Path(os.readlink(at))
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            at = Path(target.anchor) if target.is_absolute() else at.parent
            continue
        last = not left
        shared = bool(about.st_mode & OTHERS_WRITE)
        # of a folder with the sticky bit others can neither remove nor rename what is not theirs
        if about.st_uid not in (0, os.geteuid()) or (
            shared and not (about.st_mode & stat.S_ISVTX and (to_make_in or not last))
        ):
            return False
        if last:
            return stat.S_ISDIR(about.st_mode)
        part = left.pop()
        at = at.parent if part == ".." else at / part


def read_private(path: Path) -> bytes:
    """The content of a file that the user alone can write.

    Raises
    ------
    OSError
        It is not there, a link, or another user can write it.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        about = os.fstat(file.fileno())
        if hasattr(os, "geteuid") and (
            not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()) or about.st_mode & OTHERS_WRITE
        ):
            raise PermissionError(f"others can write {path}")
        return file.read()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that the user alone can write; under its name there is the old or the new one, never a part.

    Raises
    ------
    OSError
        It cannot be written.
    """
    handle, fresh = tempfile.mkstemp(prefix=".cellalign-", dir=path.parent)  # 0600
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


@cache
def temporary_folder() -> Path:
    """A folder of the user alone that is there until this process ends."""
    folder = tempfile.mkdtemp(prefix="cellalign-")
    log.debug("what is compiled is kept for this process only, in %s", folder)
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, process: int) -> None:
    """Remove a temporary folder at the end of the process that made it, and not of one forked from it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _exposed(folder: Path) -> bool:
    """Whether others can write to it, or to the nearest folder above it that is there."""
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        return not is_private(there, to_make_in=there != folder)
    except OSError:
        return False


@cache
def _say_refused(folder: str) -> None:
    log.warning(
        "NUMBA_CACHE_DIR=%s is not used: others can write to it, and what is kept there is run; "
        "name a folder that only you can write to (chmod go-w)",
        folder,
    )
