"""A verb is declared once: a Python function, and the command that reads files, calls it and writes files.

    def train(adata, *, epochs: Annotated[int | None, Option("Passes over the cells.")] = None) -> Model: ...

    @command_of(train, example="cellalign train kang.pp.h5ad")
    def command(call: Call, input: Annotated[str, Argument("Preprocessed .h5ad.")]) -> None:
        model = train(read(input), **call.options)

The command's options are the function's keyword parameters that carry an `Option` and those of `command` itself,
with the defaults they have in Python. `call.options` holds the function's, as Python values. Nothing heavy is
imported to read a declaration.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args, get_origin

from cellalign.errors import UsageError

if TYPE_CHECKING:
    from cellalign.evaluation import Evaluation

REQUIRED = inspect.Parameter.empty
NOT_IMPORTED = ("Model",)  # types of declared options that only the command's `text` is looked at of


@dataclass(frozen=True)
class Option:
    """How a parameter reads on the command line.

    Attributes
    ----------
    help : str
    flags : tuple of str
        Its spellings, the long one first; by default after the parameter's name.
    metavar, panel : str, optional
        What stands for the value, and the group in the help.
    low, high : float, optional
        Range of a number.
    text : type, optional
        Type on the command line, where it is not the Python one (a sequence of str is repeated).
    read : callable, optional
        From that to the Python value.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str | None = None
    low: float | None = None
    high: float | None = None
    text: Any = None
    read: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Argument(Option):
    """A parameter that is given by its place."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function that has an option: its name and default in Python, its type in both languages.

    A parameter whose type is a dataclass stands for several: its first field has the option that was declared, and
    each other field one of its own, from its metadata.
    """

    name: str
    option: Option
    python_type: Any
    default: Any
    part_of: tuple[str, type] | None = None  # the parameter that it is a part of, and that one's class

    @property
    def flag(self) -> str:
        """The spelling that messages use."""
        return self.flags[0].partition("/")[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """All spellings."""
        return self.option.flags or ("--" + self.name.strip("_").replace("_", "-"),)

    @property
    def text_type(self) -> Any:
        """The type on the command line: a sequence is a list, a choice of words an enumeration."""
        if self.option.text is not None:
            return self.option.text
        others = [part for part in get_args(self.python_type) if part is not type(None)]
        optional = len(others) < len(get_args(self.python_type))
        kind: Any = others[0] if optional and len(others) == 1 else self.python_type
        if get_origin(kind) is Literal:
            enumeration: Any = StrEnum
            kind = enumeration(self.name, {word: word for word in get_args(kind)})
        elif get_origin(kind) is not None and issubclass(get_origin(kind), Sequence):
            return list[str] if isinstance(self.option, Argument) and self.default is REQUIRED else list[str] | None
        return kind | None if optional else kind

    @property
    def repeatable(self) -> bool:
        """Whether it may be given several times."""
        return any(get_origin(kind) is list for kind in (self.text_type, *get_args(self.text_type)))

    @property
    def text_default(self) -> Any:
        """The default on the command line."""
        if not isinstance(self.default, tuple):
            return self.default
        words = [str(word) for word in self.default]
        return words if self.repeatable else ",".join(words) or None

    def value(self, given: Any) -> Any:
        """The Python value of what the command line gave; UsageError of an empty text, such as an unset variable."""
        if given is None:
            return None if self.default is REQUIRED else self.default
        if any(text == "" for text in (given if isinstance(given, list) else [given])):
            named = self.option.metavar or self.name if isinstance(self.option, Argument) else self.flag
            raise UsageError(f"{named} is given an empty text; give it a value, or leave it out")
        if self.option.read is not None:
            return self.option.read(given)
        return given.value if isinstance(given, StrEnum) else given


class Call(Protocol):
    """What a command is given beside its own parameters: the function's options, and ways to say things."""

    options: dict[str, Any]
    log: logging.Logger

    def print_rows(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        format: str,
        *,
        headings: Sequence[str] | None = None,
        prose: bool = False,
    ) -> None:
        """Print a table on standard output, for people (under `headings`, prose wrapped) or as JSON or CSV.

        Numbers are given as text where people read them, and as they are to programs.
        """

    def print_evaluation(self, result: Evaluation, format: str) -> None:
        """Print scores on standard output, and their notes on standard error."""

    def announce(self, text: str) -> None:
        """Print a heading on standard output."""

    def training_progress(self) -> AbstractContextManager[Any]:
        """The `progress` of `train`: a bar on a terminal, lines in a log."""

    def run(self, words: Sequence[str]) -> None:
        """Run another command, given as the words after `cellalign`."""


@dataclass(frozen=True)
class Declaration:
    """A command, the Python function it calls (demo calls commands instead), and how the help presents it."""

    command: Callable[..., None]
    function: Callable[..., Any] | None
    name: str
    example: str
    group: str | None = None

    def options(self) -> list[Parameter]:
        """Parameters of the function that are options."""
        return [] if self.function is None else parameters(self.function)

    def own(self) -> list[Parameter]:
        """Parameters of the command itself: files, and how to print."""
        return parameters(self.command)


DECLARATIONS: dict[str, Declaration] = {}


def command_of(
    function: Callable[..., Any] | None, *, example: str, name: str | None = None, group: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the decorated function as the command of a Python function, by default of the same name."""

    def declare(command: Callable[..., None]) -> Callable[..., None]:
        own = name or getattr(function, "__name__", "").replace("_", "-")
        DECLARATIONS[f"{group} {own}" if group else own] = Declaration(command, function, own, example, group)
        return command

    return declare


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Parameters of a function whose annotation carries an `Option`; the others' are not looked at."""
    found = []
    for parameter in inspect.signature(inspect.unwrap(function)).parameters.values():
        said = parameter.annotation
        if isinstance(said, str):
            if not said.startswith("Annotated["):
                continue
            # the other annotations may name types that are not imported
            known = inspect.unwrap(function).__globals__ | {name: Any for name in NOT_IMPORTED}
            said = eval(said, known)
        if get_origin(said) is Annotated and isinstance(said.__metadata__[0], Option):
            python_type = get_args(said)[0]
            if is_dataclass(python_type):
                found += _parts(parameter.name, said.__metadata__[0], python_type, parameter.default)
            else:
                found.append(Parameter(parameter.name, said.__metadata__[0], python_type, parameter.default))
    return found


def _parts(name: str, option: Option, kind: Any, default: Any) -> list[Parameter]:
    """A parameter that is a dataclass, as one of each field."""
    first, *others = fields(kind)
    part_of = (name, kind)
    own = default if default is REQUIRED else getattr(default, first.name)
    declared = [Parameter(name, option, Sequence[str], own, part_of)]
    # a choice of two flags is a truth value, all else text
    types = {each.name: bool | None if each.metadata.get("flags") else str | None for each in others}
    return declared + [
        Parameter(each.name, Option(**each.metadata), types[each.name], each.default, part_of) for each in others
    ]


def values(found: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The Python values of parameters by name, of what the command line gave of each; parts put together."""
    result: dict[str, Any] = {}
    parts: dict[tuple[str, type], dict[str, Any]] = {}
    for parameter in found:
        value = parameter.value(given[parameter.name])
        if parameter.part_of is None:
            result[parameter.name] = value
        else:
            parts.setdefault(parameter.part_of, {})[parameter.name] = value
    for (name, kind), of_it in parts.items():
        several = tuple(of_it.pop(name) or ())
        result[name] = kind(several, **of_it)
    return result


def flags_of(found: Sequence[Parameter]) -> Mapping[str, str]:
    """The command line's spelling of parameters by their name."""
    return {parameter.name: parameter.flag for parameter in found if not isinstance(parameter.option, Argument)}
