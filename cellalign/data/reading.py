"""Which files of cells are read, and how: one thing for all commands that read cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

from cellalign.errors import UsageError

PathLike = str | os.PathLike[str]


def _asked(help: str, metavar: str | None, flags: tuple[str, ...] = ()) -> Any:
    """An option that is not given where it is None; of two flags a choice."""
    return field(default=None, metadata={"help": help, "metavar": metavar, "flags": flags, "panel": "Reading"})


@dataclass(frozen=True)
class Reading:
    """Files of cells and how they are read; every field but the first is an option of every command that reads cells.

    Attributes
    ----------
    paths : tuple of str
        Files, folders or stores; "-" is standard input.
    file_key : str, optional
        obs column that names the file of each cell, where there are several; "file" by default.
    modality : str, optional
        Of a MuData file, or a 10x file of several kinds of features, the one to read.
    obs : str, optional
        A .csv or .tsv of cell metadata, joined by cell name.
    obs_key : str, optional
        Its column of cell names; the first by default.
    gene_key : str, optional
        Column of var that names the genes; its index by default.
    genes : {"inner", "union"}, optional
        Of several files the genes that all have (the default), or all of any; those a file lacks are zero there.
    stream : bool, optional
        Rows are read from disk when they are needed, or all are read into memory; by default as memory allows.
    """

    paths: tuple[str, ...]
    file_key: str | None = _asked("obs column that names each cell's file [file, of several INPUTs].", "KEY")
    modality: str | None = _asked("Modality to read, of a file that has several.", "NAME")
    obs: str | None = _asked("Table of cell metadata (.csv, .tsv), joined by cell name.", "FILE")
    obs_key: str | None = _asked("Its column of cell names [the first].", "COLUMN")
    gene_key: str | None = _asked("Column of var that names the genes [its index].", "COLUMN")
    genes: str | None = _asked("Of several files: genes of all, or of any, zero elsewhere [inner].", "inner|union")
    stream: bool | None = _asked(
        "Read rows from disk as they are needed, or all into memory [as it has room].", None, ("--stream/--in-memory",)
    )

    @classmethod
    def of(cls, source: PathLike | Reading) -> Reading:
        """The same, or the reading of one file without options."""
        return source if isinstance(source, Reading) else cls((str(source),))

    def options(self) -> dict[str, Any]:
        """What was given beside the paths that says what the cells are; not where they are kept meanwhile."""
        given = {each.name: getattr(self, each.name) for each in fields(self)[1:] if each.name != "stream"}
        return {name: value for name, value in given.items() if value is not None}

    def like(self, path: PathLike) -> Reading:
        """Another file read in the same way; what belongs to these files alone is left out."""
        return replace(self, paths=(str(path),), file_key=None, obs=None, obs_key=None)

    def words(self) -> list[str]:
        """As they are typed in a command line."""
        given = [("--" + name.replace("_", "-"), str(value)) for name, value in self.options().items()]
        return [*self.paths, *(word for pair in given for word in pair)]

    @property
    def single(self) -> str | None:
        """The one file that is read without options; None otherwise."""
        return self.paths[0] if len(self.paths) == 1 and not self.options() else None

    @property
    def from_stdin(self) -> bool:
        """Whether part of it is standard input."""
        return "-" in self.paths


def all_paths(sources: Any) -> Iterator[Path]:
    """The paths of files and readings, without standard input."""
    for source in sources:
        reading = Reading.of(source)
        yield from (Path(path) for path in (*reading.paths, *([reading.obs] if reading.obs else [])) if path != "-")


def labels(paths: tuple[str, ...]) -> list[str]:
    """A short name of each file, by which they differ: its stem, the folder that tells it apart, or more of its path.

    Raises
    ------
    UsageError
        A file is named twice: its cells would count twice.
    """
    full = ["-" if path == "-" else os.path.realpath(path) for path in paths]
    twice = next((path for path, where in zip(paths, full, strict=True) if full.count(where) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice; its cells would count twice: name it once")
    for found in _possible_labels(paths):
        if len(set(found)) == len(found):
            return found
    return full


def _possible_labels(paths: tuple[str, ...]) -> Iterator[list[str]]:
    """Stems, folders from the nearest on (Cell Ranger writes SAMPLE/outs/NAME.h5), both, names with their endings."""
    stems = [stem(path) for path in paths]
    folders = [[part.name for part in Path(path).absolute().parents] for path in paths]
    yield stems
    for names in zip(*folders, strict=False):
        yield list(names)
    yield [f"{of[0]}_{name}" for of, name in zip(folders, stems, strict=True)]
    yield [Path(path).name for path in paths]


def stem(path: PathLike) -> str:
    """A file's name without folder and endings."""
    if str(path) == "-":
        return "stdin"
    name = Path(path).name
    for ending in (".gz", ".bz2", ".xz", ".zip"):
        name = name.removesuffix(ending)
    return name.rsplit(".", 1)[0] or name


def in_memory(adata: AnnData) -> AnnData:
    """Cells whose matrix is in memory, and is one: of an AnnData opened with `backed`, or of dask, a copy that is.

    Of one in half precision, or in another machine's byte order, a copy that can be computed with.

    Raises
    ------
    InputError
        A sparse matrix whose parts do not fit each other.
    """
    from cellalign.data.structure import check_cells, is_lazy, with_plain_matrices

    adata = adata.to_memory() if adata.isbacked or is_lazy(adata) else adata
    check_cells(adata, "the input")
    return with_plain_matrices(adata)
