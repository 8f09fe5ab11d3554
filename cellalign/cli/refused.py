"""What click refuses of a command line, in our words: the option, the value it was given, and what is wanted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, get_args

from cellalign.cli import spaced
from cellalign.errors import UsageError, nearest
from cellalign.tasks.declaration import DECLARATIONS, Argument, Parameter

ENDED_EARLY = "BadOptionUsage"  # click's, of an option that is the last word, or of a switch that has a value


def said_of(error: Any, words: Sequence[str]) -> str:
    """The line of an error of click's, with the page that helps.

    Parameters
    ----------
    error : click.UsageError
    words : sequence of str
        The command line, without the program.
    """
    command = command_of(words)
    said = _of_value(error, words, command) or str(error.format_message())
    page = " ".join(["cellalign", *([command] if command else []), "--help"])
    hints = [spaced.of_click(error, words), _of_dash(error, words)]
    return "; ".join([f"{said} (see {page})", *(hint for hint in hints if hint)])


def command_of(words: Sequence[str]) -> str:
    """The command, or group, that a line names first; empty where none."""
    groups = {declared.group for declared in DECLARATIONS.values()}
    for named in (" ".join(words[:2]), *words[:1]):
        if named in DECLARATIONS or named in groups:
            return named
    return ""


def check_values(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> None:
    """Refuse a flag of the command as the value of the option before it, which has none: UsageError."""
    flags = _flags(parameters)
    for one in parameters:
        values = given.get(one.name)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(one.option, Argument) and isinstance(value, str) and _is_flag(value, flags):
                raise UsageError(_without(one, value))


def _of_value(error: Any, words: Sequence[str], command: str) -> str | None:
    """What is said of a value that an option cannot have, or of one that is not there; None of other errors."""
    kind = type(error).__name__
    flag = getattr(error, "option_name", None) if kind == ENDED_EARLY else None
    name = getattr(getattr(error, "param", None), "name", None) if kind == "BadParameter" else None
    declared = DECLARATIONS.get(command)
    if declared is None or (flag is None and name is None):
        return None
    every = [*declared.own(), *declared.options()]
    one = next((each for each in every if each.name == name or flag in _spellings(each)), None)
    if one is None or isinstance(one.option, Argument):
        return None
    if flag is not None:  # of a switch that is given a value click says all
        return _without(one) if words[-1:] == [flag] else None
    value = _given(words, _spellings(one))
    if value is None:
        return None
    if _is_flag(value, _flags(every)):
        return _without(one, value)
    near = nearest(value, _choices(one))
    return f"{one.flag} {value}: {_wanted(one)} is wanted{near and '.' + near}"


def _without(one: Parameter, follows: str | None = None) -> str:
    """Of an option that is given no value."""
    after = "it is the last word" if follows is None else f"{follows.partition('=')[0]} follows it"
    return f"{one.flag} has no value ({after}); {_wanted(one)} is wanted"


def _wanted(one: Parameter) -> str:
    """What an option takes, in words."""
    choices, kinds = _choices(one), (one.text_type, *get_args(one.text_type))
    if choices:
        return f"one of {', '.join(choices)}"
    number = "a whole number" if int in kinds else "a number" if float in kinds else None
    if number is None:
        return one.option.metavar or "a text"
    low, high = one.option.low, one.option.high
    if high is not None:
        return f"{number} from {low or 0:g} to {high:.0f}"
    return number if low is None else f"{number} of at least {low:g}"


def _choices(one: Parameter) -> list[str]:
    """The words that an option takes, where it takes no other."""
    kinds = (part for part in (one.text_type, *get_args(one.text_type)) if isinstance(part, type))
    return next((list(map(str, part)) for part in kinds if issubclass(part, StrEnum)), [])


def _spellings(one: Parameter) -> list[str]:
    """All flags, also that which turns a switch off."""
    return [flag for spelled in one.flags for flag in spelled.split("/")]


def _flags(parameters: Iterable[Parameter]) -> set[str]:
    """Those of all options."""
    return {flag for one in parameters if not isinstance(one.option, Argument) for flag in _spellings(one)}


def _is_flag(value: str, flags: Collection[str]) -> bool:
    return value.startswith("-") and value.partition("=")[0] in flags


def _given(words: Sequence[str], flags: Collection[str]) -> str | None:
    """The value of an option in a command line; of several the last, which counts."""
    found = None
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in flags:
            found = value if equals else next(iter(words[at + 1 : at + 2]), None)
    return found


def _of_dash(error: Any, words: Iterable[str]) -> str | None:
    """The hint of a file whose name begins with a dash, where click took it for options."""
    option = getattr(error, "option_name", None)
    if type(error).__name__ != "NoSuchOption" or not option:
        return None
    for word in words:
        if word.startswith("-") and option.strip("-") in word and (os.path.exists(word) or _ends_like_a_file(word)):
            return f"a file whose name begins with a dash is given as ./{word}"
    return None


def _ends_like_a_file(word: str) -> bool:
    ending = os.path.splitext(word.lstrip("-"))[1][1:]
    return "=" not in word and ending.isalnum() and not ending.isdigit()
