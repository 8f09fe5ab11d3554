"""Matrices of an open file or store that are written some rows at a time, as anndata lays them out."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from scipy import sparse

CHUNK_VALUES = 2**18  # of a dense matrix, compressed together: a megabyte
SPARSE_CHUNK = 2**13  # values of a sparse one in HDF5: some 20 cells, fewer than are read together in training
STORE_CHUNK = 2**16  # in a zarr store, where a chunk is a file
MANY_CHUNKS = 16  # are written at once


def dense_dataset(root: Any, name: str, shape: tuple[int, int], dtype: Any = np.float32) -> Any:
    """The array of that name, made on first use, as anndata lays out a dense one."""
    if name in root:
        return root[name]
    rows = max(1, min(shape[0], CHUNK_VALUES // max(1, shape[1])))
    chunks = (rows, shape[1])
    if isinstance(root, h5py.Group):
        place = root.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip")
    else:
        place = root.create_array(name, shape=shape, dtype=dtype, chunks=chunks)
    place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"
    return place


class Rows:
    """A CSR matrix of an open file that is written row by row, as anndata lays one out.

    Parameters
    ----------
    root : h5py or zarr group
    name : str
        Its place, which must be free.
    first : CSR matrix
        The first rows.
    packed : bool
        Whether values are compressed, where the user may choose.
    """

    def __init__(self, root: Any, name: str, first: sparse.csr_matrix, packed: bool = True) -> None:
        self.group, self.n_columns, self.ends = root.create_group(name), first.shape[1], [np.zeros(1, np.int64)]
        self.group.attrs["encoding-type"], self.group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        index = np.int32 if self.n_columns < 2**31 else np.int64
        of_hdf5 = isinstance(root, h5py.Group)
        self.chunk = SPARSE_CHUNK if of_hdf5 else STORE_CHUNK
        self.waiting: dict[str, list[np.ndarray]] = {"data": [], "indices": []}
        self.types = {"data": first.data.dtype, "indices": np.dtype(index)}
        for part, dtype in self.types.items():
            if of_hdf5:
                more = {"maxshape": (None,), "compression": "gzip" if packed else None}
                self.group.create_dataset(part, (0,), dtype, chunks=(self.chunk,), **more)
            else:
                self._array(part, 0, dtype, self.chunk)
        self.append(first)

    def _array(self, part: str, n: int, dtype: Any, chunk: int) -> Any:
        """An array of a zarr store."""
        array = self.group.create_array(part, shape=(n,), dtype=dtype, chunks=(chunk,))
        array.attrs["encoding-type"], array.attrs["encoding-version"] = "array", "0.2.0"
        return array

    def append(self, rows: sparse.csr_matrix) -> None:
        """Write more rows."""
        self.ends.append(rows.indptr[1:].astype(np.int64) + self.ends[-1][-1])
        for part, values in (("data", rows.data), ("indices", rows.indices)):
            self.waiting[part].append(values.astype(self.types[part], copy=False))
            if sum(map(len, self.waiting[part])) >= MANY_CHUNKS * self.chunk:
                self._write(part, last=False)

    def make_room(self, ends: np.ndarray) -> None:
        """Of rows that others write (`shared.py`): how many values are stored up to the end of each."""
        self.ends.append(ends)
        for part in self.types:
            self.group[part].resize((int(ends[-1]) if len(ends) else 0,))

    def _write(self, part: str, last: bool) -> None:
        """What waits; but for the last, whole chunks."""
        values = np.concatenate([*self.waiting[part], np.zeros(0, self.types[part])])
        n = len(values) if last else len(values) // self.chunk * self.chunk
        self.waiting[part] = [values[n:]]
        place = self.group[part]
        start = place.shape[0]
        place.resize((start + n,))
        if n:
            place[start : start + n] = values[:n]

    def close(self) -> None:
        """Write what is left, and how many rows there are."""
        for part in self.waiting:
            self._write(part, last=True)
        pointers = np.concatenate(self.ends)
        if pointers[-1] < 2**31:
            pointers = pointers.astype(np.int32)
        if isinstance(self.group, h5py.Group):
            self.group.create_dataset("indptr", data=pointers, compression="gzip")
        else:
            self._array("indptr", len(pointers), pointers.dtype, max(1, len(pointers)))[:] = pointers
        shape = (len(pointers) - 1, self.n_columns)
        self.group.attrs["shape"] = np.array(shape) if isinstance(self.group, h5py.Group) else list(shape)
