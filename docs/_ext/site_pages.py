"""Pages that are made of the code: methods, metrics, commands, Python API. A new one of them shows by itself.

They lie in docs/generated/, which is made anew by every build. What people wrote about a method (its equation, when to
take it) is docs/methods/NAME.md, and figures beside published ones are docs/methods/figures.yaml; both are optional.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
CAPABILITIES = {  # what a method does that has one
    "Predicts": "predicts conditions",
    "Labels": "annotates by itself",
    "LearnsGraph": "tells targets",
    "Extends": "takes up new perturbations",
    "LearnsOn": "learns on",
    "CombinesConditions": "adds up a+b in its latents",
    "InfersCondition": "infers a missing condition",
}


def plain(text: Any) -> str:
    """Text as Markdown shows it letter by letter, also in a table."""
    return escaped(" ".join(str(text).split()))


def escaped(text: str) -> str:
    """What Markdown would read as its own, marked as text; spaces stay."""
    return re.sub(r"([\\`*_<>\[\]|$#~{}])", r"\\\1", text)


def code(text: Any) -> str:
    """Text in the type of code, also in a table."""
    return "`" + str(text).replace("|", "\\|") + "`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def toctree(pages: Iterable[str]) -> str:
    """The pages under this one."""
    return "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"


# methods


def methods() -> dict[str, str]:
    """A page for every method of the registry, and one that lists them."""
    from cellalign.methods import registry

    pages = {f"methods/{slug(name)}": method_page(name, info) for name, info in registry.available().items()}
    return pages | {"methods/index": methods_index()}


def slug(name: str) -> str:
    """A method's name in an address."""
    return name.replace("+", "-plus")


def methods_index() -> str:
    """All methods with what each needs and does."""
    from cellalign.methods import registry

    found = registry.available()
    head = ["method", "what it is", "needs", "reads", "does"]
    rows = [[f"[{plain(name)}]({slug(name)}.md)", plain(info.summary), *traits(name)] for name, info in found.items()]
    said = "Which to take is [another page](../../choosing.md). This table is made of the code.\n\n"
    return f"# Methods\n\n{said}{table(head, rows)}\n{toctree(slug(name) for name in found)}"


def traits(name: str) -> list[str]:
    """What a method needs, reads and does, in words."""
    from cellalign.methods import capabilities, registry

    cls = registry.get(name)
    needed = [what for what, does in (("condition", cls.needs_condition), ("label", cls.needs_label)) if does]
    able = [what for each, what in CAPABILITIES.items() if issubclass(cls, getattr(capabilities, each))]
    if "condition" not in set(map(str, cls.uses())):
        able.remove("predicts conditions")  # what knows none predicts the cells as they are
    if cls.removes:
        able.insert(0, "embeds without the effect of " + " and ".join(sorted(map(str, cls.removes))))
    reads = {"log": "log expression", "counts": "counts"}[cls.reads(cls.Hyperparameters())]
    return [", ".join(needed) or "nothing", reads, ", ".join(able) or "embeds"]


def method_page(name: str, info: Any) -> str:
    """What the code says of a method, and what people wrote."""
    from cellalign.methods import registry

    cls = registry.get(name)
    own = DOCS / "methods" / f"{slug(name)}.md"
    written = own.read_text(encoding="utf-8") if own.exists() else ""
    source = plain_paragraphs(inspect.getdoc(sys.modules[cls.__module__]) or inspect.getdoc(cls) or "")
    needs, reads, does = traits(name)
    facts = f"Needs: {needs}. Reads: {reads}. Does: {does}. "
    facts += f"Presets: {', '.join(map(code, info.presets)) or 'none'}."
    parts = [f"# {plain(name)}", f"{plain(info.summary)} ({plain(info.reference) or 'no reference'}).", facts]
    parts += [written, "## In the words of the code", source, figures(name), "## Settings", knobs(name)]
    return "\n\n".join(part for part in parts if part) + "\n"


def prose(text: str) -> str:
    """Text of a docstring, whose code stands between backticks."""
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return "".join(code(part) if place % 2 else escaped(part) for place, part in enumerate(parts))


def plain_paragraphs(text: str) -> str:
    """A docstring's paragraphs, and its lists, as Markdown."""
    found = []
    for part in re.split(r"\n\s*\n", text):
        bullets = re.split(r"\n(?=- )", part.strip())
        found += [("- " + prose(each[2:])) if each.startswith("- ") else prose(each) for each in bullets]
    return "\n\n".join(found)


def knobs(name: str) -> str:
    """Settings of a method and of its training, with defaults and ranges."""
    from cellalign import list_methods

    rows = list_methods(name).to_dict("records")
    cells = [[code(r["setting"]), code(r["default"]), code(r["range"]), plain(r["what it is"])] for r in rows]
    said = "Each is given as `--set KEY=VALUE`, in Python as `settings={...}`. This table is made of the code."
    return f"{said}\n\n{table(['setting', 'default', 'range', 'what it is'], cells)}"


def figures(name: str) -> str:
    """Published figures beside ours, where there are some."""
    known = yaml.safe_load((DOCS / "methods" / "figures.yaml").read_text(encoding="utf-8"))
    rows = known.get(name) or []
    if not rows:
        return "## Figures\n\nNo figures of its own; [all that was measured](../figures.md)."
    cells = [[plain(r["what"]), plain(r["published"]), plain(r["ours"]), f"[{r['where']}]({at(r)})"] for r in rows]
    return "## Figures\n\n" + table(["what", "published", "measured here", "how"], cells)


def at(row: dict[str, str]) -> str:
    """The section of the figures that a row is of."""
    return "../figures.md#" + re.sub(r"[^\w\- ]", "", row["where"].lower()).replace(" ", "-")


# metrics


def metrics() -> dict[str, str]:
    """Every metric that some table prints: meaning, direction, and its value where there is no signal."""
    from cellalign.evaluation.catalogue import about, catalogue

    found = catalogue()
    said = (
        "Arrows say which way is better: up, down, or towards a value; `permuted` is the value of the same score under "
        "permuted labels, `majority` the rate of guessing. *Without any signal* says what a score is where there is "
        "nothing to be found: read every score beside it. `cellalign methods --metrics` prints the same.\n\n"
    )
    parts = ["# Metrics", said + "This page is made of the code."]
    for where in dict.fromkeys(where for where, _ in found):
        rows = [
            [code(each.name), str(each.better), plain(each.meaning), plain(each.null)]
            for other, each in found
            if other == where
        ]
        head, _, sentence = about(where).partition(": ")
        parts += [f"## {plain(head)}", plain(sentence)]
        parts.append(table(["metric", "better", "meaning", "without any signal"], rows))
    return {"metrics": "\n\n".join(parts) + "\n"}


# commands


def commands() -> dict[str, str]:
    """A page for every command, and one that lists them."""
    import cellalign.cli.app  # noqa: F401  declares them all
    from cellalign.tasks.declaration import DECLARATIONS

    pages = {f"cli/{name.replace(' ', '-')}": command_page(name, each) for name, each in DECLARATIONS.items()}
    rows = [
        [f"[{name}]({name.replace(' ', '-')}.md)", plain((inspect.getdoc(each.command) or "").split("\n\n")[0])]
        for name, each in DECLARATIONS.items()
    ]
    said = (
        "Words mean the same in every command. Exit status: 0 done, 2 wrong command line, 3 wrong input, 4 wrong "
        "model, 5 training failed; 129, 130 and 143 ended by a signal, 141 a closed pipe. Messages go to standard "
        "error, tables to standard output; an output appears under its name only when it is complete.\n\n"
    )
    listed = toctree(page.removeprefix("cli/") for page in pages)
    return pages | {"cli/index": f"# Commands\n\n{said}{table(['command', 'what it does'], rows)}\n{listed}"}


def command_page(name: str, declaration: Any) -> str:
    """A command's help: what it does, an example, its arguments and options in their groups."""
    from cellalign.cli.messages import start
    from cellalign.tasks.declaration import Argument, parameters

    found = [*declaration.own(), *declaration.options(), *parameters(start)]
    parts = [f"# cellalign {name}", plain_paragraphs(inspect.getdoc(declaration.command) or "")]
    parts.append("For example " + code(declaration.example))
    groups: dict[str, list[Any]] = {}
    for each in found:
        own = "Arguments" if isinstance(each.option, Argument) else each.option.panel or "Options"
        groups.setdefault(own, []).append(each)
    for group, options in sorted(groups.items(), key=lambda item: item[0] != "Arguments"):
        rows = [[spelled(each), default(each), plain(each.option.help) + limits(each)] for each in options]
        parts += [f"## {plain(group)}", table(["", "default", ""], rows)]
    return "\n\n".join(parts) + "\n"


def spelled(parameter: Any) -> str:
    """An option's flags with what stands for its value."""
    from cellalign.tasks.declaration import Argument

    switch = bool in (parameter.text_type, *getattr(parameter.text_type, "__args__", ()))
    metavar = parameter.option.metavar or ("" if switch else parameter.name.upper())
    if isinstance(parameter.option, Argument):
        return code(metavar)
    return ", ".join(map(code, parameter.flags)) + (" " + code(metavar) if metavar else "")


def default(parameter: Any) -> str:
    """The default, as the command line spells it; nothing where it is none."""
    from cellalign.tasks.declaration import REQUIRED

    if parameter.default is REQUIRED:
        return "must be given"
    value = parameter.text_default
    return "" if value is None or value is False or value == [] else code("on" if value is True else value)


def limits(parameter: Any) -> str:
    """The range of a number, or the words of a choice."""
    low, high, kind = parameter.option.low, parameter.option.high, parameter.text_type
    words = kind if isinstance(kind, type) else next((k for k in getattr(kind, "__args__", ()) if k), None)
    if isinstance(words, type) and issubclass(words, StrEnum):
        return " One of " + ", ".join(code(each.value) for each in words) + "."
    if low is None and high is None:
        return ""
    return " " + code(" and ".join(f"{sign} {v:g}" for sign, v in ((">=", low), ("<=", high)) if v is not None))


# Python


def api() -> dict[str, str]:
    """Everything `cellalign` offers to Python, by autodoc."""
    import cellalign

    functions, classes, modules = [], [], []
    for name in cellalign.__all__:
        found = getattr(cellalign, name)
        kind = modules if inspect.ismodule(found) else classes if inspect.isclass(found) else functions
        kind.append(name)
    parts = [
        "# Python",
        "What `import cellalign` offers; a model is what `train` and `load` return.",
        "## Functions",
    ]
    parts += [
        automatic("autofunction", f"cellalign.{name}") for name in functions if callable(getattr(cellalign, name))
    ]
    parts += ["## Classes"]
    parts += [automatic("autoclass", f"cellalign.{name}", ":members:") for name in classes]
    for name in modules:
        module = getattr(cellalign, name)
        offered = functions_of(module)
        parts += [f"## cellalign.{name}"]
        parts += [automatic("autofunction", f"cellalign.{name}.{key}") for key in offered]
    parts += ["## For authors of methods"]
    parts += [automatic("autoclass", "cellalign.methods.base.Method", ":members:")]
    return {"api": "\n\n".join(parts) + "\n"}


def functions_of(module: Any) -> list[str]:
    """What a module offers: its list, or the functions that are its own and no command's."""
    import cellalign.cli.app  # noqa: F401  declares them all
    from cellalign.tasks.declaration import DECLARATIONS

    commands = {each.command for each in DECLARATIONS.values()}
    own = [key for key, each in vars(module).items() if getattr(each, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
    found = {key: getattr(module, key) for key in names}
    return [key for key, each in found.items() if inspect.isfunction(each) and each not in commands]


def automatic(directive: str, target: str, *options: str) -> str:
    """A directive of autodoc within Markdown."""
    indented = "".join(f"   {option}\n" for option in options)
    return f"```{{eval-rst}}\n.. {directive}:: {target}\n{indented}```"


# files of the repository that are pages of the site


def copied() -> dict[str, str]:
    """Figures, changelog and how to contribute, as they are in the repository."""
    figures = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").replace("../docs/", "../")
    said = (
        "*A record: each figure was measured once, by the command beside it, in minutes to hours. It is the only page "
        "whose commands are not run while the site is built.*\n\n"
    )
    head, _, rest = figures.partition("\n\n")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {"figures": f"{head}\n\n{said}{rest}", "changelog": changes, "contributing": contributing}


MAKERS: tuple[Callable[[], dict[str, str]], ...] = (methods, metrics, commands, api, copied)


def write(_app: Sphinx | None = None, home: Path = DOCS / "generated") -> None:
    """Write all pages; one whose text is the same is left alone, one that is of nothing any more is removed."""
    pages = {home / f"{name}.md": text for make in MAKERS for name, text in make().items()}
    for path in set(home.rglob("*.md")) - pages.keys():
        path.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("builder-inited", write, priority=100)
    return {"parallel_read_safe": True}
