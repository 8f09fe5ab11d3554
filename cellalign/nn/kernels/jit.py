"""How loops are compiled, and how their ranges are run: on one thread, or by numba's prange on several.

A range kernel is a plain function `kernel(first, last, part, arrays)` of the rows [first, last), which knows by `part`
which scratch memory is its own. It must not allocate or raise: numba loses the exceptions of all threads but one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numba
import numpy as np
import torch
from numba import types

from cellalign.nn.kernels.cache import keep_on_disk

log = logging.getLogger("cellalign")

F, D = np.float32, np.float64
VECTOR, MATRIX, INDICES = types.float32[::1], types.float32[:, ::1], types.int64[::1]
# not nnan or ninf, which allow to assume that nothing is NaN: a diverged training must show
FASTMATH = {"contract", "nsz", "arcp"}

# numba ends a forked process that calls it in parallel after its parent did: OpenMP's threads do not survive a fork
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def compiled(function: Callable[..., Any] | None = None, *, fastmath: Iterable[str] = (), **options: Any) -> Any:
    """Decorator: compiled at the first call, with further fastmath flags.

    Parameters
    ----------
    function : callable
    fastmath : flags of LLVM
        "reassoc" lets values be added or compared in any order, which vector instructions need.
    **options
        Of `numba.njit`.
    """
    if function is None:
        return lambda function: compiled(function, fastmath=fastmath, **options)
    return numba.njit(function, fastmath=FASTMATH | set(fastmath), error_model="numpy", nogil=True, **options)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: compiled as part of its callers; a call would keep their loops from becoming vector instructions."""
    return compiled(function, forceinline=True)


class RangeKernel:
    """A range kernel with all that it takes to run it.

    Parameters
    ----------
    serial : compiled function
        The range kernel.
    parallel : compiled function with ``parallel=True``
        Calls it for `parts` ranges of n rows in a `numba.prange`, as `parallel(n, parts, arrays)`.
    arrays : numba types
        Of what the tuple `arrays` holds.
    """

    def __init__(self, serial: Any, parallel: Any, arrays: Iterable[types.Type]) -> None:
        self.serial, self.parallel, self.arrays = serial, parallel, types.Tuple(tuple(arrays))

    @cached_property
    def ready(self) -> bool:
        """True once it is compiled, or read from the disk; whatever numba raises goes to the caller."""
        keep_on_disk(self.serial)
        self.serial.compile((types.int64, types.int64, types.int64, self.arrays))
        return True

    @cached_property
    def threaded(self) -> bool:
        """Whether several threads may run it: on Linux, where numba uses OpenMP, and with it the threads of torch.

        Others would compete with torch's, which wait busily for their next task, and one is as fast
        (benchmarks/README.md). numba's own pool besides ends the process when two Python threads use it at a time.
        """
        if sys.platform != "linux":
            return False
        threads = torch.get_num_threads()
        try:
            keep_on_disk(self.parallel)
            self.parallel.compile((types.int64, types.int64, self.arrays))
            layer = numba.threading_layer()
        except Exception as error:
            log.debug("compiled loops run on one thread: %s", error)
            return False
        finally:
            if torch.get_num_threads() != threads:  # numba starts OpenMP with as many as it has itself
                torch.set_num_threads(threads)
        if layer != "omp":
            log.debug("compiled loops run on one thread: numba uses %s, not OpenMP (libgomp.so.1)", layer)
        return layer == "omp"

    def threads(self) -> int:
        """How many threads run it: those of torch, where it can have several."""
        wanted = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        return wanted if wanted > 1 and not _forked and self.threaded else 1

    def parts(self, n: int, least: int) -> int:
        """Into how many ranges n rows are best divided, `least` of which are worth a thread."""
        wanted = n // least
        return min(wanted, self.threads()) if wanted > 1 else 1

    def run(self, n: int, parts: int, arrays: tuple[Any, ...]) -> None:
        """Run n rows in so many ranges, on as many threads as torch has: libgomp would end those left out."""
        threads = self.threads() if parts > 1 else 1
        if threads == 1:
            for part in range(parts):
                self.serial(n * part // parts, n * (part + 1) // parts, part, arrays)
            return
        before = numba.get_num_threads()
        numba.set_num_threads(threads)  # of this Python thread alone
        try:
            self.parallel(n, parts, arrays)
        finally:
            numba.set_num_threads(before)


def floats(values: torch.Tensor) -> torch.Tensor:
    """As kernels read them."""
    return values.detach().float().contiguous()


def indices(values: torch.Tensor) -> torch.Tensor:
    """As kernels read them."""
    return values.long().contiguous()


def as_arrays(*tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    """As numpy, which has no bfloat16, sees them: that as its bits."""
    bits = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values for values in tensors)
    return tuple(values.numpy() for values in bits)
