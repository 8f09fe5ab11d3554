"""Files of cells opened, not read: obs, var and obsm in memory, the matrices left where they are.

Whether that is done says the size of the matrices beside the memory that is free, or the user.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign import memory
from cellalign.data.formats import detect
from cellalign.data.formats.elements import Wanted, cells_in, frame_of, is_old, modalities, names_in, quiet
from cellalign.data.formats.normal import normalised, plain_frame
from cellalign.data.formats.on_disk import NotByRows, stored_matrix
from cellalign.data.formats.probe import fault_of
from cellalign.data.formats.together import COUNTS, joined, joins_raw
from cellalign.data.genes import with_genes_named
from cellalign.data.reading import Reading, labels
from cellalign.data.stored import Stacked, Stored, all_in_order, helpers, placed
from cellalign.data.streamed import StreamedCells
from cellalign.data.structure import is_sparse, shape_of
from cellalign.errors import InputError, option

log = logging.getLogger("cellalign.reading")
WHILE_COMPUTING = 4.5  # times the bytes of its matrices that a command takes at most: preprocess of a million cells 3.9
SAID_FROM = 1 << 30  # bytes of matrices of which it is said where they are kept


@dataclass
class _Opened:
    """One file: the group of its cells, and how messages call it."""

    root: Any
    name: str
    path: str

    def close(self) -> None:
        """Leave the file."""
        if isinstance(self.root, h5py.Group):
            self.root.file.close()


def streamed(
    reading: Reading, wanted: Wanted | None, names: Sequence[str], *, by_columns: bool = False
) -> AnnData | None:
    """The cells of files with their matrices on disk; None where they are to be read into memory.

    Parameters
    ----------
    names : sequence of str
        How messages call the files.
    by_columns : bool
        Whether matrices that are kept by columns do as well: all rows of them can be read in order, and no others.

    Raises
    ------
    InputError
        Streaming is asked for, and a file is of a kind that is not read by rows; or one is damaged.
    """
    asked = reading.stream
    if asked is False:
        return None
    opened: list[_Opened] = []
    for path, name in zip(reading.paths, names, strict=True):
        found, why = _open(Path(path), name, reading)
        if found is None:
            if asked and not by_columns and Path(path).exists():  # else the reader says that it is not there
                given = option("cluster") if helpers() else option("stream", True)
                raise InputError(f"{why}; {_to_convert(path)}, or leave {given} out")
            return None
        opened.append(found)
    size, free = sum(_bytes_of(each, wanted) for each in opened), memory.available()
    if asked is None and (free is None or WHILE_COMPUTING * size < free):
        if size > SAID_FROM:
            left = option("stream", True)
            log.info("%s of matrices are read into memory; %s leaves them on disk", memory.said(size), left)
        for each in opened:
            each.close()
        return None
    try:
        cells = _together(opened, reading, wanted, by_columns)
    except NotByRows as error:
        if asked:
            raise InputError(f"{error}; {_to_convert(error.path)}") from error
        log.warning("%s, so it is read into memory; %s", error, _to_convert(error.path))
        return None
    ranks, room = memory.processes(), ""
    if free is not None and not asked:
        share = f" for each of {ranks} processes" if ranks > 1 else ""
        room = f", which {memory.said(free)} of free memory{share} have no room to work with"
    log.info("%s of matrices stay on disk%s; rows are read as they are needed", memory.said(size), room)
    return cells


def _to_convert(path: str) -> str:
    """The command after which a file is read by rows."""
    return f"run: cellalign convert {path} -o {Path(path).stem}.rows.h5ad"


def _open(path: Path, name: str, reading: Reading) -> tuple[_Opened | None, str]:
    """The group of the cells, or None and why the file is of a kind that is read as a whole.

    What is wrong with the file as a whole is left to the reader that says so.
    """
    with suppress(OSError, ValueError):
        kind = detect.kind_of(path)
        root: Any = None
        if kind == "hdf5" and fault_of(path) is None:
            root = h5py.File(path)
            if detect.kind_of_hdf5(root) not in ("h5ad", "h5mu"):
                root.close()
                return None, f"{name} is of a format that is read as a whole"
        elif kind in ("zarr", "zarr.zip"):
            import zarr

            with suppress(KeyError, TypeError):
                store: Any = str(path) if kind == "zarr" else zarr.storage.ZipStore(str(path), mode="r")
                root = zarr.open(store, mode="r")
        if root is None or not hasattr(root, "keys"):
            return None, f"{name} is of a format that is read as a whole"
        found = modalities(root)
        if found:
            asked = reading.modality or (next(iter(found)) if len(found) == 1 else None)
            if asked is None or asked not in found or "obs" in root:  # whose common columns are added when it is read
                return None, f"{name} holds modalities that are read as a whole"
            return _Opened(root[found[asked]], f"{name} ({asked})", str(path)), ""
        if "obs" not in root or "var" not in root or is_old(root):
            return None, f"{name} is of anndata before 0.7, which is read as a whole"
        return _Opened(root, name, str(path)), ""
    return None, f"{name} cannot be opened"


def _matrices(root: Any, wanted: Wanted | None, name: str) -> Iterator[tuple[str, Any]]:
    """The matrices that are read, by the name they have in an AnnData; of `raw` too, where all are."""
    layers = names_in(root, "layers")
    there = (["X"] if "X" in root else []) + layers
    if wanted is None:
        keys = there
    else:
        found = wanted.found(there, name)
        keys = [] if found is None else [found]
    yield from ((key, root["X"] if key == "X" else root[f"layers/{key}"]) for key in keys)
    if wanted is None and "X" in names_in(root, "raw") and "var" in names_in(root, "raw"):
        yield "raw", root["raw/X"]


def _bytes_of(opened: _Opened, wanted: Wanted | None) -> int:
    """Of the matrices that are read, in memory."""
    total = 0
    for _, element in _matrices(opened.root, wanted, opened.name):
        shape = shape_of(element) or (0,)
        parts = [element["data"], element["indices"]] if is_sparse(element) else [element]
        total += sum(int(np.prod(getattr(p, "shape", shape), dtype=object)) * p.dtype.itemsize for p in parts)
    return total


def _together(opened: Sequence[_Opened], reading: Reading, wanted: Wanted | None, by_columns: bool) -> StreamedCells:
    """All of them as one."""
    parts = [_cells(each, reading, wanted, by_columns) for each in opened]
    if len(parts) == 1:
        if reading.file_key is not None:
            parts[0].obs[reading.file_key] = pd.Categorical([labels(reading.paths)[0]] * parts[0].n_obs)
        return parts[0]
    frame = normalised(joined(parts, [each.name for each in opened], reading), "the files together")
    names = [name for name in parts[0].matrices if all(name in part.matrices for part in parts)]
    columns = [part.var_names.get_indexer(frame.var_names) for part in parts]
    matrices = {
        name: Stacked([_placed(part.matrices[name], places) for part, places in zip(parts, columns, strict=True)])
        for name in names
    }
    raw = _raw_together(parts, reading)
    return StreamedCells(matrices, raw, obs=frame.obs, var=frame.var, obsm=dict(frame.obsm), uns=dict(frame.uns))


def _raw_together(parts: Sequence[StreamedCells], reading: Reading) -> tuple[Stored, pd.DataFrame] | None:
    """`raw` of all of them, over its genes that all have, or any; None where one has none."""
    if not joins_raw(parts):
        return None
    with quiet():
        bare = [AnnData(obs=pd.DataFrame(index=part.obs_names), var=part.raw.var) for part in parts]
        var = ad.concat(bare, join="outer" if reading.genes == "union" else "inner", merge="same").var
    return Stacked([_placed(part.raw.X, part.raw.var_names.get_indexer(var.index)) for part in parts]), var


def _placed(matrix: Stored, columns: np.ndarray) -> Stored:
    """The genes of all files, of the matrix of one."""
    if all_in_order(columns, matrix.shape[1]):
        return matrix
    return matrix.mapped(lambda block: placed(block, columns), len(columns))


def _cells(opened: _Opened, reading: Reading, wanted: Wanted | None, by_columns: bool) -> StreamedCells:
    """The cells of one file, made alike."""
    root, name = opened.root, opened.name
    rest = Wanted((), wanted.obsm) if wanted is not None else None
    with quiet():
        frame = cells_in(root, name, rest, matrices=False)
        matrices: dict[str, Stored] = {}
        raw, left_out = None, []
        for key, element in _matrices(root, wanted, name):
            said = f"{name}: {key}" if key in ("X", "raw") else f"{name}: layers/{key}"
            try:
                if key == "raw":
                    var = plain_frame(frame_of(root["raw"], "var", f"{name}: raw"), f"{name}: raw.var")
                    raw = stored_matrix(element, said, (frame.n_obs, len(var)), by_columns), var
                else:
                    matrices[key] = stored_matrix(element, said, frame.shape, by_columns)
            except NotByRows as error:
                error.path = opened.path
                # without its counts another matrix would be taken for them
                if wanted is not None or key == COUNTS or (key == "raw" and COUNTS not in matrices):
                    raise
                left_out.append(error)
        if left_out and not matrices and raw is None:
            raise left_out[0]
        for each in left_out:
            log.warning("%s and left out; %s", each, _to_convert(opened.path))
        kept = {"obsm": dict(frame.obsm), "varm": dict(frame.varm), "uns": dict(frame.uns)}
        cells = StreamedCells(matrices, raw, obs=frame.obs, var=frame.var, **kept)
        cells = normalised(cells, name)  # type: ignore[assignment]
    return cells if reading.gene_key is None else with_genes_named(cells, reading.gene_key, name)  # type: ignore
