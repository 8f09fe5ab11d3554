"""Columns that a command line names and its files have not: told before an output that is there already.

Commands look at outputs first, since that takes no time. Who mistyped a column would be asked for --force, and only
after that be told of the mistake. So where an output is refused the files are looked at as completion does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cellalign.errors import OutputExists

COLUMNS = ("condition", "batch", "covariate", "label", "numeric", "within", "replicate", "holdout_each", "calibrate")
TERMS = ("holdout", "where")


@contextmanager
def columns_first(asked: Mapping[str, Any]) -> Iterator[None]:
    """Where an output exists and a column does not, the column is told first: InputError, with the output as a note.

    Parameters
    ----------
    asked : mapping
        Values of a command's parameters.
    """
    try:
        yield
    except OutputExists as error:
        wrong = _misnamed(asked)
        if wrong is None:
            raise
        from cellalign.data.columns import no_column

        first = no_column(*wrong)
        first.add_note(str(error))
        raise first from error


def _misnamed(asked: Mapping[str, Any]) -> tuple[str, str, list[str]] | None:
    """The first column that no file has, what it is for, and the columns there are; None where that cannot be told."""
    there = _columns(asked)
    if not there:
        return None
    for key, purpose in _named(asked, there):
        if key not in there:
            return key, purpose, there
    return None


def _named(asked: Mapping[str, Any], there: list[str]) -> Iterator[tuple[str, str]]:
    """Columns of obs that are named, each with what it is for."""
    elsewhere = {*(asked.get("kinds") or {}), "none"}  # columns of obsm may be of a kind
    for name in COLUMNS:
        given = asked.get(name)
        for key in [given] if isinstance(given, str) else given or ():
            if key not in elsewhere:
                yield str(key), "label" if name == "label" else name.replace("_", " ")
    for name in TERMS:
        given = asked.get(name)
        for item in [given] if isinstance(given, str) else given or ():
            if "=" in str(item) and not any(str(item).startswith(f"{column}=") for column in there):
                yield str(item).partition("=")[0], "selection"


def _columns(asked: Mapping[str, Any]) -> list[str]:
    """Columns of all files that are read; none where those of one cannot be told."""
    from cellalign.cli import peek
    from cellalign.data.reading import Reading

    found: list[str] = []
    for reading in (value for value in asked.values() if isinstance(value, Reading)):
        paths = [*reading.paths, *([] if reading.obs is None else [str(reading.obs)])]
        if reading.modality is not None or any(peek.is_of_several(path) for path in paths):
            return []
        each = [peek.columns(path) for path in paths]
        if not all(each):
            return []
        named = [] if len(reading.paths) < 2 and reading.file_key is None else [reading.file_key or "file"]
        found += [*named, *(name for columns in each for name in columns)]
    for path in (asked.get("against"), asked.get("reference")):
        if isinstance(path, str):
            found += peek.columns(path)
    return list(dict.fromkeys(found))
