"""Compiled functions on disk: beside the package, else in the user's cache, or where NUMBA_CACHE_DIR says.

numba's own cache, but for three things. It is fresh only while no source of this package has changed: numba looks at
the function's own file, not at those of the functions and constants compiled into it. What cannot be read, for whatever
reason, is compiled again and written anew. And data carry a checksum: broken machine code would end the process.

`packages.py` does the same for functions of other packages.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

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
