"""Files that are not there, and columns that they have not: told before an output that is there already.

Commands look at outputs first, since that takes no time. Who mistyped a name would be asked for --force, and only after
that be told of the mistake. So where an output is refused the inputs are looked at as completion does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, OutputExists

COLUMNS = ("condition", "batch", "covariate", "label", "numeric", "within", "replicate", "holdout_each", "calibrate")
TERMS = ("holdout", "where")


@contextmanager
def inputs_first(asked: Mapping[str, Any]) -> Iterator[None]:
    """Where an output exists and an input or a column does not, that is told first: InputError, the output as a note.

    Parameters
    ----------
    asked : mapping
        Values of a command's parameters.
    """
    try:
        yield
    except OutputExists as error:
        first = _mistake(asked)
        if first is None:
            raise
        first.add_note(str(error))
        raise first from error


def _mistake(asked: Mapping[str, Any]) -> InputError | None:
    """The first file that is not there, or column that no file has; None where there is none, or it cannot be told."""
    for path in (path for reading in _readings(asked) for path in _paths(reading)):
        if path != "-" and not os.path.exists(path):
            return InputError(f"no such file: {path}")
    there = _columns(asked)
    for key, purpose in _named(asked, there) if there else ():
        if key not in there:
            from cellalign.data.columns import no_column

            return no_column(key, purpose, there)
    return None


def _readings(asked: Mapping[str, Any]) -> list[Reading]:
    return [value for value in asked.values() if isinstance(value, Reading)]


def _paths(reading: Reading) -> list[str]:
    """The files of the cells, and the table of their columns."""
    return [*map(str, reading.paths), *([] if reading.obs is None else [str(reading.obs)])]


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

    found: list[str] = []
    for reading in _readings(asked):
        paths = _paths(reading)
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
