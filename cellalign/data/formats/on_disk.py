"""Matrices as they lie in an h5ad file or zarr store: CSR by its rows, dense arrays by theirs.

Each chunk that holds asked rows is read once, wherever in it they are; zarr reads several at a time. Pickled, one is
where it lies: another process opens it there.
"""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from cellalign.data.formats.elements import check_whole, import_filters, missing_filter, say_left_out
from cellalign.data.stored import BLOCK_VALUES, Run, Stored, as_csr, clean, pointers_of
from cellalign.data.structure import check_stored, is_sparse, plain_matrix, shape_of
from cellalign.errors import InputError

AGAIN = "copy or download it again"
SPAN = 1 << 24  # values read at once
UNPACKED = 4096  # values of an array without chunks that are read as cheaply as one


class NotByRows(InputError):
    """A matrix is laid out so that rows of it cannot be read.

    Attributes
    ----------
    path : str
        Of the file that holds it, where that is known.
    """

    path = ""


def stored_matrix(element: Any, name: str, shape: tuple[int, ...], by_columns: bool = False) -> Stored:
    """A matrix of an open file or store, left there.

    Parameters
    ----------
    element : h5py or zarr group or array
    name : str
        What messages call it.
    shape : tuple of int
        That it has to have, or its first side.
    by_columns : bool
        One of compressed columns does as well, of which all rows are read in order.

    Raises
    ------
    NotByRows
        It is of compressed columns.
    InputError
        It is damaged.
    """
    own = shape_of(element)
    if own is None or len(own) != 2 or own[: len(shape)] != tuple(shape):
        raise InputError(f"{name} does not fit the names of its cells and genes: it is {own}, and they are {shape}")
    try:
        check_stored(element, shape)
    except MemoryError:
        pass  # that is what it stays on disk for
    except (ValueError, OSError) as error:
        raise InputError(f"{name} is damaged: {error}; {AGAIN}") from error
    if missing := missing_filter(element):
        import_filters(name, missing, None)
    if not is_sparse(element):
        say_left_out(element)
        return DenseOnDisk(element, name)
    kind = str(element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", "csr")))
    if kind.startswith("csc") and not by_columns:
        raise NotByRows(f"{name} is kept by columns (CSC)")
    try:
        check_whole(element)
    except OSError as error:
        raise InputError(f"{name} is truncated or damaged: {error}; {AGAIN}") from error
    if kind.startswith("csc"):
        return CscOnDisk(element, name, own)  # type: ignore[arg-type]
    return CsrOnDisk(element, name, own)  # type: ignore[arg-type]


SHARED = "the workers of a cluster read and write files themselves: put them where all of its machines see them"


@dataclass(frozen=True)
class Place:
    """Where an element lies, for another process to open it.

    Attributes
    ----------
    path : str
        The file or store.
    inner : str
        Its name in there.
    size : int, optional
        Of the file: another of this name is not taken for it.
    """

    path: str
    inner: str
    size: int | None = None

    @classmethod
    def of(cls, element: Any) -> Place:
        """The place of a group or an array of h5py or zarr that is open."""
        if isinstance(element, (h5py.Group, h5py.Dataset)):
            path = os.path.abspath(element.file.filename)
            return cls(path, element.name, os.stat(path).st_size)
        store = element.store
        packed = getattr(store, "path", None)  # of a zip archive
        path = os.path.abspath(store.root if packed is None else packed)
        return cls(path, element.path, None if packed is None else os.stat(path).st_size)

    def open(self) -> Any:
        """The element.

        Raises
        ------
        InputError
            It is not there, on this machine.
        """
        if not os.path.exists(self.path):
            raise InputError(f"{self.path} is not there on {platform.node()}: {SHARED}")
        if self.size is not None and os.stat(self.path).st_size != self.size:
            raise InputError(f"{self.path} is another file on {platform.node()}: {SHARED}")
        import zarr

        if os.path.isdir(self.path):
            root: Any = zarr.open(self.path, mode="r")
        elif h5py.is_hdf5(self.path):
            root = h5py.File(self.path)
        else:
            root = zarr.open(zarr.storage.ZipStore(self.path, mode="r"), mode="r")
        return root[self.inner] if self.inner else root


def _again(kind: type[Stored], place: Place, *arguments: Any) -> Stored:
    """A matrix in another process."""
    return kind(place.open(), *arguments)  # type: ignore[call-arg]


class CsrOnDisk(Stored):
    """A CSR matrix in a file; its pointers are in memory."""

    def __init__(self, group: Any, name: str, shape: tuple[int, int]) -> None:
        self.group, self.name, self.shape = group, name, shape
        self.data, self.indices = group["data"], group["indices"]
        self.pointers = np.asarray(_read(group["indptr"], 0, shape[0] + 1, name), dtype=np.int64)
        self.nnz = int(self.data.shape[0])
        self.dtype = plain_matrix(np.empty(0, self.data.dtype)).dtype
        ends = self.pointers
        if ends[0] != 0 or ends[-1] != self.nnz or np.any(ends[1:] < ends[:-1]):
            raise InputError(
                f"{name} is damaged: its pointers (indptr) do not rise from 0 to its {self.nnz:,} values; {AGAIN}"
            )

    def __reduce__(self) -> Any:
        return _again, (type(self), Place.of(self.group), self.name, self.shape)

    @property
    def chunk_rows(self) -> int:
        """Rows in a chunk of values, about."""
        chunks = self.data.chunks
        return max(1, int(chunks[0] / self.per_row)) if chunks else 1

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows as CSR."""
        places = [(int(self.pointers[first]), int(self.pointers[last])) for first, last in runs]
        columns = _gather(self.indices, places, self.name)
        if len(columns) and (columns.min() < 0 or columns.max() >= self.shape[1]):
            wrong = columns[(columns < 0) | (columns >= self.shape[1])][0]
            raise InputError(f"{self.name} is damaged: an index of {wrong}, and {self.shape[1]:,} columns; {AGAIN}")
        values = plain_matrix(_gather(self.data, places, self.name))
        return clean(as_csr(values, columns, pointers_of(self.pointers, runs), self.shape[1]))


class CscOnDisk(Stored):
    """A CSC matrix in a file, to be written by rows: a block of rows is a pass over all of it, so blocks are large."""

    block_values, most_rows = 10 * BLOCK_VALUES, 1 << 30

    def __init__(self, group: Any, name: str, shape: tuple[int, int]) -> None:
        self.columns = CsrOnDisk(group, name, (shape[1], shape[0]))
        self.shape, self.nnz, self.dtype = shape, self.columns.nnz, self.columns.dtype

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows as CSR."""
        found = []
        for _, block in self.columns.blocks():
            by_rows = block.T.tocsr()
            found.append(sparse.vstack([by_rows[first:last] for first, last in runs], format="csr"))
        return clean(sparse.hstack(found, format="csr"))


class DenseOnDisk(Stored):
    """A dense matrix in a file."""

    is_dense = True

    def __init__(self, array: Any, name: str) -> None:
        self.array, self.name = array, name
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.nnz = self.shape[0] * self.shape[1]
        self.dtype = plain_matrix(np.empty(0, array.dtype)).dtype

    def __reduce__(self) -> Any:
        return _again, (type(self), Place.of(self.array), self.name)

    @property
    def chunk_rows(self) -> int:
        """Rows in a chunk."""
        return int(self.array.chunks[0]) if self.array.chunks else 1

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows as an array."""
        return plain_matrix(_gather(self.array, runs, self.name))


def _gather(array: Any, places: Sequence[Run], name: str) -> np.ndarray:
    """Ascending runs of an array's first side, one behind the other; each of its chunks is read once."""
    total = sum(last - first for first, last in places)
    found = np.empty((total, *array.shape[1:]), dtype=array.dtype)
    if unpack := unpacking(array):
        return _gather_chunks(array, places, name, found, unpack)
    at = 0
    width = int(np.prod(array.shape[1:]))
    for start, end, inner in _spans(places, _chunk(array, width), max(1, SPAN // max(1, width))):
        block = _read(array, start, end, name)
        for first, last in inner:
            found[at : at + last - first] = block[first - start : last - start]
            at += last - first
    return found


def unpacking(array: Any) -> Callable[[bytes], Any] | None:
    """How a chunk of an HDF5 array of one dimension is unpacked without HDF5, which takes twice as long and a lock.

    None of an array that is packed otherwise than by h5py's gzip, of another dimension, or of zarr.
    """
    if not isinstance(array, h5py.Dataset) or array.ndim != 1 or not array.chunks or array.dtype.kind not in "iuf":
        return None
    plist = array.id.get_create_plist()
    if [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] != [h5py.h5z.FILTER_DEFLATE]:
        return None
    size = array.chunks[0] * array.dtype.itemsize
    return lambda content: zlib.decompress(content, bufsize=size)


def _gather_chunks(
    array: Any, places: Sequence[Run], name: str, found: np.ndarray, unpack: Callable[[bytes], Any]
) -> np.ndarray:
    """The same, chunk by chunk."""
    size, at, last_read, values = array.chunks[0], 0, -1, found
    for first, last in places:
        while first < last:
            number = first // size
            if number != last_read:
                values, last_read = _chunk_of(array, number, unpack, name), number
            start, end = first - number * size, min(last - number * size, size)
            found[at : at + end - start] = values[start:end]
            at, first = at + end - start, number * size + end
    return found


def _chunk_of(array: Any, number: int, unpack: Callable[[bytes], Any], name: str) -> np.ndarray:
    """One chunk; by HDF5 where it is not there, or packed in another way than the others."""
    size = array.chunks[0]
    try:
        skipped, content = array.id.read_direct_chunk((number * size,))
        if not skipped:
            return np.frombuffer(unpack(content), dtype=array.dtype, count=size)
    except (OSError, RuntimeError, ValueError, zlib.error):
        pass
    return _read(array, number * size, (number + 1) * size, name)


def _chunk(array: Any, width: int) -> int:
    """Rows of an array's first side that are read as cheaply as one."""
    return int(array.chunks[0]) if array.chunks else max(1, UNPACKED // max(1, width))


def _spans(places: Sequence[Run], chunk: int, most: int) -> Iterator[tuple[int, int, list[Run]]]:
    """Runs put together that lie in the same chunk or in neighbours, with what is read for them at once."""
    inner: list[Run] = []
    for first, last in places:
        while first < last:
            if inner and (first // chunk > (inner[-1][1] - 1) // chunk + 1 or first - inner[0][0] >= most):
                yield inner[0][0], inner[-1][1], inner
                inner = []
            end = min(last, (inner[0][0] if inner else first) + most)
            inner.append((first, end))
            first = end
    if inner:
        yield inner[0][0], inner[-1][1], inner


def _read(array: Any, first: int, last: int, name: str) -> np.ndarray:
    """A run of an array; InputError where its bytes cannot be read."""
    try:
        block = np.asarray(array[first:last])
        if _is_gone(array):
            raise OSError("the store is gone")
        return block
    except MemoryError:
        raise
    except Exception as error:  # of whichever compression
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} is truncated or damaged: {reason}; {AGAIN}") from error


def _is_gone(array: Any) -> bool:
    """Whether the array of a zarr store was removed while it is read: chunks that are not there are zeros to zarr."""
    folder = getattr(getattr(array, "store", None), "root", None)
    if folder is None:  # of HDF5, which keeps the file open, or not of a folder
        return False
    here = Path(folder) / array.path
    return not any((here / name).exists() for name in ("zarr.json", ".zarray"))
