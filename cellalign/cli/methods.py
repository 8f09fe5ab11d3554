"""cellalign methods: what can be trained, with which presets and settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cellalign.cli import common as c

NAME = "methods"
EXAMPLES = "Example: cellalign methods comp"


def command(
    method: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Show the settings of this one.")] = None,
    format: Annotated[
        c.TableFormat, typer.Option("--format", help="For people, or for programs.")
    ] = c.TableFormat.table,
) -> None:
    """List methods and presets, or the settings of one method with defaults and ranges."""
    c.start()
    if method is None:
        _list(format)
    else:
        _settings(method, format)


def _list(format: c.TableFormat) -> None:
    from cellalign.methods.registry import available

    rows = [
        [info.name, info.summary, info.reference, info.package, ", ".join(info.presets) or "-"]
        for info in available().values()
    ]
    c.print_rows("methods", ["method", "what it is", "reference", "package", "presets"], rows, format)


def _settings(name: str, format: c.TableFormat) -> None:
    from cellalign.engine.plan import Plan
    from cellalign.methods.registry import get

    cls = get(name)
    rows = []
    for model in (cls.Hyperparameters, Plan):
        for key, field in model.model_fields.items():
            default = cls.plan_defaults.get(key, field.default)
            rows.append([key, str(default), _range(field), field.description or ""])
    c.print_rows(f"settings of {name}", ["setting", "default", "range", "what it is"], rows, format)


def _range(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    choices = getattr(field.annotation, "__args__", ())
    if not bounds and choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    return ", ".join(bounds) or "-"
