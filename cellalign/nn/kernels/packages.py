"""Compiled functions of other packages (scanpy, UMAP, pynndescent): their cache must not be what a command fails by.

These keep some functions in numba's own cache, and fail where there is nowhere to write to, where a file of it is empty
or broken, or where the disk is full; others they compile in every process. Importing and calling them within
`compiled_elsewhere` mends the first, and `keep_packages_on_disk` the second.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.dispatcher import Dispatcher

from cellalign.nn.kernels.cache import keep_on_disk, stamp

log = logging.getLogger("cellalign")
_lock = threading.Lock()
_within = 0  # how many calls are: numba is patched by the first that comes and mended by the last that goes
_own = {name: getattr(IndexDataCacheFile, name) for name in ("load", "save")}


@contextmanager
def compiled_elsewhere(package: str) -> Iterator[None]:
    """Within, a package that uses numba's cache can be imported and called, whatever state that cache is in.

    Parameters
    ----------
    package : str
        Its name. Where numba finds no folder to write to, it is given a temporary one.
    """
    folder = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        if not _has_somewhere(package):
            numba.config.CACHE_DIR = _temporary_folder()  # type: ignore[attr-defined]
        with _forgiving():
            yield
    finally:
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]


def _has_somewhere(package: str) -> bool:
    """Whether numba can keep functions of a package, which need not be imported."""
    from importlib.util import find_spec

    where = getattr(find_spec(package), "origin", None)
    if where is None:
        return True
    made: dict[str, Any] = {}
    exec(compile("def function(): pass", where, "exec"), made)  # as numba sees one of that package
    try:
        FunctionCache(made["function"])
    except RuntimeError as error:
        log.debug("compiled for this process only: %s", error)
        return False
    return True


@cache
def _temporary_folder() -> str:
    """A folder that is there until this process ends."""
    folder = tempfile.mkdtemp(prefix="cellalign-")
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: str, process: int) -> None:
    """Remove a temporary folder at the end of the process that made it, and not of one forked from it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _forgiving() -> Iterator[None]:
    """Within, what numba cannot read of its cache is compiled anew, and what it cannot write is left out."""
    global _within
    with _lock:
        _within += 1
        if _within == 1:
            _patch(load=_load, save=_save)
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _patch(**_own)


def _patch(**methods: Any) -> None:
    for name, method in methods.items():
        setattr(IndexDataCacheFile, name, method)


def _load(self: Any, key: Any) -> Any:
    try:
        return _own["load"](self, key)
    except Exception as error:
        log.debug("compiling again, since %s cannot be read: %s", self._index_path, error)
        return None


def _save(self: Any, key: Any, data: Any) -> None:
    try:
        try:
            _own["save"](self, key, data)
        except Exception:  # the index cannot be read: begin another
            self.flush()
            _own["save"](self, key, data)
    except Exception as error:
        log.debug("compiled for this process only, since %s cannot be written: %s", self._index_path, error)


@cache
def keep_packages_on_disk(*packages: str) -> None:
    """Have the functions of imported packages kept that these compile in every process, before they first compile them.

    Parameters
    ----------
    packages : str
        Names; functions of one may be compiled into functions of another.
    """
    modules = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages and getattr(module, "__file__", None)
    }
    of_sources = stamp(*sorted({Path(str(module.__file__)).parent for module in modules.values()}))
    for name, module in modules.items():
        found: list[Any] = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
        for dispatcher in found:
            twins = sum(other.py_func is dispatcher.py_func for other in found) > 1
            if twins and dispatcher.targetoptions.get("parallel"):
                continue  # numba would take it for the one that is compiled for one thread
            if dispatcher.py_func.__module__ == name:
                if isinstance(dispatcher._cache, NullCache) and not dispatcher.overloads:
                    keep_on_disk(dispatcher, of_sources)
                _name_alike(dispatcher, f"{name}.{dispatcher.py_func.__qualname__} {of_sources}")


def _name_alike(dispatcher: Any, name: str) -> None:
    """Have every process know a function by the same name.

    A function that is handed to another is part of the other's signature, under a name that numba draws at random:
    what was compiled for that signature would not be found again.
    """
    try:
        dispatcher._set_uuid(name)
    except Exception as error:  # named already, or a numba that is organised in another way
        log.debug("%s may be compiled again: %s", name, error)
