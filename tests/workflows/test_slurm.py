"""The SLURM array: which run a task is, and what becomes of it when its machine is taken away. No SLURM is needed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "workflows" / "slurm" / "train-array.sh"
RUNS = """# model  options
first   --method comp --set 'hidden=[8, 8]'

second  --method scvi
"""
FAKE = {
    # says what it was given; waits to be ended where it is told to, as a training does, and ends as cellalign would
    "cellalign": """printf '%s|' "$@" >> told; echo >> told
        if [[ -e wait ]]; then trap 'echo kept >> told; exit 143' TERM; touch started; while :; do sleep 0.05; done; fi
        if [[ -e fail ]]; then exit 5; fi""",
    "srun": 'shift; exec "$@"',
    "scontrol": 'echo "scontrol $*" >> told',
}


@pytest.fixture
def at(tmp_path):
    """`at(task)` starts a task of the array in an environment as SLURM makes it."""
    (tmp_path / "bin").mkdir()
    for name, lines in FAKE.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
        path.chmod(0o755)
    (tmp_path / "runs.txt").write_text(RUNS)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_CPUS_PER_TASK": "3"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def start(task, **more):
        environment = os.environ | slurm | {"PATH": path, "SLURM_ARRAY_TASK_ID": str(task)} | more
        return subprocess.Popen(
            ["bash", SCRIPT, "cells.h5ad", "runs.txt"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_task_trains_its_own_line(at, tmp_path):
    task = at(0)
    said, _ = task.communicate(timeout=20)
    assert task.returncode == 0 and said == "task 0: first is complete\n"
    told = "train|cells.h5ad|-m|first|--threads|3|--auto-resume|--method|comp|--set|hidden=[8, 8]|\n"
    assert (tmp_path / "told").read_text() == told


def test_the_runs_beside_the_script_need_no_folder_made_before(at, tmp_path):
    shipped = (SCRIPT.parent / "runs.txt").read_text()
    (tmp_path / "runs.txt").write_text(shipped)
    assert at(0).wait(timeout=20) == 0
    model = (tmp_path / "told").read_text().split("|")[3]
    assert "/" in model and (tmp_path / model).parent.is_dir() and not (tmp_path / model).exists()


def test_a_task_that_is_ended_is_put_back_into_the_queue(at, tmp_path):
    (tmp_path / "wait").touch()
    task = at(1)
    for _ in range(400):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    said, _ = task.communicate(timeout=20)
    assert task.returncode == 143 and "its checkpoint is kept" in said
    *_, kept, requeued = (tmp_path / "told").read_text().splitlines()
    assert kept == "kept" and requeued == "scontrol requeue 70_1"
    (tmp_path / "wait").unlink()
    again = at(1)
    assert again.wait(timeout=20) == 0, "the same line again goes on by itself: --auto-resume"


def test_a_training_that_fails_is_not_tried_again(at, tmp_path):
    (tmp_path / "fail").touch()
    task = at(1)
    _, said = task.communicate(timeout=20)
    assert task.returncode == 5 and "not tried again" in said
    assert "scontrol" not in (tmp_path / "told").read_text()


def test_a_task_without_a_line_says_so(at):
    task = at(2)
    _, said = task.communicate(timeout=20)
    assert task.returncode == 2 and said == "task 2: runs.txt has 2 runs only\n"


def test_what_slurm_is_asked_for():
    asked = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@60", "#SBATCH --open-mode=append"} <= set(asked)
    [log] = [line.partition("--output=")[2] for line in asked if "--output=" in line]
    assert "/" not in log, "SLURM makes no folder: without it the job ends at once, and nothing says why"
