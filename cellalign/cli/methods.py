"""cellalign methods: what can be trained, with which presets and settings, and what the scores mean."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cellalign.cli import common as c

NAME = "methods"
EXAMPLES = "Example: cellalign methods comp"


def command(
    method: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Show the settings of this one.")] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="List the scores that commands print: meaning, and which way is better.")
    ] = False,
    format: Annotated[
        c.TableFormat, typer.Option("--format", help="For people, or for programs.")
    ] = c.TableFormat.table,
) -> None:
    """List methods and presets, or the settings of one method with defaults and ranges, or all metrics."""
    c.start()
    if metrics:
        _metrics(method, format)
    elif method is None:
        _list(format)
    else:
        _settings(method, format)


def _list(format: c.TableFormat) -> None:
    from cellalign.methods.registry import available

    rows = [
        [info.name, info.summary, info.reference, info.package, ", ".join(info.presets) or "-"]
        for info in available().values()
    ]
    c.print_rows("methods", ["method", "what it is", "reference", "package", "presets"], rows, format, prose=True)


def _settings(name: str, format: c.TableFormat) -> None:
    from cellalign.engine.plan import Plan
    from cellalign.methods.registry import get

    cls = get(name)
    rows = []
    for model in (cls.Hyperparameters, Plan):
        for key, field in model.model_fields.items():
            default = cls.plan_defaults.get(key, field.default)
            rows.append([key, str(default), _range(field), field.description or ""])
    c.print_rows(f"settings of {name}", ["setting", "default", "range", "what it is"], rows, format, prose=True)


def _metrics(method: str | None, format: c.TableFormat) -> None:
    from cellalign.errors import UsageError
    from cellalign.evaluation.catalogue import about, catalogue

    if method is not None:
        raise UsageError(f"{method} and --metrics ask for two lists; leave out one")
    found = catalogue()
    if format is not c.TableFormat.table:
        rows = [[each.name, where, str(each.better), each.null, each.meaning] for where, each in found]
        c.print_rows("metrics", ["metric", "panel", "better", "null", "meaning"], rows, format)
        return
    for panel in dict.fromkeys(where for where, _ in found):
        rows = [[each.heading, each.meaning, each.null] for where, each in found if where == panel]
        c.print_rows(about(panel), ["metric", "meaning", "without any signal"], rows, format, prose=True)


def _range(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    choices = getattr(field.annotation, "__args__", ())
    if not bounds and choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    return ", ".join(bounds) or "-"
