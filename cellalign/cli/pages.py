"""What the help says beside the options: commands in groups, each in one line, and when to use which.

`Command` and `Group` are typer's with options under the headings that their declarations name (`Option.panel`). They
are written as plain text, as wide as the terminal, without rich: help answers at once, in a pipe and a log too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand, TyperGroup

OPTIONS = "Options"
FIRST = ("Arguments", "Columns of obs", "Method and settings", OPTIONS)
LAST = ("Output", "Computing", "Messages")  # nearly the same of every command


@dataclass(frozen=True)
class Page:
    """One command: its line in the list of all, and when it is the one to use."""

    line: str
    when: str = ""


GROUPS: Mapping[str, Mapping[str, Page]] = {
    "Before training": {
        "check": Page(
            "Is this file fit, and this design? What to do about what is not.",
            "Use it first, on a file of your own: with --condition it says whether the effect can be told at all.",
        ),
        "info": Page(
            "What a file or a model holds, in words.",
            "Use it on a file that somebody sent, or a model of last year.",
        ),
        "methods": Page(
            "Which method for which question; its settings, presets; metrics.",
            "Use it to choose: by what you ask, what it needs and what it costs. With a name it tells all.",
        ),
        "preprocess": Page(
            "Normalise and choose genes once, for many commands.",
            "Use it where several commands read the same cells, or you want the file. train takes raw counts too.",
        ),
    },
    "Train": {
        "train": Page(
            "Train a method on cells and write the model directory.",
            "To predict a cell type or donor held out: --method local, in seconds, or auto. To integrate: comp, scvi "
            "on counts with --batch. Which perturbation targets what: svae+. `cellalign methods` lists all.",
        ),
        "tune": Page(
            "Train every combination of settings, rank them, keep the best.",
            "Use it after a first training that works; for most methods the defaults are near the best.",
        ),
        "transfer": Page(
            "Add perturbations that a trained model has never seen.",
            "Use it with svae+ and its kin; for new batches or conditions of other methods: train --from MODEL.",
        ),
        "reproduce": Page(
            "Train a model again from its model.yaml, and compare.",
            "Use it to show that a published model is what its settings give.",
        ),
    },
    "Use a model": {
        "embed": Page(
            "The cells' latents: obsm X_<method>, UMAP, pictures.",
            "Use it to cluster, draw or join cells without the effect of condition or batch.",
        ),
        "counterfactual": Page(
            "The cells as if under another condition.",
            "Use it to predict: what a group of cells would be that was not measured under --to. Hold the group out in "
            "training (--holdout), or what it gives is a fit.",
        ),
        "annotate": Page(
            "Cell types of unlabelled cells, with probabilities.",
            "Use it where some cells, or another data set, are labelled.",
        ),
        "targets": Page(
            "Which latent processes each perturbation targets.",
            "Use it after training svae+, svae or ivae on a screen.",
        ),
    },
    "How good is it": {
        "evaluate": Page(
            "Scores beside their null and baselines, and a verdict.",
            "Use it on an embedding (mixing, cell types kept), or on a counterfactual with --against the real cells.",
        ),
        "benchmark": Page(
            "Hold each group out in turn, predict it by several methods.",
            "Use it to choose a method for your own data, and to know what to expect of it.",
        ),
        "report": Page("One page of a run: what was found and how far to believe it."),
    },
    "Try it": {
        "demo": Page("The whole job on simulated cells, in a minute or two."),
        "simulate": Page("Simulate data with the truth inside."),
    },
}
PAGES: Mapping[str, Page] = {verb: page for group in GROUPS.values() for verb, page in group.items()}


class Command(TyperCommand):
    """A command whose help has its options in groups."""

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
