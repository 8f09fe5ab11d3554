"""What of a file `train` with these options reads: which matrix, and which columns of obsm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellalign.tasks.prepare import what_is_read


def matrix_for(
    method: str,
    *,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    layer: str | None = None,
    expression: str | None = None,
) -> tuple[str, ...]:
    """Names of the matrices that `train` with these options reads, of which the first that is there counts.

    Returns
    -------
    tuple of str
        "X" or a layer's name: what has to be loaded of a file.

    Raises
    ------
    UsageError
        Unknown method, preset or setting.
    """
    from cellalign.data.matrices import MATRICES

    return (layer,) if layer is not None else MATRICES[expression_for(method, preset, config, settings, expression)]


def expression_for(
    method: str,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    expression: str | None = None,
) -> str:
    """What `train` with these options reads: "log", "counts" or "any"; errors as `matrix_for`."""
    from cellalign.engine.settings import resolve_settings
    from cellalign.methods.registry import get

    cls = get(method)
    return what_is_read(cls, resolve_settings(cls, preset, config, settings)[0], expression)


def vectors(kinds: Mapping[str, str] | None) -> list[str]:
    """Those of the columns that lie in obsm."""
    from cellalign.data.fields import Column

    return [key for key, kind in (kinds or {}).items() if kind in Column.KINDS and Column.KINDS[kind].in_obsm]
