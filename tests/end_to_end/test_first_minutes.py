"""README alone: two 10x files and a table of cell types become a held-out prediction, its verdict and a page."""

import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def five_commands() -> list[list[str]]:
    """The first block of commands of the section on one's own cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Your own cells") :]
    block = re.search(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ cellalign ").split() for line in block[1].splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_a_strangers_files_become_a_prediction_a_verdict_and_a_page(tmp_path, cellalign):
    shutil.copytree(ROOT / "example_data", tmp_path / "example_data", ignore=shutil.ignore_patterns("*.h5ad"))
    commands = five_commands()
    assert len(commands) == 5 and [words[0] for words in commands][-1] == "report"
    assert {"--file-key", "--obs"} <= set(commands[0]) and any(w.endswith(".h5") for w in commands[0])
    run = cellalign(cwd=tmp_path)
    said = {}
    for words in commands:
        done = run(*words)
        assert done.returncode == 0, (words, done.stderr)
        said[words[0]] = done.stdout + done.stderr
    assert "1,200 of 1,200 cells matched" in said["preprocess"]
    assert "held out: 54 cells: cell_type=NK,condition=stimulated" in said["train"]
    assert "the response is" in said["evaluate"] and "best baseline" in said["evaluate"]
    assert "held out in training: NK" in said["evaluate"]
    assert (tmp_path / "nk.html").stat().st_size > 10_000


def test_the_page_of_no_command(tmp_path, cellalign):
    for words in ([], ["simulate"]):
        done = cellalign(cwd=tmp_path)(*words)
        assert (done.returncode, done.stderr) == (0, "") and "Usage: " in done.stdout


@pytest.mark.skipif("CI" not in os.environ and not shutil.which("git"), reason="a checkout")
def test_example_data_is_in_the_repository():
    for name in ("control.h5", "stimulated.h5", "cells.csv", "as_10x.py", "ifnb.h5ad"):
        assert (ROOT / "example_data" / name).is_file(), name
