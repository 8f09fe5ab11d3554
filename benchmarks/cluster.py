"""Preprocessing by one process and by the workers of a cluster: seconds, and the peak memory of each process.

    python benchmarks/cluster.py kang_2k.h5ad --cells 200000 --workers 2 --folder cluster

Cells are drawn as in scaling.py. The workers are those of `--cluster local`. That both wrote the same is checked: every
file of the zarr stores, byte by byte.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from scaling import make


def measured(words: list[str]) -> tuple[float, float, float, list[float]]:
    """Seconds, those of CPUs, and the peak memory in GiB of a command and of each process that it starts."""
    peaks: dict[int, float] = {}
    process = subprocess.Popen(words)
    began, own = time.perf_counter(), psutil.Process(process.pid)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            try:
                for each in [own, *own.children(recursive=True)]:
                    status = Path(f"/proc/{each.pid}/status").read_text()
                    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                    peaks[each.pid] = max(peaks.get(each.pid, 0), peak / 2**20)
            except (OSError, StopIteration, psutil.Error):
                pass  # it has just ended

    watching = threading.Thread(target=watch)
    watching.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    others = sorted((peak for pid, peak in peaks.items() if pid != process.pid), reverse=True)
    return seconds, usage.ru_utime + usage.ru_stime, peaks[process.pid], others


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = [{path.relative_to(each) for path in each.rglob("*") if path.is_file()} for each in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def main() -> None:
    """Measure both, for each kind of output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("cluster"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    raw = given.folder / f"{given.cells}.h5ad"
    if not raw.exists():
        make(given.file, raw, given.cells, False)
    how = {"one process": ["--stream"], f"{given.workers} workers": ["--cluster", "local", "--threads", given.workers]}
    for ending in ("zarr", "h5ad"):
        made = []
        for name, options in how.items():
            made.append(given.folder / f"{name.replace(' ', '-')}.{ending}")
            words = ["preprocess", raw, *options, "--n-top-genes", 1000, "--force", "-o", made[-1]]
            seconds, cpu, own, workers = measured([sys.executable, "-m", "cellalign", *map(str, words)])
            peaks = ", ".join(f"{peak:.2f}" for peak in workers[: given.workers]) if "--cluster" in options else "-"
            print(
                f"{ending}, {name}: {seconds:.0f} s ({cpu:.0f} s of CPUs), peak {own:.2f} GiB, of workers {peaks}",
                flush=True,
            )
        if ending == "zarr":
            print("the same files, byte by byte:", same(*made))


if __name__ == "__main__":
    main()
