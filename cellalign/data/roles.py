"""Roles: which obs column is the condition, which are batches, covariates and label; and their categories.

Settled once when a model is trained, kept in model.yaml, and applied to every later file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.checks import column, find_control, nearest, numbers
from cellalign.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Roles:
    """Columns by role, and for each column the categories in the order of their codes.

    Attributes
    ----------
    continuous : dict, optional
        Of a condition that is a number: its `mean`, `sd`, `low` and `high` among the trained cells; it then has no
        categories.
    unknown : bool
        The condition of some cells may be missing.
    """

    condition: str | None = None
    control: str | None = None
    batches: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    label: str | None = None
    categories: dict[str, list[str]] = field(default_factory=dict)
    continuous: dict[str, float] | None = None
    unknown: bool = False

    def columns(self) -> list[tuple[str, str]]:
        """(role, key) of every column in use."""
        single = [("condition", self.condition), ("label", self.label)]
        named = [(role, key) for role, key in single if key is not None]
        return named + [("batch", k) for k in self.batches] + [("covariate", k) for k in self.covariates]

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for model.yaml."""
        plain = asdict(self)
        return plain | {"batches": list(self.batches), "covariates": list(self.covariates)}

    def condition_codes(self, obs: pd.DataFrame, ignore: np.ndarray | None = None) -> np.ndarray:
        """Codes of the condition [n], int64: 0 where it is none or a number, -1 where it may be and is missing.

        Raises
        ------
        InputError
            As `encode_column`.
        """
        key = self.condition
        if key is None or self.continuous is not None:
            return np.zeros(len(obs), dtype=np.int64)
        if self.unknown and key not in obs:
            return np.full(len(obs), -1, dtype=np.int64)
        return encode_column(obs, key, self.categories[key], "condition", ignore, missing=self.unknown)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Roles:
        """The inverse of `as_dict`."""
        return cls(**(plain | {"batches": tuple(plain["batches"]), "covariates": tuple(plain["covariates"])}))


def settle_roles(
    obs: pd.DataFrame,
    *,
    condition: str | None,
    control: str | None = None,
    batches: Sequence[str] = (),
    covariates: Sequence[str] = (),
    label: str | None = None,
    continuous: bool = False,
    unknown: bool = False,
) -> Roles:
    """Read the categories of every role from the training cells' obs.

    Raises
    ------
    InputError
        A column does not exist or has missing values, there is one condition only, or the control is unknown.
    """
    named = [("condition", None if continuous else condition), ("label", label)]
    named += [("batch", b) for b in batches] + [("covariate", c) for c in covariates]
    categories = {
        key: [str(v) for v in column(obs, key, purpose=role, missing=unknown and role == "condition").categories]
        for role, key in named
        if key is not None
    }
    if continuous and condition is not None:
        if control is not None or unknown:
            raise InputError("a --continuous condition has no --control, and none of its values may be missing")
        return Roles(condition, None, tuple(batches), tuple(covariates), label, categories, _range(obs, condition))
    if condition is not None:
        known = categories[condition]
        if len(known) < 2:
            raise InputError(
                f"condition column {condition!r} holds one condition only ({known[0]!r}); at least two are needed"
            )
        if control is None:
            control = find_control(known)
        elif control not in known:
            raise InputError(
                f"control {control!r} is no value of {condition!r}.{nearest(control, known)} Values: {', '.join(known)}"
            )
    elif control is not None:
        raise InputError(f"--control {control} needs --condition")
    return Roles(condition, control, tuple(batches), tuple(covariates), label, categories, unknown=unknown)


def _range(obs: pd.DataFrame, key: str) -> dict[str, float]:
    """Mean, standard deviation and range of a continuous condition."""
    values = numbers(obs, key)
    if np.ptp(values) == 0:
        raise InputError(f"condition column {key!r} holds one value only ({values[0]:g}); at least two are needed")
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "low": float(values.min()),
        "high": float(values.max()),
    }


def encode_column(
    obs: pd.DataFrame,
    key: str,
    categories: Sequence[str],
    role: str,
    ignore: np.ndarray | None = None,
    *,
    missing: bool = False,
) -> np.ndarray:
    """Codes [n], int64, of a column under the categories a model was trained on.

    0 for unknown ignored cells, -1 for missing values where they may be.

    Raises
    ------
    InputError
        The column is missing or holds a value never trained on; the known ones are listed.
    """
    values = column(obs, key, purpose=role, missing=missing)
    lookup = {value: i for i, value in enumerate(categories)}
    looked_at = values.codes if ignore is None else values.codes[~ignore]
    found = [str(values.categories[i]) for i in np.unique(looked_at) if i >= 0]
    unknown = [name for name in found if name not in lookup]
    if unknown:
        raise InputError(
            f"{role} {unknown[0]!r} in column {key!r} was never trained on."
            f"{nearest(unknown[0], list(categories))} Known: {', '.join(categories)}"
        )
    table = np.array([*(lookup.get(str(v), 0) for v in values.categories), -1], dtype=np.int64)
    return table[values.codes]
