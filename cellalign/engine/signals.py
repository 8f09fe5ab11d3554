"""Signals during a training: they wait for the next whole state, which is left on disk before they are delivered.

SIGTERM and SIGHUP, as queues and lost connections send them, and SIGINT (Ctrl-C) end a run; SIGUSR1, which a queue can
be asked for some time before its limit, only leaves a checkpoint. Whoever ignores a signal, as nohup does, goes on
ignoring it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
KEEPING = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))


class Signals:
    """Within, signals are noted; without a main thread to note them in, all is as it was.

    Parameters
    ----------
    alone : bool
        False where several processes compute together: a signal then waits until all know of it (`agree`).

    Attributes
    ----------
    ending : int, optional
        The signal that is to be delivered once the state is kept.
    keep : bool
        Whether a checkpoint was asked for.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self.alone = alone
        self._noted: set[int] = set()  # that not all know of
        self.ending: int | None = None
        self.keep = False
        self._before: dict[int, Any] = {}

    @property
    def waiting(self) -> bool:
        """Whether the state is to be kept now."""
        return self.keep or self.ending is not None

    def noted(self) -> list[float]:
        """Of each signal, 1 where it came to this process and not all know of it."""
        return [float(number in self._noted) for number in (*ENDING, *KEEPING)]

    def agree(self, came: Sequence[float]) -> None:
        """Take the signals that came to any process, counted as `noted` has them: all hear of them at once."""
        there = [number for number, n in zip((*ENDING, *KEEPING), came, strict=True) if n]
        for number in there:
            self._noted.discard(number)
            self.keep |= number in KEEPING
            self.ending = number if number in ENDING and self.ending is None else self.ending

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (*ENDING, *KEEPING):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: of code that is not Python's
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def deliver(self) -> None:
        """Do what would have been done when the signal came; of those that end a run this does not return."""
        number, self.ending = self.ending, None
        if number is None:
            return
        before = self._before.get(number)
        self.__exit__()
        if callable(before):
            before(number, None)
        else:
            os.kill(os.getpid(), number)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = self.ending is not None or any(each in ENDING for each in self._noted)
        if number in ENDING and again:  # who asks twice does not want to wait for the state to be kept
            self.ending = number
            self.deliver()
        elif not self.alone:
            self._noted.add(number)
        elif number in KEEPING:
            self.keep = True
        else:
            self.ending = number
