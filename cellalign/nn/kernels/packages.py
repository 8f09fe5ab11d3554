"""Compiled functions of other packages (scanpy, UMAP, pynndescent): their cache must not be what a command fails by.

These keep some functions in numba's own cache, and fail where there is nowhere to write to, where a file of it is empty
or broken, or where the disk is full; others they compile in every process. Importing and calling them within
`compiled_elsewhere` keeps the first as `cache.py` keeps ours, and `keep_packages_on_disk` the second.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import Cache, CacheImpl, NullCache
from numba.core.dispatcher import Dispatcher

from cellalign.nn.kernels.cache import Files, keep_on_disk, stamp
from cellalign.nn.kernels.places import PrivateLocator

log = logging.getLogger("cellalign")
_lock = threading.Lock()
_within = 0  # how many calls are: numba is patched by the first that comes and mended by the last that goes
_own: dict[str, Any] = {name: getattr(Cache, name) for name in ("load_overload", "save_overload")}
_locators = CacheImpl._locator_classes


@contextmanager
def compiled_elsewhere() -> Iterator[None]:
    """Within, packages that use numba's cache can be imported and called, whatever state that cache is in.

    What they keep lies in the places of `places.py`, in files of our own: what numba itself has kept is not read, since
    nothing says whether it is whole, and nothing of what cannot be read or written is raised.
    """
    global _within
    with _lock:
        _within += 1
        if _within == 1:
            _patch([PrivateLocator, *_locators], load_overload=_load, save_overload=_save)
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _patch(_locators, **_own)


def _patch(locators: list[Any], **methods: Any) -> None:
    CacheImpl._locator_classes = locators
    for name, method in methods.items():
        setattr(Cache, name, method)


def _load(self: Any, sig: Any, target_context: Any) -> Any:
    try:
        _keep_as_ours(self)
        return _own["load_overload"](self, sig, target_context)
    except Exception as error:
        log.debug("compiling again, since %s cannot be read: %s", self._cache_path, error)
        return None


def _save(self: Any, sig: Any, data: Any) -> None:
    try:
        _keep_as_ours(self)
        _own["save_overload"](self, sig, data)
    except Exception as error:
        log.debug("compiled for this process only, since %s cannot be written: %s", self._cache_path, error)


def _keep_as_ours(kept: Any) -> None:
    """Have a function that another package keeps read from, and written to, files of our own."""
    if not isinstance(kept._cache_file, Files):
        kept._cache_file = Files(kept._cache_path, kept._impl.filename_base, kept._cache_file._source_stamp)


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
