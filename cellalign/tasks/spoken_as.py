"""How Python sees a task: its parameters in place of **options, also under the names that scanpy and scvi-tools use.

    @in_their_words
    @with_parameters_of(train)
    def tune(adata, *, grid, **options): ...

`inspect.signature(tune)`, and so tab completion and `help`, show the parameters themselves; `n_latent=10`,
`batch_key="site"` or `max_epochs=20` are taken for `latent_dim`, `batch` and `epochs`. One text where several may be
given is one of them: `holdout="cell_type=NK"`, not its letters; a number of numpy is one of Python.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from numbers import Number
from typing import Any, TypeVar, get_args

from cellalign.errors import UsageError, check_known, option
from cellalign.tasks.declaration import parameters

F = TypeVar("F", bound=Callable[..., Any])
# their name of a parameter: ours
PARAMETERS: Mapping[str, str] = {
    "n_latent": "latent_dim",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "learning_rate": "lr",
    "batch_key": "batch",
    "condition_key": "condition",
    "groupby": "condition",
    "labels_key": "label",
    "label_key": "label",
    "unlabeled_category": "unlabelled",
    "categorical_covariate_keys": "covariate",
    "continuous_covariate_keys": "numeric",
    "validation_size": "validation",
    "train_size": "validation",
    "accelerator": "device",
    "random_state": "seed",
    "n_jobs": "threads",
}
LISTS = ("batch", "covariate", "numeric")  # of several columns, where theirs is one
OF_SETTINGS = ("n_hidden", "n_layers", "gene_likelihood", "dropout_rate", "n_epochs_kl_warmup")
SEVERAL = re.compile(r"(typing\.)?(Annotated\[)?(collections\.abc\.)?Sequence\[")  # how such a parameter is declared
DEVICES = {"gpu": "cuda"}
LARGEST_SEED = 2**32 - 1  # of all libraries
# parameters of `train` that belong to a single run on disk
OF_A_RUN: tuple[str, ...] = (
    "from_",
    "learn",
    "missing_genes",
    "progress",
    "before",
    "order",
    "genes_by_all",
    "source",
    "model_path",
    "resume",
    "auto_resume",
)
OF_A_RUN += ("restart", "checkpoint_every", "wait", "force", "calibrate", "calibrate_folds", "seed")


def in_their_words(function: F) -> F:
    """Take a function's parameters also under the names of `PARAMETERS`, where it has those they stand for."""
    whole = inspect.signature(function).parameters
    known, closed = set(whole), not any(p.kind == p.VAR_KEYWORD for p in whole.values())
    lists = {name for name in LISTS if name in known and whole[name].default == ()}
    several = {name: p.default for name, p in whole.items() if SEVERAL.match(str(p.annotation))}

    @wraps(function)
    def taken(*args: Any, **given: Any) -> Any:
        from cellalign.data.said import told_once

        with told_once():  # of the same cells, which a verb may read more than once
            ours = given if known.issuperset(given) else _translated(given, known, lists)
            ours = {name: _as_ours(name, value, several) for name, value in ours.items()}
            if closed:
                unknown = [name for name in ours if name not in getattr(function, "passed_on", ())]
                check_known(function.__name__, unknown, known)
            _check_numbers(function, ours)
            return function(*args, **ours)

    return taken  # type: ignore[return-value]


def with_parameters_of(other: Callable[..., Any], but: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Show the keyword parameters of another function in place of **options."""

    def decorate(function: F) -> F:
        @wraps(function)
        def shown(*args: Any, **given: Any) -> Any:
            return function(*args, **given)

        own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        names = {parameter.name for parameter in own} | set(but)
        theirs = inspect.signature(other).parameters.values()
        more = [p for p in theirs if p.kind == p.KEYWORD_ONLY and p.name not in names]
        whole = inspect.signature(function).replace(parameters=[*own, *more])
        shown.__signature__ = whole  # type: ignore[attr-defined]
        shown.passed_on = frozenset(p.name for p in theirs)  # type: ignore[attr-defined]  # those not shown too
        return shown  # type: ignore[return-value]

    return decorate


def _as_ours(name: str, value: Any, several: Mapping[str, Any]) -> Any:
    """A number of numpy as Python's; one text of a parameter that takes several as a list, None as none of them.

    Raises
    ------
    UsageError
        A seed that the libraries refuse, each in its own way.
    """
    if isinstance(value, Number) and hasattr(value, "item"):
        value = value.item()
    if name == "seed" and (type(value) is not int or not 0 <= value <= LARGEST_SEED):
        raise UsageError(f"{option(name, value)} is no whole number from 0 to {LARGEST_SEED}")
    if name not in several:
        return value
    if isinstance(value, str):
        return [value]
    return () if value is None and several[name] == () else value


def _check_numbers(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """UsageError where a number is none, or out of the range in which the command line takes it."""
    for name, (kind, low, high) in _numbers(function).items():
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise UsageError(f"{option(name, value)} is no {'whole ' if kind is int else ''}number")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            ends = [f"{word} {end:g}" for word, end in (("at least", low), ("at most", high)) if end is not None]
            raise UsageError(f"{option(name)} must be {' and '.join(ends)}, not {value}")


@cache
def _numbers(function: Callable[..., Any]) -> dict[str, tuple[type, float | None, float | None]]:
    """Parameters that are options and take a number: which kind, and between which."""
    found = {}
    for parameter in parameters(function):
        kinds = {kind for kind in get_args(parameter.python_type) or (parameter.python_type,) if kind is not type(None)}
        if kinds in ({int}, {float}) and parameter.option.read is None:
            found[parameter.name] = (kinds.pop(), parameter.option.low, parameter.option.high)
    return found


def _translated(given: Mapping[str, Any], known: set[str], lists: set[str]) -> dict[str, Any]:
    """Arguments in our words; those that are neither's are left for Python to refuse."""
    from cellalign.engine.words import check_once

    found = dict(given)
    for theirs in [name for name in given if name in PARAMETERS and name not in known]:
        ours = PARAMETERS[theirs]
        if ours not in known:
            continue
        check_once(theirs, ours, {k: v for k, v in found.items() if v is not None and k != theirs})
        value = found.pop(theirs)
        if theirs == "train_size" and value is not None:
            value = round(1 - value, 12)
        if ours == "device":
            value = DEVICES.get(value, value)
        if ours in lists:
            value = () if value is None else [value] if isinstance(value, str) else list(value)
        found[ours] = value
        if theirs == "continuous_covariate_keys" and "covariate" in known:
            found["covariate"] = [*(found.get("covariate") or ()), *value]
    own = [name for name in OF_SETTINGS if name in found and name not in known]
    if own and "settings" in known and "methods" not in known:
        found["settings"] = {**(found.get("settings") or {}), **{name: found.pop(name) for name in own}}
    return found
