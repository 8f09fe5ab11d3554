"""What is said on standard error, and the options of all commands: the parameters of `start`."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Annotated, Any, Literal

from cellalign.cli.printable import printable
from cellalign.tasks.declaration import Option

LOGGING = "Messages"
_verbosity = 0
of_command_line: list[str] = []  # what is to be warned of in the words of this command, once messages can be given


def verbosity() -> int:
    """-1 quiet, 0 normal, 1 verbose."""
    return _verbosity


def start(
    *,
    quiet: Annotated[bool, Option("Errors only.", ("--quiet", "-q"), panel=LOGGING)] = False,
    verbose: Annotated[bool, Option("More messages, and tracebacks.", ("--verbose", "-v"), panel=LOGGING)] = False,
    log_format: Annotated[Literal["text", "json"], Option("How messages look.", panel=LOGGING)] = "text",
) -> logging.Logger:
    """Set up messages on standard error; called first by every command."""
    global _verbosity
    _verbosity = 1 if verbose else -1 if quiet else 0
    import warnings

    # other libraries' warnings are for developers; a user sees them with -v
    warnings.simplefilter("default" if verbose else "ignore")
    # matplotlib finds a temporary folder for its list of fonts by itself, and would say that it had to
    logging.getLogger("matplotlib").setLevel(logging.NOTSET if verbose else logging.ERROR)
    logger = logging.getLogger("cellalign")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    handler.addFilter(_Once())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    return logger


def say_end(message: str, status: int, log_format: str | None = None) -> None:
    """The one line on standard error that a command which did not succeed ends with.

    Parameters
    ----------
    message : str
    status : int
        The exit status; 129, 130 and 143 are no errors of the user's or ours.
    log_format : {"text", "json"}, optional
        By default that of the command that started.
    """
    line = " ".join(message.split())
    stopped = status in (129, 130, 143)
    handlers = logging.getLogger("cellalign").handlers
    if log_format is None:
        log_format = "json" if any(isinstance(h.formatter, _Json) for h in handlers) else "text"
    if log_format == "json":
        entry = {"time": round(time.time(), 3), "level": "warning" if stopped else "error"}
        print(json.dumps(entry | {"message": line, "status": status}), file=sys.stderr)
    else:
        said = printable(line)
        print(f"cellalign: {said}" if stopped else f"cellalign: error: {said}", file=sys.stderr)


def say_traceback(error: BaseException) -> None:
    """Where an error came from, on standard error."""
    import traceback

    sys.stderr.write(printable("".join(traceback.format_exception(error)), keep="\n"))


class _Once(logging.Filter):
    """Of warnings, those that this command has not given before: several of its steps look at the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = record.levelno == logging.WARNING and message in self.given
        if record.levelno == logging.WARNING:
            self.given.add(message)
        return not known


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"{prefix}{printable(record.getMessage())}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        return json.dumps(entry | {"message": record.getMessage()} | getattr(record, "fields", {}))


class TrainingProgress:
    """A bar on a terminal; a line every tenth of the way, or every 30 seconds, in a log."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.bar: Any = None
        self.task: Any = None
        self.said = 0.0
        self.tenth = -1
        in_text = all(isinstance(handler.formatter, _Text) for handler in logger.handlers)
        if sys.stderr.isatty() and in_text and logger.isEnabledFor(logging.INFO):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> TrainingProgress:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("training", total=None, said="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called by the engine once per epoch."""
        said = f"epoch {epoch}/{epochs}  loss {row['train_loss']:.1f}"
        if "validation_loss" in row:
            said += f"  validation {row['validation_loss']:.1f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=epoch, total=epochs, said=said)
            return
        tenth, now = 10 * epoch // epochs, time.monotonic()
        if tenth > self.tenth or now - self.said > 30:
            self.tenth, self.said = tenth, now
            self.logger.info(said, extra={"fields": {k: v for k, v in row.items()}})
