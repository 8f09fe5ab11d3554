"""Several categories at once: a cell with two guides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.columns import column
from cellalign.data.fields.categorical import Categorical
from cellalign.data.fields.column import Column
from cellalign.data.values import in_order, known, listed
from cellalign.errors import InputError, nearest
from cellalign.nn.minibatch import Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class MultiLabel(Column):
    """Several categories at once, joined by + ("a+b"), given as zeros and ones.

    Attributes
    ----------
    categories : tuple of str
        The single ones.
    """

    kind: Literal["multi-label"] = "multi-label"  # type: ignore[assignment]
    categories: tuple[str, ...] = ()

    @property
    def reference(self) -> str | None:
        """None: there is no category to compare others with."""
        return None

    @property
    def width(self) -> int:
        """One for each category."""
        return len(self.categories)

    @classmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """The single categories, sorted."""
        single = _single(cells, name, role, may_be_missing)
        return cls(name=name, role=role, categories=tuple(single), may_be_missing=may_be_missing)

    def extended(self, cells: AnnData) -> Self:
        """With the single categories of more cells."""
        single, there = _single(cells, self.name, self.role, self.may_be_missing), known(self.categories)
        new = [name for name in single if there.find(name) < 0]
        return self.model_copy(update={"categories": (*self.categories, *new)})

    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """Float32 [n, width], zeros where unknown."""
        if unseen and self.name not in cells.obs:
            return np.zeros((cells.n_obs, self.width), dtype=np.float32)
        missing = unseen or self.may_be_missing or ignore is not None
        values = column(cells.obs, self.name, purpose=self.role, missing=missing, named=self.categories)
        used = np.unique(values.codes if ignore is None else values.codes[~ignore])
        if ignore is not None and not (unseen or self.may_be_missing) and -1 in used:
            column(cells.obs[~ignore], self.name, purpose=self.role, named=self.categories)  # says what is missing
        table = np.zeros((len(values.categories) + 1, self.width), dtype=np.float32)  # the last row is for code -1
        single = known(self.categories)
        for code, value in enumerate(values.categories):
            parts = str(value).split("+")
            found = np.array([single.find(part) for part in parts])
            if (found < 0).any() and code in used and not unseen:
                new = parts[int(np.argmin(found))]
                raise InputError(
                    f"{self.role} {new!r} in column {self.name!r} was never trained on."
                    f"{nearest(new, self.categories)} Known: {listed(self.categories)}"
                )
            table[code, found[found >= 0]] = 1
        return table[values.codes]

    def context(self, column: Tensor) -> Tensor:
        """As it is."""
        return column

    def parsed(self, text: str) -> tuple[str, ...]:
        """The single categories."""
        parts = text.split("+")
        Categorical(name=self.name, role=self.role, categories=self.categories).check_known(parts)
        return tuple(str(known(self.categories).name(part)) for part in parts)

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """Ones for these categories in every row."""
        row = torch.zeros(self.width, dtype=column.dtype, device=column.device)
        for part in value:
            row[self.categories.index(part)] = 1
        return row.expand_as(column).clone()

    def blank(self, n: int) -> Tensor:
        """Zeros: none of them."""
        return torch.zeros(n, self.width)

    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """The cells of one value, or all that have another."""
        if origin is None:
            return ~(self.encode(cells, unseen=True) == self._row(value)).all(1), ""
        return (self.encode(cells, unseen=True) == self._row(self.parsed(origin))).all(1), origin

    def _row(self, value: Any) -> np.ndarray:
        return np.isin(self.categories, value).astype(np.float32)

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """The categories joined by +."""
        return ["+".join(value)] * len(obs)


def _single(cells: AnnData, name: str, role: Role, may_be_missing: bool) -> list[str]:
    """The single categories of cells, sorted."""
    found = column(cells.obs, name, purpose=role, missing=may_be_missing)
    return in_order({part.strip() for value in found.categories for part in str(value).split("+")})
