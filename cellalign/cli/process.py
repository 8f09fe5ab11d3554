"""What the command line may do to its process, before any library is imported."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from cellalign.threads import tell_libraries


class _Closed(io.TextIOBase):
    """Standard output that was closed: who closed it wants no table, but a file sent there would be lost."""

    def __init__(self) -> None:
        self.held = open(os.devnull, "rb")

    @property
    def buffer(self) -> Any:
        raise OSError(errno.EBADF, "it is closed", "standard output")

    def write(self, text: str) -> int:
        return len(text)

    def fileno(self) -> int:
        return self.held.fileno()


def prepare_process() -> None:
    """Streams that take every name, and as many threads as this process has CPUs to use."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command; its number must not become a file's
            setattr(sys, name, _Closed() if name == "stdout" else open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is written out
    tell_libraries()
