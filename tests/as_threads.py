"""Ranks that are threads of the test: what they tell each other without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cellalign.engine.ranks import RankLost

_own = threading.local()


class Threads:
    """As `engine.ranks.Ranks`; one may be lost after a while, and then all are."""

    alone = False

    def __init__(self, rank: int, world: int, meet: threading.Barrier, box: list, lost_at: int | None = None) -> None:
        self.rank, self.world, self._meet, self._box = rank, world, meet, box
        self._left = lost_at

    @property
    def first(self) -> bool:
        return self.rank == 0

    def together(self, own: Any) -> list:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._meet.abort()
        try:
            self._box[self.rank] = own
            self._meet.wait(20)
            found = list(self._box)
            self._meet.wait(20)
        except threading.BrokenBarrierError:
            raise RankLost from None
        return found

    def told(self, find: Callable[[], Any]) -> Any:
        return self.together(find() if self.first else None)[0]

    def sent_to_first(self, own: Any) -> list:
        found = self.together(own)
        return found if self.first else []

    def wait(self) -> None:
        self.together(None)


def number() -> int:
    """Of the rank that asks; -1 of any other thread."""
    return getattr(_own, "rank", -1)


def on_all(world: int, what: Callable[[Threads], Any], lost_at: int | None = None) -> list:
    """What each rank finds, or the error that it ends with; the first is this thread, which alone hears signals."""
    meet, box, found = threading.Barrier(world), [None] * world, [None] * world

    def run(rank: int) -> None:
        _own.rank = rank
        try:
            found[rank] = what(Threads(rank, world, meet, box, lost_at if rank == 1 else None))
        except Exception as error:
            found[rank] = error
            meet.abort()  # as a process that ends is noticed by the others

    others = [threading.Thread(target=run, args=(rank,)) for rank in range(1, world)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    return found
