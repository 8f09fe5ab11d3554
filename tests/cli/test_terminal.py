"""What reaches a terminal: names as they are spelled, and nothing in them that it would obey."""

import csv
import io
import json
import logging
import sys

import pytest

from cellalign.cli import tables
from cellalign.cli.messages import say_end, start
from cellalign.cli.printable import printable
from cellalign.evaluation import Evaluation
from cellalign.evaluation.metrics.metric import UP, Metric
from cellalign.evaluation.table import Row

MARKUP = ["CD4 [/naive]", "B cell [naive]", "[memory]", "[link=https://a.org]T[/link]", ":star: [bold]", "\\[x]", "[/]"]
OBEYED = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m": r"\x9b31m",
    "\u202egnp.exe": r"\u202egnp.exe",
    "a\u2066b": r"a\u2066b",
    "two\nlines\r\n": r"two\nlines\r\n",
    "a\tb\x00\x7f": r"a\tb\x00\x7f",
    "a\u2028b": r"a\u2028b",
    "\udce9": r"\udce9",
}
SHOWN = ["CD8⁺ T", "néoplasie", "日本語", "γδ T", "👩‍🔬", "می‌خواهم", "a b", ""]


@pytest.mark.parametrize("name", [*SHOWN, *MARKUP])
def test_what_can_be_shown_stays(name):
    assert printable(name) == name


@pytest.mark.parametrize(("name", "expected"), OBEYED.items())
def test_what_a_terminal_would_obey_is_written_out(name, expected):
    assert printable(name) == expected
    assert printable("a\nb" + name.replace("\n", ""), keep="\n").startswith("a\nb")


@pytest.mark.parametrize("terminal", [False, True])
def test_names_in_every_column_of_a_table(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for name, shown in {**dict(zip(MARKUP, MARKUP, strict=True)), **OBEYED}.items():
        tables.print_table(name, [name, name], [[name, name]])
        said = capsys.readouterr().out
        title, *rest = said.splitlines()
        assert title.rstrip() == shown
        assert sum(line.count(shown) for line in rest) == 4, said
        assert not set(said) & set("\x1b\x9b\x07\u202e\u2066\x00\r")


def evaluation(name: str) -> Evaluation:
    score = Metric(name, "", UP, "")
    return Evaluation([Row("panel", name, name, score, 0.5, 3)])


def test_programs_read_names_as_they_are(capsys):
    for name in [*MARKUP, *OBEYED, *SHOWN]:
        if name.isascii() or name.isprintable():
            tables.print_rows("t", ["name"], [[name]], "csv")
            assert list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))) == [{"name": name}]
        tables.print_rows("t", ["name"], [[name]], "json")
        said = capsys.readouterr().out
        assert json.loads(said) == [{"name": name}] and "\x1b" not in said
        tables.print_evaluation(evaluation(name), "json")
        said = capsys.readouterr().out
        assert json.loads(said)["scores"][0]["group"] == name and "\x1b" not in said


def test_a_csv_that_comes_to_a_terminal_is_not_obeyed(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, shown in OBEYED.items():
        tables.print_rows("t", ["name"], [[name]], "csv")
        assert shown.partition("\\n")[0] in capsys.readouterr().out
        tables.print_evaluation(evaluation(name), "csv")
        assert "\x1b" not in capsys.readouterr().out


def test_messages_are_not_obeyed(capsys):
    say_end("no condition column '\x1b[31mstim'", 3)
    assert capsys.readouterr().err == "cellalign: error: no condition column '\\x1b[31mstim'\n"
    log = start()
    log.warning("%s", "[/naive] \x1b]0;t\x07\n")
    assert capsys.readouterr().err == "warning: [/naive] \\x1b]0;t\\x07\\n\n"
    log = start(log_format="json")
    log.warning("%s", "\x1b")
    assert "\x1b" not in capsys.readouterr().err
    assert logging.getLogger("matplotlib").level == logging.ERROR
