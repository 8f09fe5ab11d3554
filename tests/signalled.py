"""Sends signals to the command, run in a process of its own, from the moment it takes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ENDS = ("cellalign: interrupted; ", "cellalign: terminated; ", "cellalign: hung up; ")
# until the entry is imported it is Python that starts, and nothing of ours can take a signal; {first} may change things
START = """
import os, sys
from cellalign.cli import signals
from cellalign.cli.entry import main
signals.install()
os.write({fd}, b".")
sys.argv = ["cellalign", *sys.argv[1:]]
{first}
main()
"""


class Command:
    """A command that runs, and takes signals by now."""

    def __init__(self, words: Sequence[object], cwd: Path, first: str = "") -> None:
        read, write = os.pipe()
        script = START.format(fd=write, first=first)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *(str(word) for word in words)],
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[write],
        )
        os.close(write)
        assert os.read(read, 1) == b".", self.process.communicate()
        os.close(read)

    def read_line(self) -> str:
        """A line it prints."""
        return self.process.stdout.readline().strip()

    def send(self, number: int, after: float = 0.0) -> None:
        """Send a signal, if it still runs then."""
        try:
            self.process.wait(after)
        except subprocess.TimeoutExpired:
            self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Its exit status and standard error."""
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


def seconds(words: Sequence[object], cwd: Path) -> float:
    """How long a command takes that nobody disturbs."""
    command, began = Command(words, cwd), time.monotonic()
    status, said = command.ended()
    assert status == 0, said
    return time.monotonic() - began


def at_spread_moments(words: Sequence[object], cwd: Path, n: int) -> list[str]:
    """Send INT, TERM and HUP in turn at n moments from the beginning to the end; what was wrong of each run."""
    whole, wrong = seconds(words, cwd), []
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    for i in range(n):
        number, after = list(expected)[i % 3], whole * i / n
        command = Command(words, cwd)
        command.send(number, after)
        status, said = command.ended()
        lines = said.splitlines()
        last = [
            line for line in lines if line.startswith(("cellalign: interr", "cellalign: termin", "cellalign: hung"))
        ]
        whole_line = status == 0 or (lines[-1:] == last and len(last) == 1)
        if status not in (0, expected[number]) or "Traceback" in said or "ignored" in said or not whole_line:
            wrong.append(f"{number.name} after {after:.2f} of {whole:.2f} s: {status} {said}")
    return wrong
