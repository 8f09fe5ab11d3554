"""The control groups (cgroups) that this process is in: where containers and batch jobs have limits."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OF_THIS_PROCESS = Path("/proc/self/cgroup")


def folders(controller: str) -> list[Path]:
    """The groups' folders, of both versions of cgroups, each before those it is in; a limit of any of them holds.

    Parameters
    ----------
    controller : str
        What is limited: "cpu", "memory".

    Returns
    -------
    list of Path
        Some may not exist: a container often sees its own group as the root and is told another path. Without
        /proc, the roots alone.
    """
    try:
        lines = OF_THIS_PROCESS.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return [ROOT, ROOT / controller]
    found: dict[Path, None] = {}
    for line in lines:
        _, controllers, group = line.split(":", 2)
        second = not controllers  # version 2 of cgroups
        if not (second or controller in controllers.split(",")):
            continue
        for home in [ROOT] if second else [ROOT / controller, ROOT / controllers]:
            parts = [part for part in group.split("/") if part not in ("", ".", "..")]
            found |= dict.fromkeys(home.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
    return list(found)
