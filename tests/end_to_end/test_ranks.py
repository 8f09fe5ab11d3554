"""Several ranks as a user, torchrun or SLURM starts them: the same result as of one, and none is left behind."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cellalign.data import files

pytestmark = [pytest.mark.slow, pytest.mark.process]
TRAIN = ["--method", "comp", "--condition", "stim", "--set", "hidden=[32]", "--precision", "float32", "--seed", "1"]
RUN = [sys.executable, "-m", "cellalign"]
ALONE = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def finished(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    words = [*RUN, *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=os.environ | ALONE | env, capture_output=True, text=True, timeout=600)


def history(model: Path) -> list[dict[str, float]]:
    with open(model / "history.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def alike(a: Path, b: Path) -> None:
    """Losses to 1e-4; those of validation, where biases before batch normalisation matter a little, to 1e-2."""
    for one, two in zip(history(a), history(b), strict=True):
        for key in set(one) - {"seconds"}:
            assert two[key] == pytest.approx(one[key], rel=1e-4 if "train" in key else 1e-2, abs=1e-3)


@pytest.fixture(scope="module")
def models(tmp_path_factory, kang_like) -> Path:
    """A folder with the model of one process, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, more in (("one", []), ("two", ["--devices", 2])):
        done = finished("train", kang_like, *TRAIN, "--epochs", 4, "-m", name, *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert "2 ranks compute together" in done.stderr and done.stderr.count("epoch 4/4") == 1
    return folder


def test_two_train_as_one(models):
    alike(models / "one", models / "two")
    assert not list(models.glob("*.partial"))


def test_two_that_read_from_disk_train_as_one(tmp_path, kang_like):
    for name, more in (("one", []), ("two", ["--devices", 2])):
        done = finished("train", kang_like, *TRAIN, "--stream", "--epochs", 3, "-m", name, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("draw", [[], ["--draw"]])
def test_embedding_is_that_of_one(models, kang_like, draw):
    for name, more in (("a", []), ("b", ["--devices", 2])):
        done = finished("embed", kang_like, "-m", "one", "-o", f"{name}.h5ad", "--force", *draw, *more, cwd=models)
        assert done.returncode == 0, done.stderr
    key = "X_comp_draw" if draw else "X_comp"
    a, b = (ad.read_h5ad(models / f"{name}.h5ad") for name in "ab")
    np.testing.assert_array_equal(a.obsm[key], b.obsm[key])


def test_predictions_and_annotations_are_those_of_one(models, kang_like):
    asked = {"counterfactual": ["--to", "stimulated", "--draws", 20], "annotate": ["--label", "cell_type"]}
    for verb, words in asked.items():
        for name, more in (("a", []), ("b", ["--devices", 2])):
            done = finished(verb, kang_like, "-m", "one", "-o", f"{name}.h5ad", "--force", *words, *more, cwd=models)
            assert done.returncode == 0, done.stderr
        a, b = (ad.read_h5ad(models / f"{name}.h5ad") for name in "ab")
        np.testing.assert_array_equal(np.asarray(a.X.todense() if hasattr(a.X, "todense") else a.X),
                                      np.asarray(b.X.todense() if hasattr(b.X, "todense") else b.X))  # fmt: skip
        assert a.obs.equals(b.obs)


@pytest.mark.parametrize("words", [["--stream", "--to", "stimulated"], ["--to", "all", "--draws", "2"]])
@pytest.mark.parametrize("ending", ["zarr", "h5ad"])
def test_each_writes_its_part_of_the_file_of_one(models, kang_like, words, ending):
    for name, more in (("a", []), ("b", ["--devices", 2])):
        output = f"parts-{name}.{ending}"
        done = finished("counterfactual", kang_like, "-m", "one", "-o", output, "--force", *words, *more, cwd=models)
        assert done.returncode == 0, done.stderr
    a, b = (files.read(models / f"parts-{name}.{ending}") for name in "ab")
    np.testing.assert_array_equal(a.X, b.X)
    assert a.obs.equals(b.obs) and abs(a.layers["source"] - b.layers["source"]).max() == 0


def by_hand(words: list, cwd: Path, envs: list[dict[str, str]]) -> list[subprocess.CompletedProcess]:
    started = [
        subprocess.Popen(
            [*RUN, *map(str, words)], cwd=cwd, env=os.environ | ALONE | env, stderr=subprocess.PIPE, text=True
        )
        for env in envs
    ]
    return [(process, process.communicate(timeout=600)[1]) for process in started]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("by", ["torchrun", "slurm"])
def test_who_else_starts_them(models, kang_like, by):
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    if by == "torchrun":
        envs = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"} for i in range(2)]
        more = []
    else:  # two machines of one task each
        job = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}
        job |= {"SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "1"}
        envs = [job | {"SLURM_PROCID": str(i), "SLURM_NODEID": str(i)} for i in range(2)]
        more = ["--devices", 1, "--nodes", 2]
    words = ["train", kang_like, *TRAIN, "--epochs", 4, "-m", by, *more]
    for process, said in by_hand(words, models, [meet | env for env in envs]):
        assert process.returncode == 0, said
    alike(models / "one", models / by)


def test_a_command_for_one_process_is_refused_to_several(tmp_path, kang_like):
    env = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    [(process, said)] = by_hand(["preprocess", kang_like, "-o", "x.h5ad"], tmp_path, [env | {"MASTER_PORT": "1"}])
    assert process.returncode == 2 and "torchrun started 2 processes, and this command is for one" in said
    assert not (tmp_path / "x.h5ad").exists()


class Running:
    """A long training on two ranks, up to its first checkpoint."""

    def __init__(self, cwd: Path, kang_like: Path, *more: object, devices: int = 2) -> None:
        words = ["train", kang_like, *TRAIN, "--no-early-stopping", "--checkpoint-every", 0.5, "-m", "long", *more]
        words += ["--devices", devices] if devices > 1 else []
        self.log = cwd / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*RUN, *map(str, words)], cwd=cwd, env=os.environ | ALONE, stderr=log)
        self.wait_for(
            lambda: re.search(r"epoch \d+/", self.said()) and (cwd / "long.partial" / "state.safetensors").exists()
        )

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, what) -> None:
        until = time.monotonic() + 200
        while not what():
            assert self.process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.1)

    @property
    def ranks(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def end(self) -> tuple[int, str]:
        status = self.process.wait(timeout=120)
        return status, self.said().strip().splitlines()[-1]


def gone(ranks: list[int]) -> bool:
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_a_rank_that_dies_ends_the_others_and_one_or_two_go_on(tmp_path, kang_like):
    for number, which in enumerate((1, 0)):
        run = Running(tmp_path, kang_like, "--epochs", 3000, *(["--resume"] if number else []))
        ranks = run.ranks
        assert len(ranks) == 2
        os.kill(ranks[which], signal.SIGKILL)
        status, last = run.end()
        assert status == 5 and last.startswith("cellalign: error: ") and last.endswith("--resume")
        assert "rank" in last and gone(ranks)
    run = Running(tmp_path, kang_like, "--epochs", 3000, "--resume")
    run.process.send_signal(signal.SIGTERM)
    status, last = run.end()
    assert status == 143 and "epochs are kept" in last and run.said().count("cellalign: ") == 1
    epochs = int(last.split("terminated; ")[1].split(" ")[0])
    words = ["train", kang_like, *TRAIN, "--epochs", epochs + 3, "--no-early-stopping", "-m", "long", "--resume"]
    for ranks in (1, 2):
        shutil.copytree(tmp_path / "long.partial", tmp_path / str(ranks) / "long.partial")
        done = finished(*words, "--devices", ranks, cwd=tmp_path / str(ranks))
        assert done.returncode == 0, done.stderr
    alike(tmp_path / "1" / "long", tmp_path / "2" / "long")


def test_none_is_left_of_a_command_that_is_killed(tmp_path, kang_like):
    run = Running(tmp_path, kang_like, "--epochs", 3000)
    ranks = run.ranks
    run.process.kill()
    run.process.wait()
    assert gone(ranks)


def test_what_cannot_be_is_said_in_one_line(tmp_path, kang_like):
    for words, said, status in (
        (["--method", "pca", "--condition", "stim", "--devices", 2], "method 'pca' is fitted by one process", 2),
        ([*TRAIN, "--devices", 2, "--nodes", 2], "NODE_RANK", 2),
        (["--method", "comp", "--condition", "nothing", "--devices", 2], "nothing", 3),
    ):
        done = finished("train", kang_like, *words, "-m", "none", cwd=tmp_path)
        assert done.returncode == status and said in done.stderr
        assert done.stderr.count("cellalign: ") == 1, done.stderr
