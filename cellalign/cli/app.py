"""Assembles the commands; turns every error into one line and its exit status."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from cellalign.cli import signals
from cellalign.cli.build import callback
from cellalign.cli.ending import DONE, flushed, status_of
from cellalign.cli.process import prepare_process
from cellalign.errors import on_command_line
from cellalign.tasks.declaration import DECLARATIONS

# one module of `tasks` each, in the order of the help
VERBS = ["preprocess", "train", "tune", "embed", "counterfactual", "annotate", "evaluate", "targets", "transfer"]
VERBS += ["reproduce", "benchmark", "report", "plot", "methods", "demo", "simulate"]
HELP = "Integrate single cells across conditions, predict them under another, find what perturbations target."
GROUPS = {"plot": "Draw what other commands wrote.", "simulate": "Simulate data with the truth inside."}


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


def main() -> NoReturn:
    """Run the command line and exit with the status the specification gives; called by `entry.main`."""
    gc.disable()  # until all that stays is imported (`build.callback`)
    prepare_process()
    status = _run()
    signals.ending(status)
    status = flushed(status)
    signals.ending(status)
    # the interpreter would look for garbage once more among the million objects of the libraries: half a second
    gc.freeze()
    sys.exit(status)


def _run() -> int:
    with on_command_line({}):
        try:
            # not standalone: click would turn an interruption into its own status
            result = app(standalone_mode=False)
            return result if isinstance(result, int) else DONE
        except BaseException as error:
            return status_of(error)
