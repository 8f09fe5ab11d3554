"""A training that is only tried says what the real one would do about a run of the same name, or refuses alike."""

from __future__ import annotations

import shutil

import pytest
from running import in_this_process

import cellalign
from cellalign.data.claim import claimed
from tests.support import StopAfter

TRAIN = "train in.h5ad --method cvae --condition stim --epochs 4 --set hidden=[8] --latent-dim 3 -m m".split()
FAST = {"method": "cvae", "condition": "stim", "epochs": 4, "settings": {"hidden": [8]}, "latent_dim": 3}


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory, tiny_cells):
    """A folder with cells, and a run of them that was cut off after its second epoch."""
    at = tmp_path_factory.mktemp("dry")
    tiny_cells.write_h5ad(at / "in.h5ad")
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(tiny_cells, model_path=at / "m", progress=StopAfter(2), **FAST)
    return at


@pytest.fixture(scope="module")
def complete(cut_off, tmp_path_factory):
    """The same, where the run came to its end."""
    at = tmp_path_factory.mktemp("complete")
    shutil.copytree(cut_off, at, dirs_exist_ok=True)
    done = in_this_process([*TRAIN, "--resume"], at)
    assert done.returncode == 0, done.stderr
    return at


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def dry(folder, *more):
    before = everything(folder)
    done = in_this_process([*TRAIN, *more, "--dry-run"], folder)
    assert everything(folder) == before, "a dry run wrote"
    return done


def error(done):
    return [line for line in done.stderr.splitlines() if line.startswith("cellalign: error: ")]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ((), 2),
        (("--resume", "--restart"), 2),
        (("--resume", "--seed", "1"), 4),
        (("--auto-resume", "--batch-size", "16"), 4),
        (("--resume", "--epochs", "1"), 2),
        (("--resume", "-m", "nothing"), 2),
        (("--from", "m", "--calibrate", "cell_type", "-m", "new"), 4),  # of no model, as long as the run is cut off
        (("--calibrate", "nothing"), 3),
    ],
)
def test_what_is_refused_is_refused_alike(cut_off, more, status):
    real, tried = in_this_process([*TRAIN, *more], cut_off), dry(cut_off, *more)
    assert real.returncode == tried.returncode == status, real.stderr + tried.stderr
    assert error(real) == error(tried) and len(error(real)) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--resume",), "after 2 of 4 epochs"),
        (("--auto-resume", "--epochs", "6"), "after 2 of 6 epochs"),
        (("--restart",), "starts anew; "),
        (("-m", "new"), "run starts"),
        (("--auto-resume", "-m", "new", "--calibrate", "cell_type", "--calibrate-folds", "2"), "by 2 refits, each as"),
    ],
)
def test_what_would_be_done_about_a_run_that_was_cut_off_is_said(cut_off, more, said):
    done = dry(cut_off, *more)
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())


def test_a_complete_model_is_said_to_be_so(complete):
    done = dry(complete, "--auto-resume")
    said = " ".join(done.stdout.split())
    assert done.returncode == 0 and "nothing is trained: m is complete, of the same cells and settings" in said
    assert "estimate" not in said and "refits" not in said
    said = " ".join(dry(complete, "--auto-resume", "--calibrate", "cell_type").stdout.split())
    assert "nothing is trained" in said and "refits" in said
    said = " ".join(dry(complete, "--auto-resume", "--seed", "1").stdout.split())
    assert "run starts" in said and "there already: --force replaces it" in said


def test_learning_on_is_not_calibrated(complete):
    more = ("--from", "m", "--calibrate", "cell_type", "--learn", "all", "-m", "new")
    words = [word for word in ("train", "in.h5ad", *more)]
    real, tried = (in_this_process([*words, *dry], complete) for dry in ((), ("--dry-run",)))
    assert real.returncode == tried.returncode == 2 and error(real) == error(tried)
    assert "a model that learns on knows the cells to be left out" in tried.stderr


def test_a_model_that_another_job_makes_is_refused(tmp_path, cut_off):
    shutil.copy(cut_off / "in.h5ad", tmp_path)
    script = "import sys, time; from pathlib import Path; from cellalign.data.claim import claimed\n"
    script += "with claimed(Path('m.partial'), 'the model m'): print('held', flush=True); sys.stdin.read()"
    import subprocess
    import sys

    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        real, tried = in_this_process(TRAIN, tmp_path), in_this_process([*TRAIN, "--dry-run"], tmp_path)
        other.stdin.close()
    assert real.returncode == tried.returncode == 2 and error(real) == error(tried)
    assert f"another job (process {other.pid}" in tried.stderr
    with claimed(tmp_path / "m.partial", "the model m"):
        pass
    assert in_this_process([*TRAIN, "--dry-run"], tmp_path).returncode == 0
    assert not (tmp_path / "m.partial").exists()
