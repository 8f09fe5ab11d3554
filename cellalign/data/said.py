"""What is told of the cells at the door, once where the same cells are met again and again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Note = tuple[int, str]  # level and message
log = logging.getLogger("cellalign")
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@contextmanager
def told_once(*, anew: bool = False) -> Iterator[None]:
    """Within it equal messages of `tell` are said once; a decorator too.

    Parameters
    ----------
    anew : bool
        Forget what was told outside of it: of a command that another one runs.
    """
    if _told.get() is not None and not anew:
        yield
        return
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def tell(level: int, message: str, *values: Any) -> None:
    """Say something, with values as those of `logging`; within `told_once` only what is new."""
    if log.disabled:  # it is said when it is done
        return
    said, told = message % values if values else message, _told.get()
    if told is None or said not in told:
        log.log(level, "%s", said)
    if told is not None:
        told.add(said)


@contextmanager
def untold() -> Iterator[None]:
    """Within it nothing is said: of a trial, whose real run will say it."""
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
