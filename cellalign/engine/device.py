"""Picks the device and prepares it, for one computation or, on the command line, for the whole process."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numpy as np
import torch

from cellalign.errors import TrainingError, UsageError, option
from cellalign.records import Machine
from cellalign.threads import check, limited

# glibc's mallopt: what it calls them, and the values
_KEEP_FREED = {-3: 32 << 20, -1: 256 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
T = TypeVar("T")
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE = (":4096:8", ":16:8")  # its values under which cuBLAS gives the same bits twice


def pick_device(name: str = "auto", threads: int | None = None) -> torch.device:
    """The device to run on: a GPU where there is one.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "cuda:N", "mps"}
    threads : int, optional
        Only checked.

    Raises
    ------
    UsageError
        Unknown name, a device this machine lacks, or no thread to compute with.
    """
    check(threads)
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    kind = name.partition(":")[0]
    if kind not in has:
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda or mps")
    if not has[kind]:
        raise UsageError(f"device {name!r} is not there; use {option('device', 'auto')} or cpu")
    return torch.device(name)


@contextmanager
def computing(name: str = "auto", threads: int | None = None, *, deterministic: bool = False) -> Iterator[torch.device]:
    """The device, with torch set up for a computation; the caller's random streams and settings come back after it.

    What is drawn within is drawn as ever: whoever draws seeds torch itself.

    Parameters
    ----------
    name : str
        As `pick_device` takes it.
    threads : int, optional
        CPU threads within, of torch and of every other library (`threads`).
    deterministic : bool
        The same bits whatever the number of threads, which is one within: sums are added up in another order by
        another number of them. On a GPU algorithms that may give other bits the next time are refused.

    Raises
    ------
    UsageError
        As `pick_device`.
    TrainingError
        There is no deterministic algorithm on this GPU.
    """
    device = pick_device(name, threads)
    threads = 1 if deterministic else threads
    before_rules, workspace = _rules(), os.environ.get(_CUBLAS)
    on_gpu = device.type == "cuda" or torch.cuda.is_initialized()
    streams = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    gpu_streams = torch.cuda.get_rng_state_all() if on_gpu else []
    mps_stream = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with limited(threads):
            _prepare(device, strict=deterministic)
            yield device
    except RuntimeError as error:
        if not (deterministic and "deterministic" in str(error)):
            raise
        said = str(error).partition(",")[0].splitlines()[0]
        raise TrainingError(f"{said}; use {option('device', 'cpu')}") from error
    finally:
        if _rules() != before_rules:
            torch.use_deterministic_algorithms(before_rules[0], warn_only=before_rules[1])
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
        else:
            os.environ[_CUBLAS] = workspace
        torch.set_rng_state(streams[0])
        np.random.set_state(streams[1])  # noqa: NPY002
        if gpu_streams:
            torch.cuda.set_rng_state_all(gpu_streams)
        if mps_stream is not None:
            torch.mps.set_rng_state(mps_stream)


def computed(parts: Iterator[T], name: str = "auto", threads: int | None = None) -> Iterator[T]:
    """The parts of a computation, torch set up as `computing` does while each is computed and not between them."""
    while True:
        with computing(name, threads):
            part = next(parts, None)
        if part is None:
            return
        yield part


def own_process(name: str = "auto", threads: int | None = None) -> None:
    """Prepare the whole process for good, which the command line may do and a library may not; errors as above."""
    device = pick_device(name, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    _prepare(device)
    if device.type == "cpu":
        keep_freed_memory()


def _rules() -> tuple[bool, bool]:
    """Whether only deterministic algorithms are used, and whether others only warn."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _prepare(device: torch.device, strict: bool = False) -> None:
    """On a GPU, what makes the same seed, input and device give the same file, as far as there is an algorithm."""
    if device.type == "cuda":
        os.environ.setdefault(_CUBLAS, _REPEATABLE[0])
        if strict and os.environ[_CUBLAS] not in _REPEATABLE:
            os.environ[_CUBLAS] = _REPEATABLE[0]
        torch.use_deterministic_algorithms(True, warn_only=not strict)


def machine(device: torch.device, ranks: int = 1, *, deterministic: bool = False) -> Machine:
    """What computes within `computing`, as a model keeps it: one process, or several alike."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    processor = processor if ranks == 1 else f"{ranks} x {processor}"  # whose sums round otherwise
    return Machine(
        device=device.type, processor=processor, threads=torch.get_num_threads(), deterministic=deterministic
    )


@cache
def _cpu() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        named = []
    return named[0] if named else platform.processor() or platform.machine()


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
