"""A model in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellalign.model import Model

NAMED = 6  # conditions that are named


def summary(model: Model) -> str:
    """Method and sizes; the columns with their values; how it was trained."""
    latents = getattr(model.method.hp, "latent_dim", None)
    parts = [f"{model.name}: {len(model.genes):,} genes" + (f", {latents} latents" if latents else "")]
    return "; ".join([*parts, *_columns(model), _training(model)])


def _columns(model: Model) -> list[str]:
    """The condition with its values, the reference marked; the other columns with how many values they have."""
    roles, parts = model.roles, []
    if roles.condition is not None:
        known = roles.categories.get(roles.condition, [])
        named = [f"{name} (reference)" if name == roles.control else name for name in known[:NAMED]]
        more = [f"... ({len(known)})"] if len(known) > NAMED else []
        parts.append(f"{roles.condition}: {', '.join([*named, *more]) or 'a number'}")
    for role, keys in (("batch", roles.batches), ("covariate", roles.covariates), ("label", (roles.label,))):
        for key in keys:
            if key is not None:
                size = len(roles.categories[key]) if key in roles.categories else "a number"
                parts.append(f"{role}: {key} ({size})")
    return parts


def _training(model: Model) -> str:
    epochs = model.spec.get("outcome", {}).get("epochs")
    parts = [f"trained on {model.spec['cells']['trained']:,} cells"]
    parts += [f"{epochs} epochs"] if epochs else []
    return ", ".join([*parts, f"seed {model.spec['seed']}"])
