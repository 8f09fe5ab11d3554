"""What a hostile tester found, each by the command line that showed it."""

import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

SHORT = ("--method", "cvae", "--condition", "stim", "--epochs", 1, "--set", "hidden=[8]")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_that_is_complete_is_not_called_nothing(tmp_path, cellalign, kang_like, monkeypatch):
    """`train -o`: the model is in place, the embedding cannot be written."""
    from cellalign.data import files as written
    from cellalign.errors import InputError

    def full(*_, **__):
        raise InputError("cannot write o.h5ad: the disk is full; nothing was changed")

    monkeypatch.setattr(written, "write_with", full)
    done = cellalign(cwd=tmp_path)("train", kang_like, *SHORT, "-m", "m", "-o", "o.h5ad")
    assert done.returncode == 3 and (tmp_path / "m" / "model.yaml").exists()
    assert "nothing was changed" not in done.stderr
    assert "the model m is complete, o.h5ad is not written: `cellalign embed -m m` does it" in done.stderr


@pytest.mark.parametrize("part", ["weights.safetensors", "history.csv"])
def test_a_folder_named_like_a_part_of_a_model_is_the_users(tmp_path, cellalign, kang_like, model, part):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / part).unlink()
    (tmp_path / "m" / part).mkdir()
    (tmp_path / "m" / part / "notes").write_text("mine")
    before = files(tmp_path)
    done = cellalign(cwd=tmp_path)("train", kang_like, *SHORT, "-m", "m", "--force")
    assert done.returncode == 2 and "holds" in done.stderr and files(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="names of Unix")
def test_a_name_that_is_no_unicode_loses_no_training(tmp_path, cellalign, kang_like):
    shutil.copy(kang_like, os.fsencode(tmp_path) + b"/in\xff.h5ad")
    name = os.fsdecode(b"in\xff.h5ad")
    run = cellalign(cwd=tmp_path)
    refused = run("train", name, *SHORT, "-m", os.fsdecode(b"m\xff"))
    assert refused.returncode == 2 and "is not UTF-8" in refused.stderr
    assert run("train", name, *SHORT, "-m", "m").returncode == 0
    assert run("embed", name, "-m", "m", "-o", "o.h5ad").returncode == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_the_history_holds_nobody_up(tmp_path, cellalign, kang_like, model):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "history.csv").unlink()
    os.mkfifo(tmp_path / "m" / "history.csv")
    done = cellalign(cwd=tmp_path)("embed", kang_like, "-m", "m", "-o", "o.h5ad")
    assert done.returncode == 0 and "it is no file" in done.stderr


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal of Unix")
def test_a_signal_that_asks_for_a_checkpoint_ends_nothing(tmp_path, command, kang_like, model):
    """While the command imports and reads, and in commands that train nothing."""
    words = [str(command), "embed", str(kang_like), "-m", str(model), "-o", "o.h5ad"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    heeds = 1 << (signal.SIGUSR1 - 1)
    while process.poll() is None and not heeds & _caught(process.pid):
        time.sleep(0.01)
    for _ in range(5):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def _caught(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    except (OSError, StopIteration):  # not Linux: any moment is as good
        return -1


@pytest.mark.process
def test_a_working_directory_that_is_gone(tmp_path, command, kang_like):
    (tmp_path / "gone").mkdir()
    line = f'rmdir "{tmp_path}/gone"; exec "{command}" train "{kang_like}" --condition stim -m "{tmp_path}/m"'
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path / "gone", capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "the working directory is gone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.process
@pytest.mark.slow
def test_streams_that_are_closed(tmp_path, command, kang_like, model):
    shell = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 120}
    done = subprocess.run(["sh", "-c", f'exec "{command}" embed "{kang_like}" -m "{model}" -o - >&-'], **shell)
    assert done.returncode == 3 and "standard output" in done.stderr
    done = subprocess.run(["sh", "-c", f'exec "{command}" train - --condition stim -m c <&-'], **shell)
    assert done.returncode == 3 and "standard input is closed" in done.stderr
    assert not (tmp_path / "c.partial").exists()


def test_a_seed_that_no_library_takes(tmp_path, cellalign, kang_like):
    done = cellalign(cwd=tmp_path)("train", kang_like, *SHORT, "--seed", 10**23)
    assert done.returncode == 2 and "4294967295" in done.stderr


@pytest.mark.slow
@pytest.mark.process
def test_a_claim_that_cannot_be_written_leaves_nothing(tmp_path, command, kang_like):
    def nothing():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    words = [str(command), "train", str(kang_like), "--condition", "stim", "-m", "m"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=nothing, timeout=60)
    assert done.returncode == 3 and "the disk is full" in done.stderr and not list(tmp_path.iterdir())
