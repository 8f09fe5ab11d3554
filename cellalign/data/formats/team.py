"""Cells whose matrices several ranks have computed, each some rows, in one file: the one that a process alone writes.

Of a zarr store each writes its whole chunks; of an HDF5 file, which one process alone can write, each packs them and
sends them to the first. The first also writes the rows of chunks that several have part of, and all sparse rows: where
their values lie is known when those before them are there. Matrices that lie on disk already are read and written by
all, as by workers of a cluster (`shared`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import h5py
import numpy as np
from scipy import sparse

from cellalign.data.formats.by_rows import Rows, dense_dataset
from cellalign.data.formats.on_disk import Place
from cellalign.data.formats.shared import packed_chunks, put_chunks, store_at
from cellalign.data.stored import Run, Stored, helped_by

T = TypeVar("T")
Part = tuple[int, dict[str, Any]]  # the number of the first source cell, and matrices of it and those behind it
_Piece = tuple[str, int, Any]  # of which matrix, from which row on: dense rows, packed chunks, or CSR rows


class Team(Protocol):
    """Processes that call the same functions in the same order (`engine.ranks.Ranks`)."""

    @property
    def rank(self) -> int:
        """Which this one is."""

    @property
    def world(self) -> int:
        """How many there are."""

    @property
    def first(self) -> bool:
        """Whether it is the one that opens the file."""

    def told(self, find: Callable[[], T]) -> T:
        """What the first finds."""

    def together(self, own: T) -> list[T]:
        """What each has."""

    def sent_to_first(self, own: T) -> list[T]:
        """The same on the first; nothing on the others."""


class _Alone:
    """One process."""

    rank, world, first = 0, 1, True

    def told(self, find: Callable[[], T]) -> T:
        return find()

    def together(self, own: T) -> list[T]:
        return [own]

    def sent_to_first(self, own: T) -> list[T]:
        return [own]


ALONE = _Alone()


@dataclass(frozen=True)
class _Layout:
    """How a dense matrix of n rows lies in the file: so many rows in a chunk, packed so hard in HDF5, of a type."""

    rows: int
    n: int
    level: int | None
    dtype: np.dtype

    @classmethod
    def of(cls, place: Any) -> _Layout:
        """Of one that is open."""
        packed = isinstance(place, h5py.Dataset) and place.compression
        return cls(place.chunks[0], place.shape[0], place.compression_opts if packed else None, place.dtype)

    def whole(self, start: int, stop: int) -> tuple[int, int]:
        """From which row to which chunks are whole, of the rows from `start` to `stop`."""
        begin = min(-(-start // self.rows) * self.rows, stop)
        return begin, stop if stop == self.n else max(begin, stop // self.rows * self.rows)


def write_parts(
    root: Any, parts: Iterator[Part], n: int, copies: int, team: Team, check: Callable[[], None] = lambda: None
) -> None:
    """Write what each of a team computes; all call this.

    Parameters
    ----------
    root : h5py or zarr group, optional
        On the first, of cells without X; None on the others.
    parts : iterator
        Of this one, ascending, as of `files.write_batches`; the first of all is the first one's.
    n, copies : int
        Source cells, and rows of each.
    check : callable
        Raises what could not be written.
    """
    file: _File | None = None
    while True:
        part = next(parts, None)
        if not any(team.together(part is not None)):
            break
        file = file or _File.of(root, part, n * copies, team)
        left = [] if part is None else [piece for rows in _rows_of(*part, n, copies) for piece in file.written(*rows)]
        for piece in sorted((each for some in team.sent_to_first(left) for each in some), key=lambda each: each[1]):
            file.put(*piece)
        check()  # not hours later
    if file is not None:
        file.close()


def _rows_of(first: int, matrices: Mapping[str, Any], n: int, copies: int) -> Iterator[_Piece]:
    """The rows of a batch as they lie in the file, where copies of all cells follow one another."""
    for name, values in matrices.items():
        if sparse.issparse(values):
            yield name, first, values
            continue
        for copy in range(copies):
            yield name, copy * n + first, values[copy] if values.ndim == 3 else values


class _File:
    """The file as one of the team has it.

    Parameters
    ----------
    root : h5py or zarr group, optional
        Open, where this one writes.
    layouts : mapping of name to _Layout
        Of dense matrices.
    first, packs : bool
        Whether it is the first of the team; whether it packs for that one.
    """

    def __init__(self, root: Any, layouts: Mapping[str, _Layout], first: bool, packs: bool) -> None:
        self.root, self.layouts, self.first, self.packs = root, layouts, first, packs
        self.growing: dict[str, Rows] = {}

    @classmethod
    def of(cls, root: Any, part: Part | None, n_rows: int, team: Team) -> _File:
        """Have dense matrices made for all rows by the first; all call this."""

        def made() -> tuple[Place | None, dict[str, _Layout]]:
            assert part is not None
            root.require_group("layers")
            wide = {name: values.shape[-1] for name, values in part[1].items() if not sparse.issparse(values)}
            found = {name: dense_dataset(root, _path(name), (n_rows, wide[name])) for name in wide}
            place = None if isinstance(root, h5py.Group) else Place.of(root)
            return place, {name: _Layout.of(each) for name, each in found.items()}

        place, layouts = team.told(made)
        # on another machine the folder may not be there: then the first is sent what is to be written
        all_see = all(team.together(place is not None and Path(place.path).is_dir()))
        if not team.first and place is not None and all_see:
            root = store_at(place)
        return cls(root, layouts, team.first, place is None)

    def written(self, name: str, start: int, values: Any) -> Iterator[_Piece]:
        """Write rows, or as many as this one can; what is left."""
        if sparse.issparse(values):
            yield name, start, values
            return
        if self.first:
            self.put(name, start, values)
            return
        stop, layout = start + len(values), self.layouts[name]
        values = values.astype(layout.dtype, copy=False)
        begin, end = layout.whole(start, stop) if self.packs or self.root is not None else (stop, stop)
        if begin < end:
            whole = values[begin - start : end - start]
            if self.packs:
                yield name, begin, packed_chunks(whole, layout.rows, layout.level)
            else:
                self.root[_path(name)][begin:end] = whole
        for some, at in ((values[: begin - start], start), (values[end - start :], end)):
            if len(some):
                yield name, at, some

    def put(self, name: str, start: int, values: Any) -> None:
        """On the first: write what is left of any."""
        if sparse.issparse(values):
            if name in self.growing:
                self.growing[name].append(values)
            else:
                self.growing[name] = Rows(self.root["layers"], name, values)
        elif isinstance(values, list):
            put_chunks(self.root[_path(name)], start, values)
        else:
            self.root[_path(name)][start : start + len(values)] = values

    def close(self) -> None:
        """Write what waits."""
        for writer in self.growing.values():
            writer.close()


def _path(name: str) -> str:
    return name if name == "X" else f"layers/{name}"


@contextmanager
def reading_together(matrices: Mapping[str, Stored], team: Team, target: Path) -> Iterator[None]:
    """On the first: passes over these matrices, several at once, are made by all; the others `read_along` meanwhile.

    Parameters
    ----------
    target : path
        What is written: a file, or the folder of a store.
    """
    if not _all_can(matrices, team, target):
        yield
        return
    with helped_by(_Readers(list(matrices.values()), team)):
        yield
    team.told(lambda: None)


def read_along(matrices: Mapping[str, Stored], team: Team) -> None:
    """On the others: make one's part of what the first is to know."""
    if not _all_can(matrices, team):
        return
    known = list(matrices.values())
    while (asked := team.told(lambda: None)) is not None:
        which, function, tasks = asked
        for _ in _found([known[i] for i in which], function, tasks, team):
            pass


def _all_can(matrices: Mapping[str, Stored], team: Team, target: Path | None = None) -> bool:
    """Whether all have the same matrices on disk, and see the store that is written; which it is the first one knows.

    One that has more memory free may have read its cells; on another machine the folder may not be there.
    """
    if team.world == 1:
        return False
    store = team.told(lambda: target if target is not None and target.is_dir() else None)
    of_each = team.together((list(matrices), store is None or store.is_dir()))
    return bool(matrices) and all(sees and names == of_each[0][0] for names, sees in of_each)


class _Readers:
    """Those who help the first one (`stored.Helpers`)."""

    def __init__(self, known: Sequence[Stored], team: Team) -> None:
        self.known, self.team = known, team

    def over(
        self, matrices: Any, function: Callable[..., Any], asked: Iterable[tuple[Run, tuple[Any, ...]]]
    ) -> Iterator[Any]:
        """`function` of each run's rows, in order."""
        if isinstance(matrices, Stored):  # only read: to send it costs more
            yield from (function(matrices.runs([run]), *arguments) for run, arguments in asked)
            return
        which = [i for matrix in matrices for i, each in enumerate(self.known) if each is matrix]
        assert len(which) == len(matrices)
        tasks = list(asked)
        self.team.told(lambda: (which, function, tasks))
        yield from _found(matrices, function, tasks, self.team)


def _found(matrices: Sequence[Stored], function: Callable[..., Any], tasks: Sequence[Any], team: Team) -> Iterator[Any]:
    """What all find, in order, on the first; each does every so manyth task."""
    for begin in range(0, len(tasks), team.world):
        own = None
        if begin + team.rank < len(tasks):
            run, arguments = tasks[begin + team.rank]
            own = function([matrix.runs([run]) for matrix in matrices], *arguments)
        yield from team.sent_to_first(own)[: len(tasks) - begin]
