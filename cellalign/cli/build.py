"""From a declaration to a typer command: its signature is built of the options declared, nothing is written twice."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cellalign.cli import messages, spaced, tables
from cellalign.cli.ending import carried
from cellalign.cli.messages import TrainingProgress, start
from cellalign.cli.misnamed import inputs_first
from cellalign.cli.printable import printable
from cellalign.cli.refused import check_values
from cellalign.cli.signals import at_work
from cellalign.errors import InputError, UsageError, on_command_line, option
from cellalign.tasks.declaration import REQUIRED, Argument, Declaration, Parameter, flags_of, parameters, values

if TYPE_CHECKING:
    from cellalign.evaluation import Evaluation

log = logging.getLogger("cellalign")
SHORT: dict[type, str] = {int: "N", float: "X", str: "TEXT"}
COMPUTING = ("device", "threads", "seed")


def callback(declaration: Declaration, app: typer.Typer) -> Callable[..., None]:
    """What typer runs for a declaration: reads the options, calls the command."""
    of_all, options, own = parameters(start), declaration.options(), declaration.own()
    flags = flags_of([*of_all, *options, *own])
    lists = {flag for one in (*options, *own) if one.repeatable for flag in one.flags}

    def run(**given: Any) -> None:
        with carried(), on_command_line(flags):
            log = start(**values(of_all, given))
            check_values([*of_all, *options, *own], given)
            _check_place()
            asked, more = values(options, given), values(own, given)
            handed_on = [word for option in of_all for word in _as_words(option, given[option.name])]
            _start_ranks(asked | more)
            for warning in messages.of_command_line:
                log.warning(warning)
            with _prepared(asked | more), at_work(), _connected(asked | more), _told(asked | more, lists):
                declaration.command(_Call(asked, log, app, handed_on), **more)

    shown = sorted([*own, *options], key=_place) + of_all
    signature = [_for_typer(parameter) for parameter in shown]
    run.__name__, run.__doc__ = declaration.name, declaration.command.__doc__
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    return run


def _check_place() -> None:
    """Refuse a working directory that is gone, in which some libraries end the process when they are imported."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(f"the working directory is gone ({error.strerror}); change to another") from error


def _start_ranks(asked: Mapping[str, Any]) -> None:
    """Where several processes are to carry out a command and nobody has started them: do, and end as they end."""
    from cellalign.engine.launch import run_ranks, several_to_start, started

    if "devices" not in asked and (there := started(None, None)) is not None:
        raise UsageError(f"{there.by} started {there.world} processes, and this command is for one: start it by itself")
    devices, nodes = asked.get("devices"), asked.get("nodes")
    if not several_to_start(devices, nodes):
        return
    if any(getattr(value, "from_stdin", False) for value in asked.values()):
        raise UsageError(f"{option('devices')} reads files, not standard input; name the file")
    raise SystemExit(run_ranks(sys.argv[1:], devices or 1, nodes or 1, asked.get("threads")))


def _connected(asked: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """The processes that carry out a command together, if it is one that several can."""
    if "devices" not in asked:
        return nullcontext()
    from cellalign.engine.ranks import connected

    return connected(asked["devices"], asked["nodes"], asked.get("device") or "auto")


@contextmanager
def _told(asked: Mapping[str, Any], lists: Collection[str]) -> Iterator[None]:
    """What is said of the same cells is said once; of several mistakes those in what is read come first."""
    from cellalign.data.said import told_once

    with told_once(anew=True), inputs_first(asked), spaced.taken_for_files(sys.argv[1:], lists):
        yield


@contextmanager
def _prepared(asked: Mapping[str, Any]) -> Iterator[None]:
    """The process as a command needs it: its threads, its device, its garbage collected."""
    from cellalign.threads import limited, tell_libraries, wait_as_neighbours_allow

    threads = asked.get("threads")
    if threads is not None and "numpy" not in sys.modules:
        tell_libraries(threads)
    waiting = wait_as_neighbours_allow(threads)
    if waiting is not None:
        log.debug("%s", waiting)
    if asked.get("device") is not None:
        from cellalign.engine.device import own_process

        own_process(asked["device"])
    with limited(threads):
        _collect_garbage()
        yield


def _collect_garbage() -> None:
    """Turn the collector on, where `main` turned it off; what was imported until now stays and is not looked at."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class _Call:
    """What a command is given (`tasks.declaration.Call`)."""

    print_rows = staticmethod(tables.print_rows)

    def __init__(self, options: dict[str, Any], log: logging.Logger, app: typer.Typer, messages: list[str]) -> None:
        self.options, self.log, self._app, self._messages = options, log, app, messages

    def print_evaluation(self, result: Evaluation, format: str) -> None:
        tables.print_evaluation(result, format)
        for note in result.notes:
            self.log.info("%s", note)
        reasons: dict[str, list[str]] = {}
        for name, reason in result.left_out.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            panels = "panels" if len(names) > 1 else "panel"
            self.log.info("%s %s left out: %s", panels, ", ".join(names), reason)

    def announce(self, text: str) -> None:
        typer.secho(printable(text, keep="\n"), bold=True)

    def training_progress(self) -> AbstractContextManager[TrainingProgress]:
        return TrainingProgress(self.log)

    def run(self, words: Sequence[str]) -> None:
        self._app([*words, *self._messages], standalone_mode=False)


def _place(parameter: Parameter) -> int:
    """Arguments first, then what has to be given, then the command's and the function's options, then the machine."""
    if isinstance(parameter.option, Argument):
        return 0
    if parameter.name in COMPUTING:
        return 3
    return 1 if parameter.default is REQUIRED else 2


def _as_words(parameter: Parameter, given: Any) -> list[str]:
    """An option as it was given, to hand it on; nothing where it has its default."""
    if given == parameter.default:
        return []
    return [parameter.flag] if given is True else [parameter.flag, str(parameter.value(given))]


def _stands_for(parameter: Parameter) -> str | None:
    """What stands for a value in the help: N, X, TEXT, or the words there are; typer's own spells out types."""
    kind = parameter.text_type
    kinds = [part for part in (*get_args(kind), kind) if isinstance(part, type)]
    for part in kinds:
        if issubclass(part, StrEnum):
            return "|".join(part)
    return next((SHORT[part] for part in kinds if part in SHORT), None)


def _for_typer(parameter: Parameter) -> inspect.Parameter:
    """The parameter as typer reads one."""
    option = parameter.option
    metavar = option.metavar or _stands_for(parameter)
    said: dict[str, Any] = {"help": option.help, "metavar": metavar, "rich_help_panel": option.panel}
    said |= {"min": option.low, "max": option.high}
    if isinstance(option, Argument):
        info: Any = typer.Argument(**said)
    else:
        info = typer.Option(*parameter.flags, **said)
    annotation: Any = Annotated[parameter.text_type, info]  # type: ignore[name-defined]
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(parameter.name, kind, default=parameter.text_default, annotation=annotation)
