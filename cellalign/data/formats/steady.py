"""An HDF5 file written through Python, so that nothing goes wrong inside HDF5.

HDF5 does not survive a write that fails: what could not be written stays open, is tried again when the interpreter
ends, and ends it with a segmentation fault. Here it is told that every write succeeded; what the system refused is
raised afterwards, or where `check` is called.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py

AGAIN = 0.005  # seconds after which a signal that came at the wrong moment comes again


class Steady:
    """What h5py writes to: a file whose first error is kept, and which takes all that comes after it for nothing."""

    def __init__(self, path: Path, mode: str) -> None:
        self.error: BaseException | None = None
        self._at = 0
        self._file = open(path, "w+b" if mode == "w" else "r+b", buffering=0)

    def check(self) -> None:
        """Raise what the system refused."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        """As of a file."""
        return self._at

    def read(self, size: int) -> bytes:
        """As of a file."""
        content = bytearray(size)
        return bytes(content[: self.readinto(content)])

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view, done = memoryview(buffer), 0
        try:
            self._file.seek(self._at)
            while done < len(view) and (n := self._file.readinto(view[done:])):
                done += n
        except BaseException as error:
            self.error = self.error or error
        self._at += done
        return done

    def write(self, content: Any) -> int:
        """As of a file, but that it always succeeds."""
        view, done = memoryview(content), 0
        try:
            self._file.seek(self._at)
            while self.error is None and done < len(view):
                done += self._file.write(view[done:])
        except BaseException as error:
            self.error = self.error or error
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> None:
        """As of a file, but that it always succeeds."""
        try:
            if self.error is None:
                self._file.truncate(size)
        except BaseException as error:
            self.error = self.error or error

    def flush(self) -> None:
        """Nothing is held back."""


INSIDE = {each.__code__ for name, each in vars(Steady).items() if name != "check" and hasattr(each, "__code__")}


@contextmanager
def steady(path: Path, mode: str) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """An HDF5 file open for writing ("w" a new one, "r+" one that is there), and what raises the errors so far.

    Raises
    ------
    OSError
        What the system refused to write, as it said it.
    """
    file = Steady(path, mode)
    try:
        try:
            with _signals_wait(), h5py.File(file, mode) as handle:
                yield handle, file.check
        except Exception as error:
            if file.error is not None:  # and whatever HDF5 then found where nothing had been written
                raise file.error from error
            raise
        file.check()
    finally:
        file.close()


def _send(number: int) -> None:
    """A signal to the main thread, which it wakes up where the system has such signals."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that comes while HDF5 writes is handled after it: what it raises would be a failed write."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread alone
        yield
        return
    handlers = {number: found for number in signal.valid_signals() if callable(found := signal.getsignal(number))}

    def later(number: int, frame: FrameType | None) -> Any:
        within = frame
        while within is not None and within.f_code not in INSIDE:
            within = within.f_back
        if within is not None:
            # not from here, where a second signal would find the first one's handler at work
            threading.Timer(AGAIN, _send, (number,)).start()
            return None
        return handlers[signal.Signals(number)](number, frame)

    try:
        for number in handlers:
            signal.signal(number, later)
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is later:
                signal.signal(number, handler)
