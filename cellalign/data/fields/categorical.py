"""Categories: the usual kind of condition, batch, covariate and label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.columns import column
from cellalign.data.fields.column import Column
from cellalign.errors import InputError, nearest
from cellalign.nn.minibatch import CONDITION, LABEL, Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Categorical(Column):
    """A column of categories, given as one-hot codes.

    Attributes
    ----------
    categories : tuple of str
    reference : str, optional
        Of a condition: the control.
    missing_value : str, optional
        The category that means there is none (of a label).
    """

    kind: Literal["categorical"] = "categorical"  # type: ignore[assignment]
    categories: tuple[str, ...] = ()
    reference: str | None = None
    missing_value: str | None = None

    @property
    def width(self) -> int:
        """One for each category."""
        return len(self.categories)

    @classmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """The categories in use, in their own order."""
        found = column(cells.obs, name, purpose=role, missing=may_be_missing)
        return cls(name=name, role=role, categories=tuple(map(str, found.categories)), may_be_missing=may_be_missing)

    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """Codes int64 [n], -1 where unknown; a label may hold anything, a condition that may be missing be absent."""
        lenient = unseen or self.role == LABEL
        if self.name not in cells.obs and (lenient or (self.role == CONDITION and self.may_be_missing)):
            return np.full(cells.n_obs, -1, dtype=np.int64)
        values = column(cells.obs, self.name, purpose=self.role, missing=lenient or self.may_be_missing)
        looked_at = values.codes if ignore is None else values.codes[~ignore]
        if not lenient:
            self.check_known(str(values.categories[i]) for i in np.unique(looked_at) if i >= 0)
        code = {name: i for i, name in enumerate(self.categories)}
        other = -1 if lenient else 0  # of ignored cells
        table = np.array([*(code.get(str(v), other) for v in values.categories), -1], dtype=np.int64)
        return table[values.codes]

    def check_known(self, names: Iterable[str]) -> None:
        """InputError for the first that is no category; the nearest one and all are named."""
        for name in names:
            if name not in self.categories:
                raise InputError(
                    f"{self.role} {name!r} in column {self.name!r} was never trained on."
                    f"{nearest(name, self.categories)} Known: {', '.join(self.categories)}"
                )

    def context(self, column: Tensor) -> Tensor:
        """One-hot [B, width]; zeros for code -1."""
        return (column[:, None] == torch.arange(self.width, device=column.device)).float()

    def parsed(self, text: str) -> str | tuple[str, ...]:
        """The category; "a+b" of two known ones is both, as a tuple."""
        if text in self.categories:
            return text
        parts = tuple(text.split("+"))
        if len(parts) > 1 and self.role == CONDITION and all(part in self.categories for part in parts):
            return parts
        self.check_known([text])
        return text

    def code(self, value: str) -> int:
        """Of a category; KeyError where it is none."""
        if value not in self.categories:
            raise KeyError(value)
        return self.categories.index(value)

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """The category's code in every place."""
        return torch.full_like(column, self.code(value))

    def blank(self, n: int) -> Tensor:
        """Zeros: the first category."""
        return torch.zeros(n, dtype=torch.int64)

    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """The reference, or the only other category, or every other one."""
        targets = value if isinstance(value, tuple) else (value,)
        if origin is not None:
            self.check_known([origin])
        elif self.role == CONDITION:
            others = [name for name in self.categories if name not in targets]
            origin = self.reference if self.reference in others else others[0] if len(others) == 1 else None
        codes = self.encode(cells, unseen=self.role != CONDITION)
        if origin is not None:
            return codes == self.code(origin), origin
        return ~np.isin(codes, [self.code(name) for name in targets]), ""

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """A categorical of the known categories, and of "a+b" where it is both."""
        import pandas as pd

        said = "+".join(value) if isinstance(value, tuple) else str(value)
        return pd.Categorical([said] * len(obs), list(dict.fromkeys([*self.categories, said])))
