"""Roles: which obs column is the condition, which are batches, covariates and label; and their categories.

Settled once when a model is trained, kept in model.yaml, and applied to every later file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.checks import column, find_control, nearest, numbers
from cellalign.errors import InputError, UsageError, option

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
    numeric : dict
        Of each batch or covariate column that holds numbers: its `mean` and `sd` among the trained cells.
    unlabelled : str, optional
        The label's value that means there is none.
    """

    condition: str | None = None
    control: str | None = None
    batches: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    label: str | None = None
    categories: dict[str, list[str]] = field(default_factory=dict)
    continuous: dict[str, float] | None = None
    unknown: bool = False
    numeric: dict[str, dict[str, float]] = field(default_factory=dict)
    unlabelled: str | None = None

    def columns(self) -> list[tuple[str, str]]:
        """(role, key) of every column in use."""
        single = [("condition", self.condition), ("label", self.label)]
        named = [(role, key) for role, key in single if key is not None]
        return named + [("batch", k) for k in self.batches] + [("covariate", k) for k in self.covariates]

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for model.yaml."""
        plain = asdict(self)
        return plain | {"batches": list(self.batches), "covariates": list(self.covariates)}

    def condition_codes(
        self, obs: pd.DataFrame, ignore: np.ndarray | None = None, *, unseen: bool = False
    ) -> np.ndarray:
        """Codes of the condition [n], int64: 0 where it is none or a number, -1 where it may be and is missing.

        With `unseen` also -1 where it was never trained on.

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
        missing = self.unknown or unseen
        return encode_column(obs, key, self.categories[key], "condition", ignore, missing=missing, unseen=unseen)

    def condition_values(self, obs: pd.DataFrame, *, unseen: bool = False) -> np.ndarray:
        """The condition that is a number, standardised, float32 [n]: 0 where there is none.

        Raises
        ------
        InputError
            The column is not numeric; or, unless `unseen`, it is absent or has missing values.
        """
        if self.condition is None or self.continuous is None:
            return np.zeros(len(obs), dtype=np.float32)
        found = _standardised_column(obs, self.condition, "condition", self.continuous, unseen=unseen)
        return found.astype(np.float32)

    def categorical(self, keys: Sequence[str]) -> list[str]:
        """Those of the batch or covariate columns that hold categories."""
        return [key for key in keys if key not in self.numeric]

    def codes(
        self, obs: pd.DataFrame, role: str, ignore: np.ndarray | None = None, *, unseen: bool = False
    ) -> np.ndarray:
        """Codes of all categorical "batch" or "covariate" columns, int64 [n, columns].

        -1 where a covariate is missing, and with `unseen` where a value was never trained on or the column is absent.

        Raises
        ------
        InputError
            As `encode_column`.
        """
        keys = self.categorical(self.batches if role == "batch" else self.covariates)
        missing = unseen or role == "covariate"
        columns = [
            encode_column(obs, key, self.categories[key], role, ignore, missing=missing, unseen=unseen) for key in keys
        ]
        return np.stack(columns, 1) if columns else np.zeros((len(obs), 0), dtype=np.int64)

    def values(self, obs: pd.DataFrame, *, unseen: bool = False) -> np.ndarray:
        """Standardised numeric batches, then numeric covariates, float32 [n, columns]; 0 where one is missing.

        Raises
        ------
        InputError
            A column is absent or not numeric, or a batch has missing values.
        """
        columns = []
        for role, keys in (("batch", self.batches), ("covariate", self.covariates)):
            for key in [key for key in keys if key in self.numeric]:
                missing = role == "covariate"
                columns.append(_standardised_column(obs, key, role, self.numeric[key], missing=missing, unseen=unseen))
        return np.stack(columns, 1).astype(np.float32) if columns else np.zeros((len(obs), 0), dtype=np.float32)

    def label_codes(self, obs: pd.DataFrame) -> np.ndarray:
        """Codes of the label, int64 [n]; -1 where it is missing, unknown to the model, or the column is absent."""
        if self.label is None:
            return np.full(len(obs), -1)
        return encode_column(obs, self.label, self.categories[self.label], "label", missing=True, unseen=True)

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
    numeric: Sequence[str] = (),
    unlabelled: str | None = None,
) -> Roles:
    """Read the categories of every role from the training cells' obs.

    Labels and covariates may be missing. `numeric` are those of `batches` and `covariates` that are numbers.

    Raises
    ------
    InputError
        A column does not exist or has missing values, there is one condition only, or the control is unknown.
    UsageError
        A numeric column is neither a batch nor a covariate.
    """
    for key in numeric:
        if key not in (*batches, *covariates):
            raise UsageError(f"{option('numeric', [key])} is neither a {option('batch')} nor a {option('covariate')}")
    named = [("condition", None if continuous else condition), ("label", label)]
    named += [("batch", b) for b in batches if b not in numeric]
    named += [("covariate", c) for c in covariates if c not in numeric]
    optional = {"label", "covariate"} | ({"condition"} if unknown else set())
    categories = {
        key: [str(v) for v in column(obs, key, purpose=role, missing=role in optional).categories]
        for role, key in named
        if key is not None
    }
    if label is not None:
        categories[label] = _labels(label, categories[label], unlabelled)
    others: dict[str, Any] = {
        "numeric": {key: _mean_and_sd(obs, key, "batch" if key in batches else "covariate") for key in numeric},
        "unlabelled": unlabelled,
    }
    if continuous and condition is not None:
        if control is not None or unknown:
            asked = f"a {option('condition')} with {option('continuous', True)}"
            raise InputError(f"{asked} has no {option('control')}, and none of its values may be missing")
        found = _range(obs, condition)
        return Roles(condition, None, tuple(batches), tuple(covariates), label, categories, found, **others)
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
        raise InputError(f"{option('control', control)} needs {option('condition')}")
    return Roles(condition, control, tuple(batches), tuple(covariates), label, categories, unknown=unknown, **others)


def standardised(values: Any, trained: Mapping[str, float]) -> Any:
    """Values less the trained cells' mean, over their standard deviation."""
    return (values - trained["mean"]) / trained["sd"]


def _standardised_column(
    obs: pd.DataFrame, key: str, role: str, trained: Mapping[str, float], *, missing: bool = False, unseen: bool = False
) -> np.ndarray:
    """A numeric column [n]: 0 where a value is missing and may be, and with `unseen` where the column is absent."""
    if unseen and key not in obs:
        return np.zeros(len(obs))
    return np.nan_to_num(standardised(numbers(obs, key, purpose=role, missing=missing or unseen), trained))


def _labels(key: str, found: list[str], unlabelled: str | None) -> list[str]:
    """The labels but the value that means none."""
    if unlabelled is not None and unlabelled not in found:
        raise InputError(f"no cell has {key}={unlabelled}.{nearest(unlabelled, found)} Values: {', '.join(found)}")
    known = [name for name in found if name != unlabelled]
    if not known:
        raise InputError(f"label column {key!r} has no labelled cell")
    return known


def _mean_and_sd(obs: pd.DataFrame, key: str, role: str) -> dict[str, float]:
    """Of a numeric column, among the cells that have a value."""
    values = numbers(obs, key, purpose=role, missing=role == "covariate")
    sd = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    if sd == 0:
        raise InputError(f"{role} column {key!r} holds one value only; at least two are needed")
    return {"mean": float(np.nanmean(values)), "sd": sd}


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
    unseen: bool = False,
) -> np.ndarray:
    """Codes [n], int64, of a column under the categories a model was trained on.

    0 for unknown ignored cells, -1 for missing values where they may be, and with `unseen` for values never trained
    on and for all cells where the column is absent.

    Raises
    ------
    InputError
        The column is missing or holds a value never trained on; the known ones are listed.
    """
    if unseen and key not in obs:
        return np.full(len(obs), -1, dtype=np.int64)
    values = column(obs, key, purpose=role, missing=missing)
    lookup = {value: i for i, value in enumerate(categories)}
    looked_at = values.codes if ignore is None else values.codes[~ignore]
    found = [str(values.categories[i]) for i in np.unique(looked_at) if i >= 0]
    unknown = [name for name in found if name not in lookup]
    if unknown and not unseen:
        raise InputError(
            f"{role} {unknown[0]!r} in column {key!r} was never trained on."
            f"{nearest(unknown[0], list(categories))} Known: {', '.join(categories)}"
        )
    other = -1 if unseen else 0
    table = np.array([*(lookup.get(str(v), other) for v in values.categories), -1], dtype=np.int64)
    return table[values.codes]
