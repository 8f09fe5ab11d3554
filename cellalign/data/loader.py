"""Which rows when: mini-batches of cells, without a dense copy and without per-cell Python.

The same code runs on the CPU and on a GPU: `to` moves the matrix once, and a batch is made dense where it is used, if
at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from cellalign.data.source import Part, Rows, as_matrix, digest_of
from cellalign.nn.minibatch import CONDITION, Fields, Minibatch

READ_TOGETHER = 1024  # cells: of 128, a dozen operations and a wait for the GPU cost as much as the cells


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
    """

    matrix: Rows
    fields: Fields
    columns: tuple[Tensor, ...]
    n: int
    device: torch.device = torch.device("cpu")

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

    def batches(self, rows_of_each: Sequence[Tensor]) -> Iterator[Minibatch]:
        """A mini-batch of the rows of each; the rows may lie on another device, small ones are read together."""
        n = max(1, READ_TOGETHER // max([1, *map(len, rows_of_each)]))
        for group in (rows_of_each[i : i + n] for i in range(0, len(rows_of_each), n)):
            rows = torch.cat(tuple(group)).to(self.device)
            read = self.batch(rows).split([len(part) for part in group])[::-1]
            while read:  # none is held, with what was made of it, while the next is used
                yield read.pop()

    def part(self, rows: Tensor) -> Cells:
        """Some of the cells; their matrix is not copied."""
        columns = tuple(column[rows] for column in self.columns)
        return Cells(Part(self.matrix, rows), self.fields, columns, len(rows), self.device)

    def to(self, device: torch.device) -> Cells:
        """The same cells on another device."""
        columns = tuple(column.to(device) for column in self.columns)
        return Cells(self.matrix.to(device), self.fields, columns, self.n, device)

    def in_order(self, size: int, device: torch.device | None = None) -> Iterator[Minibatch]:
        """All cells in file order, `size` at a time, on `device`; only one batch is moved at a time."""
        for rows in torch.arange(self.n, device=self.device).split(size):
            batch = self.batch(rows)
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


def shuffled(rows: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch of row numbers in random order, cut into equal parts of at most `size` cells.

    Equal parts rather than a short last one: no cell is left out, and batch normalisation never meets a
    single cell; batches of one or two cells may get one more for that.
    """
    order = rows[torch.randperm(len(rows), generator=generator)]
    return list(torch.tensor_split(order, max(1, min(-(-len(rows) // size), len(rows) // 2))))


def balanced(rows: Tensor, condition: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch of row numbers with as many cells of every condition in each batch (trVAE section 3).

    As many batches as `shuffled` gives. Of a rare condition cells come up several times an epoch, of a frequent one
    not all do. With more conditions than half a batch there is no balance to keep: batches are shuffled.

    Parameters
    ----------
    rows : Tensor [n], int64
    condition : Tensor [n], int64
        Condition codes of these rows.
    """
    codes = condition.unique()
    share, steps = size // len(codes), max(1, -(-len(rows) // size))
    if share < 2:
        return shuffled(rows, size, generator)
    share = min(share, max(2, -(-len(rows) // (steps * len(codes)))))
    parts = []
    for code in codes:
        own = rows[condition == code]
        rounds = -(-steps * share // len(own))
        order = torch.cat([own[torch.randperm(len(own), generator=generator)] for _ in range(rounds)])
        parts.append(order[: steps * share].view(steps, share))
    return list(torch.cat(parts, 1))
