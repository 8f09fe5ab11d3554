"""Assembles the commands; turns every error into one line and its exit status."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from cellalign.cli.build import callback
from cellalign.cli.messages import format_asked, say_end, verbosity
from cellalign.errors import CellalignError, on_command_line, option
from cellalign.tasks.declaration import DECLARATIONS

# one module of `tasks` each, in the order of the help
VERBS = ["preprocess", "train", "tune", "embed", "counterfactual", "annotate", "evaluate", "targets", "transfer"]
VERBS += ["benchmark", "methods", "demo", "simulate"]
HELP = "Integrate single cells across conditions, predict them under another, find what perturbations target."
GROUPS = {"simulate": "Simulate data with the truth inside."}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cellalign {version('cellalign')}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Integrate single cells across conditions, predict them under another, find what perturbations target.

    preprocess -> train -> embed / counterfactual -> evaluate; every step reads and writes .h5ad.
    """


def assembled() -> typer.Typer:
    """The application with every declared command."""
    for verb in VERBS:
        import_module(f"cellalign.tasks.{verb}")
    whole = typer.Typer(
        name="cellalign",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback()(root)
    groups: dict[str, typer.Typer] = {}
    for declaration in sorted(DECLARATIONS.values(), key=lambda d: VERBS.index(d.group or d.name)):
        if declaration.group is not None and declaration.group not in groups:
            said = GROUPS[declaration.group]
            groups[declaration.group] = typer.Typer(help=said, no_args_is_help=True, rich_markup_mode=None)
            groups[declaration.group].callback()(lambda: None)
            whole.add_typer(groups[declaration.group], name=declaration.group, help=said)
        home = groups[declaration.group] if declaration.group is not None else whole
        home.command(name=declaration.name, epilog=f"Example: {declaration.example}")(callback(declaration, whole))
    return whole


app = assembled()


class _Terminated(BaseException):
    """SIGTERM, as a queue sends it before it kills."""


def main() -> NoReturn:
    """Run the command line and exit with the status the specification gives."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise _Terminated

    gc.disable()  # until all that stays is imported (`build.callback`)
    signal.signal(signal.SIGTERM, terminate)
    # numba, with which scanpy and UMAP compute, would raise the number of torch's threads to that of the cores
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    status = _run()
    # the interpreter would look for garbage once more among the million objects of the libraries: half a second
    gc.freeze()
    sys.exit(status)


def _run() -> int:
    with on_command_line({}):
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
            return _say(f"out of memory; use fewer cells or genes, or a smaller {option('batch_size')}", 5, error)
        except BrokenPipeError:
            return 141
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
                return _say(
                    f"out of memory on the GPU; use fewer cells or genes, or {option('device', 'cpu')}", 5, error
                )
            shown = getattr(error, "format_message", None)  # click's usage errors
            if shown is not None:
                say_end(f"{shown()} (see cellalign --help)", 2, format_asked(sys.argv[1:]))
                return 2
            return _say(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback", 1, error)


def _say(message: str, status: int, error: BaseException | None = None) -> int:
    """One line on standard error; the traceback only where -v asked for it."""
    if error is not None and verbosity() > 0:
        import traceback

        traceback.print_exception(error)
    say_end(message, status)
    return status
