"""Whether all processes that were started together come, asked before they are connected: torch waits half an hour.

Each writes its number into the store by which torch connects them, and the first one says who is not there. Nothing is
asked of the store that torch would report in many lines of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from torch.distributed import TCPStore

from cellalign.errors import TrainingError

PATIENCE = 120.0  # seconds that the last may come after the first
LAST_WORD = 0.5  # that the others have to hear who is missing
NAMED = 8
OUTCOME = "cellalign/missing"


def meet(address: str, port: int, rank: int, world: int) -> TCPStore:
    """Wait until all ranks are at the first one's address; to be held until they are connected, which goes by it too.

    Raises
    ------
    TrainingError
        Some did not come; which ones is said.
    """
    until = time.monotonic() + PATIENCE
    if rank and not _by(until, lambda: _listens(address, port)):
        raise _missing([0], address, port)
    store = TCPStore(
        address, port, None, rank == 0, timedelta(seconds=PATIENCE), wait_for_workers=False, multi_tenant=True
    )
    store.set(_key(rank), "")
    if rank == 0:
        _by(until, lambda: store.check([_key(each) for each in range(world)]))
        absent = [each for each in range(world) if not store.check([_key(each)])]
        store.set(OUTCOME, ",".join(map(str, absent)))
        time.sleep(LAST_WORD if absent else 0)
    else:  # the first began to wait no later than now
        _by(time.monotonic() + PATIENCE + LAST_WORD, lambda: store.check([OUTCOME]))
        absent = [int(each) for each in store.get(OUTCOME).decode().split(",") if each]
    if absent:
        raise _missing(absent, address, port)
    return store


def _key(rank: int) -> str:
    return f"cellalign/rank {rank}"


def _missing(absent: Sequence[int], address: str, port: int) -> TrainingError:
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    named = f"rank{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent[:NAMED]))}{more}"
    return TrainingError(f"{named} did not come to {address}:{port} within {PATIENCE:.0f} seconds of the others")


def _by(until: float, there: Callable[[], bool]) -> bool:
    """Whether it came to be until then."""
    while not (found := there()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True
