"""Gradients written by hand that have no gradient themselves, and say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class _Last(torch.autograd.Function):
    """A gradient that cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("trying to differentiate twice a function that is once_differentiable")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a Function's `backward`: a second derivative raises RuntimeError.

    torch's own of this name raises only where the gradient that comes in is itself a function of something; of a loss
    that is not weighted it is a constant, and the second derivative would be missing in silence.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return found
        several = found if isinstance(found, tuple) else (found,)
        last = tuple(_Last.apply(g.detach().requires_grad_()) if isinstance(g, Tensor) else g for g in several)
        return last if isinstance(found, tuple) else last[0]

    return wrapper
