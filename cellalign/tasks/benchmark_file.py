"""A benchmark's CSV, to which several runs may add at a time: what is there is never lost.

Rows of other cells or settings, or of an earlier version, stay as they are, to the letter.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cellalign.errors import InputError

if TYPE_CHECKING:
    from cellalign.records import BenchmarkRow

PathLike = str | os.PathLike[str]
Identity = tuple[str, int, str, str, str | None]
WAIT = 300.0  # seconds for others to add their rows, which takes them a fraction of one


def finished(path: PathLike | None) -> dict[Identity, BenchmarkRow]:
    """The rows of a table that was begun, by what tells them apart; none where there is no file.

    Raises
    ------
    InputError
        It holds something else, or is not whole.
    """
    return {} if path is None else {row.identity: row for row in map(_parsed, _read(Path(path)))}


@contextmanager
def rows_noted(path: PathLike | None) -> Iterator[None]:
    """Of whatever ends the work within say that finished rows are there, and how it goes on."""
    try:
        yield
    except BaseException as error:
        if path is not None and Path(path).exists():
            error.add_note(f"finished rows are kept in {path}; the same command goes on from there")
        raise


def add(path: PathLike, rows: Iterable[BenchmarkRow]) -> None:
    """Add rows to a table, or begin it; those that it holds already are not added again.

    Raises
    ------
    InputError
        As `finished`, or it cannot be written.
    """
    from cellalign.data.files import atomic_path
    from cellalign.records import BenchmarkRow

    with _locked(Path(path)):
        there = _read(Path(path))
        known = {_parsed(row).identity for row in there}
        new = [{name: str(value) for name, value in row.flat().items()} for row in rows if row.identity not in known]
        if not new:
            return
        columns = dict.fromkeys([*BenchmarkRow.COLUMNS, *(name for row in (*there, *new) for name in row)])
        with (
            atomic_path(Path(path).resolve(), force=True) as fresh,
            open(fresh, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows([*there, *new])


def _read(path: Path) -> list[dict[str, str]]:
    """The rows as they are written, checked."""
    from cellalign.records import BenchmarkRow, RecordError

    if not path.is_file():
        return []
    how = "it is left as it is; choose another name"
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}; {how}") from error
    columns = lines[0] if lines else []
    rows = [dict(zip(columns, line, strict=False)) for line in lines[1:] if line]
    try:
        if len(set(columns)) < len(columns) or not {*BenchmarkRow.KEYS} <= {*columns}:
            raise RecordError(f"its columns are not {', '.join(BenchmarkRow.KEYS)} and scores")
        uneven = next((i for i, line in enumerate(lines[1:], 2) if line and len(line) != len(columns)), None)
        if uneven is not None or not text.endswith(("\n", "\r")):
            raise RecordError(f"row {uneven or len(lines)} is not whole")
        for row in rows:
            _parsed(row)
    except RecordError as error:
        raise InputError(f"{path} holds no benchmark: {error}; {how}") from error
    return rows


def _parsed(row: dict[str, str]) -> BenchmarkRow:
    from cellalign.records import BenchmarkRow

    return BenchmarkRow.of_flat({k: v if v or k in BenchmarkRow.TEXT else None for k, v in row.items()})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While it is held nobody else adds to the table, whatever name it is called by."""
    from filelock import FileLock, Timeout

    real = path.resolve()
    lock = FileLock(real.with_name(f".{real.name}.lock"), timeout=WAIT)
    try:
        lock.acquire()
    except Timeout as error:
        said = f"{path} has been locked by another run for {WAIT:.0f} s ({lock.lock_file})"
        raise InputError(f"{said}; end that run, or choose another name") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits makes another
        lock.release()
