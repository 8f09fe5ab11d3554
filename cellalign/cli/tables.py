"""Tables on standard output: for people, or JSON or CSV for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cellalign.evaluation import Evaluation


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people; the first column is text, the others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # a pipe or log has no width of its own: never cut a column there
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], format: str) -> None:
    """Rows as a table, or as "json" or "csv"."""
    if format == "table":
        print_table(title, columns, rows)
    elif format == "json":
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        import csv

        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])


def print_evaluation(result: Evaluation, format: str) -> None:
    """The scores of an evaluation."""
    if format == "table":
        for title, columns, rows in result.summary():
            print_table(title, columns, rows)
    else:
        typer.echo(result.to_json() if format == "json" else result.to_csv(), nl=False)
