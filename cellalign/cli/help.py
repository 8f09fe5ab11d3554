"""Help pages: typer's, with options under the headings that their declarations name (`Option.panel`).

They are written as plain text, as wide as the terminal, without rich: help answers at once, in a pipe and a log too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from cellalign.cli import messages
from cellalign.cli.pages import GROUPS

OPTIONS = "Options"
FIRST = ("Arguments", "Columns of obs", "Method and settings", OPTIONS)
LAST = ("Output", "Computing", "Messages")  # nearly the same of every command


class Command(TyperCommand):
    """A command whose help has its options in groups, and which says what of its line is not used."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line; of an option for one value that stands there twice the last counts."""
        given = Counter(each.name for each in self.make_parser(ctx).parse_args(args=list(args))[2] if _takes_one(each))
        rest: list[str] = super().parse_args(ctx, args)
        messages.of_command_line = [
            f"{option.opts[0]} is given {given[option.name]} times; the last counts: {ctx.params[option.name]}"
            for option in self.get_params(ctx)
            if given[option.name] > 1
        ]
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each group under its heading."""
        _write_options(self, ctx, formatter)


class Group(TyperGroup):
    """Commands whose help lists them in groups, none of their lines cut."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and the commands in groups."""
        here: dict[str, Any] = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: command for name, command in here.items() if command is not None and not command.hidden}
        groups: Iterable[tuple[str, Iterable[str]]] = GROUPS.items() if ctx.parent is None else [("Commands", shown)]
        listed: set[str] = set()
        for title, names in [*groups, ("More", shown)]:
            own = [name for name in names if name in shown and name not in listed]
            listed.update(own)
            if own:
                with formatter.section(title):
                    formatter.write_dl([(name, shown[name].get_short_help_str(limit=1000)) for name in own])
        _write_options(self, ctx, formatter)


def _takes_one(parameter: Any) -> bool:
    """Whether a parameter is an option for one value."""
    return parameter.param_type_name == "option" and not (parameter.multiple or parameter.is_flag or parameter.count)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            name = record[0].partition(" <")[0] if parameter.param_type_name == "argument" else record[0]
            groups.setdefault(_group_of(parameter), []).append((name, record[1].replace("\\[", "[")))
    places = {title: i - len(FIRST) for i, title in enumerate(FIRST)} | {title: i + 1 for i, title in enumerate(LAST)}
    order = sorted(groups, key=lambda title: places.get(title, 0))
    for title in order:
        with formatter.section(title):
            formatter.write_dl(groups[title], col_max=26)


def _group_of(parameter: Any) -> str:
    """The heading that an option stands under."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    if parameter.name == "help":
        return LAST[-1]
    return getattr(parameter, "rich_help_panel", None) or OPTIONS
