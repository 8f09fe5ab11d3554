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
from anndata.io import read_elem, write_elem
from scipy import sparse

from cellalign.data.formats import detect
from cellalign.data.formats.by_rows import Rows, dense_dataset
from cellalign.data.formats.normal import normalised, plain_value
from cellalign.data.formats.shared import write_by_others
from cellalign.data.formats.steady import steady
from cellalign.data.stored import Stored, as_it_is
from cellalign.data.streamed import StreamedCells

NULLABLE_STRINGS = "nullable-string-array"  # since anndata 0.11, read by 0.12
NULL = "null"  # since anndata 0.12: None
STILL_WRITING = 10  # seconds that a store's other files are waited for


def can_be_copied(file: Path) -> bool:
    """Whether a file or store is as anndata writes it since 0.8, with nothing that the door has to mend but strings."""
    kind = detect.kind_of(file)
    if kind == "zarr":
        return _store_can_be_copied(file)
    if kind != "hdf5":
        return False
    with h5py.File(file) as handle:
        if handle.attrs.get("encoding-type") != "anndata" or detect.kind_of_hdf5(handle) != "h5ad":
            return False
        frames = [handle.get(key) for key in ("obs", "var", "raw/var") if key in handle]
        return handle.userblock_size == 0 and all(_as_written_since_08(frame) for frame in frames)


def _store_can_be_copied(folder: Path) -> bool:
    """The same of a zarr store of version 2, the one that is written: what is added is of that version too."""
    import zarr

    root: Any = zarr.open(str(folder), mode="r")
    if root.metadata.zarr_format != 2 or root.attrs.get("encoding-type") != "anndata" or "obs" not in root:
        return False
    return all(_as_written_since_08(root[key]) for key in ("obs", "var", "raw/var") if key in root)


def _as_written_since_08(frame: Any) -> bool:
    """Whether a table has the layout of anndata 0.8, and no column under a reserved name."""
    listed = [str(column) for column in frame.attrs.get("column-order", ())]
    whole = all(key in frame for key in [frame.attrs.get("_index"), *listed] if key is not None)
    return frame.attrs.get("encoding-version") == "0.2.0" and whole and "_index" not in listed


def fill(adata: AnnData, target: Path, packed: bool) -> None:
    """Write cells under a name of their own, as every anndata since 0.8 and R read them."""
    if isinstance(adata, StreamedCells):
        _fill_streamed(adata, target, packed)
        return
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


def _fill_streamed(cells: StreamedCells, target: Path, packed: bool) -> None:
    """The same of cells whose matrices are on disk: no more than a block of one is in memory."""
    kept = {"obsm": dict(cells.obsm), "varm": dict(cells.varm), "uns": dict(cells.uns)}
    fill(AnnData(obs=cells.obs, var=cells.var, **kept), target, packed)
    with changing(target) as (root, check):
        if "X" in root:
            del root["X"]
        layers = root.require_group("layers")
        others = write_by_others(root, cells.matrices, packed, check)
        for name, matrix in cells.matrices.items():
            if name not in others:
                write_stored(root if name == "X" else layers, name, matrix, packed)
            check()
        if cells.raw is not None:
            raw = root.create_group("raw")
            raw.attrs["encoding-type"], raw.attrs["encoding-version"] = "raw", "0.1.0"
            write_elem(raw, "var", plain_value(cells.raw.var))
            write_elem(raw, "varm", {})
            write_stored(raw, "X", cells.raw.X, packed)
            keep_plain(raw)


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


def write_stored(root: Any, name: str, matrix: Stored, packed: bool = True) -> None:
    """Write a matrix that lies on disk elsewhere, block by block."""
    writer = None
    for start, block in matrix.of_blocks(as_it_is):
        if not sparse.issparse(block):
            dense_dataset(root, name, matrix.shape, block.dtype)[start : start + len(block)] = block
        elif writer is None:
            writer = Rows(root, name, block, packed)
        else:
            writer.append(block)
    if writer is not None:
        writer.close()


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
