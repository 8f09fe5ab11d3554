"""What is told of the cells at the door, once where the same cells are met again and again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Note = tuple[int, str]  # level and message
log = logging.getLogger("cellalign")
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@contextmanager
def told_once() -> Iterator[None]:
    """Within it equal messages of `tell` are said once; a decorator too."""
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def tell(level: int, message: str) -> None:
    """Say something; within `told_once` only what is new."""
    told = _told.get()
    if told is None or message not in told:
        log.log(level, "%s", message)
    if told is not None:
        told.add(message)


@contextmanager
def untold() -> Iterator[None]:
    """Within it nothing is said: of a trial, whose real run will say it."""
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
