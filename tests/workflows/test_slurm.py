"""The SLURM scripts: what a task or job runs, and what becomes of it when it is ended. No SLURM is needed."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "slurm"
SCRIPT = FOLDER / "train-array.sh"
RUNS = """# model  options
first   --method comp --set 'hidden=[8, 8]'

second  --method scvi
"""
FAKE = {
    # says what it was given; waits to be ended where it is told to, as a training does, and ends as cellalign would
    "cellalign": """printf '%s|' "$@" >> told; echo >> told
        if [[ -e wait ]]; then trap 'echo kept >> told; exit 143' TERM; echo $$ > started; fi
        while [[ -e wait ]]; do sleep 0.05; done
        if [[ -e fail ]]; then exit 5; fi""",
    "srun": """printf '%s ' "$SRUN_CPUS_PER_TASK" > srun
        while [[ $1 == -* ]]; do printf '%s ' "$1" >> srun; shift; done; exec "$@\"""",
    "scontrol": 'echo "scontrol $*" >> told',
}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "3"}
RANKS = SLURM | {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}


@pytest.fixture
def job(tmp_path):
    """`job(script, words)` starts a script in an environment as SLURM makes it."""
    (tmp_path / "bin").mkdir()
    for name, lines in FAKE.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
        path.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def start(script, words, **variables):
        return subprocess.Popen(
            ["bash", FOLDER / script, *words],
            cwd=tmp_path,
            env=os.environ | {"PATH": path} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def at(job, tmp_path):
    """`at(task)` starts a task of the array."""
    (tmp_path / "runs.txt").write_text(RUNS)
    array = SLURM | {"SLURM_ARRAY_JOB_ID": "70"}
    return lambda task: job(SCRIPT.name, ["cells.h5ad", "runs.txt"], **array, SLURM_ARRAY_TASK_ID=str(task))


def started(folder):
    """The number of the process that waits."""
    for _ in range(400):
        if (folder / "started").exists() and (number := (folder / "started").read_text().strip()):
            return int(number)
        time.sleep(0.05)
    raise AssertionError("nothing was started")


def test_a_task_trains_its_own_line(at, tmp_path):
    task = at(0)
    said, _ = task.communicate(timeout=20)
    assert task.returncode == 0 and said == "task 0: first is complete\n"
    told = "train|cells.h5ad|-m|first|--threads|3|--auto-resume|--method|comp|--set|hidden=[8, 8]|\n"
    assert (tmp_path / "told").read_text() == told
    assert (tmp_path / "srun").read_text().split() == ["3", "--ntasks=1"], "all of the task's CPUs"


def test_the_runs_beside_the_script_need_no_folder_made_before(at, tmp_path):
    shipped = (SCRIPT.parent / "runs.txt").read_text()
    (tmp_path / "runs.txt").write_text(shipped)
    assert at(0).wait(timeout=20) == 0
    model = (tmp_path / "told").read_text().split("|")[3]
    assert "/" in model and (tmp_path / model).parent.is_dir() and not (tmp_path / model).exists()


def test_a_task_that_is_ended_is_put_back_into_the_queue(at, tmp_path):
    (tmp_path / "wait").touch()
    task = at(1)
    started(tmp_path)
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


# a training on several nodes


def ranks(job, *words):
    return job("train_ranks.sbatch", words, **RANKS, INPUT="big.pp.zarr", MODEL="big-comp")


def test_a_training_on_several_nodes_takes_further_options(job, tmp_path):
    said, _ = (training := ranks(job, "--batch", "site", "--stream")).communicate(timeout=20)
    assert training.returncode == 0 and said == "big-comp is complete\n"
    [told] = (tmp_path / "told").read_text().splitlines()
    given = "train big.pp.zarr --method comp --condition stim --model big-comp --auto-resume --devices 4 --nodes 2"
    assert told.split("|") == [*given.split(), "--batch", "site", "--stream", ""]
    cpus, *options = (tmp_path / "srun").read_text().split()
    assert cpus == "3" and options == ["--kill-on-bad-exit=0", "--wait=300"]


@pytest.mark.parametrize("whom", ["the script", "what srun started"])
def test_a_training_on_several_nodes_is_put_back_into_the_queue(job, tmp_path, whom):
    """At the time limit SLURM signals the steps alone; somebody else, as scancel --full does, the script too."""
    (tmp_path / "wait").touch()
    training = ranks(job)
    number = started(tmp_path)
    os.kill(training.pid if whom == "the script" else number, signal.SIGTERM)
    said, _ = training.communicate(timeout=20)
    assert training.returncode == 143 and "its checkpoint is kept" in said
    assert (tmp_path / "told").read_text().splitlines()[-2:] == ["kept", "scontrol requeue 77"]
    (tmp_path / "wait").unlink()
    assert ranks(job).wait(timeout=20) == 0


def test_a_training_on_several_nodes_that_fails_is_not_tried_again(job, tmp_path):
    (tmp_path / "fail").touch()
    _, said = (training := ranks(job)).communicate(timeout=20)
    assert training.returncode == 5 and "not tried again" in said
    assert "scontrol" not in (tmp_path / "told").read_text()


def examples():
    """The commands that the script of predictions names, each by its words."""
    text = (FOLDER / "predict_ranks.sbatch").read_text()
    return [line.split() for line in re.findall(r"^#   sbatch \S+ (.*)", text, re.MULTILINE)]


@pytest.mark.parametrize("words", examples(), ids=lambda words: words[0])
def test_other_commands_on_several_nodes(job, tmp_path, words):
    from cellalign.cli import app  # noqa: F401  declares the commands
    from cellalign.tasks.declaration import DECLARATIONS

    assert job("predict_ranks.sbatch", words, **RANKS).wait(timeout=20) == 0
    told = (tmp_path / "told").read_text().strip().split("|")
    assert told == [*words, "--devices", "4", "--nodes", "2", ""]
    declared = DECLARATIONS[words[0]]
    known = {flag for each in [*declared.own(), *declared.options()] for flag in each.flags}
    assert {word for word in told if word.startswith("-")} <= known
    assert (tmp_path / "srun").read_text().split() == ["3", "--kill-on-bad-exit=1"]


def test_a_prediction_of_nothing_says_how_it_is_called(job):
    _, said = (wrong := job("predict_ranks.sbatch", [], **RANKS)).communicate(timeout=20)
    assert wrong.returncode == 1 and "usage: sbatch predict_ranks.sbatch embed|counterfactual|annotate" in said


@pytest.mark.parametrize("script", ["train-array.sh", "train_ranks.sbatch"])
def test_what_slurm_is_asked_for(script):
    text = (FOLDER / script).read_text()
    asked = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@60", "#SBATCH --open-mode=append"} <= set(asked)
    for log in (line.partition("--output=")[2] for line in asked if "--output=" in line):
        assert "/" not in log, "SLURM makes no folder: without it the job ends at once, and nothing says why"
    assert "scontrol requeue" in text, "--requeue does nothing at a time limit"
