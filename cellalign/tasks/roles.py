"""Which columns a training is given, and which of them a method makes use of.

Those it does not are refused, or said where something else uses them.

| role | of a method that does not use it |
| --- | --- |
| batch, covariate | refused, also of a kind that it does not use: the result would be the same without |
| condition | said: validation is split by it, and `evaluate` and pictures take it from the model |
| label | said: `annotate` and `evaluate` take it from the model; no unsupervised method sees it |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellalign.data.said import Note, tell
from cellalign.errors import InputError, UsageError, option

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellalign.methods.base import Fields, Method

REFUSED = ("batch", "covariate")


@dataclass(frozen=True)
class Roles:
    """Which columns of obs a training is given, each by what it is for.

    Attributes
    ----------
    condition, label : str, optional
    control : str, optional
        The condition's reference; by default found by its name.
    batch, covariate : sequence of str
    kinds : mapping of column to kind
        Of those that are no categories.
    may_be_missing : bool
        Whether cells may have no condition.
    unlabelled : str, optional
        The label's value that means there is none.
    """

    condition: str | None = None
    control: str | None = None
    batch: Sequence[str] = ()
    covariate: Sequence[str] = ()
    label: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    may_be_missing: bool = False
    unlabelled: str | None = None

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Roles:
        """Those among parameters of `train`."""
        condition, missing = asked.get("condition"), asked.get("allow_missing_condition", False)
        kinds = kinds_of(condition, asked.get("continuous", False), asked.get("numeric", ()), asked.get("kinds"))
        given = {
            name: asked[name] for name in ("control", "batch", "covariate", "label", "unlabelled") if name in asked
        }
        return cls(condition, kinds=kinds, may_be_missing=missing, **given)

    @property
    def of_number(self) -> bool:
        """Whether the condition is a number."""
        return self.kinds.get(self.condition or "") == "number"

    @property
    def named(self) -> dict[Any, list[str]]:
        """The columns of each role."""
        single = {"condition": self.condition, "label": self.label}
        several = {"batch": list(self.batch), "covariate": list(self.covariate)}
        found = several | {role: [] if key is None else [key] for role, key in single.items()}
        return {role: found[role] for role in ("condition", "batch", "covariate", "label")}

    def fields(self, cells: AnnData, trained_on: np.ndarray, holdout: Sequence[str]) -> Fields:
        """What is made of these columns of the cells trained on (mask [n]), which are those that are not held out.

        Errors as `fit_fields`. That all cells would do is said: the fault is then of what is held out.
        """
        try:
            return self._fitted(cells[trained_on])
        except InputError as error:
            if not len(holdout) or not self._fit(cells):
                raise
            given = option("holdout", list(holdout))
            raise InputError(f"without the cells that {given} leaves out, {error}") from error

    def _fit(self, cells: AnnData) -> bool:
        """Whether the columns of some cells are fit."""
        try:
            self._fitted(cells)
        except InputError:
            return False
        return True

    def _fitted(self, cells: AnnData) -> Fields:
        from cellalign.data.fields import fit_fields

        return fit_fields(
            cells,
            condition=self.condition,
            control=self.control,
            batches=self.batch,
            covariates=self.covariate,
            label=self.label,
            kinds=self.kinds,
            condition_may_be_missing=self.may_be_missing,
            unlabelled=self.unlabelled,
        )


def kinds_of(
    condition: str | None, continuous: bool, numeric: Sequence[str], kinds: Mapping[str, str] | None
) -> dict[str, str]:
    """Kinds of the columns that are not categories."""
    found = {key: "number" for key in numeric} | dict(kinds or {})
    return found | ({condition: "number"} if continuous and condition is not None else {})


def check_roles(cls: type[Method], roles: Roles, hyperparameters: Any = None) -> list[Note]:
    """Refuse columns that a method has no use for, and those in two roles.

    Parameters
    ----------
    hyperparameters : optional
        Its own defaults unless they are given.

    Returns
    -------
    list of Note
        What is to be said of those that it does not use either, but something else does.

    Raises
    ------
    UsageError
    """
    from cellalign.data.design import check_apart

    if roles.unlabelled is not None and roles.label is None:
        raise UsageError(f"{option('unlabelled', roles.unlabelled)} needs {option('label', hint='KEY')}")
    named = roles.named
    check_apart(named)
    notes: list[Note] = []
    for role, keys in named.items():
        if role in REFUSED:
            _refuse_unused(cls, role, keys, roles.kinds, hyperparameters)
            continue
        if not keys or role in cls.uses():
            continue
        if role == "condition":
            then = "it learns the same without, and predicts no change; the model keeps it for evaluate and validation"
            notes.append((logging.WARNING, f"method {cls.name} does not see the condition {keys[0]!r}: {then}"))
        else:
            then = "the model keeps it for annotate and evaluate"
            notes.append((logging.INFO, f"method {cls.name} does not see the label {keys[0]!r}; {then}"))
    return notes


def _refuse_unused(
    cls: type[Method], role: Any, keys: Sequence[str], kinds: Mapping[str, str], hyperparameters: Any
) -> None:
    """Refuse batches or covariates without use, because of their role or their kind: UsageError."""
    unused = _unused(cls, role, keys, kinds, hyperparameters)
    if not unused:
        return
    asked = " ".join(option(role, [key]) for key in unused)
    kind = kinds.get(unused[0], "categorical")
    of_kind = f", of the kind {kind!r}" if role in cls.uses() else ""
    raise UsageError(
        f"method {cls.name!r} makes no use of {asked}{of_kind}: it would learn the same without; leave it out, or "
        f"take a method that does: {', '.join(_that_use(role, kind)) or 'none'}"
    )


def _unused(
    cls: type[Method], role: Any, keys: Sequence[str], kinds: Mapping[str, str], hyperparameters: Any
) -> list[str]:
    """Those of a role's columns that a method makes no use of."""
    given = cls.Hyperparameters() if hyperparameters is None else hyperparameters
    used = role in cls.uses()
    return [key for key in keys if not (used and cls.uses_kind(kinds.get(key, "categorical"), given))]


def roles_used(method: str, options: Mapping[str, Any], hyperparameters: Any = None) -> dict[str, Any]:
    """Options of `train` that are the same for several methods, without the columns that this one would refuse."""
    from cellalign.methods.registry import get

    kinds = kinds_of(None, False, options.get("numeric") or (), options.get("kinds"))
    kept, dropped = dict(options), set()
    for role in REFUSED:
        unused = _unused(get(method), role, options.get(role) or (), kinds, hyperparameters)
        if not unused:
            continue
        tell(logging.INFO, f"{method} makes no use of {option(role, unused)}; trained without")
        dropped |= set(unused)
        kept[role] = [key for key in options[role] if key not in unused]
        if not kept[role]:
            del kept[role]
    if dropped and kept.get("numeric"):
        kept["numeric"] = [key for key in kept["numeric"] if key not in dropped]
    if dropped and kept.get("kinds"):
        kept["kinds"] = {key: kind for key, kind in kept["kinds"].items() if key not in dropped}
    return kept


def _that_use(role: Any, kind: str) -> list[str]:
    """Methods that make use of a role's columns of a kind."""
    from cellalign.methods.registry import loadable

    return [name for name, other in loadable() if not _unused(other, role, ["x"], {"x": kind}, None)]
