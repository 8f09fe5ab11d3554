"""Numbers: a dose, a time, an age.

A network is given a continuous condition as steps: how far it is from each knot to the next. Its response may then be
steep in one place and flat in another; of a single column, the value, it learns little more than a line. As each
weight is the change from a knot to the next, values share what is below them: a curve is learned sooner, and smoother,
than from a weight for each knot. Of a few doses each is then what a category is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from cellalign.data.columns import numbers
from cellalign.data.fields.column import Numeric, as_number, check_size
from cellalign.data.said import tell
from cellalign.data.values import at_number, number_of
from cellalign.errors import InputError, option
from cellalign.nn.minibatch import CONDITION, Role

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


log = logging.getLogger("cellalign")
BEYOND = 0.01  # of the range trained on: a value so little outside it is no extrapolation
KNOTS = 7  # of a condition, at most: steps of a sixth of the cells


class Number(Numeric):
    """A column of numbers, held in standard deviations from its mean among the trained cells.

    Attributes
    ----------
    mean, sd : float
    low, high : float, optional
        Range of a continuous condition.
    knots : tuple of float
        Of a continuous condition: values, rising, between which its steps lie; beyond the first and the last they stay
        as they are there. Without any, as in models of before, a network is given the number itself.
    """

    kind: Literal["number"] = "number"  # type: ignore[assignment]
    mean: float
    sd: float
    low: float | None = None
    high: float | None = None
    knots: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """One for each step, or one."""
        return max(1, len(self.knots) - 1)

    @classmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """Mean and standard deviation of the cells that have a value; of a condition the range too."""
        values = numbers(cells.obs, name, purpose=role, missing=may_be_missing)
        known = values[np.isfinite(values)]
        if not len(known) or np.ptp(known) == 0:
            held = f"one value only ({known[0]:g})" if len(known) else "no value"
            raise InputError(f"{role} column {name!r} holds {held}; at least two are needed")
        field = cls(
            name=name, role=role, may_be_missing=may_be_missing, mean=float(known.mean()), sd=float(known.std())
        )
        if role != CONDITION:
            return field
        limits = {"low": float(known.min()), "high": float(known.max())}
        return field.model_copy(update=limits | {"knots": field._told_apart(knots_of(known))})

    def _told_apart(self, knots: tuple[float, ...]) -> tuple[float, ...]:
        """Knots without those that cells' values, in single precision, do not tell from the one before."""
        at = self.standardised(np.array(knots)).astype(np.float32)
        own = np.r_[True, np.diff(at) > 0]
        if not own.all():
            i = int(np.argmin(own))
            alike = f"{knots[i - 1]:g} and {knots[i]:g}"
            said = "%s: %s lie so near each other, beside the range up to %g, that they count as one; use its logarithm"
            log.warning(said, self.name, alike, knots[-1])
        return tuple(knot for knot, is_own in zip(knots, own, strict=True) if is_own)

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
        """Of each step [B, knots - 1] -1 below, 1 above and a line between; without knots the number [B, 1]."""
        if not self.knots:
            return column[:, None]
        at = self.standardised(torch.tensor(self.knots, dtype=torch.float64)).to(column)
        return 2 * ((column[:, None] - at[:-1]) / at.diff()).clamp(0, 1) - 1

    def parsed(self, text: str) -> float:
        """The number; of one outside the range trained on it is said what it counts as."""
        value = as_number(text, self.name)
        check_size(text, self.standardised(value))
        if self.low is not None and self.high is not None:
            slack = BEYOND * (self.high - self.low)
            if not self.low - slack <= value <= self.high + slack:
                found = f"{self.low:g} to {self.high:g}"
                nearest = self.low if value < self.low else self.high
                what = f"no extrapolation, it counts as {nearest:g}" if self.knots else "an extrapolation"
                said = "%s=%g lies outside what was trained on (%s): %s"
                tell(logging.WARNING, said, self.name, value, found, what)
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
            whatever = f"whatever their {self.name!r}; {option('from_', hint='VALUE')} takes those of one value"
            tell(logging.INFO, "the source cells are all %d cells, %s", cells.n_obs, whatever)
            return np.ones(cells.n_obs, dtype=bool), ""
        there = numbers(cells.obs, self.name, missing=True)
        return at_number(there, as_number(origin, self.name, "from_")), origin

    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """The number in every row."""
        return np.full(len(obs), float(value))


def knots_of(values: np.ndarray) -> tuple[float, ...]:
    """Between which of a condition's values [n] the steps lie.

    At the values themselves where they are few, as doses mostly are; else at quantiles, the range's ends among them.
    """
    there = np.unique(values)
    if len(there) > KNOTS:
        there = np.unique(np.quantile(values, np.linspace(0, 1, KNOTS), method="nearest"))
    return tuple(map(float, there))
