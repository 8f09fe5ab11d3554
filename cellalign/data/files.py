"""Files in and out: `.h5ad` read whole or by the one matrix that is needed, outputs written whole or not at all.

Every output is written beside its final name and renamed into place when complete, so that an interrupted or
failed command leaves what was there before.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
from anndata import AnnData
from anndata.io import read_elem, write_elem

from cellalign.errors import InputError, UsageError, option

PathLike = str | os.PathLike[str]
CHUNK_VALUES = 2**18  # of a dense matrix, compressed together: a megabyte


def spool(path: PathLike) -> Path:
    """The path itself, or for "-" a temporary copy of standard input (an h5ad file must be seekable)."""
    if str(path) != "-":
        return Path(path)
    with tempfile.NamedTemporaryFile(prefix="cellalign-", suffix=".h5ad", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return Path(file.name)


def read(path: PathLike) -> AnnData:
    """Read a whole h5ad file; "-" is standard input.

    Raises
    ------
    InputError
        No such file, no h5ad file, or a damaged one.
    """
    with _readable(path) as file:
        return ad.read_h5ad(file)


def read_matrix(
    path: PathLike, matrix: str | Sequence[str] | None, obsm: Sequence[str] = (), *, required: bool = True
) -> AnnData:
    """Read obs, var and one matrix, and nothing else: what a model needs, in half the memory or less.

    Parameters
    ----------
    path : path
    matrix : {"X", a layer's name, None} or a sequence of names
        It keeps its place in the result: in X or in the layer. Of several the first that is there is read; None
        reads none.
    obsm : sequence of str
        Keys to read besides, where they are there.
    required : bool
        Whether one of the matrices has to be there.

    Raises
    ------
    InputError
        As `read`, or there is no such matrix; those there are listed.
    """
    with _readable(path) as file, h5py.File(file) as handle:
        if "obs" not in handle or "var" not in handle:
            raise InputError(f"{path} is an HDF5 file but no h5ad: it has no obs and var")
        layers = handle.get("layers", {})
        result = AnnData(obs=read_elem(handle["obs"]), var=read_elem(handle["var"]))
        if "cellalign" in handle.get("uns", {}):
            result.uns["cellalign"] = read_elem(handle["uns/cellalign"])
        for key in obsm:
            if key in handle.get("obsm", {}):
                result.obsm[key] = read_elem(handle["obsm"][key])
        if matrix is None:
            return result
        there = (["X"] if "X" in handle else []) + list(layers)
        wanted = [matrix] if isinstance(matrix, str) else list(matrix)
        found = next((name for name in wanted if name in there), None)
        if found is None and not required:
            return result
        if found is None:
            raise InputError(f"{path} has no matrix {wanted[0]!r}; matrices: {', '.join(there) or 'none'}")
        if found == "X":
            result.X = read_elem(handle["X"])
        else:
            result.layers[found] = read_elem(layers[found])
        return result


@contextmanager
def _readable(path: PathLike) -> Iterator[Path]:
    """The file to open, with whatever goes wrong while reading it said in one line."""
    name = "standard input" if str(path) == "-" else str(path)
    file = spool(path)
    if file.is_dir():
        raise InputError(f"{name} is a directory; name an .h5ad file")
    if not file.exists():
        raise InputError(f"no such file: {name}")
    if not os.access(file, os.R_OK):
        raise InputError(f"{name} may not be read: permission denied; ask its owner, or change its permissions")
    if not h5py.is_hdf5(file):
        raise InputError(f"{name} is not an .h5ad file (no HDF5 signature); convert it, or check the path")
    try:
        yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot be read as .h5ad, it may be truncated or damaged: {first}") from error


def checksum(path: PathLike) -> str:
    """The "sha256:..." of a file, read in pieces."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: PathLike, force: bool, inputs: Sequence[PathLike] = ()) -> None:
    """Refuse an output before any work is done for it.

    Raises
    ------
    UsageError
        It exists and `force` is not set, or it is one of the inputs.
    InputError
        Its folder does not exist or cannot be written.
    """
    if str(path) == "-":
        return
    path = Path(path)
    for source in inputs:
        if str(source) != "-" and path.exists() and Path(source).exists() and os.path.samefile(path, source):
            raise UsageError(f"output {path} is the input; choose another name")
    if path.exists() and not force:
        raise UsageError(f"output {path} exists; pass {option('force', True)} to replace it, or choose another name")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: the folder {folder} is not writable")


@contextmanager
def atomic_path(path: PathLike, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it on success and removed on any failure.

    Raises
    ------
    UsageError, InputError
        As `check_output`, and where the disk is full.
    """
    check_output(path, force)
    path = Path(path)
    # the ending stays: writers of figures go by it
    fresh = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with _one_line(path):
            yield fresh
            with open(fresh, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: PathLike, force: bool = False) -> Iterator[Path]:
    """A temporary directory beside `path`, swapped in on success and removed on any failure."""
    check_output(path, force)
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with _one_line(path):
            fresh.mkdir()
            yield fresh
            if path.exists():
                os.rename(path, old)
            try:
                os.rename(fresh, path)
            except OSError:
                if old.exists():
                    os.rename(old, path)
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What goes wrong while writing `path`, as one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        # HDF5 hides the system's error in its message
        full = code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else str(error).splitlines()[0]
        raise InputError(f"cannot write {path}: {reason}; nothing was changed") from error


def write(adata: AnnData, path: PathLike, *, force: bool = False) -> None:
    """Write an h5ad file, whole or not at all; "-" is standard output.

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """
    packed = None if str(path) == "-" else "gzip"
    _written(path, force, lambda target: adata.write_h5ad(target, compression=packed))


def write_with(
    source: PathLike,
    path: PathLike,
    *,
    obsm: Mapping[str, np.ndarray] | None = None,
    uns: Mapping[str, Any] | None = None,
    obs: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Copy an h5ad file and put elements into the copy; no matrix is loaded, and nothing else changes.

    Parameters
    ----------
    source : path
        The file to copy.
    path : path
        The output, "-" for standard output.
    obsm, uns, obs : mappings
        Elements and columns to add or replace.

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """

    def fill(target: Path) -> None:
        shutil.copyfile(source, target)
        with h5py.File(target, "r+") as handle:
            for group, elements in (("obsm", obsm or {}), ("uns", uns or {})):
                if group not in handle:
                    write_elem(handle, group, {})
                for key, value in elements.items():
                    write_elem(handle[group], key, value)
            if obs:
                write_elem(handle, "obs", read_elem(handle["obs"]).assign(**obs))

    _written(path, force, fill)


def write_batches(
    bare: AnnData, batches: Iterator[dict[str, np.ndarray]], path: PathLike, *, copies: int = 1, force: bool = False
) -> None:
    """Write an h5ad file whose X and layers come batch by batch: no more than one batch of them is in memory.

    Parameters
    ----------
    bare : AnnData [copies * n, G]
        What is known beforehand: obs, var, uns and sparse layers.
    batches : iterator of dict of float32 arrays
        The next cells' "X" and layers, [B, G]; an array [copies, B, G] holds them several times, which are written
        one after the other, and an array [B, G] is then repeated.
    path : path
        The output, "-" for standard output.
    copies : int

    Raises
    ------
    UsageError, InputError
        As `atomic_path`.
    """

    def fill(target: Path) -> None:
        bare.write_h5ad(target, compression="gzip")
        with h5py.File(target, "r+") as handle:
            handle.pop("X", None)
            handle.require_group("layers")
            start, n = 0, bare.n_obs // copies
            for batch in _or_raise(batches):
                stop = start + batch["X"].shape[-2]
                for name, values in batch.items():
                    place = _dense_dataset(handle, name if name == "X" else f"layers/{name}", bare.shape)
                    for copy in range(copies):
                        own = values[copy] if values.ndim == 3 else values
                        place[copy * n + start : copy * n + stop] = own
                start = stop

    try:
        _written(path, force, fill)
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


def _dense_dataset(handle: h5py.File, name: str, shape: tuple[int, int]) -> Any:
    """The dataset of that name, made on first use, as anndata lays out a dense array."""
    if name in handle:
        return handle[name]
    rows = max(1, min(shape[0], CHUNK_VALUES // max(1, shape[1])))
    place = handle.create_dataset(name, shape, np.float32, chunks=(rows, shape[1]), compression="gzip")
    place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"
    return place


def _written(path: PathLike, force: bool, fill: Callable[[Path], None]) -> None:
    """Have a file filled under a temporary name and put in place, or sent to standard output."""
    if str(path) == "-":
        with tempfile.TemporaryDirectory(prefix="cellalign-") as folder:
            fill(Path(folder) / "out.h5ad")
            _to_stdout(Path(folder) / "out.h5ad")
        return
    with atomic_path(path, force) as fresh:
        fill(fresh)


def _to_stdout(file: Path) -> None:
    with open(file, "rb") as handle:
        shutil.copyfileobj(handle, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()
