"""Which columns a method makes use of: those it does not are refused, or said where something else uses them.

| role | of a method that does not use it |
| --- | --- |
| batch, covariate | refused: nothing else uses them, and the result would be the same without |
| condition | said: validation is split by it, and `evaluate` and pictures take it from the model |
| label | said: `annotate` and `evaluate` take it from the model; no unsupervised method sees it |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellalign.data.said import Note, tell
from cellalign.errors import UsageError, option

if TYPE_CHECKING:
    from cellalign.methods.base import Method

REFUSED = ("batch", "covariate")


def check_roles(
    cls: type[Method],
    *,
    condition: str | None = None,
    batch: Sequence[str] = (),
    covariate: Sequence[str] = (),
    label: str | None = None,
    unlabelled: str | None = None,
) -> list[Note]:
    """Refuse columns that a method has no use for, and those in two roles.

    Returns
    -------
    list of Note
        What is to be said of those that it does not use either, but something else does.

    Raises
    ------
    UsageError
    """
    from cellalign.data.design import check_apart

    if unlabelled is not None and label is None:
        raise UsageError(f"{option('unlabelled', unlabelled)} needs {option('label', hint='KEY')}")
    named: dict[Any, list[str]] = {
        "condition": [condition] if condition is not None else [],
        "batch": list(batch),
        "covariate": list(covariate),
        "label": [label] if label is not None else [],
    }
    check_apart(named)
    notes: list[Note] = []
    for role, keys in named.items():
        if not keys or role in cls.uses():
            continue
        if role in REFUSED:
            asked = " ".join(option(role, [key] if role in REFUSED else key) for key in keys)
            raise UsageError(
                f"method {cls.name!r} makes no use of {asked}: it would learn the same without; leave it out, or "
                f"take a method that does: {', '.join(_that_use(role)) or 'none'}"
            )
        if role == "condition":
            then = "it learns the same without, and predicts no change; the model keeps it for evaluate and validation"
            notes.append((logging.WARNING, f"method {cls.name} does not see the condition {keys[0]!r}: {then}"))
        else:
            then = "the model keeps it for annotate and evaluate"
            notes.append((logging.INFO, f"method {cls.name} does not see the label {keys[0]!r}; {then}"))
    return notes


def roles_used(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `train` that are the same for several methods, without the columns that this one would refuse."""
    from cellalign.methods.registry import get

    unused = [role for role in REFUSED if options.get(role) and role not in get(method).uses()]
    for role in unused:
        tell(logging.INFO, f"{method} makes no use of {option(role, list(options[role]))}; trained without")
    dropped = {key for role in unused for key in options[role]}
    kept = {key: value for key, value in options.items() if key not in unused}
    if dropped and kept.get("numeric"):
        kept["numeric"] = [key for key in kept["numeric"] if key not in dropped]
    if dropped and kept.get("kinds"):
        kept["kinds"] = {key: kind for key, kind in kept["kinds"].items() if key not in dropped}
    return kept


def _that_use(role: Any) -> list[str]:
    """Methods that make use of a role."""
    from cellalign.methods.registry import loadable

    return [name for name, other in loadable() if role in other.uses()]
