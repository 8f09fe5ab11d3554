"""What the command line may do to its process, before any library is imported."""

from __future__ import annotations

import os
import sys

from cellalign.threads import tell_libraries


def prepare_process() -> None:
    """Streams that take every name, and as many threads as this process has CPUs to use."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is written out
    tell_libraries()
