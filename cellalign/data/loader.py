"""Which rows when: mini-batches of cells, without a dense copy and without per-cell Python.

The same code runs on the CPU and on a GPU: `to` moves the matrix once, and a batch is made dense where it is used, if
at all. Of a matrix on disk the rows of many batches are read at once, by another thread while those before are used; an
epoch's order is then of blocks of neighbouring rows, shuffled, and of the rows of many blocks, shuffled again. Within a
batch these rows are in their order on disk: of several ranks each, whose share is a run of them, reads other blocks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from cellalign.data.source import Part, Rows, as_matrix, digest_of, handed, on_disk
from cellalign.data.stored import ahead
from cellalign.errors import UsageError
from cellalign.nn.minibatch import CONDITION, Fields, Minibatch

RISES = 8  # how many times fewer rows are read at first than later
READ_TOGETHER = 1024  # cells: of 128, a dozen operations and a wait for the GPU cost as much as the cells


@dataclass
class Waiting:
    """How long whoever uses batches waited for their rows.

    Attributes
    ----------
    seconds : float
    """

    seconds: float = 0.0


@dataclass(frozen=True)
class Cells:
    """All cells of a data set: their matrix and a column for each field, aligned by row.

    Attributes
    ----------
    matrix : Rows, [n, G]
    fields : Fields
    columns : tuple of Tensor [n, ...]
        As of a `Minibatch`.
    n : int
    shuffled_as : tuple of int, optional
        The `order` to keep to, wherever the cells lie.
    waiting : Waiting
        For batches of these cells, on whatever device, and of parts of them.
    """

    matrix: Rows
    fields: Fields
    columns: tuple[Tensor, ...]
    n: int
    device: torch.device = torch.device("cpu")
    shuffled_as: tuple[int, ...] | None = None
    waiting: Waiting = dataclasses.field(default_factory=Waiting, compare=False)

    def __len__(self) -> int:
        return self.n

    @property
    def condition(self) -> Tensor:
        """Codes of the condition [n], zeros where there is none or it is a number."""
        for field, column in zip(self.fields, self.columns, strict=True):
            if field.role == CONDITION and field.categories:
                return column
        return torch.zeros(self.n, dtype=torch.int64, device=self.device)

    def content(self, made_of: str | None = None) -> str:
        """A digest of all that training reads of the cells: the matrix, and the fields' columns, in order of rows.

        Of cells that lie in the CPU's memory.

        Parameters
        ----------
        made_of : str, optional
            Digest of what the matrix was made of, to count in its stead.

        Returns
        -------
        str
            "sha256:...": the same wherever the cells come from, in whatever format they were kept.
        """
        digest = hashlib.sha256((made_of or digest_of(self.matrix, self.n)).encode())
        for field, column in zip(self.fields, self.columns, strict=True):
            digest.update(f"; {field.role} {field.name}: {column.dtype} {tuple(column.shape)}".encode())
            digest.update(np.ascontiguousarray(column.numpy()).data)
        return f"sha256:{digest.hexdigest()}"

    def batch(self, rows: Tensor) -> Minibatch:
        """The given rows as one mini-batch."""
        return Minibatch(self.matrix.rows(rows), self.fields, tuple(column[rows] for column in self.columns))

    def batches(
        self, rows_of_each: Sequence[Tensor], start: int = 0, parts_of: Sequence[Tensor] | None = None
    ) -> Iterator[Minibatch]:
        """A mini-batch of the rows of each; the rows may lie on another device, small ones are read together.

        Parameters
        ----------
        start : int
            The first that is given: those before are not read, but of a matrix on disk the same are read together.
        parts_of : sequence of Tensor, optional
            The batches that these are a rank's shares of: read together are those that were shuffled together, whose
            rows are of the same blocks.
        """
        source = on_disk(self.matrix)
        if source is None:
            yield from self._read_together(rows_of_each[start:])
            return
        groups = together(parts_of or rows_of_each, source.read_together)
        groups = [(max(start, first), last) for first, last in groups if last > start]
        whole = [torch.cat(tuple(rows_of_each[first:last])).cpu() for first, last in groups]
        for (first, last), part in zip(groups, self._timed(ahead(self._fetched, whole)), strict=True):
            ends = torch.tensor([0, *map(len, rows_of_each[first:last])]).cumsum(0).tolist()
            own = [torch.arange(a, b, device=self.device) for a, b in zip(ends, ends[1:], strict=False)]
            yield from part._read_together(own)

    def _fetched(self, rows: Tensor) -> Cells:
        """Cells of a matrix on disk with their rows in memory."""
        source = on_disk(self.matrix)
        assert source is not None
        matrix = source.fetch(self.matrix.index.cpu()[rows] if isinstance(self.matrix, Part) else rows)
        there = handed(rows, self.device)
        columns = tuple(column[there] for column in self.columns)
        return replace(self, matrix=matrix, columns=columns, n=len(rows))

    def _read_together(self, rows_of_each: Sequence[Tensor]) -> Iterator[Minibatch]:
        """Mini-batches of cells in memory."""
        n = max(1, READ_TOGETHER // max([1, *map(len, rows_of_each)]))
        groups = (rows_of_each[i : i + n] for i in range(0, len(rows_of_each), n))
        for read in self._timed(map(self._split, groups)):
            while read:  # none is held, with what was made of it, while the next is used
                yield read.pop()

    def _split(self, group: Sequence[Tensor]) -> list[Minibatch]:
        """Mini-batches that are read at once, the last first."""
        rows = torch.cat(tuple(group)).to(self.device)
        return self.batch(rows).split([len(part) for part in group])[::-1]

    def _timed(self, given: Iterable[Any]) -> Iterator[Any]:
        """The same; how long each was waited for is added up."""
        coming = iter(given)
        while True:
            began = time.perf_counter()
            found = next(coming, None)
            self.waiting.seconds += time.perf_counter() - began
            if found is None:
                return
            yield found
            del found

    @property
    def order(self) -> list[int]:
        """How these cells are shuffled: `neighbours` and `read_together` of `shuffled` on disk; none in memory."""
        if self.shuffled_as is not None:
            return list(self.shuffled_as)
        source = on_disk(self.matrix)
        return [] if source is None else [source.neighbours, source.read_together]

    def keep(self, rows: Tensor) -> None:
        """Have rows that will be read in every epoch at hand, where that takes little memory."""
        source = on_disk(self.matrix)
        if source is not None:
            source.keep(self.matrix.index[rows] if isinstance(self.matrix, Part) else rows)

    def unpack(self) -> None:
        """Have a matrix on disk where its rows are read fast, if it was to be (`unpacked`): all are read many times."""
        source = on_disk(self.matrix)
        if source is not None:
            source.unpack()

    def with_fields(self, adata: AnnData, fields: Fields, *, ignore: np.ndarray | None = None) -> Cells:
        """The same matrix with other columns; parameters and errors are those of `make_cells`."""
        given: Any = fields
        return replace(
            self, fields=fields, columns=tuple(torch.from_numpy(of.encode(adata, ignore=ignore)) for of in given)
        )

    def part(self, rows: Tensor) -> Cells:
        """Some of the cells; their matrix is not copied."""
        columns = tuple(column[rows] for column in self.columns)
        # of a part the rows are those of the whole: what is read from disk is asked for by these
        inner = isinstance(self.matrix, Part)
        matrix = Part(self.matrix.whole, self.matrix.index[rows]) if inner else Part(self.matrix, rows)  # type: ignore
        return replace(self, matrix=matrix, columns=columns, n=len(rows))

    def to(self, device: torch.device) -> Cells:
        """The same cells on another device."""
        columns = tuple(column.to(device) for column in self.columns)
        return replace(self, matrix=self.matrix.to(device), columns=columns, device=device)

    def in_order(self, size: int, device: torch.device | None = None) -> Iterator[Minibatch]:
        """All cells in file order, `size` at a time, on `device`; only one batch is moved at a time.

        UsageError of a size that is no whole number from 1 on.
        """
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise UsageError(f"batch_size must be a whole number from 1 on, not {size!r}")
        parts = torch.arange(self.n, device=self.device).split(int(size))
        found = map(self.batch, parts) if on_disk(self.matrix) is None else self.batches(parts)
        for batch in found:
            yield batch if device is None else batch.to(device)


def make_cells(
    adata: AnnData,
    x: Any,
    fields: Fields,
    *,
    with_condition: bool = True,
    ignore: np.ndarray | None = None,
    unseen: bool = False,
) -> Cells:
    """The cells as a method reads them: the matrix, and every field's column.

    Parameters
    ----------
    adata : AnnData
        Its obs, and for vectors its obsm, is read.
    x : matrix [n, G]
        Already checked and aligned.
    with_condition : bool
        Whether the method sees it: where not, the column need not be there and the code is zero.
    ignore : bool array [n], optional
        Cells that are never looked at, and may hold values never trained on.
    unseen : bool
        Categories never trained on, and absent columns, are unknown: their code is -1.

    Raises
    ------
    InputError
        A column is missing or holds a value never trained on.
    """

    def encoded(field: Any) -> Tensor:
        if field.role == CONDITION and not with_condition:
            return field.blank(adata.n_obs)
        return torch.from_numpy(field.encode(adata, ignore=ignore, unseen=unseen))

    return Cells(as_matrix(x), fields, tuple(encoded(field) for field in fields), adata.n_obs)


def shuffled(
    rows: Tensor, size: int, generator: torch.Generator, neighbours: int = 1, read_together: int = 0
) -> list[Tensor]:
    """One epoch of row numbers in random order, cut into equal parts of at most `size` cells.

    Equal parts rather than a short last one: no cell is left out, and batch normalisation never meets a
    single cell; batches of one or two cells may get one more for that.

    Parameters
    ----------
    rows : Tensor [n], int64
        Ascending, where they are on disk.
    neighbours, read_together : int
        Of rows that are read from disk: how many are in a block, whose rows stay neighbours while blocks are shuffled,
        and how many are read at once (`together`); these are shuffled once more, whichever block they are of, and in
        each part they ascend. Without them every order is as likely as another.
    """
    if not read_together:
        order = rows[torch.randperm(len(rows), generator=generator)]
        return list(torch.tensor_split(order, _n_batches(len(rows), size)))
    parts = list(torch.tensor_split(_in_blocks(rows, generator, neighbours), _n_batches(len(rows), size)))
    found: list[Tensor] = []
    for first, last in together(parts, read_together):
        own = torch.cat(parts[first:last])
        own = own[torch.randperm(len(own), generator=generator)]
        found += own.split([len(part) for part in parts[first:last]])
    return [part.sort().values for part in found]


def _n_batches(n: int, size: int) -> int:
    return max(1, min(-(-n // size), n // 2))


def _in_blocks(rows: Tensor, generator: torch.Generator, neighbours: int) -> Tensor:
    """Rows in random order, but neighbours stay together."""
    blocks = rows.split(max(1, neighbours))
    return torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()])


def together(parts: Sequence[Tensor], most: int) -> list[tuple[int, int]]:
    """Runs of parts with as many rows altogether as are read at once: from, to (not included).

    The first are fewer, so that little is waited for before the first step, and each next run is read while the one
    before is used.
    """
    found, first, n, room = [], 0, 0, most / RISES
    for i, part in enumerate(parts):
        if n and n + len(part) > room:
            found.append((first, i))
            first, n, room = i, 0, min(most, 2 * room)
        n += len(part)
    return [*found, (first, len(parts))] if parts else []


def balanced(
    rows: Tensor,
    condition: Tensor,
    size: int,
    generator: torch.Generator,
    neighbours: int = 1,
    read_together: int = 0,
) -> list[Tensor]:
    """One epoch of row numbers with as many cells of every condition in each batch (trVAE section 3).

    As many batches as `shuffled` gives. Of a rare condition cells come up several times an epoch, of a frequent one
    not all do. With more conditions than half a batch there is no balance to keep: batches are shuffled.

    Parameters
    ----------
    rows : Tensor [n], int64
    condition : Tensor [n], int64
        Condition codes of these rows.
    neighbours, read_together : int
        Of rows on disk, as of `shuffled`.
    """
    codes = condition.unique()
    share, steps = size // len(codes), max(1, -(-len(rows) // size))
    if share < 2:
        return shuffled(rows, size, generator, neighbours, read_together)
    share = min(share, max(2, -(-len(rows) // (steps * len(codes)))))
    parts = []
    for code in codes:
        own = rows[condition == code]
        rounds = -(-steps * share // len(own))
        order = torch.cat([_ordered(own, generator, neighbours) for _ in range(rounds)])
        parts.append(order[: steps * share].view(steps, share))
    found = list(torch.cat(parts, 1))
    if not read_together:
        return found
    for first, last in together(found, read_together):  # of each condition the rows of what is read at once
        for i, part in enumerate(parts):
            own = part[first:last].reshape(-1)
            part[first:last] = own[torch.randperm(len(own), generator=generator)].view(-1, parts[i].shape[1])
    return list(torch.cat(parts, 1).sort(1).values)


def _ordered(rows: Tensor, generator: torch.Generator, neighbours: int) -> Tensor:
    """Rows in random order; blocks of neighbours where rows are read in such."""
    if neighbours == 1:
        return rows[torch.randperm(len(rows), generator=generator)]
    return _in_blocks(rows, generator, neighbours)
