"""Arrays and text within a page: small, and with nothing in them that a browser would take for markup."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

STEPS = 65535  # of coordinates and numbers: finer than any screen
KINDS = {"float32": "f4", "uint8": "u1", "uint16": "u2", "uint32": "u4", "int8": "i1", "int16": "i2"}
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def packed(values: Any) -> dict[str, Any]:
    """An array as Plotly takes one: its kind, and its bytes in base64."""
    array = np.ascontiguousarray(values)
    if array.dtype.name not in KINDS:
        array = array.astype(np.float32)
    little = array.astype(array.dtype.newbyteorder("<"))
    found: dict[str, Any] = {"dtype": KINDS[array.dtype.name], "bdata": base64.b64encode(little.tobytes()).decode()}
    if array.ndim > 1:
        found["shape"] = ", ".join(map(str, array.shape))
    return found


def indices(values: Any) -> dict[str, Any]:
    """Whole numbers from 0, in as few bytes as hold them."""
    array = np.asarray(values)
    top = int(array.max(initial=0))
    return packed(array.astype(np.uint8 if top < 256 else np.uint16 if top < 65536 else np.uint32))


def in_steps(values: Any) -> dict[str, Any]:
    """Numbers as steps between their least and their greatest; the last step stands for what is missing."""
    array = np.asarray(values, dtype=np.float64)
    there = array[np.isfinite(array)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
    with np.errstate(invalid="ignore"):
        steps = np.round((array - low) / ((high - low) or 1.0) * (STEPS - 1))
    return {"low": low, "high": high, **packed(np.where(np.isfinite(array), steps, STEPS).astype(np.uint16))}


def as_json(value: Any) -> str:
    """JSON to be put between script tags: it holds no <, > or &, and null for what is no number."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, code in ESCAPED.items():
        text = text.replace(letter, code)
    return text


def _plain(value: Any) -> Any:
    """Without numpy's types, and None for NaN and infinite numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
