"""Compiled functions on disk: beside the package, else in the user's cache, or where NUMBA_CACHE_DIR says.

numba's own cache, but for three things. It is fresh only while no source of this package has changed: numba looks at
the function's own file, not at those of the functions and constants compiled into it. What cannot be read, for whatever
reason, is compiled again and written anew. And data carry a checksum: broken machine code would end the process.

Other packages' functions that are compiled in every process can be kept in the same way (`keep_packages_on_disk`).
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.dispatcher import Dispatcher

log = logging.getLogger("cellalign")


@cache
def stamp(*folders: Path) -> str:
    """Digest of every source that is compiled, of this folder and of others, and of what compiles it.

    numba adds Python and the processor.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for folder in (Path(__file__).parent, *folders):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class _Files(IndexDataCacheFile):
    """Index and data of a function, the data behind a checksum."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        stored = Path(self._data_path(name)).read_bytes()
        checksum, content = stored[:32], stored[32:]
        if hashlib.sha256(content).digest() != checksum:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(content)


class _Cache(FunctionCache):
    """Of one function; neither reading nor writing raises."""

    def __init__(self, function: Any, of_sources: str) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, of_sources)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            log.debug("compiling again, since %s cannot be read: %s", self._cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            try:
                super().save_overload(sig, data)
            except Exception:  # the index cannot be read: begin another
                self.flush()
                super().save_overload(sig, data)
        except Exception as error:
            log.debug("compiled for this process only, since %s cannot be written: %s", self._cache_path, error)


def keep_on_disk(dispatcher: Any, of_sources: str | None = None) -> None:
    """Have a compiled function read from the disk, and kept there, before it is first compiled.

    Parameters
    ----------
    dispatcher : compiled function
    of_sources : str, optional
        Digest of the sources it is compiled from; default `stamp` of this package's.
    """
    try:
        dispatcher._cache = _Cache(dispatcher.py_func, of_sources or stamp())
    except Exception as error:  # nowhere to write, or a numba that is organised in another way
        log.debug("compiled for this process only: %s", error)


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


def have_somewhere_to_keep(package: str) -> None:
    """Give numba a temporary folder where it has none to write to: else a package that uses its cache fails to import.

    Parameters
    ----------
    package : str
        That is about to be imported.
    """
    where = getattr(find_spec(package), "origin", None)
    if where is None:
        return
    made: dict[str, Any] = {}
    exec(compile("def function(): pass", where, "exec"), made)  # as numba sees one of that package
    try:
        FunctionCache(made["function"])
    except RuntimeError as error:
        log.debug("compiled for this process only: %s", error)
        numba.config.CACHE_DIR = folder = tempfile.mkdtemp(prefix="cellalign-")  # type: ignore[attr-defined]
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, process: int) -> None:
    """Remove a temporary folder at the end of the process that made it, and not of one forked from it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
