"""Picks the device and prepares it."""

from __future__ import annotations

import os

import torch

from cellalign.errors import UsageError


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
    if kind == "cuda":
        # the same seed, input and device give the same file
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(name)
