"""How much memory networks may take, held to before it is taken: a number of settings too many is gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cellalign import memory

BY_SIZE = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}
SLACK = 1 << 26  # bytes that are let go again while a network is made


class TooLarge(Exception):
    """More would be taken than there may be; the message says how much at least."""


class _Counting(TorchFunctionMode):
    """Adds up the tensors that are made, and ends before one goes beyond."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self.at_most, self.taken = at_most, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        size = _size(func, args, kwargs)
        if size is not None:
            # of that size, without memory; others than empty would import torch's compiler there
            planned = torch.empty(*size, dtype=kwargs.get("dtype"), device="meta")
            self.taken += planned.numel() * planned.element_size()
            if self.taken > self.at_most:
                raise TooLarge(f"{memory.said(self.taken)} or more")
        return func(*args, **kwargs)


def _size(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any] | None:
    """The size of the tensor that a call makes; None of one that makes none."""
    if func in BY_SIZE:
        return args or (kwargs["size"],)
    if func is torch.full:
        return (args[0] if args else kwargs["size"],)
    if func is torch.eye:
        return args[:2] if len(args) > 1 else (args[0], kwargs.get("m", args[0]))
    return None


@contextmanager
def within(at_most: int | None) -> Iterator[None]:
    """Tensors made within take so many bytes together, or `TooLarge` is raised before the next one is made.

    Parameters
    ----------
    at_most : int, optional
        No limit where it is None.
    """
    if at_most is None:
        yield
        return
    with _Counting(at_most):
        yield


def room_for(weights: Mapping[str, Tensor]) -> int:
    """Bytes that a network of these weights may take while it is made: a few times theirs, and a little."""
    return SLACK + 4 * sum(values.nbytes for values in weights.values())
