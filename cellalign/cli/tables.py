"""Tables on standard output: for people, or JSON or CSV for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellalign.cli.printable import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from cellalign.evaluation import Evaluation

# for an output that cannot hold arrows, as the boxes that rich draws are replaced there
ASCII_ARROWS = str.maketrans({"↑": "^", "↓": "v", "→": "->", "±": "+-"})
UNCUT = 10_000  # a pipe or log has no width of its own: never cut a column there


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, prose: bool = False) -> None:
    """A table for people on standard output; the first column is text, the others are numbers, or prose that wraps.

    On a terminal too narrow for all columns of numbers they follow one another in several tables.
    """
    from rich.console import Console

    # names of cell types may hold brackets and colons, which are no markup
    console = Console(width=None if sys.stdout.isatty() else UNCUT, markup=False, emoji=False, highlight=False)
    lines = [[printable(str(cell)) for cell in line] for line in ([title], columns, *rows)]
    if not console.encoding.startswith("utf"):
        lines = [[cell.translate(ASCII_ARROWS) for cell in line] for line in lines]
    [title], columns, *rows = lines
    console.print(title, style="bold")  # not the table's own, which wraps where the table is narrow
    everything = list(range(len(columns)))
    for band in [everything] if prose else _bands(columns, rows, console.width):
        console.print(_table([columns[i] for i in band], [[row[i] for i in band] for row in rows], prose))


def print_prose(text: str) -> None:
    """A sentence for people on standard output, wrapped where a terminal is narrow."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else UNCUT, markup=False, emoji=False, highlight=False)
    text = printable(text)
    console.print(text if console.encoding.startswith("utf") else text.translate(ASCII_ARROWS))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], prose: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i == 0 or prose else "right", no_wrap=i == 0 or not prose)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _bands(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Indices of columns that fit beside each other, the first in every band."""
    from rich.cells import cell_len

    widths = [max(cell_len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    gap, edges = 3, 2
    bands: list[list[int]] = []
    for i in range(1, len(columns)):
        if not bands or sum(widths[j] + gap for j in (*bands[-1], i)) - gap + edges > width:
            bands.append([0])
        bands[-1].append(i)
    return bands or [[0]]


def print_rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    format: str,
    *,
    headings: Sequence[str] | None = None,
    prose: bool = False,
) -> None:
    """Rows on standard output: a table for people, or JSON or CSV for programs.

    `headings` are what people see above the columns; programs read `columns`.
    """
    if format == "table":
        print_table(title, headings or columns, rows, prose=prose)
    elif format == "json":
        _print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1) + "\n")
    else:
        import csv
        import io

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        _print(text.getvalue())


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
