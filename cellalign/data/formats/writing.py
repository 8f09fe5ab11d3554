"""Cells written as every anndata since 0.8 and R read them, into a file or store that is put in place elsewhere.

Elements that only newer readers know (pandas' own strings, None) are written again in older ways, also in a copy of
a file that the user has.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from cellalign.data.formats import detect
from cellalign.data.formats.normal import normalised, plain_value
from cellalign.data.formats.steady import steady

NULLABLE_STRINGS = "nullable-string-array"  # since anndata 0.11, read by 0.12
NULL = "null"  # since anndata 0.12: None
STILL_WRITING = 10  # seconds that a store's other files are waited for
CHUNK_VALUES = 2**18  # of a dense matrix, compressed together: a megabyte


def can_be_copied(file: Path) -> bool:
    """Whether a file is as anndata writes it since 0.8, with nothing that the door has to mend but strings."""
    if detect.kind_of(file) != "hdf5":
        return False
    with h5py.File(file) as handle:
        if handle.attrs.get("encoding-type") != "anndata" or detect.kind_of_hdf5(handle) != "h5ad":
            return False
        frames = [handle.get(key) for key in ("obs", "var", "raw/var") if key in handle]
        return handle.userblock_size == 0 and all(_as_written_since_08(frame) for frame in frames)


def _as_written_since_08(frame: Any) -> bool:
    """Whether a table has the layout of anndata 0.8, and no column under a reserved name."""
    listed = [str(column) for column in frame.attrs.get("column-order", ())]
    whole = all(key in frame for key in [frame.attrs.get("_index"), *listed] if key is not None)
    return frame.attrs.get("encoding-version") == "0.2.0" and whole and "_index" not in listed


def fill(adata: AnnData, target: Path, packed: bool) -> None:
    """Write cells under a name of their own, as every anndata since 0.8 and R read them."""
    adata = normalised(adata.copy() if adata.is_view else adata, "the output")
    with _nullable_strings():
        if target.suffix == ".zarr":
            with _settled():
                adata.write_zarr(target)
        else:
            with steady(target, "w") as (handle, _):
                write_elem(handle, "/", adata, dataset_kwargs={"compression": "gzip" if packed else None})
    with changing(target) as (root, _):
        keep_plain(root)


@contextmanager
def _nullable_strings() -> Iterator[None]:
    """anndata writes strings of pandas' own kind (`keep_plain` writes them again), and zarr as of version 2."""
    wanted = {"allow_write_nullable_strings": True, "zarr_write_format": 2, "auto_shard_zarr_v3": False}
    there = {name: value for name, value in wanted.items() if hasattr(ad.settings, name)}
    with warnings.catch_warnings(), ad.settings.override(**there):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def changing(target: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A file or store that was just written, open for changes, and what raises the errors so far (`steady`)."""
    if target.suffix != ".zarr":
        with steady(target, "r+") as opened:
            yield opened
        return
    import zarr

    with _settled():
        root = zarr.open_group(str(target), mode="r+", use_consolidated=False)
        yield root, lambda: None  # errors are raised at once
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(target))


@contextmanager
def _settled() -> Iterator[None]:
    """Where zarr fails, other files of the store are still being written: wait, or they would be written later."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the loop is no public part of zarr
            from zarr.core.sync import sync

            sync(_others_done())
        raise


async def _others_done() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=STILL_WRITING)


def dense_dataset(root: Any, name: str, shape: tuple[int, int]) -> Any:
    """The array of that name, made on first use, as anndata lays out a dense one."""
    if name in root:
        return root[name]
    rows = max(1, min(shape[0], CHUNK_VALUES // max(1, shape[1])))
    chunks = (rows, shape[1])
    if isinstance(root, h5py.Group):
        place = root.create_dataset(name, shape, np.float32, chunks=chunks, compression="gzip")
    else:
        place = root.create_array(name, shape=shape, dtype=np.float32, chunks=chunks)
    place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"
    return place


def append_rows(root: Any, name: str, rows: sparse.csr_matrix) -> None:
    """Add rows to the CSR matrix of that name, made on first use."""
    if name not in root:
        group, _, key = name.rpartition("/")
        write_elem(root[group] if group else root, key, rows)  # anndata 0.13 takes no path for a key
        return
    sparse_dataset(root[name]).append(rows)


def keep_plain(group: Any) -> None:
    """Rewrite what older readers cannot read, in an open h5ad file or zarr store.

    Parameters
    ----------
    group : h5py or zarr group, open for writing
    """
    for key in list(group):
        element = group[key]
        kind = element.attrs.get("encoding-type")
        if kind == NULLABLE_STRINGS:
            write_elem(group, key, plain_value(read_elem(element)))
        elif kind == NULL:
            del group[key]
        elif hasattr(element, "keys"):
            keep_plain(element)


def put_columns(frame: Any, columns: dict[str, Any]) -> None:
    """Add or replace columns of a table in an open file, and leave the others as they are.

    Parameters
    ----------
    frame : group of a data frame
    columns : dict of str to array
    """
    order = [str(name) for name in frame.attrs["column-order"]]
    for name, values in columns.items():
        series = pd.Series(values)
        write_elem(
            frame, name, plain_value(series.array if not isinstance(series.dtype, np.dtype) else series.to_numpy())
        )
        if name not in order:
            order.append(name)
    frame.attrs["column-order"] = np.array(order, dtype=object) if hasattr(frame, "file") else order
