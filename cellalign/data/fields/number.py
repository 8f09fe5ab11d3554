"""Numbers: a dose, a time, an age."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.columns import numbers
from cellalign.data.fields.column import Numeric, as_number, check_size
from cellalign.data.values import number_of
from cellalign.errors import InputError
from cellalign.nn.minibatch import CONDITION, Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


log = logging.getLogger("cellalign")
BEYOND = 0.01  # of the range trained on: a value so little outside it is no extrapolation


class Number(Numeric):
    """A column of numbers, given in standard deviations from its mean among the trained cells.

    Attributes
    ----------
    mean, sd : float
    low, high : float, optional
        Range of a continuous condition.
    """

    kind: Literal["number"] = "number"  # type: ignore[assignment]
    mean: float
    sd: float
    low: float | None = None
    high: float | None = None

    @property
    def width(self) -> int:
        """One."""
        return 1

    @classmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """Mean and standard deviation of the cells that have a value; of a condition the range too."""
        values = numbers(cells.obs, name, purpose=role, missing=may_be_missing)
        known = values[np.isfinite(values)]
        if not len(known) or np.ptp(known) == 0:
            held = f"one value only ({known[0]:g})" if len(known) else "no value"
            raise InputError(f"{role} column {name!r} holds {held}; at least two are needed")
        limits = {"low": float(known.min()), "high": float(known.max())} if role == CONDITION else {}
        spread = {"mean": float(known.mean()), "sd": float(known.std())}
        return cls(name=name, role=role, may_be_missing=may_be_missing, **spread, **limits)

    def standardised(self, values: Any) -> Any:
        """Less the trained cells' mean, over their standard deviation."""
        return (values - self.mean) / self.sd

    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """Standardised values float32 [n], 0 where unknown."""
        if unseen and self.name not in cells.obs:
            return np.zeros(cells.n_obs, dtype=np.float32)
        obs = cells.obs
        if ignore is not None and ignore.any():
            obs = obs[~ignore]
        values = numbers(obs, self.name, purpose=self.role, missing=unseen or self.may_be_missing)
        found = np.zeros(cells.n_obs, dtype=np.float32)
        found[slice(None) if obs is cells.obs else ~ignore] = np.nan_to_num(self.standardised(values))  # type: ignore[operator]
        return found

    def context(self, column: Tensor) -> Tensor:
        """As it is, [B, 1]."""
        return column[:, None]

    def parsed(self, text: str) -> float:
        """The number; one far outside the range trained on is an extrapolation, which is said."""
        value = as_number(text, self.name)
        check_size(text, self.standardised(value))
        if self.low is not None and self.high is not None:
            slack = BEYOND * (self.high - self.low)
            if not self.low - slack <= value <= self.high + slack:
                found = f"{self.low:g} to {self.high:g}"
                log.warning("%s=%g lies outside what was trained on (%s): an extrapolation", self.name, value, found)
        return value

    def knows(self, text: str) -> bool:
        """Whether it is a number."""
        return number_of(text) is not None

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """The standardised number in every place."""
        return torch.full_like(column, self.standardised(float(value)))

    def blank(self, n: int) -> Tensor:
        """Zeros: the mean."""
        return torch.zeros(n)

    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """The cells of one value, or all."""
        if origin is None:
            return np.ones(cells.n_obs, dtype=bool), ""
        return np.isclose(numbers(cells.obs, self.name, missing=True), as_number(origin, self.name, "from_")), origin

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """The number in every row."""
        return np.full(len(obs), float(value))
