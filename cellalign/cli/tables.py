"""Tables on standard output: for people, or JSON or CSV for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellalign.cli.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from cellalign.evaluation import Evaluation

# for an output that cannot hold arrows, as the boxes that rich draws are replaced there
ASCII_ARROWS = str.maketrans({"↑": "^", "↓": "v", "→": "->", "±": "+-"})
UNCUT = 10_000  # a pipe or log has no width of its own: never cut a column there
GAP, EDGES = 3, 2  # between columns, and at both ends, as rich draws them
LEAST = 16  # cells wide is a column of prose, unless its longest word or its text is shorter
INDENT = "  "


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, prose: bool = False) -> None:
    """A table for people on standard output; the first column is text, the others are numbers, or prose that wraps.

    As wide as the terminal, or as COLUMNS says: names and numbers are never cut. Where the columns of numbers do not
    fit beside each other they follow one another in several tables; where prose has no room, or the names leave none
    to the numbers, each row is a block with a line for each column.
    """
    console = _console()
    lines = [[printable(str(cell)) for cell in line] for line in ([title], columns, *rows)]
    if not console.encoding.startswith("utf"):
        lines = [[cell.translate(ASCII_ARROWS) for cell in line] for line in lines]
    [title], columns, *rows = lines
    console.print(title, style="bold")  # not the table's own, which wraps where the table is narrow
    everything = list(range(len(columns)))
    widths = _widths(columns, rows)
    if sum(widths) + GAP * (len(widths) - 1) + EDGES <= console.width:
        return console.print(_table(columns, rows, prose, widths))
    if prose:
        shared = _shared_out(columns, rows, console.width)
        return console.print(_table(columns, rows, prose, shared)) if shared else _print_blocks(console, columns, rows)
    if widths[0] + GAP + max(widths[1:], default=0) + EDGES > console.width:
        return _print_blocks(console, columns, rows)
    for band in _bands(widths, everything, console.width):
        part = [[row[i] for i in band] for row in rows]
        console.print(_table([columns[i] for i in band], part, prose, [widths[i] for i in band]))


def print_prose(text: str) -> None:
    """A sentence for people on standard output, wrapped where a terminal is narrow."""
    console = _console()
    text = printable(text)
    console.print(text if console.encoding.startswith("utf") else text.translate(ASCII_ARROWS))


def _console() -> Console:
    """Standard output, as wide as the terminal or as COLUMNS says; a pipe without COLUMNS is as wide as it takes."""
    from rich.console import Console

    asked = os.environ.get("COLUMNS", "")
    known = sys.stdout.isatty() or (asked.isdigit() and int(asked) > 0)
    # names of cell types may hold brackets and colons, which are no markup
    return Console(width=None if known else UNCUT, markup=False, emoji=False, highlight=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], prose: bool, widths: Sequence[int]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for i, (name, width) in enumerate(zip(columns, widths, strict=True)):
        left = i == 0 or prose
        table.add_column(Text(name), justify="left" if left else "right", no_wrap=i == 0 or not prose, width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Terminal cells that each column needs to be on one line."""
    from rich.cells import cell_len

    return [max(cell_len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]


def _shared_out(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths of columns of prose that wrap between words; None where a word would be cut."""
    from rich.cells import cell_len

    natural = _widths(columns, rows)
    words = [
        max((cell_len(word) for line in (columns, *rows) for word in line[i].split()), default=1)
        for i in range(len(columns))
    ]
    least = [max(word, min(LEAST, whole)) for word, whole in zip(words, natural, strict=True)]
    least[0] = natural[0]
    room = width - EDGES - GAP * (len(columns) - 1) - sum(least)
    if room < 0:
        return None
    wanted = sum(natural) - sum(least)
    return [low + (whole - low) * room // wanted for low, whole in zip(least, natural, strict=True)]


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row as its name and a line per column; a word that is longer than the terminal it wraps by itself."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    names = [INDENT + name for name in columns[1:]]
    broad = max((cell_len(name) for name in names), default=0)
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        lines = [(name, cell) for name, cell in zip(names, row[1:], strict=True) if cell]
        longest = max((cell_len(word) for _, cell in lines for word in cell.split()), default=0)
        if broad + len(INDENT) + longest > console.width:
            for name, cell in lines:
                console.print(Text(f"{name}{INDENT}{cell}"), soft_wrap=True)
            continue
        block = Table.grid(padding=(0, len(INDENT), 0, 0))
        block.add_column(no_wrap=True)
        for name, cell in lines:
            block.add_row(Text(name), Text(cell))
        console.print(block)


def _bands(widths: Sequence[int], columns: Sequence[int], width: int) -> list[list[int]]:
    """Indices of columns that fit beside each other, the first in every band."""
    first, *others = columns
    bands: list[list[int]] = []
    for i in others:
        if not bands or sum(widths[j] + GAP for j in (*bands[-1], i)) - GAP + EDGES > width:
            bands.append([first])
        bands[-1].append(i)
    return bands or [[first]]


def print_rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    format: str,
    *,
    headings: Sequence[str] | None = None,
    prose: bool = False,
) -> None:
    """Rows on standard output: a table for people, or JSON or CSV for programs.

    `headings` are what people see above the columns; programs read `columns`, and numbers
    with every digit; of one that is missing (None, NaN) null or an empty field.
    """
    if format == "table":
        print_table(title, headings or columns, rows, prose=prose)
        return
    plain = [[_plain(cell) for cell in row] for row in rows]
    if format == "json":
        _print(json.dumps([dict(zip(columns, row, strict=True)) for row in plain], indent=1) + "\n")
    else:
        import csv
        import io

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *plain])
        _print(text.getvalue())


def _plain(cell: Any) -> Any:
    """A cell as JSON and CSV hold it: a number of numpy as one of Python, one that is not finite as missing."""
    cell = cell.item() if hasattr(cell, "item") else cell
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell if cell is None or isinstance(cell, bool | int | float) else str(cell)


def print_evaluation(result: Evaluation, format: str) -> None:
    """The scores of an evaluation on standard output."""
    if format == "table":
        for title, columns, rows in result.summary():
            print_table(title, columns, rows)
        if result.verdict:
            print_prose(result.verdict)
    else:
        _print(result.to_json() if format == "json" else result.to_csv())


def _print(text: str) -> None:
    """Text for programs: as it is where one reads it, and with nothing to obey where it comes to a terminal."""
    sys.stdout.write(printable(text, keep="\n") if sys.stdout.isatty() else text)
