"""What a counterfactual asks: which cells, from which condition, to which."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cellalign.data.checks import nearest, numbers, select
from cellalign.data.roles import Roles, encode_column, standardised
from cellalign.errors import InputError, ModelError, UsageError, option

log = logging.getLogger("cellalign")


@dataclass(frozen=True)
class Direction:
    """A counterfactual settled: condition codes or standardised value to predict, and the source cells.

    Attributes
    ----------
    to : str or float
        As it stands in obs of the result.
    origin : str
        The source cells' condition, empty where it is not one.
    rows : int array
        The source cells.
    key : str
        The obs column that changes.
    codes : tuple of int
        Of the target; several where the shifts of several conditions are added, none where it is a number.
    value : float, optional
        The target, standardised, where it is a number.
    batch : int, optional
        The column's place among the categorical batch columns, where it is one.
    """

    to: str | float
    origin: str
    rows: np.ndarray
    key: str
    codes: tuple[int, ...] = ()
    value: float | None = None
    batch: int | None = None

    @property
    def continuous(self) -> bool:
        """Whether the column that changes holds numbers."""
        return self.value is not None

    @classmethod
    def of(
        cls,
        obs: pd.DataFrame,
        roles: Roles,
        to: str,
        from_: str | None,
        where: Mapping[str, str] | None,
        *,
        combines: bool = False,
    ) -> Direction:
        """Settle what is asked of these cells.

        Raises
        ------
        InputError
            Unknown condition or batch, or no source cell is left.
        UsageError
            `to` equals `from_`, or is no number where the condition is one.
        ModelError
            The model was trained without a condition, and `to` is no batch.
        """
        batches = roles.categorical(roles.batches)
        key, _, batch = to.partition("=")
        in_condition = roles.condition is not None and to in roles.categories.get(roles.condition, ())
        to_batch = batch != "" and key in batches and not in_condition
        if from_ == (batch if to_batch else to):
            raise UsageError(f"{option('to')} and {option('from_')} are both {from_!r}; choose two")
        if to_batch:
            found = _to_batch(obs, roles, key, batch, from_)
        elif roles.condition is None:
            how = f"; predict a batch with {option('to', f'{batches[0]}=VALUE')}" if batches else ""
            raise ModelError(f"the model was trained without a condition, so it has no counterfactual of one{how}")
        elif roles.continuous is not None:
            found = _to_value(obs, roles.condition, roles.continuous, to, from_)
        else:
            found = _to_condition(obs, roles, to, from_, combines)
        if where:
            found = replace(found, rows=found.rows[select(obs, where)[found.rows]])
        if not len(found.rows):
            source = found.origin or ("any value" if found.continuous else f"other than {found.to}")
            raise InputError(f"no source cell is left: none has {found.key}={source} and what {option('where')} asks")
        return found

    def applied(self, obs: pd.DataFrame, roles: Roles) -> pd.DataFrame:
        """`obs` of the source cells with the column changed; what it was is kept as `<key>_source`."""
        key = self.key
        if self.continuous:
            return obs.assign(**{f"{key}_source": obs[key], key: self.to})
        known = list(dict.fromkeys([*roles.categories[key], str(self.to)]))
        changed = pd.Categorical([str(self.to)] * len(obs), known)
        return obs.assign(**{f"{key}_source": obs[key].astype(str).astype("category"), key: changed})


def _to_condition(obs: pd.DataFrame, roles: Roles, to: str, from_: str | None, combines: bool) -> Direction:
    """Sources are the control, or the only other condition, or every condition but the target."""
    key = str(roles.condition)
    known = roles.categories[key]
    parts = to.split("+") if to not in known and combines and all(p in known for p in to.split("+")) else [to]
    _check_known("condition", (*parts, from_), known)
    origin = from_ or (roles.control if roles.control != to else None)
    if origin is None and len(known) == 2:
        origin = next(name for name in known if name != to)
    codes = roles.condition_codes(obs)
    targets = tuple(known.index(part) for part in parts)
    mask = codes == known.index(origin) if origin is not None else ~np.isin(codes, targets)
    return Direction(to, origin or "", np.flatnonzero(mask), key, codes=targets)


def _to_batch(obs: pd.DataFrame, roles: Roles, key: str, to: str, from_: str | None) -> Direction:
    """Sources are the cells of one batch, or of every other one."""
    known = roles.categories[key]
    _check_known("batch", (to, from_), known)
    codes, target = encode_column(obs, key, known, "batch", unseen=True, missing=True), known.index(to)
    mask = codes != target if from_ is None else codes == known.index(from_)
    place = roles.categorical(roles.batches).index(key)
    return Direction(to, from_ or "", np.flatnonzero(mask), key, codes=(target,), batch=place)


def _to_value(obs: pd.DataFrame, key: str, trained: Mapping[str, float], to: str, from_: str | None) -> Direction:
    """Sources are the cells of one value, or all."""
    target, found = _number(to, "to"), numbers(obs, key)
    low, high = trained["low"], trained["high"]
    if abs(target - (low + high) / 2) > 0.51 * (high - low):  # a hundredth of the range beyond its end is no matter
        log.warning("%s=%g lies outside what was trained on (%g to %g): an extrapolation", key, target, low, high)
    mask = np.ones(len(obs), dtype=bool) if from_ is None else np.isclose(found, _number(from_, "from_"))
    return Direction(target, from_ or "", np.flatnonzero(mask), key, value=standardised(target, trained))


def _check_known(role: str, names: Iterable[str | None], known: list[str]) -> None:
    for name in names:
        if name is not None and name not in known:
            raise InputError(f"{role} {name!r} was never trained on.{nearest(name, known)} Known: {', '.join(known)}")


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option(name, text)} is no number, but the model's condition is one") from None
