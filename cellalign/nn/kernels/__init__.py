"""Loops compiled for CPUs by numba, each beside the tensor operations that other devices run.

They are imported where they first run: numba takes half a second. What is compiled is kept beside the package, or
where that is not writable in the user's cache, or where NUMBA_CACHE_DIR says, so only the first training ever takes the
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import numba
import numpy as np

F, D = np.float32, np.float64


def compiled(function: Callable[..., Any], further: Set[str] = frozenset(), **options: Any) -> Callable[..., Any]:
    """Compiled as part of a task, with `further` licences for its arithmetic."""
    # no leave to assume that nothing is NaN: a diverged training must show
    flags = {"contract", "nsz", "arcp"}
    return numba.njit(function, fastmath=flags | further, error_model="numpy", **options)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled as part of its callers: a call would keep their loops from becoming vector instructions."""
    return compiled(function, forceinline=True)


def reducing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled so that values may be added up in any order."""
    return compiled(function, further={"reassoc"})


def finding(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled so that values may be compared in any order; of those that are NaN nothing is known."""
    return compiled(function, further={"reassoc", "nnan"})


def task(function: Callable[..., Any]) -> Any:
    """Compiled and kept on disk, for `team.carry_out`, which gives it the address of an order.

    numba takes what is kept for current while the function's own file is: no constant of another file may go into it.
    """

    def compile_it(**options: Any) -> Any:
        return numba.cfunc(numba.void(numba.types.voidptr), error_model="numpy", **options)(function)

    try:
        return compile_it(cache=True)
    except (RuntimeError, OSError):  # nowhere to keep it, or the disk is full
        return compile_it()
