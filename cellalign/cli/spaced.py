"""Several values of an option, of which the second was set off by a space: taken for a file, or for one too many."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cellalign.errors import InputError

EXTRA = "unexpected extra argument"
APART = ("--holdout",)  # of whose items each has one value of a column


def hint(words: Sequence[str], lists: Collection[str]) -> str | None:
    """How the values are to be written; None where no option that takes several is followed by a stray word.

    Parameters
    ----------
    words : sequence of str
        The command line.
    lists : collection of str
        Flags of the options that take several values.
    """
    for at, word in enumerate(words):
        flag, equals, first = word.partition("=")
        if flag not in lists or not word.startswith("-"):
            continue
        values = [first] if equals else []
        for other in words[at + 1 :]:
            if other.startswith("-") or (values and _is_file(other)):
                break
            values.append(other)
        if len(values) > 1 and flag in APART and "=" in values[0] and "=" not in values[1]:
            key = values[0].partition("=")[0]
            values = [values[0], *(f"{key}={value}" for value in values[1:])]
        if len(values) > 1 and "=" in values[1]:
            return f"each value has {flag} before it: {' '.join(f'{flag} {value}' for value in values)}"
        if len(values) > 1:
            return f"values of {flag} are separated by commas: {flag} {','.join(values)}"
    return None


def _is_file(word: str) -> bool:
    """Whether a word is an input, there or mistyped, by its looks."""
    ending = os.path.splitext(word)[1][1:]
    return os.path.exists(word) or os.sep in word or (ending.isalnum() and not ending.isdigit())


@contextmanager
def taken_for_files(words: Sequence[str], lists: Collection[str]) -> Iterator[None]:
    """Where a file is not there since it is a value of an option, that is said too."""
    try:
        yield
    except InputError as error:
        said = hint(words, lists) if str(error).startswith("no such file: ") else None
        if said is not None:
            error.add_note(said)
        raise


def of_click(error: Any, words: Sequence[str]) -> str | None:
    """The hint where click found a word too many; the options are those of the command it belongs to."""
    context = getattr(error, "ctx", None)
    if context is None or EXTRA not in str(error.format_message()):
        return None
    lists = {flag for parameter in context.command.params if parameter.multiple for flag in parameter.opts}
    return hint(words, lists)
