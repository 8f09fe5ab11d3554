"""Completion: what may follow in a command line that is being typed, for bash, zsh and fish.

Answers by the declarations alone, without typer: options and their values, methods, presets, settings, devices, panels,
metrics, and of the input named on the line its columns of obs and their values. Where a file is to be named it says so,
and the shell offers files; where something else is, it never does. `words.json` holds what would take importing
torch to find; `python -m cellalign.cli.completions` writes it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from cellalign.cli import peek
from cellalign.cli.pages import PAGES
from cellalign.tasks.declaration import DECLARATIONS, Argument, Declaration, Parameter, parameters

VARIABLE, WORDS, SHELLS = "_CELLALIGN_COMPLETE", "_CELLALIGN_WORDS", ("bash", "zsh", "fish")
FILES, FOLDERS = ":files", ":folders"  # the shell offers them
ROOT = {"--help": "Show help.", "--version": "Print the version."}
COLUMNS: tuple[str, ...] = ("condition", "batch", "covariate", "label", "numeric", "color", "within", "holdout_each")
COLUMNS += ("calibrate", "replicate")
VALUES_OF = {"control": "condition", "to": "condition", "unlabelled": "label", "groups": "holdout_each"}
KINDS = ("number", "vector", "multi-label")
DEVICES = ("auto", "cpu", "cuda", "mps")
Item = tuple[str, str]  # what may follow, and what it is


@dataclass
class Line:
    """The words that were typed before the one to complete, sorted by what they are.

    Attributes
    ----------
    inputs : list of str
        Words in the place of arguments.
    given : dict of list of str
        Values of options by the parameter's name.
    open_ : Parameter, optional
        The option whose value comes next.
    """

    inputs: list[str]
    given: dict[str, list[str]]
    open_: Parameter | None = None

    def last(self, name: str) -> str | None:
        """The value of an option; None where it was not given."""
        return self.given[name][-1] if self.given.get(name) else None


def main() -> int:
    """Print what may follow, as the shell that asked reads it."""
    shell = os.environ[VARIABLE]
    sys.stderr = open(os.devnull, "w")  # a message within a line that is typed helps nobody
    words, current, breaks, quote = _typed(shell)
    found = candidates(words, current)
    if isinstance(found, str):
        print(found)
        return 0
    for value, what in found:
        if shell == "bash":
            print(_as_bash_replaces(value, current, breaks, quote))
        elif shell == "zsh":
            print(value.replace("\\", "\\\\").replace(":", "\\:") + (f":{what}" if what else ""))
        else:
            print(f"{value}\t{what}")
    return 0


def candidates(words: Sequence[str], current: str) -> list[Item] | str:
    """What may stand in the place of the current word.

    Parameters
    ----------
    words : sequence of str
        Before it, without the program.
    current : str
        What of it is typed.

    Returns
    -------
    list of (word, what it is), FILES or FOLDERS
    """
    found = _candidates(list(words), current)
    if isinstance(found, str):
        return found
    return [(value, what) for value, what in found if value.startswith(current) and value != ""]


def _candidates(words: list[str], current: str) -> Iterable[Item] | str:
    named = [word for word in words if not word.startswith("-")]
    if not named:
        return ROOT.items() if current.startswith("-") else [(verb, page.line) for verb, page in PAGES.items()]
    verb = named[0]
    if verb not in PAGES:
        return []
    try:
        import_module(f"cellalign.tasks.{verb}")
    except ImportError:
        return []
    rest = words[words.index(verb) + 1 :]
    within = {d.name: d for d in DECLARATIONS.values() if d.group == verb}
    if within:
        if not rest:
            return [(name, _first_line(d)) for name, d in within.items()]
        return _of_command(within[rest[0]], rest[1:], current) if rest[0] in within else []
    return _of_command(DECLARATIONS[verb], rest, current)


def _of_command(declaration: Declaration, words: list[str], current: str) -> Iterable[Item] | str:
    from cellalign.cli.messages import start

    every = [*declaration.own(), *declaration.options(), *parameters(start)]
    options = [parameter for parameter in every if not isinstance(parameter.option, Argument)]
    line = _read(words, options)
    if line.open_ is not None:
        return _values_of(line.open_, line, current)
    name, equals, value = current.partition("=")
    if name.startswith("--") and equals:
        found = next((p for p in options if name in _flags(p)), None)
        if found is None:
            return []
        own = _values_of(found, line, value)
        return own if isinstance(own, str) else [(f"{name}={v}", what) for v, what in own]
    if current.startswith("-"):
        once = {p.name for p in options if p.name in line.given and not p.repeatable}
        listed = [(flag, p.option.help) for p in options if p.name not in once for flag in _flags(p) if flag[1] == "-"]
        return [*listed, ("--help", "Show help.")]
    arguments = [parameter for parameter in every if isinstance(parameter.option, Argument)]
    if not arguments:
        return [(flag, p.option.help) for p in options for flag in _flags(p)[:1]]
    return _methods() if arguments[0].name == "method" else FILES


def _read(words: Sequence[str], options: Sequence[Parameter]) -> Line:
    """Words sorted into arguments and values of options."""
    line = Line([], {})
    for word in words:
        name, equals, value = word.partition("=")
        if line.open_ is not None:
            line.given.setdefault(line.open_.name, []).append(word)
            line.open_ = None
        elif word.startswith("-") and word != "-":
            found = next((p for p in options if name in _flags(p)), None)
            if found is None or _is_switch(found):
                if found is not None:
                    line.given[found.name] = [""]
            elif equals:
                line.given.setdefault(found.name, []).append(value)
            else:
                line.open_ = found
        else:
            line.inputs.append(word)
    return line


def _values_of(parameter: Parameter, line: Line, current: str) -> Iterable[Item] | str:
    """What an option takes."""
    name, metavar = parameter.name, parameter.option.metavar or ""
    if name in ("method", "methods"):
        return _listed(_methods(), current) if name == "methods" else _methods()
    if name == "preset":
        return [(p, m) for p, m in _words()["presets"].items() if line.last("method") in (None, m)]
    if name in ("settings", "grid"):
        return _settings(line, current, many="METHOD" in metavar)
    if name in ("panels", "metric"):
        return _listed([(word, "") for word in _words()[{"metric": "metrics"}.get(name, name)]], current)
    if name == "device":
        return [(device, "") for device in DEVICES]
    if name in ("holdout", "where"):
        return _terms(line, current)
    if name == "kinds":
        key, equals, _ = current.partition("=")
        return [(f"{key}={kind}", "") for kind in KINDS] if equals else [(f"{c}=", "") for c in _columns(line)]
    if name in ("layer",):
        return [(layer, "") for path in _inputs(line)[:1] for layer in peek.layers(path)]
    if name in VALUES_OF or name == "from_" and metavar == "VALUE":
        return [(value, "") for value in _values(line, VALUES_OF.get(name, "condition"))]
    if name == "obs_key":
        return [(column, "") for column in peek.columns(line.last("obs") or "")]
    if name in COLUMNS:
        return [(column, "") for column in _columns(line)]
    choices = _choices(parameter)
    if choices:
        return [(choice, "") for choice in choices]
    if metavar.startswith("FILE"):
        return FILES
    return FOLDERS if metavar in ("DIR", "MODEL") else []


def _settings(line: Line, current: str, many: bool) -> list[Item]:
    """KEY= of the method on the line, or KEY=WORD of one that takes words; METHOD.KEY of several."""
    words = _words()
    key, equals, _ = current.partition("=")
    if many:
        method, dot, _ = key.partition(".")
        if not dot:
            return [(f"{name}.", what) for name, what in _methods() if name in words["settings"]]
        prefix, known = f"{method}.", words["settings"].get(method, {})
    else:
        prefix, known = "", words["settings"].get(line.last("method") or words["default"], {})
    if not equals:
        return [(f"{prefix}{name}=", what) for name, (what, _) in known.items()]
    return [(f"{key}={choice}", "") for choice in known.get(key.removeprefix(prefix), ("", []))[1]]


def _terms(line: Line, current: str) -> list[Item]:
    """KEY=VALUE,KEY=VALUE."""
    before, comma, last = current.rpartition(",")
    key, equals, _ = last.partition("=")
    if not equals:
        return [(f"{before}{comma}{column}=", "") for column in _columns(line)]
    found = [value for path in _tables(line) for value in peek.values(path, key)]
    return [(f"{before}{comma}{key}={value}", "") for value in dict.fromkeys(found)]


def _listed(words: Iterable[Item], current: str) -> list[Item]:
    """NAME,NAME: each that is not there yet."""
    before, comma, _ = current.rpartition(",")
    there = before.split(",")
    return [(f"{before}{comma}{word}", what) for word, what in words if word not in there]


def _inputs(line: Line) -> list[str]:
    """The files named, or the training file of the model."""
    if line.inputs or not (Path(_model(line)) / "model.yaml").is_file():
        return line.inputs
    path = peek.model(_model(line)).get("source", {}).get("path")
    return [path] if path else []


def _model(line: Line) -> str:
    return line.last("model") or "cellalign-model"


def _tables(line: Line) -> list[str]:
    metadata = line.last("obs")
    return _inputs(line) + ([metadata] if metadata else [])


def _columns(line: Line) -> list[str]:
    found = [column for path in _tables(line) for column in peek.columns(path)]
    named = line.last("file_key")
    return list(dict.fromkeys([*found, *([named] if named else [])]))


def _values(line: Line, role: str) -> list[str]:
    """Values of the column of a role that is named on the line, or that the model knows."""
    key = line.last(role)
    if key is not None:
        return list(dict.fromkeys(value for path in _tables(line) for value in peek.values(path, key)))
    known = peek.model(_model(line)).get("fields", [])
    return [str(name) for field in known if field.get("role") == role for name in field.get("categories") or ()]


def _choices(parameter: Parameter) -> list[str]:
    """The words of a choice."""
    kind = parameter.text_type
    enumeration = next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, StrEnum)), None)
    return [] if enumeration is None else list(enumeration)


def _is_switch(parameter: Parameter) -> bool:
    kind = parameter.text_type
    return kind is bool or bool in get_args(kind)


def _flags(parameter: Parameter) -> list[str]:
    """Spellings, the long ones first; --no-... of a switch too."""
    every = [flag for spelled in parameter.flags for flag in spelled.split("/")]
    return sorted(every, key=lambda flag: not flag.startswith("--"))


def _first_line(declaration: Declaration) -> str:
    return (declaration.command.__doc__ or "").strip().splitlines()[0]


def _methods() -> list[Item]:
    """Those of this package, and by their entry points those of others."""
    from importlib.metadata import entry_points

    own = _words()["methods"]
    return [*own.items(), *((e.name, "") for e in entry_points(group="cellalign.methods") if e.name not in own)]


def _words() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))


def _typed(shell: str) -> tuple[list[str], str, str, str]:
    """The words before the current one without the program, it, where bash breaks words, and the quote that is open."""
    if shell != "bash":
        _, *words = os.environ.get(WORDS, "").split("\n") or [""]
        return words[:-1], words[-1] if words else "", "", ""
    text = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0)]
    breaks = os.environ.get("COMP_WORDBREAKS", "")
    for closing in ("", '"', "'"):  # of a quotation that is open
        try:
            words = shlex.split(text + closing)
        except ValueError:
            continue
        fresh = not closing and text[-1:].isspace() and not text.endswith("\\ ")
        current = "" if fresh or len(words) < 2 else words.pop()
        return words[1:], current, "" if closing else breaks, closing
    return [], "", breaks, ""


def _as_bash_replaces(value: str, current: str, breaks: str, quote: str) -> str:
    """What replaces the part of a word that bash takes for one, behind the last = or :, special characters escaped.

    Within a quotation that is open, the whole of it, and what has a meaning there alone is escaped.
    """
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote:
        return "".join(f"\\{c}" if c in '"\\$`' else c for c in value)
    start = max((current.rfind(c) + 1 for c in "=:" if c in breaks), default=0)
    rest = value[start:]
    return "".join(f"\\{c}" if c in " \t'\"\\$&;|<>()*?[]#~`!{}" else c for c in rest) if breaks else rest
