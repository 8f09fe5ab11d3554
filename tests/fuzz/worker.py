"""Runs command lines one after the other in a process of its own, which a crash or a hang does not take the tests with.

`Worker` starts `python worker.py`, gives it a case at a time, and starts another where it died or did not answer.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SECONDS = 20  # a case that takes longer hangs; a loaded machine may take a few
PROBE = 2  # seconds of computing that HDF5 may take to look through a small file
MEMORY = 3 << 30  # beyond what the process has when it starts


@dataclass(frozen=True)
class Ended:
    """How a case ended: an exit status, or what happened instead, and all that was said."""

    status: int | str
    said: str


class Worker:
    """A process that runs cases, and is replaced by another when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, words: list[str], folder: Path, seconds: float = SECONDS) -> Ended:
        process = self.process if self.process is not None and self.process.poll() is None else self._start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([words, str(folder)]).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], seconds)[0]:
            self.close()
            return Ended(f"no end after {seconds:.0f} s", "")
        answer = process.stdout.readline()
        if not answer:
            status = process.wait()
            self.process = None
            return Ended(f"the process ended with {status}", "")
        return Ended(*json.loads(answer))

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", "the worker does not start"
        return self.process

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def main() -> None:
    # the answers go where standard output went; nothing else does
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import resource

    import scanpy  # noqa: F401
    from running import in_this_process

    import cellalign.model  # noqa: F401
    from cellalign.data.formats import probe

    probe.SECONDS = PROBE
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def answer(content: Any) -> None:
        answers.write(content)
        answers.flush()

    answer(b"ready\n")
    for line in sys.stdin.buffer:
        words, folder = json.loads(line)
        done = in_this_process(words, Path(folder))
        answer(json.dumps([done.returncode, done.stderr[-2000:]]).encode() + b"\n")


if __name__ == "__main__":
    main()
