"""Assembles the commands; turns every error into one line and its exit status."""

from __future__ import annotations

import gc
import inspect
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from cellalign.cli import signals
from cellalign.cli.build import callback
from cellalign.cli.ending import DONE, flushed, status_of
from cellalign.cli.help import Command, Group
from cellalign.cli.pages import PAGES, Page
from cellalign.cli.process import prepare_process
from cellalign.errors import on_command_line
from cellalign.tasks.declaration import DECLARATIONS

# one module of `tasks` each, in the order of the help
VERBS = list(PAGES)
HELP = "Integrate single cells across conditions, predict them under another, find what perturbations target."
GROUPS = {"plot": "Draw what other commands wrote.", "simulate": "Simulate data with the truth inside."}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cellalign {version('cellalign')}")
        raise typer.Exit


def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Integrate single cells across conditions, predict them under another, find what perturbations target.

    check -> train -> embed / counterfactual -> evaluate; every step reads and writes .h5ad. `cellalign COMMAND --help`
    says when to use a command, and `cellalign methods` which method answers which question.
    """
    _help_if_bare(context)


def of_group(context: typer.Context) -> None:
    """A group's own page, where no command of it is named."""
    _help_if_bare(context)


def _help_if_bare(context: typer.Context) -> None:
    """Print help as help where no command was given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _offer_own_completion() -> None:
    """Let --install-completion and --show-completion give our scripts, which know where a file is wanted."""
    from typer import _completion_shared

    from cellalign.cli.completions import SCRIPTS

    known = getattr(_completion_shared, "_completion_scripts", {})
    known.update({shell: script.replace("%", "%%") for shell, script in SCRIPTS.items() if shell in known})


def assembled() -> typer.Typer:
    """The application with every declared command."""
    _offer_own_completion()
    for verb in VERBS:
        import_module(f"cellalign.tasks.{verb}")
    whole = typer.Typer(
        name="cellalign",
        help=HELP,
        cls=Group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback(invoke_without_command=True)(root)
    groups: dict[str, typer.Typer] = {}
    for declaration in sorted(DECLARATIONS.values(), key=lambda d: VERBS.index(d.group or d.name)):
        if declaration.group is not None and declaration.group not in groups:
            said = GROUPS[declaration.group]
            groups[declaration.group] = typer.Typer(help=said, cls=Group, rich_markup_mode=None)
            groups[declaration.group].callback(invoke_without_command=True)(of_group)
            whole.add_typer(groups[declaration.group], name=declaration.group, help=said)
        home = groups[declaration.group] if declaration.group is not None else whole
        page = Page("") if declaration.group is not None else PAGES[declaration.name]
        said = "\n\n".join(filter(None, [inspect.getdoc(declaration.command), page.when]))
        home.command(
            name=declaration.name,
            cls=Command,
            help=said,
            short_help=page.line or None,
            epilog=f"Example: {declaration.example}",
        )(callback(declaration, whole))
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
