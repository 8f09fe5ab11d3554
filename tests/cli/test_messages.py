"""What is said on standard error: in words, or as JSON to the very end."""

import json

import pytest

from cellalign.cli.messages import say_end
from cellalign.cli.signals import format_asked


def lines(done) -> list[dict]:
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["preprocess", "nothing.h5ad", "-o", "new.h5ad"], 3),
        (["embed", "-m", "nothing"], 4),
        (["train", "nothing.h5ad", "--set", "gamma"], 2),
        (["embed", "--nothing"], 2),
        (["counterfactual"], 2),
        (["embed", "--log-format=json", "--nothing"], 2),
    ],
)
def test_errors_are_json_too(tmp_path, mistaken, words, status):
    done = mistaken(cwd=tmp_path)(*words, "--log-format", "json")
    (said,) = lines(done)
    assert done.returncode == status and said["level"] == "error" and said["status"] == status and said["message"]


def test_errors_in_words_stay_one_line(tmp_path, mistaken):
    done = mistaken(cwd=tmp_path)("embed", "-m", "nothing")
    assert done.stderr.startswith("cellalign: error: no model directory nothing; train one with: cellalign train FILE")
    assert len(done.stderr.splitlines()) == 1


def test_the_format_of_a_command_line_that_cannot_be_read():
    assert format_asked(["embed", "--log-format", "json", "--nothing"]) == "json"
    assert format_asked(["embed", "--log-format=json"]) == "json"
    assert format_asked(["embed", "--log-format", "xml"]) == format_asked(["--log-format"]) == "text"


def test_an_interruption_is_no_error(capsys):
    say_end("interrupted;\n outputs", 130)
    say_end("interrupted", 130, "json")
    words, entry = capsys.readouterr().err.splitlines()
    assert words == "cellalign: interrupted; outputs" and json.loads(entry)["level"] == "warning"
