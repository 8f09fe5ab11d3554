"""Assembles the commands; turns every error into one line and its exit status."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from cellalign.cli import (
    annotate,
    benchmark,
    counterfactual,
    demo,
    embed,
    evaluate,
    methods,
    preprocess,
    simulate,
    targets,
    train,
    transfer,
    tune,
)
from cellalign.errors import CellalignError

app = typer.Typer(
    name="cellalign",
    help="Integrate single cells across conditions, predict them under another, find what perturbations target.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    preprocess,
    train,
    tune,
    embed,
    counterfactual,
    annotate,
    evaluate,
    targets,
    transfer,
    benchmark,
    methods,
    demo,
)
for command in COMMANDS:
    app.command(name=command.NAME, epilog=command.EXAMPLES)(command.command)
app.add_typer(simulate.app, name="simulate")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cellalign {version('cellalign')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Integrate single cells across conditions, predict them under another, find what perturbations target.

    preprocess -> train -> embed / counterfactual -> evaluate; every step reads and writes .h5ad.
    """


class _Terminated(BaseException):
    """SIGTERM, as a queue sends it before it kills."""


def main() -> NoReturn:
    """Run the command line and exit with the status the specification gives."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    # numba, with which scanpy computes, would raise the number of torch's threads to that of the cores
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    sys.exit(_run())


def _run() -> int:
    try:
        # not standalone: click would turn an interruption into its own status
        result = app(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; outputs are as they were", 130)
    except _Terminated:
        return _say("terminated; outputs are as they were", 143)
    except CellalignError as error:
        return _say(str(error), error.exit_status, error)
    except MemoryError as error:
        return _say("out of memory; use fewer cells or genes, or a smaller --batch-size", 5, error)
    except BrokenPipeError:
        return 141
    except Exception as error:
        shown = getattr(error, "format_message", None)  # click's usage errors
        if shown is not None:
            return _say(f"{shown()} (see cellalign --help)", 2)
        return _say(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback", 1, error)


def _say(message: str, status: int, error: BaseException | None = None) -> int:
    """One line on standard error; the traceback only where -v asked for it."""
    from cellalign.cli.common import verbosity

    if error is not None and verbosity() > 0:
        import traceback

        traceback.print_exception(error)
    one_line = " ".join(message.split())
    print(f"cellalign: error: {one_line}" if status not in (130, 143) else f"cellalign: {one_line}", file=sys.stderr)
    return status
