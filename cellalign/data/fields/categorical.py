"""Categories: the usual kind of condition, batch, covariate and label."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.columns import column
from cellalign.data.fields.column import Column
from cellalign.data.values import Known, combined, joined, known, listed, value_of
from cellalign.errors import InputError, nearest, option
from cellalign.nn.minibatch import CONDITION, LABEL, Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

log = logging.getLogger("cellalign")


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
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool, named: Collection[str] = ()) -> Self:
        """The categories in use, in their own order; `named` ones even if they look like missing."""
        found = column(cells.obs, name, purpose=role, missing=may_be_missing, named=named)
        return cls(name=name, role=role, categories=tuple(map(str, found.categories)), may_be_missing=may_be_missing)

    def extended(self, cells: AnnData) -> Self:
        """With the categories of more cells; a label keeps those it has, and of it others mean none."""
        if self.role == LABEL:
            return self
        may_be_missing = self.may_be_missing
        if self.name not in cells.obs and self.role == CONDITION and may_be_missing:
            return self
        names = column(cells.obs, self.name, purpose=self.role, missing=may_be_missing, named=self.named).categories
        new = [str(name) for name, code in zip(names, self.known.codes(list(names)), strict=True) if code < 0]
        new = together(new, self.reference) if self.role == CONDITION else new
        return self.model_copy(update={"categories": (*self.categories, *new)})

    @property
    def known(self) -> Known:
        """The categories, to find values among."""
        return known(self.categories, self.reference)

    @property
    def named(self) -> tuple[str, ...]:
        """Values that are ones even if they look like missing."""
        return self.categories if self.missing_value is None else (*self.categories, self.missing_value)

    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """Codes int64 [n], -1 where unknown; a label may hold anything, a condition that may be missing be absent."""
        lenient = unseen or self.role == LABEL
        if self.name not in cells.obs and (lenient or (self.role == CONDITION and self.may_be_missing)):
            if unseen and self.role == CONDITION:
                said = "no column %r in obs: the model has learned with it, and counts it as unknown in all %d cells"
                log.warning(said, self.name, cells.n_obs)
            return np.full(cells.n_obs, -1, dtype=np.int64)
        missing = lenient or self.may_be_missing or ignore is not None
        values = column(cells.obs, self.name, purpose=self.role, missing=missing, named=self.named)
        codes = self.known.codes(list(values.categories))
        looked_at = values.codes if ignore is None else values.codes[~ignore]
        used = np.unique(looked_at[looked_at >= 0])
        new = [str(values.categories[i]) for i in used if codes[i] < 0]
        if not lenient:
            self.check_known(new)
            if ignore is not None and not self.may_be_missing and (looked_at < 0).any():
                column(cells.obs[~ignore], self.name, purpose=self.role, named=self.named)  # says what is missing
        elif new and self.role != LABEL:
            n = int(np.isin(looked_at, [i for i in used if codes[i] < 0]).sum())
            said = f"{self.role} {self.name!r} never trained on, which counts as unknown"
            log.warning("%d cells have a %s: %s", n, said, listed(new, 10))
        if not lenient:
            codes[codes < 0] = 0  # of ignored cells
        absent = 0 if ignore is not None and not lenient and not self.may_be_missing else -1
        return np.append(codes, absent)[values.codes]

    def check_known(self, names: Iterable[str]) -> None:
        """InputError for the first that is no category; the nearest one and all are named."""
        for name in names:
            if self.known.find(name) < 0:
                raise InputError(
                    f"{self.role} {name!r} in column {self.name!r} was never trained on."
                    f"{nearest(name, self.categories)} Known: {listed(self.categories)}"
                )

    def context(self, column: Tensor) -> Tensor:
        """One-hot [B, width]; zeros for code -1. Of several at once, as `filled` gives them, the column as it is."""
        if column.dim() > 1:
            return column
        return (column[:, None] == torch.arange(self.width, device=column.device)).float()

    def parsed(self, text: str) -> str | tuple[str, ...]:
        """The category; "a+b" of two known ones is both, as a tuple."""
        bare = joined(text, self.reference)  # of names one of which holds the control, that without it is meant
        name = self.known.name(text) or self.known.name(bare)
        if name is not None:
            return name
        if self.role == CONDITION:
            found = combined(bare.split("+"), self.known)
            if found is not None:
                return found
        self.check_known([text])
        return text

    def parts(self, name: str) -> tuple[str, ...] | None:
        """The other categories that one's name joins by +; None of one that is no combination of them."""
        others = self.model_copy(update={"categories": tuple(each for each in self.categories if each != name)})
        return combined(joined(name, self.reference).split("+"), others.known)

    def code(self, value: str) -> int:
        """Of a category; KeyError where it is none."""
        code = self.known.find(value)
        if code < 0:
            raise KeyError(value)
        return code

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """The category's code in every place.

        Of several at once what a network is given, float [B, width]: the sum of theirs, less for each but one the
        reference's, or the cell's own where there is none.
        """
        if isinstance(value, tuple):
            each = [self.context(torch.full_like(column, self.code(name))) for name in value]
            start = column if self.reference is None else torch.full_like(column, self.code(self.reference))
            return torch.stack(each).sum(0) - (len(each) - 1) * self.context(start)
        return torch.full_like(column, self.code(value))

    def blank(self, n: int) -> Tensor:
        """Zeros: the first category."""
        return torch.zeros(n, dtype=torch.int64)

    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """The reference, or the only other category, or every other one."""
        targets = value if isinstance(value, tuple) else (value,)
        if origin is not None:
            self.check_known([origin])
            origin = self.known.name(origin)
        elif self.role == CONDITION:
            others = [name for name in self.categories if name not in targets]
            origin = self.reference if self.reference in others else others[0] if len(others) == 1 else None
        values = column(cells.obs, self.name, purpose=self.role, missing=True, named=self.named)
        known_as = self.known.codes(list(values.categories))
        codes = np.append(known_as, -2)[values.codes]  # -1 for values never trained on, -2 where there is none
        n = int((codes == -2).sum())
        if n:
            log.info("%d cells have no %s %r and are left out", n, self.role, self.name)
        if origin is not None:  # what the other cells have does not matter
            return codes == self.code(origin), origin
        every = ~np.isin(codes, [self.code(name) for name in targets]) & (codes >= -1)
        if self.role == CONDITION and (new := every & (codes < 0)).any():
            names = [str(name) for name in values.categories[known_as < 0]]
            if not (every & ~new).any():
                self.check_known(names)
            said = f"{int(new.sum())} cells of conditions never trained on are no source cells: {listed(names, 10)}"
            log.warning("%s; name the source cells by %s", said, option("from_", hint="VALUE"))
            every &= ~new
        return every, ""

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """A categorical of the known categories, and of "a+b" where it is both."""
        import pandas as pd

        said = "+".join(value) if isinstance(value, tuple) else str(value)
        return pd.Categorical([said] * len(obs), list(dict.fromkeys([*self.categories, said])))


def together(names: Sequence[str], control: str | None) -> list[str]:
    """Conditions without the control in them ("a+ctrl" is "a"), each combination once ("b+a" is "a+b")."""
    found: dict[Any, str] = {}
    for name in names:
        bare = joined(name, control)
        # what is no combination stays apart from what has another text
        found.setdefault(value_of(bare, control) if "+" in name else bare, bare)
    return list(dict.fromkeys(found.values()))
