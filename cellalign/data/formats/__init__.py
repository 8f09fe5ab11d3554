"""The one door for cells: files of every age, origin and format, told apart by their content.

The reader of each is anndata's, scanpy's or loompy's; what they give is made alike in `normal`. Files of other tools
are named for what they are, with the command that converts them (`others`).
"""

from __future__ import annotations

import atexit
import errno
import logging
import lzma
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import anndata as ad
import h5py
import pandas as pd
from anndata import AnnData

from cellalign.data.formats import detect
from cellalign.data.formats.elements import Wanted, cells_in, damaged, frame_of, is_old, modalities, quiet
from cellalign.data.formats.normal import normalised
from cellalign.data.formats.others import named
from cellalign.data.formats.probe import fault_of
from cellalign.data.genes import with_genes_named
from cellalign.data.placing import FULL, put_back
from cellalign.data.reading import PathLike, Reading, all_paths, labels, stem
from cellalign.data.structure import check_stored
from cellalign.errors import CellalignError, InputError, option

__all__ = [
    "PathLike",
    "Reading",
    "all_paths",
    "is_zarr",
    "normalised",
    "read",
    "read_matrix",
    "spool",
    "stem",
]

log = logging.getLogger("cellalign.reading")
_copies: dict[str, str] = {}  # of what could not be read twice, and how messages call it


def read(
    source: PathLike | Reading, *, quietly: bool = False, streaming: bool = False, by_columns: bool = False
) -> AnnData:
    """Read cells, with all that the files hold; "-" is standard input.

    Parameters
    ----------
    source : path or Reading
    quietly : bool
        Say nothing of how it was understood: it was read before.
    streaming : bool
        Whether the matrices may stay on disk (`data.streamed`): where memory has no room for them, or as is asked for.
    by_columns : bool
        Those too that are kept by columns, from which all rows are read in order, and no others.

    Raises
    ------
    InputError
        No such file, of a kind that is not read, or damaged.
    """
    if not quietly:
        return _cells(source, None, streaming, by_columns)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        return _cells(source, None, streaming)
    finally:
        log.setLevel(before)


def read_matrix(
    source: PathLike | Reading,
    matrix: str | Sequence[str] | None,
    obsm: Sequence[str] = (),
    *,
    required: bool = True,
    streaming: bool = False,
) -> AnnData:
    """Read obs, var and one matrix, and nothing else: what a model needs, in half the memory or less.

    Parameters
    ----------
    source : path or Reading
    matrix : {"X", a layer's name, None} or a sequence of names
        It keeps its place in the result: in X or in the layer. Of several the first that is there is read; None
        reads none.
    obsm : sequence of str
        Keys to read besides, where they are there.
    required : bool
        Whether one of the matrices has to be there.
    streaming : bool
        As of `read`.

    Raises
    ------
    InputError
        As `read`, or there is no such matrix; those there are listed.
    """
    matrices = () if matrix is None else (matrix,) if isinstance(matrix, str) else tuple(matrix)
    return _cells(source, Wanted(matrices, tuple(obsm), required), streaming and bool(matrices))


def spool(source: PathLike | Reading) -> Any:
    """The same, with what can be read once only (standard input, a pipe) copied into a temporary file.

    Returns
    -------
    Path or Reading
        As it was given.
    """
    if isinstance(source, Reading):
        return replace(source, paths=tuple(str(spool(path)) for path in source.paths))
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; name a file, or send one")
        return _copied(sys.stdin.buffer, "standard input")
    if not _is_pipe(source):
        return Path(source)
    with open(source, "rb") as stream:
        return _copied(stream, str(source))


def _is_pipe(path: PathLike) -> bool:
    """Whether a path can be read once only."""
    try:
        put_back(path)
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # said when it is read
        return False


def is_zarr(path: PathLike) -> bool:
    """Whether a folder is a zarr store."""
    return Path(path).is_dir() and detect.kind_of(Path(path)) == "zarr"


def _copied(stream: IO[bytes], name: str) -> Path:
    with tempfile.NamedTemporaryFile(prefix="cellalign-", suffix=".h5ad", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        with _room_for(name):
            shutil.copyfileobj(stream, file, 1 << 20)
            file.flush()
    _copies[file.name] = name
    return Path(file.name)


@contextmanager
def _room_for(name: str) -> Iterator[None]:
    """A full disk while a temporary copy is made, as one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f"{tempfile.gettempdir()} has no room for a copy of {name}"
        raise InputError(f"{where}; make room, or set TMPDIR to a folder on another disk") from error


def _cells(
    source: PathLike | Reading, wanted: Wanted | None, streaming: bool = False, by_columns: bool = False
) -> AnnData:
    """All files of a reading as one."""
    from cellalign.data.formats.table import read_metadata
    from cellalign.data.formats.together import add_metadata

    reading = Reading.of(source)
    adata = _on_disk(reading, wanted, by_columns) if streaming else None
    if adata is None:
        if reading.stream and not streaming and (wanted is None or wanted.matrices):
            log.warning("%s changes nothing: this command reads all cells into memory", option("stream", True))
        adata = _in_memory(reading, wanted)
    if reading.obs is not None:
        add_metadata(adata, read_metadata(Path(reading.obs), reading.obs_key), reading.obs)
        normalised(adata, reading.obs)
    elif reading.obs_key is not None:
        raise InputError(
            f"{option('obs_key', reading.obs_key)} names a column of {option('obs', hint='FILE')}; give that"
        )
    return adata


def _on_disk(reading: Reading, wanted: Wanted | None, by_columns: bool) -> AnnData | None:
    """The cells with their matrices on disk; None where they are to be read."""
    from cellalign.data.formats.streaming import streamed

    if reading.from_stdin or any(_is_pipe(path) for path in reading.paths):  # which can be read once
        return None
    names = [_copies.get(path, path) for path in reading.paths]
    with _one_line(", ".join(names)):
        return streamed(reading, wanted, names, by_columns=by_columns)


def _in_memory(reading: Reading, wanted: Wanted | None) -> AnnData:
    """All files with their matrices."""
    from cellalign.data.formats.together import joined

    parts, names = [], []
    for path in reading.paths:
        adata, name = _one(path, reading, wanted)
        parts.append(adata)
        names.append(name)
        if wanted is not None and wanted.matrices:  # the same of all files
            wanted = replace(wanted, matrices=("X",) if adata.X is not None else tuple(adata.layers))
    if len(parts) > 1:
        adata = normalised(joined(parts, names, reading), "the files together")
    elif reading.file_key is not None:
        adata.obs[reading.file_key] = pd.Categorical([labels(reading.paths)[0]] * adata.n_obs)
    return adata


def _one(path: PathLike, reading: Reading, wanted: Wanted | None) -> tuple[AnnData, str]:
    """The cells of one file, made alike, and how messages call it."""
    file = spool(path)
    name = _copies.get(str(file), str(path))
    with _one_line(name), _unpacked(file, name) as (plain, kind), quiet():
        adata = _by_kind(plain, kind, name, reading, wanted)
        adata = normalised(adata, name)
        return (adata if reading.gene_key is None else with_genes_named(adata, reading.gene_key, name)), name


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """What goes wrong with a file as a whole, as one line."""
    try:
        yield
    except FileNotFoundError as error:
        if "://" in name:
            raise InputError(f"{name} is an address and not a file; download it first") from error
        raise InputError(f"no such file: {name}") from error
    except PermissionError as error:
        raise InputError(
            f"cannot read {name}: {os.strerror(error.errno or errno.EACCES)}; change its permissions"
        ) from error
    except BlockingIOError as error:
        raise InputError(f"{name} is open for writing in another program; close it there, or wait") from error
    except MemoryError as error:
        raise InputError(
            f"{name} does not fit into memory: {error or 'it ran out'}; read it where there is more"
        ) from error
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise damaged(name, error) from error
    except CellalignError:
        raise
    except Exception as error:  # of the reader, about what the file holds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} is not laid out as files of its kind are ({type(error).__name__}: {reason})"
        ) from error


@contextmanager
def _unpacked(file: Path, name: str) -> Iterator[tuple[Path, str]]:
    """The file and its kind; of a compressed HDF5 file a temporary copy that is not."""
    try:
        os.stat(file)
        kind = detect.kind_of(file)
    except ValueError as error:  # a null character in the path
        raise InputError(f"no such file: {name!r}") from error
    if kind != "packed":
        yield file, kind
        return
    with tempfile.TemporaryDirectory(prefix="cellalign-") as folder:
        fresh = Path(folder) / "unpacked"
        with _room_for(name), detect.opened(file) as source, open(fresh, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield fresh, "hdf5"


def _by_kind(file: Path, kind: str, name: str, reading: Reading, wanted: Wanted | None) -> AnnData:
    """The cells of a file of a known kind."""
    if kind == "hdf5":
        fault = fault_of(file)
        if fault is not None:
            raise InputError(f"{name} is damaged: {fault}; copy or download it again")
        with h5py.File(file) as handle:
            kind = detect.kind_of_hdf5(handle)
            if kind in ("h5ad", "h5mu"):
                return _from_group(handle, name, reading, wanted, lambda: ad.read_h5ad(file))
            check_stored(handle)
            if kind == "other hdf5":
                there = ", ".join(sorted(handle)[:10]) or "nothing"
                raise InputError(f"{name} is an HDF5 file, but not one of cells that is known; it holds: {there}")
    if kind in ("zarr", "zarr.zip"):
        return _from_store(file, kind, name, reading, wanted)
    whole = _whole(file, kind, name, reading)
    return whole if wanted is None else wanted.of(normalised(whole, name), name)


def _whole(file: Path, kind: str, name: str, reading: Reading) -> AnnData:
    """The cells of a format that is read as a whole."""
    from cellalign.data.formats import counted, parse
    from cellalign.data.formats.table import read_table

    if kind == "10x":
        return counted.read_10x(file, name, reading.modality)
    if kind == "parse" or (kind == "mtx" and parse.matrix_in(file.parent) == file):
        return parse.read_parse(file, name)
    if kind == "mtx":
        return counted.read_mtx(file, name, reading.modality)
    _say_unused(reading, name)
    if kind == "loom":
        return counted.read_loom(file, name)
    if kind == "table":
        return read_table(file, name)
    raise InputError(named(name, kind))


def _from_store(file: Path, kind: str, name: str, reading: Reading, wanted: Wanted | None) -> AnnData:
    """The cells of a zarr store, a folder or a zip archive."""
    import zarr

    try:
        store: Any = str(file) if kind == "zarr" else zarr.storage.ZipStore(str(file), mode="r")
        root = zarr.open(store, mode="r")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(name, error) from error
    if not hasattr(root, "keys"):
        raise InputError(f"{name} is a zarr array and not a store of cells")
    return _from_group(root, name, reading, wanted, lambda: ad.read_zarr(root))


def _from_group(root: Any, name: str, reading: Reading, wanted: Wanted | None, as_before: Any) -> AnnData:
    """The cells of a group as anndata lays one out, or of one modality in it; of an old file as anndata reads it."""
    found = modalities(root)
    if not found:
        _say_unused(reading, name)
        if not is_old(root):
            return cells_in(root, name, wanted)
        check_stored(root)
        whole = _old(as_before, name)
        return whole if wanted is None else wanted.of(whole, name)
    asked = reading.modality
    if asked is None and len(found) == 1:
        asked = next(iter(found))
    if asked is None or asked not in found:
        listed = ", ".join(found)
        named_ = f"name one with {option('modality', hint='NAME')}"
        said = f"has no {option('modality', asked)}" if asked is not None else "holds several modalities"
        raise InputError(f"{name} {said}; {named_}: {listed}")
    adata = cells_in(root[found[asked]], f"{name} ({asked})", wanted)
    if "obs" in root:
        _add_common(adata, root, name)
    return adata


def _add_common(adata: AnnData, root: Any, name: str) -> None:
    """Columns that a MuData file keeps once for all modalities; those of one are called modality:column."""
    common = frame_of(root, "obs", name)
    own = [column for column in common if ":" not in str(column) and column not in adata.obs]
    if own and common.index.is_unique:
        fitting = common[own].reindex(adata.obs_names)
        for column in own:
            adata.obs[column] = fitting[column]


def _old(as_before: Any, name: str) -> AnnData:
    """A file of anndata before 0.7, read by the installed anndata as a whole."""
    try:
        return as_before()
    except OSError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "read and write it once with anndata 0.7 to 0.10"
        raise InputError(
            f"{name} is of anndata before 0.7, and the installed one cannot read it ({reason}); {advice}"
        ) from error


def _say_unused(reading: Reading, name: str) -> None:
    if reading.modality is not None:
        log.warning("%s has no modalities; %s changes nothing", name, option("modality", reading.modality))
