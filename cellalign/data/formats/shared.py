"""Sparse matrices that other processes write, each some rows: the file is the one that a process alone writes.

How many values each row has is counted first, so that everyone knows where its own begin. Of a zarr store each writes
its chunks; of an HDF5 file, which one process alone can write, each packs its chunks and sends them to that one. Chunks
are whole: rows of which a chunk of another holds values are read by both.
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from cellalign.data.formats.by_rows import Rows
from cellalign.data.formats.on_disk import SHARED, Place
from cellalign.data.stored import Run, Stored, helpers
from cellalign.errors import InputError

_Sent = tuple[int, dict[str, list[bytes]]]  # where chunks of data and indices begin, and they


@dataclass(frozen=True)
class _Target:
    """Where the values of a matrix go.

    Attributes
    ----------
    place : Place, optional
        The group of a zarr store; None where packed chunks are sent back.
    chunk : int
        Values of one.
    level : int, optional
        How hard to pack, if at all.
    types : dict of "data" and "indices" to dtype
    """

    place: Place | None
    chunk: int
    level: int | None
    types: dict[str, np.dtype]


@dataclass(frozen=True)
class _Cut:
    """Which values of a matrix a task writes.

    Attributes
    ----------
    start, stop : int
        Their places in the whole matrix, chunks beginning and ending there.
    before, held : int
        How many values precede the task's rows, and how many these have.
    """

    start: int
    stop: int
    before: int
    held: int


def write_by_others(
    root: Any, matrices: Mapping[str, Stored], packed: bool, check: Callable[[], None]
) -> frozenset[str]:
    """Have X and the layers written by those who help now; the names of those that were.

    Parameters
    ----------
    root : h5py or zarr group
        Of cells, which has none of these matrices.
    matrices : mapping of "X" or a layer's name to Stored
        Of the same number of rows.
    packed : bool
        Whether values are compressed, where the user may choose.
    check : callable
        Raises what could not be written.
    """
    others, names = helpers(), [name for name in matrices if not matrices[name].is_dense and matrices[name].shape[0]]
    if others is None or not names:
        return frozenset()
    wanted = [matrices[name] for name in names]
    runs = wanted[0].together()
    found = list(others.over(wanted, _sizes, ((run, ()) for run in runs)))
    writers, ends = [], []
    for i, name in enumerate(names):
        group = root if name == "X" else root.require_group("layers")
        empty = sparse.csr_matrix((0, matrices[name].shape[1]), dtype=found[0][i][1])
        writers.append(Rows(group, name, empty, packed))
        ends.append(np.cumsum(np.concatenate([sizes[i][0] for sizes in found]), dtype=np.int64))
        writers[-1].make_room(ends[-1])
    targets = [_target(writer) for writer in writers]
    asked = _tasks(runs, ends, [target.chunk for target in targets])
    tasks = ((run, (targets, cuts)) for run, cuts in asked)
    with closing(others.over(wanted, _write, tasks)) as written:  # type: ignore[type-var]
        for sent in written:
            for writer, (start, parts) in zip(writers, sent, strict=True):
                for part, chunks in parts.items():
                    put_chunks(writer.group[part], start, chunks)
            check()  # not hours later
    for writer in writers:
        writer.close()
    return frozenset(names)


def _target(writer: Rows) -> _Target:
    data = writer.group["data"]
    if isinstance(data, h5py.Dataset):
        return _Target(None, writer.chunk, data.compression_opts if data.compression else None, writer.types)
    return _Target(Place.of(writer.group), writer.chunk, None, writer.types)


def _sizes(blocks: list[sparse.csr_matrix]) -> list[tuple[np.ndarray, np.dtype]]:
    """Of each matrix how many values its rows have, and of which type they are."""
    return [(np.diff(block.indptr), block.data.dtype) for block in blocks]


def _tasks(runs: list[Run], ends: list[np.ndarray], chunks: list[int]) -> Iterator[tuple[Run, list[_Cut]]]:
    """Rows to read together, and what of each matrix to write: the chunks that begin in a run, whole."""
    n = runs[-1][1]
    for first, last in runs:
        parts, until = [], last
        for of, chunk in zip(ends, chunks, strict=True):
            before, after, total = int(of[first - 1]) if first else 0, int(of[last - 1]), int(of[-1])
            start, stop = -(-before // chunk) * chunk, total if last == n else min(-(-after // chunk) * chunk, total)
            parts.append((start, max(start, stop), before))
            if stop > start:
                until = max(until, int(np.searchsorted(of, stop)) + 1)
        if any(stop > start for start, stop, _ in parts):
            held = [int(of[until - 1]) - before for of, (_, _, before) in zip(ends, parts, strict=True)]
            yield (first, until), [_Cut(*part, n_held) for part, n_held in zip(parts, held, strict=True)]


def _write(blocks: list[sparse.csr_matrix], targets: list[_Target], cuts: list[_Cut]) -> list[_Sent]:
    """Write whole chunks of each matrix, or pack them."""
    return [_write_one(*each) for each in zip(blocks, targets, cuts, strict=True)]


def _write_one(block: sparse.csr_matrix, target: _Target, cut: _Cut) -> _Sent:
    if block.nnz != cut.held:
        raise InputError("the input was changed while it was read; run again when it is not")
    there = slice(cut.start - cut.before, cut.stop - cut.before)
    values = {part: getattr(block, part)[there].astype(dtype, copy=False) for part, dtype in target.types.items()}
    if target.place is None:
        return cut.start, {part: packed_chunks(values[part], target.chunk, target.level) for part in values}
    if cut.stop > cut.start:
        group = store_at(target.place)
        for part in values:
            group[part][cut.start : cut.stop] = values[part]
    return cut.start, {}


def store_at(place: Place) -> Any:
    """The group of a store that is being written."""
    import zarr

    try:
        return zarr.open_group(place.path, path=place.inner, mode="r+", use_consolidated=False)
    except FileNotFoundError as error:
        raise InputError(f"{place.path} is not there on {platform.node()}: {SHARED}") from error


def packed_chunks(values: np.ndarray, n: int, level: int | None) -> list[bytes]:
    """Chunks of n values or rows as HDF5 keeps them; the last one is filled up with zeros."""
    found = []
    for start in range(0, len(values), n):
        own = values[start : start + n]
        if len(own) < n:
            own = np.concatenate([own, np.zeros((n - len(own), *own.shape[1:]), own.dtype)])
        found.append(own.tobytes() if level is None else zlib.compress(own.tobytes(), level))
    return found


def put_chunks(dataset: h5py.Dataset, start: int, chunks: list[bytes]) -> None:
    """Packed chunks into a file, from a value or a row on."""
    for i, chunk in enumerate(chunks):
        place = (start + i * dataset.chunks[0], *(0 for _ in dataset.shape[1:]))
        dataset.id.write_direct_chunk(place, chunk)
