"""What a method is trained with: presets, files and single settings merged into hyperparameters and a plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cellalign.engine.allowed import allowed
from cellalign.engine.plan import OF_STEPS, Plan
from cellalign.engine.words import translated
from cellalign.errors import UsageError, nearest
from cellalign.methods.base import Method, Trains, old_names
from cellalign.methods.capabilities import Stacks
from cellalign.methods.registry import get, preset_settings

log = logging.getLogger("cellalign")


def known_to(method: str, key: str) -> bool:
    """Whether a method takes a setting of this name, or of an earlier one, or in another package's words."""
    cls = get(method)
    known = {name: field.default for name, field in {**cls.Hyperparameters.model_fields, **Plan.model_fields}.items()}
    ours = {cls.renamed_settings.get(key, key): 1}
    return any(name in known for name in translated(ours, known))


def plan_of(cls: type[Method]) -> dict[str, Any]:
    """Fields of the plan that do something in a method: of a closed form not those of steps."""
    idle = () if issubclass(cls, Trains | Stacks) else OF_STEPS
    return {name: field for name, field in Plan.model_fields.items() if name not in idle}


def resolve_settings(
    cls: type[Method],
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    named: Mapping[str, Any] | None = None,
    expression: str | None = None,
    n_features: int | None = None,
    images: bool = False,
    n_cells: int | None = None,
    number: bool = False,
) -> tuple[Any, Plan]:
    """Hyperparameters and plan of a method: preset, then config, then settings, then named arguments not None.

    Parameters
    ----------
    expression : "any", optional
        The values are no expression but any real ones, for which a method may have defaults of its own.
    n_features : int, optional
        Columns of the matrix, where they are known.
    images : bool
        Whether these are pixels, for which a method may have defaults of its own too.
    n_cells : int, optional
        Cells of the input, where they are known.
    number : bool
        Whether the condition is a number, for which a method may have defaults of its own too.

    Raises
    ------
    UsageError
        An unknown preset or key, or a value out of range.
    """
    own: Mapping[str, Any] = cls.defaults_of_number(n_features) if number else {}
    if expression == "any":
        own = {**own, **cls.defaults_of_any(n_features, n_cells)}
    elif images:
        own = {**own, **cls.defaults_of_images()}
    published = preset_settings(preset, cls.name) if preset else own
    given = {key: value for key, value in (named or {}).items() if value is not None}
    return merge_settings(cls, [published, config or {}, settings or {}, given])


def merge_settings(cls: type[Method], layers: Sequence[Mapping[str, Any]]) -> tuple[BaseModel, Plan]:
    """Merge settings, later ones winning, into a method's hyperparameters and the training plan.

    Raises
    ------
    UsageError
        An unknown key (the nearest known one is named), or a value out of range.
    """
    merged: dict[str, Any] = dict(cls.plan_defaults)
    own, plan = cls.Hyperparameters.model_fields, Plan.model_fields
    defaults = {key: field.default for key, field in (*own.items(), *plan.items())}
    for layer in layers:
        for old, new in old_names(cls.renamed_settings, layer).items():
            log.info("setting %r is called %r now", old, new)
            layer = {new if key == old else key: value for key, value in layer.items()}
        merged.update(translated(layer, defaults))
    unknown = [key for key in merged if key not in own and key not in plan]
    if unknown:
        known = sorted([*own, *plan_of(cls)])
        raise UsageError(
            f"unknown setting {unknown[0]!r}.{nearest(unknown[0], known)} Settings of {cls.name}: {', '.join(known)}"
        )
    try:
        hyperparameters = cls.Hyperparameters(**{k: v for k, v in merged.items() if k in own})
        return hyperparameters, Plan(**{k: v for k, v in merged.items() if k in plan})
    except ValidationError as error:
        raise _out_of_range(error, merged, own | plan) from error


def _out_of_range(error: ValidationError, given: Mapping[str, Any], fields: Mapping[str, Any]) -> UsageError:
    """The first setting that is out of range, with the range; a rule of the method's own is said as it says it."""
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    value = given.get(key, first["input"])
    own_rule = key not in fields or first["type"] in ("value_error", "assertion_error")
    said = first["msg"].lower() if own_rule else f"it takes {allowed(fields[key])}"
    return UsageError(f"{key}={value!r} is out of range: {said}")
