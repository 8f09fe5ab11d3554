"""A matrix on disk, copied to a temporary file without compression as it is read: later epochs cost next to nothing.

Unpacking gzip takes 17 of the 21 microseconds that a cell of 2,000 genes costs to read (benchmarks/README.md). Any pass
over all rows in their order leaves them in the file, also the first, which checks them: nothing is read twice. The file
has no name: it is gone with the process, however that ends. Where there is no room for it, or the folder of
temporary files lies in memory, rows are read from where they were, as without it. Of several processes of a machine one
writes it and others read it (`engine.copies`): it has a name until they have opened it, while it is empty.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from cellalign.data.facts import Facts
from cellalign.data.stored import Mapped, Run, Stored, as_csr, as_it_is, pointers_of

log = logging.getLogger("cellalign")
MOUNTS = Path("/proc/mounts")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})  # file systems
PREFIX = "cellalign-"
ROOM = 2  # times its size that has to be free: others write there too


class _Part(NamedTuple):
    """A block in the file: its rows, where its columns and its values begin, and the type of each."""

    first: int
    last: int
    columns: tuple[int, np.dtype]
    values: tuple[int, np.dtype]


class Table(NamedTuple):
    """Where all rows lie in a file: the blocks, and behind them the pointers."""

    parts: list[_Part]
    pointers: int


class Unpacked(Mapped):
    """The same rows as of another matrix, from a temporary file once a pass over all of them was made.

    Attributes
    ----------
    whole : Stored
    done : int
        Rows that lie in the file, the first ones.
    writes : bool
        Whether it fills the file; else another process does, and tells where all is (`take`).
    """

    def __init__(self, whole: Stored, file: IO[bytes], *, writes: bool = True) -> None:
        super().__init__(whole, as_it_is, whole.shape[1], whole.dtype)
        self._file, self.writes, self.scale = file, writes, whole.scale
        self.done, self._end, self._failed = 0, 0, False
        self._parts: list[_Part] = []
        self._pointers = np.zeros(1 if self.is_dense else self.shape[0] + 1, np.int64)
        self._lock = threading.Lock()

    @property
    def facts(self) -> Facts:  # type: ignore[override]
        """Those of the matrix itself; the pass that finds them leaves the rows in the file."""
        if "facts" not in vars(self.whole):
            self.told_facts(self.looked_at())
        return self.whole.facts

    def told_facts(self, facts: Facts) -> None:
        """As they were found."""
        self.whole.told_facts(facts)

    def __reduce__(self) -> Any:
        return as_it_is, (self.whole,)  # to another process: without the file

    def runs(self, runs: Sequence[Run]) -> Any:
        """Those rows: from the file where they lie there, else from the matrix, and into the file if they are next."""
        if runs and runs[-1][1] <= self.done:
            try:
                return self._from_file(runs)
            except (OSError, ValueError) as error:
                self._give_up(error)
        block = super().runs(runs)
        if self.writes and len(runs) == 1 and runs[0][0] == self.done and not self._failed:
            with self._lock:
                if runs[0][0] == self.done:
                    self._write(block, *runs[0])
        return block

    def fill(self) -> None:
        """Have all rows in the file, where it takes them."""
        for first, last in self.together():
            if self._failed or not self.writes:
                return
            if last > self.done:
                self.runs([(max(first, self.done), last)])

    def table(self) -> Table | None:
        """Where all rows lie in the file, for who has opened it; None if they do not, or another process fills it."""
        if self._failed or not self.writes or self.done < self.shape[0]:
            return None
        try:
            self._file.seek(self._end)
            self._file.write(self._pointers.data)
            self._file.flush()
        except OSError as error:
            log.debug("other processes unpack the cells themselves: %s", error)
            return None
        return Table(self._parts, self._end)

    def take(self, table: Table) -> None:
        """Read from the file from now on, which another process has filled."""
        try:
            content = self._read(table.pointers, self._pointers.nbytes)
            self._pointers = np.frombuffer(content, np.int64, count=len(self._pointers))
        except (OSError, ValueError) as error:
            self._give_up(error)
            return
        self._parts, self.done = table.parts, self.shape[0]

    def _write(self, block: Any, first: int, last: int) -> None:
        """Append rows to the file; without it from now on where they cannot be written, or are of another type."""
        try:
            if block.dtype != self.dtype:
                raise TypeError(f"values are {block.dtype}")
            if self.is_dense:
                part = _Part(first, last, (0, self.dtype), self._append(block))
            else:
                sizes = self._pointers[first] + np.cumsum(np.diff(block.indptr))
                part = _Part(first, last, self._append(block.indices), self._append(block.data))
                self._pointers[first + 1 : last + 1] = sizes
        except (OSError, TypeError, ValueError) as error:
            self._give_up(error)
            return
        self._parts.append(part)
        self.done = last
        if last == self.shape[0]:
            log.debug("cells unpacked, %.2f GB", self._end / 1e9)

    def _give_up(self, error: Exception) -> None:
        """Read from the matrix itself from now on."""
        log.debug("cells are not read from a temporary file: %s", error)
        self._failed, self.done, self._parts = True, 0, []
        self._file.close()

    def _append(self, values: np.ndarray) -> tuple[int, np.dtype]:
        """Write an array at the end of the file, in the smallest type that holds it."""
        packed, at = smallest(values), self._end
        self._file.seek(at)
        self._file.write(np.ascontiguousarray(packed).data)
        self._file.flush()
        self._end += packed.nbytes
        return at, packed.dtype

    def _from_file(self, runs: Sequence[Run]) -> Any:
        inner = list(self._inner(runs))
        if self.is_dense:
            width = self.shape[1]
            found = np.empty((sum(last - first for first, last in runs), width), self.dtype)
            self._gather(found.reshape(-1), ((part.values, width * first, width * last) for part, first, last in inner))
            return found
        indptr = pointers_of(self._pointers, runs)
        columns, values = (
            np.empty(indptr[-1], np.int32 if self.shape[1] < 2**31 else np.int64),
            np.empty(indptr[-1], self.dtype),
        )
        places = []
        for part, first, last in inner:
            start = self._pointers[part.first]
            ends = self._pointers[part.first + first], self._pointers[part.first + last]
            places.append((part, int(ends[0] - start), int(ends[1] - start)))
        self._gather(columns, ((part.columns, first, last) for part, first, last in places))
        self._gather(values, ((part.values, first, last) for part, first, last in places))
        matrix = as_csr(values, columns, indptr, self.shape[1])
        matrix.has_canonical_format = True  # as the blocks were
        return matrix

    def _inner(self, runs: Sequence[Run]) -> Iterable[tuple[_Part, int, int]]:
        """Runs as runs of the blocks they lie in, counted from these blocks' first rows."""
        starts = np.asarray([part.first for part in self._parts])
        for first, last in runs:
            at = int(np.searchsorted(starts, first, side="right")) - 1
            while first < last:
                part = self._parts[at]
                end = min(last, part.last)
                yield part, first - part.first, end - part.first
                first, at = end, at + 1

    def _gather(self, found: np.ndarray, places: Iterable[tuple[tuple[int, np.dtype], int, int]]) -> None:
        """Values of runs, one behind the other; a run is counted from the beginning of its block's array."""
        at = 0
        for (start, kind), first, last in places:
            size = last - first
            content = self._read(start + first * kind.itemsize, size * kind.itemsize)
            found[at : at + size] = np.frombuffer(content, kind)
            at += size

    def _read(self, at: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, at)
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)


def unpacked(x: Any) -> Any:
    """A matrix of which every row will be read again and again, to be read from a temporary file if there is room.

    Parameters
    ----------
    x : matrix [n, G]
        In memory: it is given back.
    """
    folder = tempfile.gettempdir()
    if not _to_unpack(x, folder):
        return x
    try:
        return Unpacked(x, tempfile.TemporaryFile(prefix=PREFIX, dir=folder))  # noqa: SIM115  # it outlives this
    except OSError:
        return x


def unpacked_by_name(x: Any) -> tuple[Any, str | None]:
    """`unpacked`, and the name of the file for others to open (`opened`), which is to be removed then; None without."""
    folder = tempfile.gettempdir()
    if os.name == "nt" or not _to_unpack(x, folder):  # where a file that is open cannot be removed
        return x, None
    try:
        file = tempfile.NamedTemporaryFile(prefix=PREFIX, dir=folder, delete=False)  # noqa: SIM115
    except OSError:
        return x, None
    return Unpacked(x, file), file.name  # type: ignore[arg-type]


def opened(x: Any, name: str) -> Any:
    """A matrix to be read from the file that another process fills; as it is where that cannot be opened."""
    if not isinstance(x, Stored) or isinstance(x, Unpacked):
        return x
    try:
        return Unpacked(x, open(name, "rb"), writes=False)  # noqa: SIM115
    except OSError:
        return x


def _to_unpack(x: Any, folder: str) -> bool:
    """Whether it lies on disk, and a disk has room for it."""
    if not isinstance(x, Stored) or isinstance(x, Unpacked):
        return False
    size = x.nnz * (x.dtype.itemsize + (0 if x.is_dense else 2 if x.shape[1] <= 1 << 16 else 4))
    try:
        return not in_memory(folder) and shutil.disk_usage(folder).free >= ROOM * size
    except OSError:
        return False


def in_memory(folder: str) -> bool:
    """Whether a folder's files take memory, as far as the system says."""
    try:
        mounts = [line.split(" ") for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return False
    here = os.path.join(os.path.realpath(folder), "")
    above = [(len(mount[1]), mount[2]) for mount in mounts if here.startswith(os.path.join(mount[1], ""))]
    return max(above, default=(0, ""))[1] in IN_MEMORY


def smallest(values: np.ndarray) -> np.ndarray:
    """The same values, counts among them in the smallest type that holds them all."""
    if values.dtype.kind not in "fiu" or values.dtype.itemsize == 1 or not values.size:
        return values
    low, high = values.min(), values.max()
    for kind in (np.uint8, np.uint16):
        if low >= 0 and high <= np.iinfo(kind).max and values.dtype.itemsize > np.dtype(kind).itemsize:
            small = values.astype(kind)
            return small if np.array_equal(small, values) else values
    return values
