"""Compiled loops on the threads that torch computes with.

Threads of one's own beside them, numba's or Python's, gain nothing: torch's wait for their next task busily, so there
would be two for every core. And they must not need the interpreter: waking up for its lock takes a tenth of a
millisecond.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
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
    """What runs a function once on every thread, of the OpenMP library that torch is linked to, GNU's or LLVM's."""
    try:
        run = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):  # not Linux
        return None
    run.argtypes, run.restype = (ADDRESS, ADDRESS, ctypes.c_uint, ctypes.c_uint), None
    return run


def parts_of(n: int, least: int) -> int:
    """Into how many parts n things are best divided, `least` of which are worth a thread."""
    threads = torch.get_num_threads() if _on_every_thread() else 1
    return max(1, min(threads, n // least))


def order_of(*names: str) -> np.dtype:
    """An order: which part is the next, how many there are, and numbers or addresses of these names."""
    return np.dtype([(name, np.int64) for name in ("next", "parts", *names)])


def carry_out(task: Any, order: np.dtype, parts: int, **given: Tensor | int) -> None:
    """Have all threads do the parts of an order.

    Parameters
    ----------
    task : numba.cfunc
        Is given the address of the order, and does the `next_part` while there is one.
    order : dtype
        As of `order_of`.
    parts : int
    given : tensors and ints
        What the order names. Of tensors the address: the task trusts them to be contiguous and of the type it reads.
    """
    filled, run = np.zeros(1, order), _on_every_thread()
    filled["parts"] = parts
    for name, value in given.items():
        filled[name] = value.data_ptr() if isinstance(value, Tensor) else value
    if run is None or parts == 1:
        task.ctypes(filled.ctypes.data)
    else:
        run(task.address, filled.ctypes.data, torch.get_num_threads(), 0)


@intrinsic
def next_part(typing: Any, order: Any) -> Any:
    """The number of a part that no thread has begun, by the address of the order; beyond the last when none is left."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        return builder.atomic_rmw(
            "add", builder.bitcast(arguments[0], number.as_pointer()), ir.Constant(number, 1), "monotonic"
        )

    return numba.int64(VOID), generate


@intrinsic
def at(typing: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return VOID(numba.int64), generate
