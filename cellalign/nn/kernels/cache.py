"""Compiled functions on disk, in the places of `places.py`.

numba's own cache, but for four things. It is fresh only while no source of this package has changed: numba looks at
the function's own file, not at those of the functions and constants compiled into it. Every byte is checked against a
digest before it is unpickled: a broken pickle can do anything, and broken machine code would end the process. What
cannot be read, for whatever reason, is compiled again and written anew. And the index names each file of data with its
digest, so that processes that write at a time cost one another a compilation, and never mix their files up.

`packages.py` does the same for functions of other packages.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from cellalign.nn.kernels.places import PrivateLocator, is_private, read_private, write_private

log = logging.getLogger("cellalign")
DIGEST = 32
Index = dict[Any, tuple[str, bytes]]


@cache
def stamp(*folders: Path) -> str:
    """Digest of every source that is compiled, of this folder and of others, and of what compiles it.

    numba adds Python and the processor.
    """
    digest = hashlib.sha256(_compiler())
    for folder in (Path(__file__).parent, *folders):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _compiler() -> bytes:
    return f"{numba.__version__} {llvmlite.__version__}".encode()


class Files:
    """What is kept of one function: an index of signatures, and a file of data for each; takes the place of numba's.

    Parameters
    ----------
    folder : str
    name : str
        Of the function.
    source_stamp : object
        Of the sources it is compiled from.
    """

    def __init__(self, folder: str, name: str, source_stamp: Any) -> None:
        self._folder, self._name, self._stamp = Path(folder), f"{name}.kept", source_stamp
        self._index_path = self._folder / f"{self._name}.nbi"

    def load(self, key: Any) -> Any:
        """What is kept under a key; None where there is nothing, or it cannot be read."""
        try:
            return self._read(key)
        except FileNotFoundError:
            return None
        except Exception as error:
            log.debug("compiling again, since %s cannot be read: %s", self._index_path, error)
            return None

    def save(self, key: Any, data: Any) -> None:
        """Keep data under a key, where that is possible."""
        try:
            self._write(key, data)
        except Exception as error:
            log.debug("compiled for this process only, since %s cannot be written: %s", self._index_path, error)

    def flush(self) -> None:
        """Forget what is kept."""
        self._index_path.unlink(missing_ok=True)

    def _read(self, key: Any) -> Any:
        if not is_private(self._folder):
            raise PermissionError("others can write to its folder")
        name, digest = self._index().get(key, (None, b""))
        if name is None:
            return None
        content = read_private(self._folder / name)
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(content)

    def _write(self, key: Any, data: Any) -> None:
        if not is_private(self._folder):
            raise PermissionError("others can write to its folder")
        try:
            index = self._index()
        except Exception:  # begin another
            index = {}
        taken = {name for name, _ in index.values()}
        names = (f"{self._name}.{number}.nbc" for number in itertools.count(1))
        name = index[key][0] if key in index else next(name for name in names if name not in taken)
        content = dumps(data)
        write_private(self._folder / name, content)
        index[key] = name, hashlib.sha256(content).digest()
        listed = dumps((self._stamp, index))
        write_private(self._index_path, self._digest(listed) + listed)

    def _index(self) -> Index:
        """Names and digests of the data by key; none where it was compiled from other sources."""
        try:
            stored = read_private(self._index_path)
        except FileNotFoundError:
            return {}
        listed = stored[DIGEST:]
        if stored[:DIGEST] != self._digest(listed):
            raise ValueError("it is damaged, or another version's")
        written, index = pickle.loads(listed)
        return index if written == self._stamp else {}

    @staticmethod
    def _digest(listed: bytes) -> bytes:
        return hashlib.sha256(_compiler() + b"\n" + listed).digest()


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [PrivateLocator]


class _Cache(FunctionCache):
    """Of one function; neither reading nor writing raises."""

    _impl_class = _Implementation

    def __init__(self, function: Any, of_sources: str) -> None:
        super().__init__(function)
        self._cache_file: Any = Files(self._cache_path, self._impl.filename_base, of_sources)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            log.debug("compiling again, since %s cannot be read: %s", self._cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
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
    except Exception as error:  # of no file, or a numba that is organised in another way
        log.debug("compiled for this process only: %s", error)
