"""What a signal does to the command, from its first line to its last. Imports nothing that takes time.

Until a command is at work nothing has to be put away, and it ends at once: an exception would travel through libraries
that are being imported, and some of them print it or make another of it. While a command is at work the signal is an
exception (KeyboardInterrupt, Terminated, HungUp), so that whoever holds something unfinished puts it away. Where a
library swallows it (a callback, an import of C), it is raised again a moment later. A further signal, or one after
the work, leaves two seconds for putting away. The handlers are ordinary ones: others may take their place for a while,
and call them.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # typing itself takes time
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

STARTING, AT_WORK, ENDING = range(3)
PATIENCE = 2.0  # seconds for putting away once more than one signal has come
AGAIN = 0.2  # seconds after which a signal that somebody swallowed is raised again


class Terminated(BaseException):
    """SIGTERM, as a queue sends it before it kills."""


class HungUp(BaseException):
    """SIGHUP: the terminal is closed, the connection lost."""


# what each raises, the status it ends with, and what is said
_KNOWN = {
    name: known
    for name, known in {
        "SIGINT": (KeyboardInterrupt, 130, "interrupted"),
        "SIGTERM": (Terminated, 143, "terminated"),
        "SIGHUP": (HungUp, 129, "hung up"),
    }.items()
    if hasattr(signal, name)
}
KNOWN = {int(getattr(signal, name)): known for name, known in _KNOWN.items()}
_phase = STARTING
_received: int | None = None  # the first that came while the command was at work
_raised: BaseException | None = None
_until: float | None = None  # when patience ends
_status: int | None = None  # what it ends with, once that is known


def install() -> None:
    """Take the signals that are not ignored, as nohup has SIGHUP ignored; called first of all."""
    for number in KNOWN:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)
    # asks for a checkpoint where there is a training to keep (`engine.signals`), and ends nothing
    if hasattr(signal, "SIGUSR1") and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, _nothing_to_keep)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _look_again)
    sys.excepthook, sys.unraisablehook = _unless_ended(sys.excepthook), _unless_ended(sys.unraisablehook)


class at_work:
    """Within, a signal is an exception; after the outermost the command is ending."""

    def __enter__(self) -> None:
        global _phase
        self.before, _phase = _phase, AT_WORK

    def __exit__(self, *_: object) -> None:
        global _phase
        _phase = AT_WORK if self.before == AT_WORK else ENDING


def ending(status: int) -> None:
    """From now on signals change nothing but how long is waited for; after one, that is not long."""
    global _phase, _status
    _phase, _status = ENDING, status
    if _received is not None:
        _be_impatient()


def status() -> int | None:
    """The exit status, once it is known."""
    return _status


def meant(error: BaseException) -> BaseException:
    """The signal that came, where somebody made another exception of it; else the error itself."""
    if _raised is None or isinstance(error, type(_raised)):
        return error
    return _raised


def _arrived(number: int, frame: FrameType | None) -> None:
    global _received, _raised
    kind, status, said = KNOWN[number]
    if _phase == STARTING:
        _end(status, f"{said}; outputs are as they were")
    if _phase == ENDING or _received is not None:
        _be_impatient()
        return
    _received, _raised = number, kind()
    _wake_in(AGAIN)
    raise _raised


def _nothing_to_keep(number: int, frame: FrameType | None) -> None:
    pass


def _look_again(number: int, frame: FrameType | None) -> None:
    """By the alarm: end where patience has, raise again what nobody heeds."""
    if _until is not None and time.monotonic() >= _until:
        if _received is None:
            os._exit(_status or 0)
        _, status, said = KNOWN[_received]
        _end(status, "" if _phase == ENDING else f"{said}; outputs are as they were, a hidden file may be left")
    _wake_in(AGAIN)
    if _phase == AT_WORK and _raised is not None and not _is_heeded(_raised):
        raise _raised


def _is_heeded(raised: BaseException) -> bool:
    """Whether what runs now runs because of an exception: what puts things away does."""
    error, seen = sys.exc_info()[1], 0
    while error is not None and seen < 100:
        if error is raised:
            return True
        error, seen = error.__context__, seen + 1
    return False


def _be_impatient() -> None:
    global _until
    if not hasattr(signal, "setitimer"):  # Windows
        _until = time.monotonic()
        _look_again(0, None)
    if _until is None:
        _until = time.monotonic() + PATIENCE
    _wake_in(AGAIN)


def _wake_in(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _end(status: int, message: str) -> NoReturn:
    """End the process as it is."""
    if message:
        try:
            os.write(2, line(message, status, sys.argv[1:]).encode())
        except OSError:
            pass
    os._exit(status)


def line(message: str, status: int, words: list[str]) -> str:
    """The last line of a command that a signal ended, as its command line asks for messages."""
    if format_asked(words) == "json":  # of plain words, so that nothing has to be imported to write it
        return f'{{"time": {time.time():.3f}, "level": "warning", "message": "{message}", "status": {status}}}\n'
    return f"cellalign: {message}\n"


def format_asked(words: list[str]) -> str:
    """The --log-format among the words of a command line, "text" without one."""
    spread = [part for word in words for part in word.split("=", 1)]
    given = [after for word, after in zip(spread, spread[1:], strict=False) if word == "--log-format"]
    return "json" if given[-1:] == ["json"] else "text"


def _unless_ended(hook: Callable[..., Any]) -> Callable[..., None]:
    """The interpreter's way to print an exception, silent once a signal has come: it is said in one line."""

    def quiet(*arguments: object) -> None:
        if _received is None:
            hook(*arguments)

    return quiet
