"""How much memory there is, so that what cannot fit is refused before it is taken. Imports nothing that computes."""

from __future__ import annotations

import os
from pathlib import Path

MEMINFO, CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def total() -> int | None:
    """Bytes of memory that this process can ever have: the machine's with its swap, or its cgroup's limit.

    Returns
    -------
    int or None
        None where the system does not say.
    """
    known = [*_of_the_machine(), *_of_the_cgroup()]
    return min(known) if known else None


def available() -> int | None:
    """Bytes of memory that are free now, or that the system would make free; None where it does not say."""
    known = [limit - used for limit, used in zip(_of_the_cgroup(), _used_by_the_cgroup(), strict=False)]
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    return max(0, min(known)) if known else total()


def _used_by_the_cgroup() -> list[int]:
    """What of its limit is taken, without the files that are kept in memory as long as there is room."""
    for file, stats in (("memory.current", "memory.stat"), ("memory/memory.usage_in_bytes", "memory/memory.stat")):
        try:
            lines = dict(line.split() for line in (CGROUPS / stats).read_text().splitlines())
            return [int((CGROUPS / file).read_text()) - int(lines.get("inactive_file", 0))]
        except (OSError, ValueError):
            continue
    return [0]


def said(n_bytes: float) -> str:
    """Bytes in words: "3.2 GB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while n_bytes >= 1000 and len(units) > 1:
        n_bytes /= 1000
        del units[0]
    return f"{n_bytes:.3g} {units[0]}" if n_bytes < 1000 else f"{n_bytes:,.0f} {units[0]}"


def _of_the_machine() -> list[int]:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return [sum(int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "SwapTotal"))]
    except (OSError, ValueError, KeyError, IndexError):  # not Linux
        pass
    try:
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return []


def _of_the_cgroup() -> list[int]:
    """Limits that a container or a batch job has set."""
    found = []
    for file in ("memory.max", "memory/memory.limit_in_bytes", "memory.limit_in_bytes"):
        try:
            found.append(int((CGROUPS / file).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return found
