"""The panels: every module here that defines a subclass of `Panel` adds it, and needs to be named nowhere else."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from cellalign.evaluation.panel import Panel


def _found() -> dict[str, type[Panel]]:
    """The panels by name, in the order in which they run and are printed."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    classes = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Panel) and value.__module__ == module.__name__
    ]
    return {cls.name: cls for cls in sorted(classes, key=lambda cls: (cls.order, cls.name))}


PANELS = _found()
