"""What a training says of settings that were asked for and change nothing in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellalign.data.said import Note
from cellalign.errors import option

if TYPE_CHECKING:
    from cellalign.methods.base import Method
# of a method without steps
# of a method without steps
AS_IT_IS = {"precision": ("auto", "float32"), "early_stopping": (False,), "validation": (0,)}


def unheeded(cls: type[Method], hyperparameters: Any, asked: Mapping[str, Any], n_validation: int) -> Iterator[Note]:
    """What is to be said of settings that do nothing here.

    Parameters
    ----------
    cls : subclass of Method
    hyperparameters : its settings
    asked : mapping
        Parameters of `train`; presets and files of settings are of whole runs, and nothing is said of theirs.
    n_validation : int
        Cells to validate on.
    """
    from cellalign.engine.plan import OF_STEPS, Plan
    from cellalign.engine.words import translated
    from cellalign.methods.capabilities import Stacks, by_steps

    given = dict(asked.get("settings") or {})
    ours = translated(given, dict.fromkeys([*cls.Hyperparameters.model_fields, *Plan.model_fields]))
    idle = (*OF_STEPS, "validation") if issubclass(cls, Stacks) else OF_STEPS
    named = {name: asked[name] for name in idle if asked.get(name) is not None}
    if not by_steps(cls, hyperparameters):
        said = [option(name, value) for name, value in named.items() if value not in AS_IT_IS.get(name, ())]
        said += [f"{name}={value}" for name, value in ours.items() if name in idle and name not in named]
        if said:
            do = "does" if len(said) == 1 else "do"
            rows = "; a batch size is rows read at a time, and changes rounding alone"
            more = rows if "batch_size" in named | ours else ""
            yield logging.INFO, f"{', '.join(said)} {do} nothing: {cls.name} is computed at once, not by steps{more}"
    elif (ours | named).get("early_stopping") is True and not n_validation:
        more = option("validation", 0.1)
        yield (
            logging.WARNING,
            f"{option('early_stopping', True)} does nothing: without cells to validate on, no training stops early; "
            f"{more} keeps some",
        )
