"""The exceptions cellalign raises on purpose; each knows the exit status its command ends with.

Every message is one line that says what is wrong, where, and what to do about it, in the caller's own terms: a
message names a parameter through `option`, so that Python reads `threads=0` where the command line reads
`--threads 0`. Warnings, notes and reasons are written in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any


class CellalignError(Exception):
    """Base of all errors that are reported to the user as one line."""

    exit_status = 1


class UsageError(CellalignError):
    """The command line or the arguments of an API call are wrong."""

    exit_status = 2


class OutputExists(UsageError):
    """What is to be written is there already, and nobody said that it may be replaced."""


class InputError(CellalignError):
    """The input data is wrong: missing, unreadable, or not fit for what was asked."""

    exit_status = 3


class ModelError(CellalignError):
    """The model directory is absent, damaged, of another version, or cannot do what was asked."""

    exit_status = 4


class TrainingError(CellalignError):
    """Training failed: it diverged or ran out of memory."""

    exit_status = 5


_NOTHING: Any = object()
_flags: Mapping[str, str] | None = None  # of the command that runs, by parameter; None where Python calls


@contextmanager
def on_command_line(flags: Mapping[str, str]) -> Iterator[None]:
    """Messages written within speak the command line's language.

    Parameters
    ----------
    flags : mapping of parameter to flag
        Of the command that runs, such as {"settings": "--set"}; other parameters are spelled after their name.
    """
    global _flags
    before, _flags = _flags, flags
    try:
        yield
    finally:
        _flags = before


def option(name: str, value: Any = _NOTHING, *, hint: str = "") -> str:
    """A parameter as the caller spells it: `threads` or `threads=0`, on the command line `--threads`, `--threads 0`.

    Parameters
    ----------
    name : str
        Of the parameter in Python.
    value : optional
        What was given, or is to be given: True for a switch, a list or tuple for what can be repeated.
    hint : str
        What stands for the value on the command line, such as KEY.
    """
    if _flags is None:
        return name if value is _NOTHING else f"{name}={value!r}"
    flag = _flags.get(name) or "--" + name.strip("_").replace("_", "-")
    if isinstance(value, list | tuple) and value:
        return " ".join(f"{flag} {one}" for one in value)
    shown = hint if value is _NOTHING or value is True else str(value)
    return f"{flag} {shown}" if shown else flag


def takes(name: str) -> bool:
    """Whether advice may name a parameter: on the command line, whether the command that runs has it."""
    return _flags is None or name in _flags


def spoken(*, python: str, command: str) -> str:
    """Advice in the caller's language: a Python call, or a command."""
    return python if _flags is None else command


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Say of whatever goes wrong within what there is nevertheless."""
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise


def nearest(word: Any, candidates: Iterable[str]) -> str:
    """Return the hint " Did you mean X?" with its leading space, or nothing where no candidate is near.

    A word that holds numbers is near to those alone that hold the same ones: 1000 is not meant by 100.0. In Python it
    may be any value, such as a date, and is looked for as text.
    """
    from difflib import get_close_matches

    word = str(word)
    numbers = _numbers(word)
    listed = {candidate.lower(): candidate for candidate in candidates if not numbers or _numbers(candidate) == numbers}
    close = get_close_matches(word.lower(), listed, 1)
    return f" Did you mean {listed[close[0]]!r}?" if close else ""


def counted(n: int, what: str) -> str:
    """So many of something, a plural in s where it is not one."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def check_known(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """TypeError where an argument is none of a function's, by the name that was called and with the nearest of its own.

    Parameters
    ----------
    function : str
    given, known : names of keyword arguments
    """
    own = sorted(known)
    for name in given:
        if name not in own:
            said = f"{function}() got an unexpected keyword argument {name!r}.{nearest(name, own)}"
            raise TypeError(f"{said} Arguments: {', '.join(own)}")


def kwonly(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a function takes by keyword alone."""
    return [p.name for p in signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY]


def _numbers(word: str) -> list[float]:
    """The numbers within a word."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", word)]
