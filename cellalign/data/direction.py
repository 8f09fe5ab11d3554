"""What a counterfactual asks: which cells, from which condition, to which."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellalign.data.checks import nearest, numbers, select
from cellalign.data.roles import Roles, encode_column
from cellalign.errors import InputError, ModelError, UsageError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("cellalign")


@dataclass(frozen=True)
class Direction:
    """A counterfactual settled: condition codes or standardised value to predict, and the source cells.

    Attributes
    ----------
    to : str or float
        As it stands in obs of the result.
    codes : tuple of int
        Several where the shifts of several conditions are added; empty where the condition is continuous.
    value : float
    origin : str
        The source cells' condition, empty where it is not one.
    rows : int array
        The source cells.
    key : str
        The obs column that changes.
    batch : int, optional
        Its place among the categorical batch columns, where it is one.
    """

    to: str | float
    codes: tuple[int, ...]
    value: float
    origin: str
    rows: np.ndarray
    key: str
    batch: int | None = None

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
        target: str | float
        codes: tuple[int, ...]
        key, _, name = to.partition("=")
        in_condition = roles.condition is not None and to in roles.categories.get(roles.condition, ())
        if name and key in batches and not in_condition:
            batch, target = batches.index(key), name
            code, origin, mask = _between_batches(obs, roles, key, name, from_)
            codes, value = (code,), 0.0
        elif roles.condition is None:
            how = f"; predict a batch with --to {batches[0]}=VALUE" if batches else ""
            raise ModelError(f"the model was trained without a condition, so it has no counterfactual of one{how}")
        else:
            key, batch = roles.condition, None
            if from_ == to:
                raise UsageError(f"--to and --from are both {to!r}; choose two conditions")
            settle = _between_values if roles.continuous is not None else _between_conditions
            target, codes, value, origin, mask = settle(obs, roles, to, from_, combines)
        if where:
            mask = mask & select(obs, where)
        if not mask.any():
            source = origin or ("any value" if roles.continuous else f"other than {target}")
            raise InputError(f"no source cell is left: none has {key}={source} and what --where asks")
        return cls(target, codes, value, origin, np.flatnonzero(mask), key, batch)


_Settled = tuple[str | float, tuple[int, ...], float, str, np.ndarray]


def _between_conditions(obs: pd.DataFrame, roles: Roles, to: str, from_: str | None, combines: bool) -> _Settled:
    """Codes of the target; sources are the control, or the only other condition, or every condition but the target."""
    known = roles.categories[str(roles.condition)]
    parts = to.split("+") if to not in known and combines and all(p in known for p in to.split("+")) else [to]
    for name in (*parts, from_):
        if name is not None and name not in known:
            raise InputError(
                f"condition {name!r} was never trained on.{nearest(name, known)} Known: {', '.join(known)}"
            )
    origin = from_ or (roles.control if roles.control != to else None)
    if origin is None and len(known) == 2:
        origin = next(name for name in known if name != to)
    codes = roles.condition_codes(obs)
    targets = tuple(known.index(part) for part in parts)
    mask = codes == known.index(origin) if origin is not None else ~np.isin(codes, targets)
    return to, targets, 0.0, origin or "", mask


def _between_batches(
    obs: pd.DataFrame, roles: Roles, key: str, to: str, from_: str | None
) -> tuple[int, str, np.ndarray]:
    """Code of the target batch; sources are the cells of one batch, or of every other one."""
    known = roles.categories[key]
    for name in (to, from_):
        if name is not None and name not in known:
            raise InputError(f"batch {name!r} was never trained on.{nearest(name, known)} Known: {', '.join(known)}")
    if from_ == to:
        raise UsageError(f"--to and --from are both {to!r}; choose two batches")
    codes, target = encode_column(obs, key, known, "batch", unseen=True, missing=True), known.index(to)
    mask = codes != target if from_ is None else codes == known.index(from_)
    return target, from_ or "", mask


def _between_values(obs: pd.DataFrame, roles: Roles, to: str, from_: str | None, combines: bool) -> _Settled:
    """The target's standardised value; sources are the cells of one value, or all."""
    assert roles.continuous is not None
    target, found = _number(to, "--to"), numbers(obs, str(roles.condition))
    low, high = roles.continuous["low"], roles.continuous["high"]
    if abs(target - (low + high) / 2) > 0.51 * (high - low):  # a hundredth of the range beyond its end is no matter
        trained = f"{low:g} to {high:g}"
        log.warning("%s=%g lies outside what was trained on (%s): an extrapolation", roles.condition, target, trained)
    mask = np.ones(len(obs), dtype=bool) if from_ is None else np.isclose(found, _number(from_, "--from"))
    value = (target - roles.continuous["mean"]) / roles.continuous["sd"]
    return target, (), value, from_ or "", mask


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no number, but the model's condition is one") from None
