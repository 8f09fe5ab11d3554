"""How much memory there is, so that what cannot fit is refused before it is taken. Imports nothing that computes.

Notable: a limit may be the machine's, that of any cgroup this process is in (a container, a service, a job of SLURM,
PBS or LSF), what SLURM gave the job, which not every cluster enforces by cgroups, or the process's own (`ulimit -v`,
SGE's h_vmem). The least of them counts, and processes that were started together share all but the last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cellalign import cgroups

MEMINFO, OF_THIS_PROCESS = Path("/proc/meminfo"), Path("/proc/self/statm")
# a cgroup's files: its limits, where what is reclaimed (memory.high) is none that kills; what is taken, and of what
_VERSIONS = (
    (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)
_SLURM_PER = {"CPU": ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"), "GPU": ("SLURM_GPUS_ON_NODE",)}
_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # SLURM's, megabytes where it says none


def total() -> int | None:
    """Bytes of memory that this process can ever have: the machine's with its swap, or a limit of its cgroups or job.

    Returns
    -------
    int or None
        None where the system does not say.
    """
    hard = [limit for name, limit, _ in _of_cgroups() if name != "memory.high"]
    known = [*_of_the_machine(), *hard, *_of_slurm(), *_of_the_process()]
    return min(known) if known else None


def available() -> int | None:
    """Bytes of memory that are free now, or that the system would make free; None where it does not say.

    Of processes that were started together on this machine each has its share, and is given that.
    """
    shared, (size, resident) = processes(), _taken()
    known = [(limit - used) // shared for _, limit, used in _of_cgroups()]
    known += [limit // shared - resident for limit in _of_slurm()]
    known += [limit - size for limit in _of_the_process()]
    with suppress(OSError, ValueError, KeyError, IndexError):
        known.append(_of_meminfo("MemAvailable") // shared)
    if known:
        return max(0, min(known))
    there = total()
    return None if there is None else there // shared


def processes() -> int:
    """How many processes torchrun, SLURM or cellalign started together on this machine, this one among them."""
    own = os.environ.get("LOCAL_WORLD_SIZE", "")
    if own.isdigit():
        return max(1, int(own))
    # of this step alone (srun), as "4(x2),3": what the job asked for, SLURM_NTASKS, is there in its script too
    tasks = re.findall(r"(?:^|,)(\d+)", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return max(1, *map(int, tasks)) if tasks else 1


def said(n_bytes: float) -> str:
    """Bytes in words: "3.2 GB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while n_bytes >= 1000 and len(units) > 1:
        n_bytes /= 1000
        del units[0]
    return f"{n_bytes:.3g} {units[0]}" if n_bytes < 1000 else f"{n_bytes:,.0f} {units[0]}"


def _of_meminfo(*names: str) -> int:
    """The bytes that Linux gives for these names, added up."""
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return sum(int(lines[name].split()[0]) * 1024 for name in names)


def _of_the_machine() -> list[int]:
    try:
        return [_of_meminfo("MemTotal", "SwapTotal")]
    except (OSError, ValueError, KeyError, IndexError):  # not Linux
        pass
    try:
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return []


def _of_cgroups() -> Iterator[tuple[str, int, int]]:
    """The limits of the cgroups this process is in: the file of each, its bytes, and those taken by the whole group."""
    for folder in cgroups.folders("memory"):
        for limits, usage, reclaimed in _VERSIONS:
            for name in limits:
                try:
                    yield name, int((folder / name).read_text()), _used(folder, usage, reclaimed)
                except (OSError, ValueError):  # no such file, or "max"
                    continue


def _used(folder: Path, usage: str, reclaimed: str) -> int:
    """What a cgroup has taken, without the files that are kept in memory as long as there is room."""
    taken = files = 0
    with suppress(OSError, ValueError):
        taken = int((folder / usage).read_text())
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = int(lines.get(reclaimed, 0))
    return max(0, taken - files)


def _of_slurm() -> list[int]:
    """What SLURM gave this job or step on this machine; nothing where it is all there is, which SLURM calls 0."""
    found = [_megabytes("SLURM_MEM_PER_NODE")]
    for unit, names in _SLURM_PER.items():
        number = next((given for name in names if (given := os.environ.get(name, "")).isdigit()), "0")
        found.append(_megabytes(f"SLURM_MEM_PER_{unit}") * int(number))
    return [limit for limit in found if limit]


def _megabytes(name: str) -> int:
    """Bytes that a variable of SLURM says; 0 where it says nothing."""
    given = re.fullmatch(r"(\d+)([KMGT]?)B?", os.environ.get(name, "").strip().upper())
    return int(given[1]) * _UNITS[given[2]] if given else 0


def _of_the_process() -> list[int]:
    """The limit of its addresses, which what is only mapped counts towards too."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, AttributeError, ValueError, OSError):  # Windows
        return []
    return [] if limit == resource.RLIM_INFINITY else [limit]


def _taken() -> tuple[int, int]:
    """Bytes that this process has: of addresses, and resident, without what it shares with others; 0 if unknown."""
    try:
        size, resident, shared = map(int, OF_THIS_PROCESS.read_text().split()[:3])
        page = os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0, 0
    return size * page, (resident - shared) * page
