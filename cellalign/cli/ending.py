"""How a command ends: every error as one line on standard error and its exit status, and output that nobody reads."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cellalign.cli.messages import say_end, say_traceback, verbosity
from cellalign.cli.refused import said_of
from cellalign.cli.signals import KNOWN, HungUp, Terminated, format_asked, meant
from cellalign.errors import CellalignError, option

DONE, INPUT_WRONG, TRAINING_FAILED, INTERRUPTED, CLOSED_PIPE = 0, 3, 5, 130, 141
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Carried(BaseException):
    """What a command ended with, past click: it takes EOFError for an interruption, and has statuses of its own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def carried() -> Iterator[None]:
    """Whatever is raised within reaches `status_of` as it is."""
    try:
        yield
    except (KeyboardInterrupt, Terminated, HungUp, Exception) as error:
        # click's own, such as what --help ends with, are click's
        if type(error).__module__.partition(".")[0] in ("click", "typer"):
            raise
        raise Carried(error) from error


def status_of(error: BaseException) -> int:
    """Say what a command ended with, and return the exit status."""
    if isinstance(error, Carried):
        error = error.error
    error = meant(error)
    by_click = type(error).__name__ == "Abort"
    ended = (INTERRUPTED, "interrupted") if by_click else _ended_by(error)
    if ended is not None:
        status, said = ended
        return _say(f"{said}; {_what_is_kept(error)}", status)
    if isinstance(error, SystemExit):
        # click leaves so where it printed a help page into a closed pipe
        closed = isinstance(error.__context__, BrokenPipeError)
        return CLOSED_PIPE if closed else error.code if isinstance(error.code, int) else 1
    if isinstance(error, CellalignError):
        notes = getattr(error, "__notes__", [])
        # what a note says is done is no more "nothing"
        said = str(error).removesuffix("; nothing was changed") if notes else str(error)
        return _say("; ".join([said, *notes]), error.exit_status, error)
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, MemoryError) or _is_of_memory(error):  # torch's, of the CPU
        smaller = f"use fewer cells or genes; of training, {option('batch_size')} as well"
        return _say(f"out of memory; {smaller}", TRAINING_FAILED, error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        smaller = f"use fewer cells or genes, or {option('device', 'cpu')}"
        return _say(f"out of memory on the GPU; {smaller}", TRAINING_FAILED, error)
    if isinstance(error, OSError):
        return _say(of_the_system(error), INPUT_WRONG, error)
    if hasattr(error, "format_message"):  # click's usage errors
        say_end(said_of(error, sys.argv[1:]), 2, format_asked(sys.argv[1:]))
        return 2
    return _say(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback", 1, error)


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out in the words of torch, or of the system that loads a library."""
    said = str(error)
    of_a_library = isinstance(error, (ImportError, OSError)) and "failed to map segment" in said
    return of_a_library or "can't allocate memory" in said


def _ended_by(error: BaseException) -> tuple[int, str] | None:
    """Exit status and words for an exception that a signal raised; None for others."""
    return next(((status, said) for kind, status, said in KNOWN.values() if isinstance(error, kind)), None)


def _what_is_kept(error: BaseException) -> str:
    """What a training that was ended says of its checkpoint; else nothing was changed."""
    return "; ".join(getattr(error, "__notes__", None) or ["outputs are as they were"])


def of_the_system(error: OSError) -> str:
    """What the system refused, of which file, and what to do: for errors that no task has put into words."""
    where = f" {error.filename!r}" if error.filename is not None else ""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in FULL and not where:
        return "cannot write: the disk of standard output, or that of temporary files (TMPDIR), is full; make room"
    if error.errno in FULL:
        return f"cannot write{where}: the disk is full; make room, or set TMPDIR to a folder on another disk"
    if "temporary directory" in reason:
        return "no folder for temporary files can be written to; set TMPDIR to one"
    if isinstance(error, PermissionError):
        return f"not permitted{where}: {reason}; change its permissions, or name another"
    return f"cannot use{where}: {reason}" if where else reason


def flushed(status: int) -> int:
    """Write what is left of standard output; the status is another where nobody reads it or it cannot be written."""
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = CLOSED_PIPE
    except OSError as error:
        status = _say(f"cannot write standard output: {error.strerror}", INPUT_WRONG, error)
    # what cannot be written would be complained of once more when the interpreter ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _say(message: str, status: int, error: BaseException | None = None) -> int:
    """One line on standard error; the traceback only where -v asked for it."""
    if error is not None and verbosity() > 0:
        say_traceback(error)
    say_end(message, status)
    return status
