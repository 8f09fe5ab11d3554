"""The command line answers at once: nothing heavy is imported before a command needs it."""

import gc
import os
import subprocess
import sys

import pytest

from cellalign import threads
from cellalign.cli import app, build
from cellalign.errors import UsageError
from cellalign.tasks.options import key_lists, key_values

HEAVY = {"torch", "scanpy", "anndata", "pandas", "numpy", "numba", "scipy", "sklearn", "matplotlib", "pydantic", "h5py"}
COMMANDS = ["preprocess", "train", "tune", "embed", "annotate", "counterfactual", "evaluate", "targets", "transfer"]
COMMANDS += ["check", "info", "convert", "reproduce", "benchmark", "report", "methods", "demo", "simulate ifnb"]
COMMANDS += ["plot umap", "simulate sparse-shift"]
COMMANDS += ["simulate fairness"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy():
    done = run("-X", "importtime", "-m", "cellalign", "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_an_example(command):
    done = run("-m", "cellalign", *command.split(), "--help")
    assert done.returncode == 0 and f"cellalign {command}" in done.stdout and "Example" in done.stdout


def test_version_and_unknown_commands_and_options():
    assert run("-m", "cellalign", "--version").stdout.startswith("cellalign 0.1")
    for arguments in (["nothing"], ["train"], ["embed", "--nothing"], ["counterfactual"]):
        done = run("-m", "cellalign", *arguments)
        assert done.returncode == 2, arguments
        assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("cellalign: error: ")


def test_settings_are_read_as_yaml():
    assert key_values(["a=1", "b=1e-4", "c=[8, 4]", "d=null", "e=one-cycle"]) == {
        "a": 1, "b": 1e-4, "c": [8, 4], "d": None, "e": "one-cycle",
    }  # fmt: skip
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        key_values(["a"])
    assert key_values(["a=1", "a=1.0"]) == {"a": 1}
    with pytest.raises(UsageError, match="settings: a is asked to be both 1 and 2; choose one"):
        key_values(["a=1", "a=2"])
    assert key_lists(["a=1,2", "b=x", "a=2,3"]) == {"a": [1, 2, 3], "b": ["x"]}


@pytest.mark.parametrize(("given", "expected"), [("3", "3"), ("4,2", "4"), ("0", None), ("", None)])
def test_numba_takes_as_many_threads_as_torch_is_given(monkeypatch, given, expected):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "")  # so that it is put back
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(threads, "available", lambda: os.cpu_count() or 1)
    monkeypatch.setattr(app, "_run", lambda: 0)
    monkeypatch.setattr(app.signals, "ending", lambda _: None)
    for name in ("disable", "freeze"):
        monkeypatch.setattr(app.gc, name, lambda: None)
    with pytest.raises(SystemExit):
        app.main()
    assert os.environ.get("NUMBA_NUM_THREADS") == expected


def test_garbage_is_collected_again_once_a_command_is_imported():
    frozen = gc.get_freeze_count()  # Python 3.12 has some of its own
    try:
        build._collect_garbage()
        assert gc.isenabled() and gc.get_freeze_count() == frozen  # as a library leaves it
        gc.disable()
        build._collect_garbage()
        assert gc.isenabled() and gc.get_freeze_count() > frozen
    finally:
        gc.enable()
        gc.unfreeze()
