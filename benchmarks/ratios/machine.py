"""What a table was measured on: processor, threads, versions, and whether the machine was idle."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

IDLE = 0.5  # load average above which another job takes part of the cores
HERE = Path(__file__).resolve().parents[2]


def load() -> float | None:
    """Mean number of processes that wanted a core in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def processor() -> str:
    """Its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def bfloat16() -> str:
    """Which instructions for bfloat16 it has."""
    import torch

    from cellalign.engine.precision import processor_has_bfloat16

    if not processor_has_bfloat16():
        return "no bfloat16"
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    named = [name for name, there in found.items() if "bf16" in name and there is True]
    return f"bfloat16 ({', '.join(named)})" if named else "bfloat16"


def tree(path: Path) -> str:
    """The commit of a checkout, with a + where something in it was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(path), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def header(load_before: float | None, before: Path | None) -> list[str]:
    """Lines above the table."""
    import torch

    from cellalign.nn.kernels.ops import compiled_loops

    cores, threads = os.cpu_count(), torch.get_num_threads()
    said = f"{load_before:.2f}" if load_before is not None else "unknown"
    compared = tree(HERE) + (f" beside {tree(before)}" if before is not None else "")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numba {version('numba')}"
    lines = [
        f"{processor()}, {bfloat16()}; {cores} cores, {threads} threads of torch; loops {compiled_loops()}.",
        f"{versions}; cellalign {compared}.",
        f"{datetime.date.today():%d %B %Y}; load average before the start {said}.",
    ]
    if load_before is not None and load_before > IDLE:
        lines.append(f"**The machine was busy (load above {IDLE:g}): these figures are not to be quoted.**")
    return lines
