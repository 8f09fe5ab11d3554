"""methods: what can be trained, with which presets and settings, and what the scores mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of

if TYPE_CHECKING:
    import pandas as pd


def list_methods(method: str | None = None) -> pd.DataFrame:
    """Methods with their presets, or the settings of one method.

    Parameters
    ----------
    method : str, optional

    Returns
    -------
    DataFrame of str
        One row per method (method, what it is, reference, package, presets), or per setting of the method named
        (setting, default, range, what it is).

    Raises
    ------
    UsageError
        No such method.
    """
    import pandas as pd

    return pd.DataFrame(_methods() if method is None else _settings(method))


@command_of(list_methods, name="methods", example="cellalign methods comp")
def command(
    call: Call,
    method: Annotated[str | None, Argument("Show the settings of this one.", metavar="[METHOD]")] = None,
    metrics: Annotated[bool, Option("List the scores that commands print: meaning, and which way is better.")] = False,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
) -> None:
    """List methods and presets, or the settings of one method with defaults and ranges, or all metrics."""
    if metrics:
        _print_metrics(call, method, format)
        return
    rows = _methods() if method is None else _settings(method)
    title = "methods" if method is None else f"settings of {method}"
    call.print_rows(title, list(rows[0]), [list(row.values()) for row in rows], format, prose=True)


def _print_metrics(call: Call, method: str | None, format: str) -> None:
    from cellalign.evaluation.catalogue import about, catalogue

    if method is not None:
        raise UsageError(f"{method} and {option('metrics', True)} ask for two lists; leave out one")
    found = catalogue()
    if format != "table":
        rows = [[each.name, where, str(each.better), each.null, each.meaning] for where, each in found]
        call.print_rows("metrics", ["metric", "panel", "better", "null", "meaning"], rows, format)
        return
    for panel in dict.fromkeys(where for where, _ in found):
        rows = [[each.heading, each.meaning, each.null] for where, each in found if where == panel]
        call.print_rows(about(panel), ["metric", "meaning", "without any signal"], rows, format, prose=True)


def _methods() -> list[dict[str, str]]:
    from cellalign.methods.registry import available

    return [
        {
            "method": info.name,
            "what it is": info.summary,
            "reference": info.reference,
            "package": info.package,
            "presets": ", ".join(info.presets) or "-",
        }
        for info in available().values()
    ]


def _settings(name: str) -> list[dict[str, str]]:
    from cellalign.engine.plan import Plan
    from cellalign.methods.registry import get

    cls = get(name)
    return [
        {
            "setting": key,
            "default": str(cls.plan_defaults.get(key, field.default)),
            "range": _range(field),
            "what it is": field.description or "",
        }
        for model in (cls.Hyperparameters, Plan)
        for key, field in model.model_fields.items()
    ]


def _range(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    choices = getattr(field.annotation, "__args__", ())
    if not bounds and choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    return ", ".join(bounds) or "-"
