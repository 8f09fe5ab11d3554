"""Picks the device and prepares it."""

from __future__ import annotations

import ctypes
import os
from functools import cache

import torch

from cellalign.errors import UsageError

# glibc's mallopt: what it calls them, and the values
_KEEP_FREED = {-3: 32 << 20, -1: 256 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def pick_device(name: str = "auto", threads: int | None = None) -> torch.device:
    """The device to run on: a GPU where there is one.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "cuda:N", "mps"}
    threads : int, optional
        CPU threads for torch.

    Raises
    ------
    UsageError
        Unknown name, or a device this machine lacks.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    kind = name.partition(":")[0]
    if kind not in has:
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda or mps")
    if not has[kind]:
        raise UsageError(f"device {name!r} is not there; use --device auto or cpu")
    if kind == "cpu":
        keep_freed_memory()
    if kind == "cuda":
        # the same seed, input and device give the same file
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(name)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep up to 256 MiB that were freed: the next training step needs the same megabytes again.

    By default glibc may hand them back at the end of every step, and each page is then mapped anew: 2 to 4 of 20 ms of
    a step of scVI (benchmarks/README.md). It holds for the whole process, for blocks under 32 MiB. Where the user has
    set MALLOC_ variables or glibc's tunables, or there is no glibc, nothing is done.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _KEEP_FREED.items():
        mallopt(parameter, value)
