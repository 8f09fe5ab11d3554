"""Says of what takes long that it goes on: a panel of many cells or conditions is silent for minutes otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("cellalign")
EVERY = 15.0  # seconds


@contextmanager
def told(what: str) -> Iterator[None]:
    """Log `what` and how long it has taken, every `EVERY` seconds while what is within goes on."""
    over, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(EVERY):
            log.info("%s: %.0f s", what, time.monotonic() - started)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
