"""Runs the command line in the test's own process."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from cellalign.cli import app


def in_this_process(
    arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """The command's entry, run here: a process of its own takes seconds to import torch and scanpy."""
    out, err, threads = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["cellalign", *(str(a) for a in arguments)])
        for key, value in ({"COLUMNS": "200"} | dict(env or {})).items():
            patch.setenv(key, value)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = app._run()
                out.flush()
        finally:
            torch.set_num_threads(threads)
    said = out.buffer.getvalue().decode()
    return subprocess.CompletedProcess([*map(str, arguments)], status, said, err.getvalue())
