"""A signal at any moment ends a command with its status and one line, whatever a library makes of it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from signalled import Command, at_spread_moments
from support import at_every_change

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# what `cellalign methods` does in place of its work
WORK = """
import time
from cellalign.methods import registry
def work():
    print("working", flush=True)
{body}
registry.available = work
"""
SLEEP = "time.sleep(60)"
SWALLOWED = """
try: time.sleep(60)
except BaseException: pass
time.sleep(60)
"""
AS_IMPORT_ERROR = """
try: time.sleep(60)
except BaseException as error:
    sys.excepthook(*sys.exc_info())  # as C does where the import of an extension fails
    del error
    failed = True
raise ImportError("numpy.core.multiarray failed to import")
"""
IN_DEL = """
class Held:
    def __del__(self): time.sleep(60)
held = Held()
del held
time.sleep(60)
"""
QUICK_TIDYING = """
try: time.sleep(60)
finally:
    time.sleep(0.5)
    open("tidy", "w").close()
"""
SLOW_TIDYING = """
try: time.sleep(60)
finally: time.sleep(60)
"""


def working(body, tmp_path, *words):
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    command = Command(["methods", *words], tmp_path, WORK.format(body=indented))
    assert command.read_line() == "working"
    return command


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    "body",
    at_every_change([SLEEP, SWALLOWED, AS_IMPORT_ERROR, IN_DEL], [SLEEP, IN_DEL]),
    ids=["", "swallowed", "import", "del"],
)
def test_a_signal_at_work_ends_it_with_one_line(tmp_path, number, body):
    command = working(body, tmp_path)
    command.send(number, 0.1)
    status, said = command.ended()
    assert status == STATUS[number]
    assert said.startswith("cellalign: ") and said.endswith("outputs are as they were\n") and said.count("\n") == 1


def test_a_second_signal_lets_what_is_quick_be_put_away(tmp_path):
    command = working(QUICK_TIDYING, tmp_path)
    for _ in range(3):
        command.send(signal.SIGINT, 0.05)
    assert command.ended() == (130, "cellalign: interrupted; outputs are as they were\n")
    assert (tmp_path / "tidy").exists()


def test_a_second_signal_does_not_wait_for_what_is_slow(tmp_path):
    command, began = working(SLOW_TIDYING, tmp_path), time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT):
        command.send(number, 0.1)
    status, said = command.ended()
    assert status == 143 and said == "cellalign: terminated; outputs are as they were, a hidden file may be left\n"
    assert time.monotonic() - began < 50


def test_a_signal_at_the_end_changes_nothing(tmp_path):
    leave = "(print('leaving', flush=True), time.sleep(0.5))"
    at_exit = f"import atexit, typer\natexit.register(lambda: {leave})\nraise typer.Exit"
    command = working(at_exit, tmp_path)
    while (line := command.read_line()) != "leaving":
        assert command.process.poll() is None, line
    for number in STATUS:
        command.send(number, 0.05)
    assert command.ended() == (0, "")


def test_a_signal_before_the_work_is_said_as_messages_are_asked_for(tmp_path):
    command = Command(["methods", "--log-format=json"], tmp_path, "import time; print('.', flush=True); time.sleep(60)")
    command.read_line()
    command.send(signal.SIGHUP)
    status, said = command.ended()
    assert status == 129 and '"message": "hung up; outputs are as they were", "status": 129}' in said


def test_signals_that_are_ignored_at_the_start_stay_so(tmp_path):
    """As nohup has SIGHUP ignored."""
    done = subprocess.run(
        [sys.executable, "-c", "import signal, os, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
         "from cellalign.cli import signals; signals.install(); os.kill(os.getpid(), signal.SIGHUP); print('on')"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "on\n")


@pytest.mark.parametrize("words", [["--version"], ["methods"]], ids=" ".join)
def test_a_signal_at_any_moment(tmp_path, words):
    assert at_spread_moments(words, tmp_path, 6) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--version", "preprocess", "train", "embed", "evaluate"])
def test_a_signal_at_any_moment_of_any_command(tmp_path, tiny_path, tiny_counts_path, command):
    train = f"train {tiny_path} --condition stim --epochs 2 --set hidden=[8] -m model --force --restart"
    for words in (train, f"embed {tiny_path} -m model -o emb.h5ad"):
        assert Command(words.split(), tmp_path).ended()[0] == 0
    words = {
        "--version": "--version",
        "preprocess": f"preprocess {tiny_counts_path} -o pp.h5ad --n-top-genes 30 --force",
        "train": train,
        "embed": f"embed {tiny_path} -m model -o emb.h5ad --force",
        "evaluate": "evaluate emb.h5ad --condition stim --label cell_type --panel mixing,probe",
    }[command]
    before = {path.name for path in tmp_path.iterdir()} | {"pp.h5ad"}
    assert at_spread_moments(words.split(), tmp_path, 21) == []
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left <= before | {"model.partial"}  # of a training that can be gone on with
