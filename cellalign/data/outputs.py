"""What may become an output, found before any work is done for it.

Nothing is replaced unasked, and with `force` only what is of the output's kind: a model by a model, a store by a
store, a file by a file that holds the same; never an input or what lies in a model's folder, a device, a pipe, what is
write-protected, or a folder in which something else lies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py

from cellalign.data.formats import is_zarr
from cellalign.data.placing import place_of, put_back, reason, try_place
from cellalign.data.reading import PathLike, Reading, all_paths
from cellalign.errors import InputError, OutputExists, UsageError, option

CELLS = (".h5ad", ".zarr")  # what an output of cells may end in
MODEL_FILES = ("model.yaml", "weights.safetensors", "history.csv", "cells.npy", "calibration.safetensors")
OF_STORES = (".zgroup", ".zarray", ".zattrs", ".zmetadata", "zarr.json")  # files of a store beside its arrays
STORE = (".zgroup", ".zarray", "zarr.json")  # of which each store, group and array has one
OF_THE_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")  # file managers leave these in any folder
PICTURES = {".png": (b"\x89PNG", "PNG picture"), ".pdf": (b"%PDF", "PDF")}
TABLES = (".csv", ".json", ".tsv", ".tab", ".xls", ".xlsx", ".parquet", ".html", ".graphml", ".yaml")
OTHERS = {
    stat.S_IFREG: "a file",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
ELSEWHERE = "choose another name"


def check_output(
    path: PathLike, force: bool, inputs: Sequence[PathLike | Reading] = (), *, standard_output: bool = False
) -> None:
    """Refuse an output file before any work is done for it.

    Parameters
    ----------
    path : path
    force : bool
        What is there may be replaced, if it is of the kind that the path's ending says.
    inputs : sequence of paths and readings
        What the command reads, model directories too.
    standard_output : bool
        Whether "-" may be written.

    Raises
    ------
    UsageError
        It exists and `force` is not set, it is one of the inputs, or what is there is not to be replaced.
    InputError
        It cannot be written there.
    """
    if os.fspath(path) == "-":
        if standard_output:
            return
        raise UsageError("- is standard output, which is not written here; name a file")
    refuse_file(path, force, inputs)
    _try(path)


def check_directory(
    path: PathLike, force: bool, inputs: Sequence[PathLike | Reading], why_not: Callable[[Path], str | None]
) -> None:
    """Refuse an output that is a directory; errors as `check_output`.

    Parameters
    ----------
    why_not : callable
        Of a directory that is there, why it is not replaced; None where it may be.
    """
    put_back(path)
    refuse_directory(path, force, inputs, why_not)
    _try(path)


def check_table(
    path: PathLike, force: bool, inputs: Sequence[PathLike | Reading] = (), *, written: Sequence[str] = (".csv",)
) -> None:
    """Refuse an output of text that bears the ending of something else; errors as `check_output`.

    Parameters
    ----------
    written : sequence of str
        Endings of the tables that are written; what ends in none that is known, such as .txt, is as the first.
    """
    ending = Path(path).suffix.lower()
    if ending in (*CELLS, *PICTURES, *TABLES) and ending not in written:
        kinds = " or ".join(written)
        raise UsageError(f"output {path} ends in {ending}, and a table is to be written, {kinds}; {ELSEWHERE}")
    check_output(path, force, inputs)


def check_folder(path: PathLike, force: bool) -> None:
    """Refuse a folder that outputs are to be put into; errors as `check_output`."""
    _refuse_name(path)
    _refuse_within(path)
    found = _stat(path)
    if found is None:
        _try(path)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"output {path} is no folder; {ELSEWHERE}")
    if not force:
        raise _exists(path)
    _try(Path(path) / "any name")


def check_cells_output(path: PathLike, force: bool, inputs: Sequence[PathLike | Reading] = ()) -> None:
    """Refuse an output of cells: what it ends in decides what is written. Errors as `check_output`."""
    if os.fspath(path) == "-":
        return
    serve = f"{' or '.join(CELLS)} (- is standard output)"
    given = option("output", str(path))
    if _ends_as_folder(path) or (_is_folder(path) and Path(path).suffix not in CELLS):
        raise UsageError(f"{given} is a folder; name a file in it that ends in {serve}")
    if Path(path).suffix not in CELLS:
        ends = f"ends in {Path(path).suffix}" if Path(path).suffix else "has no ending"
        raise UsageError(f"{given} {ends}; cells are written to {serve}")
    if Path(path).suffix == ".zarr":
        check_directory(path, force, inputs, why_no_store)
    else:
        check_output(path, force, inputs)


def check_apart(*outputs: PathLike | None) -> None:
    """Refuse outputs of one command that are the same, or of which one lies in another: UsageError."""
    there = [path for path in outputs if path is not None and os.fspath(path) != "-"]
    for i, one in enumerate(there):
        for other in there[i + 1 :]:
            if place_of(one) == place_of(other):
                raise UsageError(f"two outputs are {one}; {ELSEWHERE} for one of them")
            for inner, outer in ((one, other), (other, one)):
                if _within(inner, outer):
                    raise UsageError(f"output {inner} lies in the output {outer}; {ELSEWHERE} for one of them")


def refuse_file(path: PathLike, force: bool, inputs: Sequence[PathLike | Reading] = ()) -> None:
    """The part of `check_output` that looks at what is there: UsageError."""
    if _ends_as_folder(path):
        raise UsageError(f"output {path} names a folder; name a file")
    _refuse_name(path)
    _refuse_inputs(path, inputs)
    _refuse_within(path)
    found = _stat(path)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"output {path} is a folder and is not replaced; {ELSEWHERE}")
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"output {path} is {_kind(found)} and no file, so it is not written; - is standard output")
    if not force:
        raise _exists(path)
    place = place_of(path)
    kind = None if found.st_size == 0 else _another_kind(place)
    if kind is not None:
        raise UsageError(f"output {path} exists and is no {kind}, so it is not replaced; {ELSEWHERE}")
    if _is_protected(place):
        raise UsageError(f"output {path} is write-protected; change its permissions, or {ELSEWHERE}")


def refuse_directory(
    path: PathLike, force: bool, inputs: Sequence[PathLike | Reading], why_not: Callable[[Path], str | None]
) -> None:
    """The part of `check_directory` that looks at what is there: UsageError."""
    _refuse_name(path)
    _refuse_inputs(path, inputs)
    _refuse_within(path)
    found = _stat(path)
    if found is None:
        return
    if not force:
        raise _exists(path)
    place = place_of(path)
    if _within(os.getcwd(), place) or place_of(os.getcwd()) == place:
        raise UsageError(f"output {path} is the folder this runs in, or holds it, and is not replaced; {ELSEWHERE}")
    why = why_not(place) if stat.S_ISDIR(found.st_mode) else f"is {_kind(found)}"
    if why is not None:
        raise UsageError(f"output {path} exists and {why}, so it is not replaced; {ELSEWHERE}")
    if any(_is_protected(inner) for inner in (place, *_entries(place))):
        raise UsageError(f"output {path} is write-protected; change its permissions, or {ELSEWHERE}")


def why_no_model(place: Path) -> str | None:
    """Why a directory is not replaced by a model: it is none, or holds something else as well."""
    names = [inner.name for inner in _entries(place)]
    if names and not _made_here(place):
        return "is no model directory"
    others = [name for name in sorted(names) if name not in MODEL_FILES or not (place / name).is_file()]
    return f"holds {others[0]}, which is no part of a model" if others else None


def why_no_store(place: Path) -> str | None:
    """Why a directory is not replaced by a zarr store of cells: it is none, or holds something else as well."""
    found = _entries(place)
    if found and not is_zarr(place):
        return "is no zarr store"
    for inner in found:
        arrays = inner.is_dir() and any((inner / name).is_file() for name in OF_STORES)
        if not arrays and inner.name not in OF_STORES:
            return f"holds {inner.name}, which is no part of a zarr store"
    if found and not all((place / name).is_dir() for name in ("obs", "var")):
        return "is a zarr store of something else than cells"
    return None


def _refuse_name(path: PathLike) -> None:
    """Refuse what names nothing."""
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise UsageError(f"output {os.fspath(path)!r} is no name of a file")


def _refuse_within(path: PathLike) -> None:
    """Refuse a place in a zarr store, in which all is a part of it, or in a model, which is not replaced then."""
    for folder in place_of(path).parents:
        if any((folder / name).is_file() for name in STORE):
            raise UsageError(f"output {path} lies in the zarr store {folder.name}; {ELSEWHERE}")
        if all((folder / name).is_file() for name in MODEL_FILES[:2]):  # a settings file alone may be anyone's
            raise UsageError(f"output {path} lies in the folder of the model {folder.name}; {ELSEWHERE}")


def _refuse_inputs(path: PathLike, inputs: Sequence[Any]) -> None:
    """Refuse an output that is an input, holds one, or lies in a store that is one."""
    place = place_of(path)
    for source in all_paths(inputs):
        if not os.path.exists(source):
            continue
        if os.path.exists(place) and os.path.samefile(place, source):
            raise UsageError(f"output {path} is the input; {ELSEWHERE}")
        if _within(source, place):
            raise UsageError(f"output {path} holds the input {source} and is not replaced; {ELSEWHERE}")
        if _within(place, source) and is_zarr(source):
            raise UsageError(f"output {path} lies in the input {source}; {ELSEWHERE}")


def _try(path: PathLike) -> None:
    """Refuse a place where nothing can be written: InputError."""
    place = place_of(path)
    try:
        if os.path.islink(place):  # still, after links were followed: they lead in a circle
            os.stat(place)
        try_place(place)
    except (OSError, ValueError) as error:
        link = f" ({path} is a link)" if os.path.islink(path) else ""
        raise InputError(f"cannot write {path}: {reason(error, place)}{link}") from error


def _stat(path: PathLike) -> os.stat_result | None:
    """What is there, links followed; None where there is nothing, or nothing can be."""
    try:
        return os.stat(path)
    except (OSError, ValueError):  # `_try` says why
        return None


def _kind(found: os.stat_result) -> str:
    return OTHERS.get(stat.S_IFMT(found.st_mode), "something else")


def _is_folder(path: PathLike) -> bool:
    found = _stat(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _ends_as_folder(path: PathLike) -> bool:
    return os.fspath(path).endswith(("/", os.sep))


def _exists(path: PathLike) -> OutputExists:
    return OutputExists(f"output {path} exists; pass {option('force', True)} to replace it, or {ELSEWHERE}")


def _within(inner: PathLike, outer: PathLike) -> bool:
    """Whether a path lies in a folder, links followed."""
    return place_of(outer) in place_of(inner).parents


def _entries(folder: Path) -> list[Path]:
    return [inner for inner in folder.iterdir() if inner.name not in OF_THE_SYSTEM]


def holds_model(directory: str | os.PathLike[str]) -> bool:
    """Whether there is a model directory, whatever else it holds."""
    return (Path(directory) / MODEL_FILES[0]).is_file()


def _made_here(folder: Path) -> bool:
    """Whether a folder is a model directory of this package, damaged or not."""
    spec, weights = (folder / name for name in MODEL_FILES[:2])
    if not spec.is_file() or weights.is_file():
        return weights.is_file() and spec.is_file()
    with open(spec, "rb") as file:  # another program's model.yaml may be all that a folder holds
        return b"cellalign" in file.read(4096)


def _another_kind(place: Path) -> str | None:
    """What a file would have to be to be replaced by one of its name's ending, where it is not."""
    if place.suffix == ".h5ad":
        return None if h5py.is_hdf5(place) else "HDF5 file"
    with open(place, "rb") as file:
        head = file.read(4096)
    ending = place.suffix.lower()
    if ending in PICTURES:
        magic, name = PICTURES[ending]
        return None if head.startswith(magic) else name
    if ending in (".jpg", ".jpeg", ".tif", ".tiff", ".webp"):
        return None
    return "text file" if b"\0" in head or head.startswith(tuple(magic for magic, _ in PICTURES.values())) else None


def _is_protected(place: Path) -> bool:
    """Whether a file or folder was made read-only, for root as well."""
    mode = place.stat().st_mode
    return not mode & 0o222 or not os.access(place, os.W_OK)
