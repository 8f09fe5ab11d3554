"""What click refuses of a command line is said in our words: the option, its value, and what is wanted."""

import pytest
from running import in_this_process

from cellalign.cli.refused import command_of


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "preprocess in --n-top-genes 2k",
            "--n-top-genes 2k: a whole number of at least 0 is wanted (see cellalign prep",
        ),
        ("train in --threads 0", "--threads 0: a whole number of at least 1 is wanted"),
        ("train in --seed -1", "--seed -1: a whole number from 0 to 4294967295 is wanted"),
        ("train in --lr=x", "--lr x: a number is wanted"),
        ("train in --lr 1 --lr x", "--lr x: a number is wanted"),
        ("train in --precision float23", "one of auto, float32, bfloat16 is wanted (see"),
        ("info in --format jso", "--format jso: one of table, json, csv is wanted. Did you mean 'json'? (see"),
        (
            "counterfactual in --to x --interval -o x.h5ad",
            "--interval has no value (-o follows it); a number is wanted",
        ),
        ("train in --condition --method comp", "--condition has no value (--method follows it); KEY is wanted"),
        ("train in --batch a --batch --method=comp", "--batch has no value (--method follows it); KEY is wanted"),
        (
            "train in --epochs",
            "--epochs has no value (it is the last word); a whole number is wanted (see cellalign train",
        ),
        ("train in --force=1", "does not take a value"),
        ("train", "INPUT"),
        ("info -dash.h5ad", "a file whose name begins with a dash is given as ./-dash.h5ad"),
        ("info -there", "is given as ./-there"),
        ("plot umap --nothing", "(see cellalign plot umap --help)"),
        ("nothing", "(see cellalign --help)"),
    ],
)
def test_option_value_and_what_is_wanted_are_named(tmp_path, line, said):
    (tmp_path / "-there").touch()
    done = in_this_process(line.split(), tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("line", ["info -x", "info -absent", "train in --lr=0.5 -y"])
def test_what_is_no_file_is_not_taken_for_one(tmp_path, line):
    assert "begins with a dash" not in in_this_process(line.split(), tmp_path).stderr


def test_the_command_of_a_line():
    lines = {"train in": "train", "plot umap in": "plot umap", "plot nothing": "plot", "nothing": "", "": ""}
    assert {line: command_of(line.split()) for line in lines} == lines
