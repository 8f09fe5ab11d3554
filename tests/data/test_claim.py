"""A name is one job's at a time, on this machine and, where locks stay on a machine, on others; the dead hold none."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from cellalign.data import claim
from cellalign.data.claim import claimed
from cellalign.errors import InputError, UsageError

HOLD = """
import sys, time
from pathlib import Path
from cellalign.data.claim import claimed
with claimed(Path(sys.argv[1]), "the model m"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/m."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "m"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_nothing_is_left_of_a_claim(tmp_path):
    with claimed(tmp_path / "m", "the model m"):
        assert json.loads((tmp_path / "m" / "owner.json").read_text())["pid"] == os.getpid()
        with claimed(tmp_path / "m", "the model m"):  # whose it is already
            pass
        assert (tmp_path / "m" / "owner.json").exists()
    assert not list(tmp_path.iterdir())


def test_what_is_in_it_stays(tmp_path):
    with claimed(tmp_path / "m", "the model m"):
        (tmp_path / "m" / "state").write_text("kept")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["state"]
    with pytest.raises(UsageError, match="not cellalign's"), claimed(tmp_path / "m", "the model m", ["other"]):
        pass
    with claimed(tmp_path / "m", "the model m", ["state"]):
        pass


def test_a_second_job_is_refused_and_told_whose_it_is(tmp_path, holder):
    with pytest.raises(
        UsageError, match=f"process {holder.pid} on {socket.gethostname()}.* is making the model m; wait"
    ):
        with claimed(tmp_path / "m", "the model m"):
            pass
    assert holder.poll() is None


def test_a_killed_job_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "m" / "owner.json").exists()
    with claimed(tmp_path / "m", "the model m"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_second_job_can_wait(tmp_path, holder, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(claim, "ASKED_EVERY", 0.01)
    monkeypatch.setattr(time, "sleep", lambda seconds: holder.kill())
    with claimed(tmp_path / "m", "the model m", wait=True):
        pass
    assert caplog.text.count("waiting for its end") == 1


@pytest.mark.parametrize("age", [0, 3600])
def test_a_claim_of_another_machine_counts_as_long_as_it_is_touched(tmp_path, age):
    (tmp_path / "m").mkdir()
    owner = tmp_path / "m" / "owner.json"
    owner.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    os.utime(owner, (time.time() - age,) * 2)
    if age:
        with claimed(tmp_path / "m", "the model m"):
            pass
        assert not list(tmp_path.iterdir())
    else:
        with pytest.raises(UsageError, match="process 1 on elsewhere"), claimed(tmp_path / "m", "the model m"):
            pass
        assert owner.exists()


def test_a_claim_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "TOUCHED_EVERY", 0.01)
    with claimed(tmp_path / "m", "the model m"):
        owner = tmp_path / "m" / "owner.json"
        os.utime(owner, (0, 0))
        for _ in range(500):
            if owner.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert owner.stat().st_mtime > 0


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write in"), claimed(tmp_path / "file" / "m", "the model m"):
        pass
