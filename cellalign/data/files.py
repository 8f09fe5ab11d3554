"""Files in and out: cells read through the one door (`formats`), outputs written whole or not at all.

Every output is written beside its final name and put in place when complete (`placing`), so that an interrupted or
failed command leaves what was there before; what may be replaced says `outputs`.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from anndata.io import write_elem

from cellalign.data.formats import (
    PathLike,
    Reading,
    all_paths,
    read,
    read_matrix,
    spool,
)
from cellalign.data.formats.team import ALONE, Part, Team, read_along, reading_together, write_parts
from cellalign.data.formats.writing import can_be_copied, changing, fill, keep_plain, put_columns
from cellalign.data.outputs import (
    check_apart,
    check_cells_output,
    check_directory,
    check_folder,
    check_output,
    check_table,
    refuse_directory,
    refuse_file,
    why_no_store,
)
from cellalign.data.placing import one_line, place_directory, place_file, place_of
from cellalign.data.streamed import StreamedCells

__all__ = [
    "PathLike",
    "Reading",
    "all_paths",
    "atomic_directory",
    "atomic_path",
    "check_apart",
    "check_cells_output",
    "check_directory",
    "check_folder",
    "check_output",
    "check_table",
    "checksum",
    "read",
    "read_matrix",
    "spool",
    "stamp",
    "write",
    "write_batches",
    "write_with",
]


def checksum(path: PathLike) -> str:
    """The "sha256:..." of a file, read in pieces; of a folder that of its files and their names."""
    if not Path(path).is_dir():
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for inner in _files_in(path):
        whole.update(f"{inner.relative_to(path).as_posix()} {checksum(inner)}\n".encode())
    return "sha256:" + whole.hexdigest()


def stamp(path: PathLike) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, by which a file that is as it was is known."""
    stats = [inner.stat() for inner in (_files_in(path) if Path(path).is_dir() else [Path(path)])]
    return sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)


def _files_in(folder: PathLike) -> list[Path]:
    return sorted(inner for inner in Path(folder).rglob("*") if inner.is_file())


@contextmanager
def atomic_path(path: PathLike, force: bool = False) -> Iterator[Path]:
    """A temporary path that is given the name `path` on success and removed on any failure.

    Raises
    ------
    UsageError, InputError
        As `check_output`, and where the disk is full.
    """
    refuse_file(path, force)
    with one_line(path), place_file(place_of(path), force) as fresh:
        yield fresh
        if force:  # what was put there meanwhile is not lost either
            refuse_file(path, force)


@contextmanager
def atomic_directory(path: PathLike, force: bool, why_not: Callable[[Path], str | None]) -> Iterator[Path]:
    """A temporary directory that is given the name `path` on success and removed on any failure.

    Parameters
    ----------
    path, force, why_not
        As of `check_directory`, whose errors it has, and where the disk is full.
    """
    refuse_directory(path, force, (), why_not)
    with one_line(path), place_directory(place_of(path), force) as fresh:
        yield fresh
        if force:
            refuse_directory(path, force, (), why_not)


def write(adata: AnnData, path: PathLike, *, force: bool = False) -> None:
    """Write cells as h5ad or, where the path ends in .zarr, as a zarr store, whole or not at all.

    Parameters
    ----------
    adata : AnnData
    path : path
        "-" is standard output, as h5ad.
    force : bool
        Replace what is there.

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """
    packed = str(path) != "-"
    _written(path, force, lambda target: fill(adata, target, packed))


def write_with(
    source: PathLike | Reading,
    path: PathLike,
    *,
    obsm: Mapping[str, np.ndarray] | None = None,
    uns: Mapping[str, Any] | None = None,
    obs: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write what a file holds with elements added to it.

    A single h5ad file of anndata 0.8 or later is copied, and so is a zarr store into another: no matrix is loaded, and
    nothing else changes but what older readers could not read. Any other source is read, and written anew, its matrices
    block by block where they stay on disk.

    Parameters
    ----------
    source : path or Reading
        Where the cells are.
    path : path
        The output, "-" for standard output.
    obsm, uns, obs : mappings
        Elements and columns to add or replace.

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """
    single = Reading.of(source).single

    def copy(target: Path) -> None:
        if target.suffix == ".zarr":
            shutil.copytree(str(single), target, dirs_exist_ok=True)
        else:
            shutil.copyfile(str(single), target)
        with changing(target) as (handle, _):
            keep_plain(handle)
            for group, elements in (("obsm", obsm or {}), ("uns", uns or {})):
                if group not in handle:
                    write_elem(handle, group, {})
                for key, value in elements.items():
                    write_elem(handle[group], key, value)
            put_columns(handle["obs"], dict(obs or {}))

    def anew(target: Path) -> None:
        adata = read(source, quietly=True, streaming=True)
        adata.obsm.update(obsm or {})
        adata.uns.update(uns or {})
        for name, values in (obs or {}).items():
            adata.obs[name] = values
        fill(adata, target, str(path) != "-")

    as_store = Path(path).suffix == ".zarr"
    copied = single is not None and Path(single).is_dir() == as_store and can_be_copied(Path(single))
    _written(path, force, copy if copied else anew)


def write_batches(
    bare: AnnData, parts: Iterator[Part], path: PathLike, *, team: Team = ALONE, copies: int = 1, force: bool = False
) -> None:
    """Write cells whose X and layers come batch by batch: no more than one batch of them is in memory.

    Parameters
    ----------
    bare : AnnData [copies * n, G]
        What is known beforehand: obs, var, uns and sparse layers.
    parts : iterator of (int, dict of float32 arrays)
        The number of a batch's first cell, and its "X" and layers, [B, G]; an array [copies, B, G] holds them several
        times, which are written one after the other, and an array [B, G] is then repeated. CSR matrices become sparse
        layers; of copies there are none.
    path : path
        The output, "-" for standard output.
    team : Team
        Of several ranks, which all call this, `parts` are this one's, and ascend; together they are all.
    copies : int

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """
    matrices = bare.matrices if isinstance(bare, StreamedCells) else {}

    def stream(target: Path) -> None:
        with reading_together(matrices, team, target):
            fill(bare, target, True)
        with changing(target) as (root, check):
            if "X" in root:
                del root["X"]
            write_parts(root, _or_raise(parts), bare.n_obs // copies, copies, team, check)

    try:
        if team.first:
            _written(path, force, stream)
        else:
            with one_line(path):
                read_along(matrices, team)
                write_parts(None, _or_raise(parts), bare.n_obs // copies, copies, team)
    except _Computing as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


class _Computing(Exception):
    """What was to be written could not be computed; its cause says why."""


def _or_raise(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; what goes wrong while they are computed is no fault of the file."""
    try:
        yield from batches
    except Exception as error:
        raise _Computing from error


def _written(path: PathLike, force: bool, fill: Callable[[Path], None]) -> None:
    """Have a file filled under a temporary name and put in place, or sent to standard output."""
    if str(path) == "-":
        with tempfile.TemporaryDirectory(prefix="cellalign-") as folder:
            fill(Path(folder) / "out.h5ad")
            _to_stdout(Path(folder) / "out.h5ad")
        return
    place: AbstractContextManager[Path] = atomic_path(path, force)
    if Path(path).suffix == ".zarr":
        place = atomic_directory(path, force, why_no_store)
    with place as fresh:
        fill(fresh)


def _to_stdout(file: Path) -> None:
    out = sys.stdout.buffer
    with open(file, "rb") as handle:
        while piece := memoryview(handle.read(1 << 20)):
            while piece:  # where Python does not buffer, a part may be written, as on a disk that is nearly full
                piece = piece[out.write(piece) or 0 :]
    out.flush()
