"""A grid of settings: its combinations, and how one is said."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Option

log = logging.getLogger("cellalign")
GRID = Option(
    "Values of a setting to try (repeatable).",
    metavar="KEY=VALUE,VALUE",
    text=list[str] | None,
    read=o.key_lists,
)


def of_each(grid: Mapping[str, Sequence[Any]] | None, methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Combinations of the settings of each method: of KEY, which all of them have, and of METHOD.KEY.

    A method that no setting is of has one, without any.

    Raises
    ------
    UsageError
        As `combinations`; METHOD is none of them, or one has a setting of all that another has not.
    """
    if grid is None:
        return {method: [{}] for method in methods}
    if not grid:
        list(combinations(grid))
    own: dict[str, dict[str, Sequence[Any]]] = {method: {} for method in methods}
    for key, values in grid.items():
        method, dot, inner = key.partition(".")
        if not dot:
            _check_all_have(key, values, methods)
            for each in own.values():
                each.setdefault(key, values)
        elif method in own:
            own[method][inner] = values
        else:
            raise UsageError(f"{option('grid', f'{key}=...')} is of none of the {option('methods')}")
    return {method: list(combinations(each)) if each else [{}] for method, each in own.items()}


def _check_all_have(key: str, values: Sequence[Any], methods: Sequence[str]) -> None:
    """UsageError where some methods have a setting and others have not; what none has is found where it is read."""
    from cellalign.engine.settings import known_to

    having = [method for method in methods if known_to(method, key)]
    lacking = [method for method in methods if method not in having]
    if having and lacking:
        listed = ",".join(map(str, values))
        alone = " ".join(option("grid", f"{method}.{key}={listed}") for method in having)
        have = "has" if len(lacking) == 1 else "have"
        raise UsageError(f"{', '.join(lacking)} {have} no setting {key!r}; for {', '.join(having)} alone: {alone}")


def of_preset(method: str, preset: str | None) -> Mapping[str, Sequence[Any]]:
    """What the paper of a preset searched, for who names no grid; empty where it says none."""
    from cellalign.methods.registry import preset_grid

    return preset_grid(preset, method) if preset else {}


def combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the settings' values, none of them twice: 1 and 1.0 are one value.

    Raises
    ------
    UsageError
        There is no setting, or one without a value.
    """
    if not grid or not all(grid.values()):
        raise UsageError(f"{option('grid', hint='KEY=VALUE,VALUE')} is needed with at least one setting and value")
    for values in itertools.product(*map(_once, grid.values())):
        yield dict(zip(grid, values, strict=True))


def _once(values: Sequence[Any]) -> list[Any]:
    """Values, those left out that came before."""
    return [value for i, value in enumerate(values) if not any(_same(value, before) for before in values[:i])]


def _same(a: Any, b: Any) -> bool:
    """Whether two values of a setting are one; true is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def tried_of(
    grid: Mapping[str, Sequence[Any]], method: str, preset: str | None
) -> tuple[Mapping[str, Sequence[Any]], list[dict[str, Any]]]:
    """The grid, or where none is given that of the preset, and its combinations; errors as `combinations`."""
    grid = grid or of_preset(method, preset)
    return grid, list(combinations(grid))


def warn_overruled(settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> None:
    """Warn of settings that are also in the grid, whose values are tried in place of theirs."""
    for key in settings:
        if key in grid:
            log.warning("%s varies %s: the value that it is set to beside is not used", option("grid"), key)


def said(combination: Mapping[str, Any]) -> str:
    """As "gamma=1, floor=null"."""
    return ", ".join(f"{key}={'null' if value is None else value}" for key, value in combination.items())
