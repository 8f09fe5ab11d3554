"""Every option is declared once: what several commands share is the same everywhere, and Python's defaults hold."""

import inspect
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from running import in_this_process
from typer.testing import CliRunner

import cellalign
from cellalign import evaluation, simulate, threads
from cellalign.cli import build, messages, pages
from cellalign.cli.app import app
from cellalign.data import preprocess as prepared
from cellalign.errors import on_command_line, option
from cellalign.tasks import evaluate, options, preprocess
from cellalign.tasks import simulate as simulating
from cellalign.tasks.declaration import DECLARATIONS, REQUIRED, Argument, Option, flags_of, parameters

COMPUTING = {
    "train",
    "tune",
    "embed",
    "counterfactual",
    "annotate",
    "evaluate",
    "targets",
    "transfer",
    "benchmark",
    "reproduce",
    "report",
}
COMPUTES_NOTHING = {"methods", "info", "convert"} | {name for name in DECLARATIONS if name.startswith("plot ")}
SHARED = [option for option in vars(options).values() if isinstance(option, Option)]


def commands() -> dict:
    """The command of every name, as typer hands it to the parser."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {sub}": c for sub, c in inner.items()}
    return found


def flags(command) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts}


def test_every_declared_command_is_there_with_the_options_of_all():
    found = commands()
    assert set(found) == set(DECLARATIONS)
    for name, command in found.items():
        assert {"--quiet", "-q", "--verbose", "-v", "--log-format"} <= flags(command), name
        assert ("--device" in flags(command)) == (name in COMPUTING), name
        assert ("--threads" in flags(command)) == (name not in COMPUTES_NOTHING), name
        writes = {"--output", "--force"} & flags(command)
        assert name in ("methods", "info", "check", "demo", "benchmark") or "--output" in writes, name


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_command_spells_no_option_in_two_ways(name):
    declaration = DECLARATIONS[name]
    found = [*declaration.own(), *declaration.options(), *parameters(messages.start)]
    spelled = [flag for parameter in found if not isinstance(parameter.option, Argument) for flag in parameter.flags]
    assert len(spelled) == len(set(spelled))
    for parameter in found:
        # one declaration of what is shared: no option of the same spelling and meaning is written again
        twins = [shared for shared in SHARED if shared.help == parameter.option.help and shared.flags]
        assert all(shared.flags == parameter.option.flags for shared in twins), parameter.name


def test_an_option_for_all_commands_is_a_parameter_of_start(monkeypatch):
    def start(*, loud: Annotated[bool, Option("Shout.")] = False, **others):
        return messages.start()

    monkeypatch.setattr(build, "start", start)
    run = build.callback(DECLARATIONS["embed"], app)
    assert {"loud", "umap", "output"} <= set(inspect.signature(run).parameters)


def test_messages_name_the_flags_that_the_command_has():
    for declaration in DECLARATIONS.values():
        found = [*declaration.own(), *declaration.options()]
        with on_command_line(flags_of(found)):
            for parameter in found:
                if not isinstance(parameter.option, Argument):
                    assert option(parameter.name) == parameter.flag


@pytest.mark.parametrize(
    ("thin", "full"),
    [
        (evaluate.evaluate, evaluation.evaluate),
        (preprocess.preprocess, prepared.preprocess),
        (simulating.ifnb, simulate.ifnb),
        (simulating.sparse_shift, simulate.sparse_shift),
        (simulating.fairness, simulate.fairness),
    ],
)
def test_a_function_that_only_hands_on_has_the_defaults_of_the_one_it_calls(thin, full):
    theirs = inspect.signature(full).parameters
    own = {name for panel in evaluation.PANELS.values() for name in panel.options()}  # of panels, below
    own |= {"like", "missing_genes"} if thin is preprocess.preprocess else set()  # a model does it
    for parameter in parameters(thin):
        if parameter.name not in {"threads"} | own:
            assert theirs[parameter.name].default == parameter.default, parameter.name


def test_options_of_panels_have_the_defaults_of_their_classes():
    defaults = {option: getattr(panel, option) for panel in evaluation.PANELS.values() for option in panel.options()}
    found = {p.name: p.default for p in parameters(evaluate.evaluate) if p.name in defaults}
    assert found == {k: v for k, v in defaults.items() if k != "differential"}  # which --de FILE stands for


def test_python_functions_have_a_docstring_and_required_options_no_default():
    for name, declaration in DECLARATIONS.items():
        assert declaration.command.__doc__ and (declaration.function is None or declaration.function.__doc__), name
    to = next(p for p in parameters(cellalign.counterfactual) if p.name == "to")
    assert to.default is REQUIRED and to.flag == "--to"


@pytest.mark.parametrize("words", [[], ["simulate"]])
def test_bare_commands_print_their_help(words):
    done = CliRunner().invoke(app, words)
    assert "Usage" in done.stdout and "error" not in done.stdout.lower() and done.exit_code == 0


def test_options_stand_in_groups_and_each_page_says_when_to_use_it():
    said = CliRunner().invoke(app, ["train", "--help"]).output
    headings = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[:3] == ["Arguments:", "Columns of obs:", "Method and settings:"]
    assert headings[-3:] == ["Output:", "Computing:", "Messages:"]
    assert said.index("Columns of obs:") < said.index("--condition KEY") < said.index("Method and settings:")
    for name in commands():
        if " " not in name:
            page = " ".join(CliRunner().invoke(app, [name, "--help"]).output.split())
            assert pages.PAGES[name].when in page, name
            assert len(pages.PAGES[name].line) <= 64, name


def test_no_line_of_help_is_wider_than_80_columns():
    for words in ([], *([name] for name in DECLARATIONS if " " not in name)):
        for line in CliRunner().invoke(app, [*words, "--help"]).output.splitlines():
            # an example is to be copied, whole
            assert len(line) <= 80 or "Example" in line or "cellalign" in line, (words, line)


def test_lists_with_commas_may_be_given_several_times():
    """`--methods a --methods b` is as `--methods a,b`: what stands first is not dropped in silence."""
    lists = {
        f"{name} {each.flag}": each
        for name, declaration in DECLARATIONS.items()
        for each in [*declaration.options(), *declaration.own()]
        if each.option.metavar in ("NAME,NAME", "DIGIT,DIGIT")
    }
    assert {"benchmark --methods", "benchmark --metric", "evaluate --panel", "simulate digits --seen"} <= set(lists)
    for name, each in lists.items():
        assert each.repeatable, name
        assert each.value(["1", "2,3"]) == each.value(["1,2,3"]), name
        assert each.default in (REQUIRED, None) or tuple(each.value(each.text_default)) == each.default, name


def test_of_an_option_for_one_value_that_is_given_twice_the_last_counts_and_it_is_said(tmp_path):
    there = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    words = [sys.executable, "-m", "cellalign", "methods", "--format", "json"]
    done = subprocess.run([*words, "--format", "csv"], **there)
    assert done.returncode == 0 and done.stdout.startswith("method,")
    assert done.stderr == "warning: --format is given 2 times; the last counts: csv\n"
    assert subprocess.run([*words, "-q", "--format", "csv"], **there).stderr == ""
    assert subprocess.run(words, **there).stderr == ""


def test_threads_hold_for_every_library_while_a_command_runs():
    before = threads.workers()
    with build._prepared({"threads": 3}):
        assert threads.workers() == 3
    assert threads.workers() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["embed", "in.h5ad", "-o", ""], "--output"),
        (["train", "in.h5ad", "--method", ""], "--method"),
        (["train", "in.h5ad", "--preset="], "--preset"),
        (["train", "in.h5ad", "--batch", ""], "--batch"),
        (["info", ""], "FILE|MODEL"),
    ],
)
def test_an_empty_text_is_not_taken_for_an_option_left_out(words, named, tmp_path):
    """As `-o "$OUT"` of a variable that is not set: another file was written, another method trained."""
    ended = in_this_process(words, tmp_path)
    assert ended.returncode == 2
    assert f"error: {named} is given an empty text; give it a value, or leave it out" in ended.stderr
