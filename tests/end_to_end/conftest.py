"""Drives the command: in this process, or as a user's shell does in one of its own where that is the point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import in_this_process

COMMAND = Path(sys.executable).with_name("cellalign")


@pytest.fixture(scope="session")
def command() -> Path:
    """The installed command."""
    return COMMAND


@pytest.fixture(scope="session")
def cellalign() -> Callable:
    """`cellalign(cwd=...)` gives a function that runs the command with its arguments.

    With an environment, standard input or `process` it is the installed command in a process of its own.
    """

    def at(cwd: Path, env: dict[str, str] | None = None, *, process: bool = False) -> Callable:
        def run(*arguments: object, stdin: bytes | None = None, text: bool = True) -> subprocess.CompletedProcess:
            if stdin is None and text and env is None and not process:
                return in_this_process(arguments, cwd)
            return subprocess.run(
                [str(COMMAND), *(str(a) for a in arguments)],
                cwd=cwd,
                env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | (env or {}),
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=text,
                timeout=300,
            )

        return run

    return at


@pytest.fixture(scope="session")
def kang_raw(tmp_path_factory, cellalign) -> Path:
    """Simulated raw counts of 400 cells and 300 genes."""
    folder = tmp_path_factory.mktemp("simulated")
    made = cellalign(cwd=folder)("simulate", "ifnb", "--cells", 400, "--genes", 300, "--seed", 1, "-o", "raw.h5ad")
    assert made.returncode == 0, made.stderr
    return folder / "raw.h5ad"


@pytest.fixture(scope="session")
def kang_like(kang_raw, cellalign) -> Path:
    """The same cells, preprocessed."""
    done = cellalign(cwd=kang_raw.parent)("preprocess", kang_raw, "-o", "pp.h5ad", "--n-top-genes", 200)
    assert done.returncode == 0, done.stderr
    return kang_raw.parent / "pp.h5ad"


@pytest.fixture(scope="session")
def model(kang_like, cellalign) -> Path:
    """A CoMP model of them, trained for two epochs."""
    done = cellalign(cwd=kang_like.parent)(
        "train", kang_like, "--method", "comp", "--condition", "stim", "--epochs", 2, "--set", "hidden=[32]"
    )
    assert done.returncode == 0, done.stderr
    return kang_like.parent / "cellalign-model"
