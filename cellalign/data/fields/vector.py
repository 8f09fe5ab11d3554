"""Several numbers for each cell, from obsm: a fingerprint, a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.fields.column import Numeric, as_number, check_size
from cellalign.errors import InputError, UsageError, nearest, option
from cellalign.nn.minibatch import Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Vector(Numeric):
    """Several numbers for each cell, such as a drug's fingerprint, read from obsm and given standardised.

    Attributes
    ----------
    means, sds : tuple of float
        Of each number among the trained cells; one that does not vary is given as 0.
    """

    in_obsm: ClassVar[bool] = True

    kind: Literal["vector"] = "vector"  # type: ignore[assignment]
    means: tuple[float, ...]
    sds: tuple[float, ...]

    @property
    def width(self) -> int:
        """How many numbers."""
        return len(self.means)

    @classmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """Mean and standard deviation of each number."""
        values = cls._read(cells, name, role, may_be_missing)
        means, sds = np.nanmean(values, 0), np.nanstd(values, 0)
        if not (sds > 0).any():
            raise InputError(f"{role} {name!r} in obsm is the same for all cells; at least two values are needed")
        return cls(name=name, role=role, may_be_missing=may_be_missing, means=tuple(means), sds=tuple(sds))

    @staticmethod
    def _read(cells: AnnData, name: str, role: str, missing: bool, ignore: np.ndarray | None = None) -> np.ndarray:
        if name not in cells.obsm:
            there = ", ".join(cells.obsm) or "none"
            raise InputError(f"no {role} {name!r} in obsm.{nearest(name, cells.obsm)} There: {there}")
        values = cells.obsm[name]
        values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        if values.ndim != 2 or values.dtype.kind not in "iufb":
            raise InputError(f"{role} {name!r} in obsm is no table of numbers")
        values = values.astype(np.float64)
        infinite = np.isinf(values).any(1) & (True if ignore is None else ~ignore)
        if infinite.any():
            raise InputError(f"{role} {name!r} in obsm has infinite values in {infinite.sum()} cells")
        bad = ~np.isfinite(values).all(1)
        if bad.any() and not missing:
            raise InputError(f"{role} {name!r} in obsm has missing or infinite values in {bad.sum()} cells")
        values[bad] = np.nan
        return values

    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """Standardised values float32 [n, width], 0 where unknown."""
        if unseen and self.name not in cells.obsm:
            return np.zeros((cells.n_obs, self.width), dtype=np.float32)
        missing = unseen or self.may_be_missing or ignore is not None
        values = self._read(cells, self.name, self.role, missing, ignore)
        if values.shape[1] != self.width:
            raise InputError(
                f"{self.role} {self.name!r} in obsm has {values.shape[1]} columns; trained on {self.width}"
            )
        return np.nan_to_num(self._standardised(values)).astype(np.float32)

    def _standardised(self, values: Any) -> np.ndarray:
        """Less the trained cells' means, over their standard deviations."""
        sds = np.asarray(self.sds)
        return (np.asarray(values) - np.asarray(self.means)) / np.where(sds > 0, sds, 1)

    def context(self, column: Tensor) -> Tensor:
        """As it is."""
        return column

    def parsed(self, text: str) -> tuple[float, ...]:
        """Numbers, separated by semicolons."""
        found = tuple(as_number(part, self.name) for part in text.split(";"))
        if len(found) != self.width:
            raise UsageError(f"{self.name}={text} has {len(found)} numbers; {self.width} are needed, separated by ;")
        check_size(text, self._standardised(found))
        return found

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """The standardised vector in every row."""
        scaled = self._standardised(value)
        return torch.as_tensor(scaled, dtype=column.dtype, device=column.device).expand_as(column).clone()

    def blank(self, n: int) -> Tensor:
        """Zeros: the mean."""
        return torch.zeros(n, self.width)

    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """All cells."""
        if origin is not None:
            raise UsageError(
                f"{option('from_', origin)} says nothing of {self.name!r}, which is a vector; leave it out"
            )
        return np.ones(cells.n_obs, dtype=bool), ""

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """The numbers as text: obs has no vectors."""
        return [";".join(f"{number:g}" for number in value)] * len(obs)
