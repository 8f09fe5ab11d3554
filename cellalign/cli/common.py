"""Options that mean the same in every command, and what is said on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table as RichTable

    from cellalign.evaluation import Evaluation
    from cellalign.model import Model


class LogFormat(StrEnum):
    """How messages are written."""

    text = "text"
    json = "json"


class TableFormat(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class MissingGenes(StrEnum):
    """What to do about genes the model needs and the file lacks."""

    error = "error"
    zero = "zero"


LOGGING = "Messages"
COMPUTING = "Computing"

Condition = Annotated[
    str | None, typer.Option("--condition", metavar="KEY", help="obs column whose effect is modelled.")
]
Control = Annotated[
    str | None, typer.Option("--control", metavar="VALUE", help="Reference value of the condition; found by itself.")
]
Batch = Annotated[list[str] | None, typer.Option("--batch", metavar="KEY", help="Technical covariate (repeatable).")]
Covariate = Annotated[
    list[str] | None, typer.Option("--covariate", metavar="KEY", help="Biological covariate (repeatable).")
]
Numeric = Annotated[
    list[str] | None, typer.Option("--numeric", metavar="KEY", help="A batch or covariate of numbers (repeatable).")
]
Label = Annotated[str | None, typer.Option("--label", metavar="KEY", help="obs column of cell types.")]
Unlabelled = Annotated[
    str | None, typer.Option("--unlabelled", metavar="VALUE", help="The label of cells that have none.")
]
ModelDir = Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Model directory.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="auto picks the GPU.", rich_help_panel=COMPUTING)
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.", rich_help_panel=COMPUTING)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything drawn.", rich_help_panel=COMPUTING)]
Missing = Annotated[MissingGenes, typer.Option("--missing-genes", help="zero fills genes the file lacks with zeros.")]
Table = Annotated[TableFormat, typer.Option("--format", help="For people, or for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=LOGGING)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="More messages, and tracebacks.", rich_help_panel=LOGGING)
]
Format = Annotated[LogFormat, typer.Option("--log-format", help="How messages look.", rich_help_panel=LOGGING)]

DEFAULT_MODEL = "cellalign-model"
_VERBOSITY = 0


def verbosity() -> int:
    """-1 quiet, 0 normal, 1 verbose."""
    return _VERBOSITY


def start(quiet: bool = False, verbose: bool = False, log_format: LogFormat = LogFormat.text) -> logging.Logger:
    """Set up messages on standard error; called first by every command."""
    global _VERBOSITY
    _VERBOSITY = 1 if verbose else -1 if quiet else 0
    import warnings

    # other libraries' warnings are for developers; a user sees them with -v
    warnings.simplefilter("default" if verbose else "ignore")
    logger = logging.getLogger("cellalign")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format is LogFormat.json else _Text())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    return logger


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"{prefix}{record.getMessage()}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        return json.dumps(entry | {"message": record.getMessage()} | getattr(record, "fields", {}))


def write_embedding(
    fitted: Model, adata: AnnData, obsm: dict[str, Any], source: str | Path, output: str, force: bool, **options: Any
) -> None:
    """Write latents, their provenance and inferred conditions (options as for those) into a copy of the input."""
    from cellalign.data.files import write_with
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    provenance = Provenance.of(adata.uns).with_steps(fitted.embedding_record())
    obs = fitted.inferred_condition(adata, **options)
    write_with(source, output, obsm=obsm, uns={KEY: provenance.plain()}, obs=obs, force=force)
    logging.getLogger("cellalign").info("%s: obsm %s of %d cells", output, ", ".join(obsm), adata.n_obs)


class TrainingProgress:
    """A bar on a terminal; a line every tenth of the way, or every 30 seconds, in a log."""

    def __init__(self, logger: logging.Logger, log_format: LogFormat) -> None:
        self.logger = logger
        self.bar: Any = None
        self.task: Any = None
        self.said = 0.0
        self.tenth = -1
        if sys.stderr.isatty() and log_format is LogFormat.text and logger.isEnabledFor(logging.INFO):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> TrainingProgress:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("training", total=None, said="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called by the engine once per epoch."""
        said = f"epoch {epoch}/{epochs}  loss {row['train_loss']:.1f}"
        if "validation_loss" in row:
            said += f"  validation {row['validation_loss']:.1f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=epoch, total=epochs, said=said)
            return
        tenth, now = 10 * epoch // epochs, time.monotonic()
        if tenth > self.tenth or now - self.said > 30:
            self.tenth, self.said = tenth, now
            self.logger.info(said, extra={"fields": {k: v for k, v in row.items()}})


# for an output that cannot hold arrows, as the boxes that rich draws are replaced there
ASCII_ARROWS = str.maketrans({"↑": "^", "↓": "v", "→": "->"})
UNCUT = 10_000  # a pipe or log has no width of its own: never cut a column there


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, prose: bool = False) -> None:
    """A table for people on standard output; the first column is text, the others are numbers, or prose that wraps.

    On a terminal too narrow for all columns of numbers they follow one another in several tables.
    """
    from rich.console import Console

    # names of cell types may hold brackets and colons: no markup
    console = Console(width=None if sys.stdout.isatty() else UNCUT, markup=False, emoji=False, highlight=False)
    lines = [[title], columns, *rows]
    if not console.encoding.startswith("utf"):
        lines = [[cell.translate(ASCII_ARROWS) for cell in line] for line in lines]
    [title], columns, *rows = lines
    console.print(title, style="bold")  # not the table's own, which wraps where the table is narrow
    everything = list(range(len(columns)))
    for band in [everything] if prose else _bands(columns, rows, console.width):
        console.print(_table([columns[i] for i in band], [[row[i] for i in band] for row in rows], prose))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], prose: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or prose else "right", no_wrap=i == 0 or not prose)
    for row in rows:
        table.add_row(*row)
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
    format: TableFormat,
    *,
    headings: Sequence[str] | None = None,
    prose: bool = False,
) -> None:
    """Rows on standard output: a table for people, or JSON or CSV for programs.

    `headings` are what people see above the columns; programs read `columns`.
    """
    if format is TableFormat.table:
        print_table(title, headings or columns, rows, prose=prose)
    elif format is TableFormat.json:
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        import csv

        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])


def print_evaluation(result: Evaluation, format: TableFormat) -> None:
    """The scores of an evaluation on standard output."""
    if format is TableFormat.table:
        for title, columns, rows in result.summary():
            print_table(title, columns, rows)
    else:
        typer.echo(result.to_json() if format is TableFormat.json else result.to_csv(), nl=False)


def key_values(items: Sequence[str] | None, option: str = "--set") -> dict[str, Any]:
    """KEY=VALUE items, values read as YAML; of "--grid" VALUE,VALUE is a list of them.

    Raises
    ------
    UsageError
    """
    import yaml

    from cellalign.errors import UsageError

    pairs: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {item!r} is not KEY=VALUE")
        try:
            if option == "--grid":
                pairs[key.strip()] = [number(part) for part in yaml.safe_load(f"[{value}]")]
            else:
                pairs[key.strip()] = number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UsageError(f"{option} {item!r}: the value is not readable as YAML") from error
    return pairs


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; a user means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
