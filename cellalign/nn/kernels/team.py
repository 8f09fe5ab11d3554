"""Compiled loops on the threads that torch computes with.

Others beside them, of Python for instance, gain nothing: torch's wait for their next task busily, so there would be two
for every core. numba's own parallel loops run on whatever OpenMP library they find and set its number of threads. And a
loop must not need the interpreter: waking up for its lock takes a tenth of a millisecond.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic
from torch import Tensor

ADDRESS, VOID = ctypes.c_void_p, numba.types.voidptr


@cache
def _on_every_thread() -> Callable[..., None] | None:
    """What runs a function once on every thread, of the OpenMP library that torch runs on, GNU's or LLVM's."""
    for library in (None, "libtorch_cpu.so"):  # what is loaded for all, then what torch is linked to
        try:
            run = ctypes.CDLL(library).GOMP_parallel
        except (OSError, AttributeError, TypeError):
            continue
        run.argtypes, run.restype = (ADDRESS, ADDRESS, ctypes.c_uint, ctypes.c_uint), None
        return run
    return None  # not Linux


def threads() -> int:
    """How many threads carry out an order."""
    return torch.get_num_threads() if _on_every_thread() else 1


def parts_of(n: int, least: int) -> int:
    """Into how many parts n things are best divided, `least` of which are worth a thread."""
    return max(1, min(threads(), n // least))


def order_of(*names: str) -> np.dtype:
    """An order: numbers and addresses of these names, the first of them next, done and parts.

    A task names them all itself, so that numba sees when they change.
    """
    return np.dtype([(name, np.int64) for name in names])


def carry_out(task: Any, order: np.dtype, parts: int, **given: Tensor | int) -> None:
    """Have all threads do the parts of an order.

    Parameters
    ----------
    task : numba.cfunc
        Is given the address of the order, and does the `next_part`, and says that it is `done`, while there is one.
    order : dtype
        As of `order_of`.
    parts : int
    given : tensors and ints
        What else the order names. Of tensors the address: the task trusts them to be of the type it reads, and in one
        piece (`indices`, `floats`).

    Raises
    ------
    MemoryError
        If a part was left undone: nothing else can fail in a task, and numba drops its exceptions.
    """
    filled, run = np.zeros(1, order), _on_every_thread()
    filled["parts"] = parts
    for name, value in given.items():
        filled[name] = value.data_ptr() if isinstance(value, Tensor) else value
    if run is None or parts == 1:
        task.ctypes(filled.ctypes.data)
    else:
        run(task.address, filled.ctypes.data, torch.get_num_threads(), 0)
    if filled["done"][0] != parts:
        raise MemoryError


def indices(values: Tensor) -> Tensor:
    """As tasks read them."""
    return values.long().contiguous()


def floats(values: Tensor) -> Tensor:
    """As tasks read them."""
    return values.detach().float().contiguous()


# The rest is compiled into every task, and orders begin as it expects. numba keeps tasks on disk until their own file
# changes: what changes here must change there too.
NEXT, DONE = 0, 1


def _count(builder: Any, order: Any, place: int) -> Any:
    number = ir.IntType(64)
    counter = builder.gep(builder.bitcast(order, number.as_pointer()), [ir.Constant(number, place)])
    return builder.atomic_rmw("add", counter, ir.Constant(number, 1), "monotonic")


@intrinsic
def next_part(typing: Any, order: Any) -> Any:
    """The number of a part that no thread has begun, by the address of the order; beyond the last when none is left."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return _count(builder, arguments[0], NEXT)

    return numba.int64(VOID), generate


@intrinsic
def done(typing: Any, order: Any) -> Any:
    """A part of the order at this address is done: how many were before."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return _count(builder, arguments[0], DONE)

    return numba.int64(VOID), generate


@intrinsic
def at(typing: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return VOID(numba.int64), generate
