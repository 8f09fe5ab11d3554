"""How the effects of several conditions are added up: a+b as an intervention on what a method knows of a and of b."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

from cellalign.data.interventions import Intervention
from cellalign.data.said import tell
from cellalign.errors import ModelError, UsageError, option
from cellalign.methods.base import CONDITION, Predicts
from cellalign.methods.capabilities import Rule
from cellalign.methods.observed import rules

if TYPE_CHECKING:
    from cellalign.model import Model

RULES = {
    "observed": "the mean changes observed of the trained cells added up, not the model's own",
    "expression": "the changes of expression added up",
    "latent": "the changes of latents added up",
}


def _several(asked: Intervention) -> tuple[str, tuple[str, ...]] | None:
    """The column of categories that is asked to have several at once, and these."""
    both = zip(asked.fields, asked.values, strict=True)
    return next(((f.name, v) for f, v in both if isinstance(v, tuple) and f.kind == "categorical"), None)


def rule_of(model: Model, asked: Intervention, combine: str) -> str:
    """How the effects of several conditions are added up, which is told; "" where one at most is asked for."""
    if combine not in ("auto", *get_args(Rule)):
        raise UsageError(f"{option('combine', combine)} is none of auto, {', '.join(get_args(Rule))}")
    method, several = model.needs(Predicts), _several(asked)
    if several is None:
        return ""
    name, values = several
    if CONDITION not in method.responds_to:
        raise ModelError(
            f"method {model.name!r} does not see {name!r}: it has no effects of {' and '.join(values)} to add up"
        )
    known = rules(method)
    rule = known[0] if combine == "auto" else combine
    if rule not in known:
        raise UsageError(f"method {model.name!r} adds up conditions in {' or '.join(known)} alone, not in {rule}")
    what = RULES[rule] if model.expression != "counts" or rule != "expression" else "fold changes multiplied"
    tell(logging.INFO, f"{name}={'+'.join(values)} by an additive rule: {what} ({option('combine', rule)})")
    return rule


def added_up(model: Model, asked: Intervention, rule: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the method is asked for: of several conditions added up in expression the control, and each by itself.

    Of observed changes all but these conditions; of latents, and of one condition, what is asked for.
    """
    several = _several(asked)
    if several is None or rule == "latent":
        return dict(asked.changes), []
    name, values = several
    rest = {key: value for key, value in asked.changes.items() if key != name}
    if rule == "observed":
        return rest, []
    start = rest if model.control is None else rest | {name: model.control}
    return start, [rest | {name: value} for value in values]
