"""An operation registered with torch, by the part of `torch.library` that needs no compiler.

`torch.library.custom_op` does the same, but around every kernel it puts a call that imports torch's compiler: 1,500
modules, a second before the first training step. Traced and compiled these operations are the same: what is called in
a graph is the operation, not the Python behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("cellalign", "FRAGMENT")


class Operation:
    """`torch.ops.cellalign.<name>`, which changes none of its arguments and returns none of them."""

    def __init__(self, name: str, function: Callable[..., Any], *, schema: str) -> None:
        """Define the operation.

        Parameters
        ----------
        name : str
        function : callable
            Its form for every device that has no kernel of its own.
        schema : str
            Arguments and results as torch writes them.
        """
        self.name = name
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.overload = getattr(torch.ops.cellalign, name).default

    def __call__(self, *arguments: Any) -> Any:
        """Its results, by the form for the tensors' device."""
        return self.overload(*arguments)

    def register_kernel(self, device: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: the form for a device."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            _LIBRARY.impl(self.name, function, device.upper())
            return function

        return register

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: results without values, of which a tracer learns shapes and types."""
        return torch.library.register_fake(f"cellalign::{self.name}", function, lib=_LIBRARY)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """The gradient, as `torch.library.register_autograd` takes it."""
        torch.library.register_autograd(f"cellalign::{self.name}", backward, setup_context=setup_context, lib=_LIBRARY)
