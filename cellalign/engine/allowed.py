"""Which values a setting takes, in words: made of what its field is declared to be."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

SIMPLE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def allowed(field: Any) -> str:
    """What a field of a pydantic model takes: "a number above 0, at most 1", "a list, each a whole number from 1 on".

    Parameters
    ----------
    field : pydantic FieldInfo
    """
    return _said(field.annotation, field.metadata)


def _said(kind: Any, limits: Iterable[Any] = ()) -> str:
    """The same of a type and its limits."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = getattr(parts[1], "metadata", parts[1:])  # of a pydantic field, or the limits themselves
        return _said(parts[0], [*inner, *limits])
    if origin in (Union, types.UnionType):
        return " or ".join(_said(part, limits) for part in parts)
    if origin is Literal:
        return " or ".join(map(str, parts)) if len(parts) < 3 else "one of " + ", ".join(map(str, parts))
    if origin in (tuple, list):
        most = next((f" of at most {each.max_length}" for each in limits if hasattr(each, "max_length")), "")
        return f"a list{most}, each {_said(parts[0])}"
    said = SIMPLE.get(kind, "a value of another kind")
    return said + _limits(limits) if kind in (int, float) else said


def _limits(limits: Iterable[Any]) -> str:
    """From where to where a number goes."""
    found: dict[str, Any] = {}
    for each in limits:
        found |= {sign: getattr(each, sign) for sign in ("ge", "gt", "le", "lt") if hasattr(each, sign)}
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    if low is not None and low == high:
        return f" that is {low:.10g}"
    start = "" if low is None else f"from {low:.10g}" if "ge" in found else f"above {low:.10g}"
    end = "" if high is None else f"to {high:.10g}" if "le" in found else f"below {high:.10g}"
    if not end:
        return f" {start}{' on' if 'ge' in found else ''}" if start else ""
    if "ge" in found and "le" in found:
        return f" {start} {end}"
    return f" {start}, {end.replace('to ', 'at most ')}" if start else f" {end.replace('to ', 'up to ')}"
