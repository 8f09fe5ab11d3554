"""methods: what can be trained, with which presets and settings, and what the scores mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of

if TYPE_CHECKING:
    import pandas as pd


def list_methods(method: str | None = None) -> pd.DataFrame:
    """Methods with what they are for, what they need and their presets, or the settings of one method.

    Parameters
    ----------
    method : str, optional

    Returns
    -------
    DataFrame of str
        One row per method (method, what it is, reference, package, presets, question, needs, gives, cost), or per
        setting of the method named (setting, default, range, what it is).

    Raises
    ------
    UsageError
        No such method.
    """
    import pandas as pd

    return pd.DataFrame(_methods() if method is None else _settings(method))


@command_of(list_methods, name="methods", example="cellalign methods comp")
def command(
    call: Call,
    method: Annotated[str | None, Argument("Tell all of this one.", metavar="[METHOD]")] = None,
    metrics: Annotated[
        bool, Option("List the scores that commands print: meaning, and which way is better.", panel=o.OUTPUTS)
    ] = False,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
) -> None:
    """Which method answers which question: what it needs, gives and costs. Or all of one method, or all metrics."""
    if metrics:
        _print_metrics(call, method, format)
    elif format != "table":
        rows = _methods() if method is None else _settings(method)
        title = "methods" if method is None else f"settings of {method}"
        call.print_rows(title, list(rows[0]), [list(row.values()) for row in rows], format)
    elif method is None:
        _print_chooser(call)
    else:
        _print_one(call, method)


def _print_chooser(call: Call) -> None:
    """A table for each question, in the order in which people ask."""
    from cellalign.tasks.chooser import CHOICES, OTHERS

    every = _methods()
    for question in (*CHOICES, OTHERS):
        own = {row["method"]: row for row in every if row["question"] == question}
        order = [name for name in CHOICES.get(question, own) if name in own]
        rows = [[name, *(own[name][key] for key in ("needs", "gives", "cost"))] for name in order]
        if rows:
            call.print_rows(question, ["method", "needs", "gives", "takes"], rows, "table", prose=True)
    columns = ", ".join(option(name) for name in ("condition", "batch", "label"))
    more = [
        ["cellalign methods NAME", "all of one: presets, settings, paper"],
        ["cellalign check FILE", "whether a file has what a method needs"],
        ["cellalign train --help", f"how columns are named: {columns}, ..."],
    ]
    call.print_rows("More", ["command", "says"], more, "table", headings=["", ""], prose=True)


def _print_one(call: Call, method: str) -> None:
    """One method in full: what it is, needs, gives and does; its presets and settings."""
    from cellalign.methods.registry import available, get, presets
    from cellalign.tasks.chooser import choice_of, question_of

    cls = get(method)
    about = available()[cls.name]
    choice = choice_of(cls.name, about.summary)
    reads = {"counts": "raw counts", "log": "normalised log expression, made of raw counts where there are such"}
    uses = ", ".join(option(role, hint="KEY") for role in sorted(cls.uses())) or "none"
    facts = {
        "is": about.summary,
        "answers": question_of(cls.name) if choice.needs else "",
        "gives": choice.gives,
        "needs": choice.needs,
        "reads": reads.get(cls.reads(cls.Hyperparameters()), "any values"),
        "columns": uses,
        "does": "; ".join(_does(cls)),
        "takes": choice.cost,
        "paper": about.reference,
        "package": about.package,
    }
    rows = [[what, said] for what, said in facts.items() if said]
    call.print_rows(method, ["what", "said"], rows, "table", headings=["", ""], prose=True)
    known = [[name, presets()[name].get("source", "")] for name in about.presets]
    if known:
        call.print_rows("presets (--preset NAME)", ["preset", "of"], known, "table", prose=True)
    settings = _settings(method)
    rows = [list(row.values()) for row in settings]
    call.print_rows("settings (--set KEY=VALUE)", list(settings[0]), rows, "table", prose=True)


def _does(cls: Any) -> list[str]:
    """The capabilities of a method in words, each once."""
    from cellalign.methods.capabilities import Capability

    found = [base.does for base in cls.__mro__ if issubclass(base, Capability) and "does" in vars(base)]
    return [said for said in dict.fromkeys(found) if said]


def _print_metrics(call: Call, method: str | None, format: str) -> None:
    from cellalign.evaluation.catalogue import about, catalogue

    if method is not None:
        raise UsageError(f"{method} and {option('metrics', True)} ask for two lists; leave out one")
    found = catalogue()
    if format != "table":
        rows = [[each.name, where, str(each.better), each.null, each.meaning] for where, each in found]
        call.print_rows("metrics", ["metric", "panel", "better", "null", "meaning"], rows, format)
        return
    for panel in dict.fromkeys(where for where, _ in found):
        rows = [[each.heading, each.meaning, each.null] for where, each in found if where == panel]
        call.print_rows(about(panel), ["metric", "meaning", "without any signal"], rows, format, prose=True)


def _methods() -> list[dict[str, str]]:
    from cellalign.methods.registry import available
    from cellalign.tasks.chooser import choice_of, question_of

    return [
        {
            "method": info.name,
            "what it is": info.summary,
            "reference": info.reference,
            "package": info.package,
            "presets": ", ".join(info.presets) or "-",
            "question": question_of(info.name),
            "needs": choice_of(info.name, info.summary).needs,
            "gives": choice_of(info.name, info.summary).gives,
            "cost": choice_of(info.name, info.summary).cost,
        }
        for info in available().values()
    ]


def _settings(name: str) -> list[dict[str, str]]:
    from cellalign.engine.settings import plan_of
    from cellalign.methods.registry import get

    cls = get(name)
    return [
        {
            "setting": key,
            "default": str(cls.plan_defaults.get(key, field.default)),
            "range": _range(field),
            "what it is": field.description or "",
        }
        for fields in (cls.Hyperparameters.model_fields, plan_of(cls))
        for key, field in fields.items()
    ]


def _range(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    choices = getattr(field.annotation, "__args__", ())
    if not bounds and choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    return ", ".join(bounds) or "-"
