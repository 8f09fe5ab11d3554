"""Runs of a grid on disk: those of other cells or options are never taken for these, and nothing else is removed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

import cellalign
from cellalign.errors import UsageError
from cellalign.tasks import tune as tuning
from cellalign.tasks.tune_runs import Runs
from tests.support import StopAfter

FAST = {"method": "cvae", "grid": {"lr": [1e-3, 1e-2]}, "seeds": 1, "condition": "stim", "epochs": 2}
FAST |= {"settings": {"hidden": [8], "latent_dim": 2}, "precision": "float32"}


@pytest.fixture
def trainings(monkeypatch):
    """Learning rates of the runs that were trained, and whether they were gone on with."""
    calls, real = [], tuning.train

    def noted(*args, **kwargs):
        calls.append((kwargs["settings"]["lr"], kwargs.get("resume", False)))
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "train", noted)
    return calls


@pytest.fixture
def begun(tiny, tmp_path, trainings):
    """The folder of a grid whose runs are finished, of cells with a second matrix and columns."""
    tiny.layers["other"] = tiny.X.multiply(1.5).tocsr()
    tiny.obs["site"] = np.where(np.arange(tiny.n_obs) % 2, "A", "B")
    tiny.obs["age"] = np.arange(tiny.n_obs) / tiny.n_obs
    cellalign.tune(tiny, runs=tmp_path / "runs", **FAST)
    trainings.clear()
    return tmp_path / "runs"


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "other",
    [
        {"layer": "other"},
        {"batch": ["site"]},
        {"batch": ["age"], "numeric": ["age"]},
        {"batch": ["age"], "kinds": {"age": "number"}, "label": "cell_type"},
        {"control": "stimulated"},
        {"label": "cell_type"},
        {"label": "cell_type", "unlabelled": "B"},
        {"holdout": ["cell_type=B"]},
        {"epochs": 1},
        {"batch_size": 32},
        {"validation": 0.3},
        {"precision": "bfloat16"},
        {"preset": None, "settings": {"hidden": [9], "latent_dim": 2}},
        {"method": "vae"},
        {"early_stopping": False},
    ],
    ids=lambda other: "-".join(other),
)
def test_runs_of_other_options_are_trained_and_leave_these_alone(tiny, begun, trainings, other):
    there = names(begun)
    asked = FAST | {"grid": {"lr": [1e-3]}}
    cellalign.tune(tiny, runs=begun, **(asked | other))
    assert trainings == [(1e-3, False)] and there < names(begun)
    cellalign.tune(tiny, runs=begun, **(asked | other))
    cellalign.tune(tiny, runs=begun, **FAST)
    assert len(trainings) == 1


@pytest.mark.parametrize(
    "other",
    [{"condition": "age", "continuous": True}, {"method": "comp", "expression": "any", "settings": {}}],
    ids=["number", "any"],
)
def test_runs_with_defaults_that_go_by_the_cells_are_found_again(tiny, begun, trainings, other):
    """They were trained again every time, as runs with other hyperparameters."""
    for _ in range(2):
        cellalign.tune(tiny, runs=begun, **(FAST | {"grid": {"lr": [1e-3]}} | other))
    assert trainings == [(1e-3, False)]


def changed_value(adata):
    adata.X.data[-1] *= 1.25


def changed_condition(adata):
    adata.obs["stim"] = adata.obs["stim"].to_numpy()[::-1]


def other_genes(adata):
    adata.var_names = [f"{name}x" for name in adata.var_names]


@pytest.mark.parametrize("change", [changed_value, changed_condition, other_genes])
def test_runs_of_other_cells_are_trained(tiny, begun, trainings, change):
    change(tiny)
    cellalign.tune(tiny, runs=begun, **FAST)
    assert len(trainings) == 2


def test_the_same_cells_kept_otherwise_are_the_same(tiny, begun, trainings):
    tiny.X = sparse.csc_matrix(tiny.X).astype(np.float64)
    cellalign.tune(tiny, runs=begun, threads=1, device="cpu", **FAST)
    assert not trainings


def test_a_damaged_run_is_trained_again_and_said(tiny, begun, trainings, caplog):
    (run,) = [path for path in begun.iterdir() if "0.01" in path.name]
    (run / "weights.safetensors").write_bytes(b"")
    cellalign.tune(tiny, runs=begun, **FAST)
    assert trainings == [(1e-2, False)] and "trained again" in caplog.text


def test_a_run_that_was_put_in_anothers_place_is_noticed(tiny, begun, trainings, caplog):
    one, two = sorted(begun.iterdir())
    os.rename(one, begun / "kept")
    os.rename(two, one)
    cellalign.tune(tiny, runs=begun, **FAST)
    assert len(trainings) == 2 and "is a run with another training; trained again" in caplog.text


def interrupted(adata, runs):
    with pytest.raises(KeyboardInterrupt):
        cellalign.tune(adata, runs=runs, progress=StopAfter(1), **FAST)
    (left,) = runs.iterdir()
    assert left.name.endswith(".partial")
    return left


def test_a_run_that_was_cut_off_is_gone_on_with(tiny, tmp_path, trainings):
    whole, _ = cellalign.tune(tiny, **FAST)
    interrupted(tiny, tmp_path / "runs")
    trainings.clear()
    best, _ = cellalign.tune(tiny, runs=tmp_path / "runs", **FAST)
    assert trainings == [(1e-3, True), (1e-2, False)]
    np.testing.assert_array_equal(best.embed(tiny), whole.embed(tiny))
    assert not [name for name in names(tmp_path / "runs") if name.endswith(".partial")]


def test_a_damaged_checkpoint_is_said_and_the_run_begun_anew(tiny, tmp_path, trainings, caplog):
    left = interrupted(tiny, tmp_path / "runs")
    (left / "state.safetensors").write_bytes(b"damaged")
    trainings.clear()
    cellalign.tune(tiny, runs=tmp_path / "runs", **FAST)
    assert trainings == [(1e-3, False), (1e-2, False)] and "is damaged" in caplog.text


def test_what_is_not_of_the_grid_stays(tiny, begun, tmp_path):
    (begun / "notes.txt").write_text("mine")
    runs = Runs(begun)
    cellalign.tune(tiny, runs=runs, **FAST)
    (runs.used[0] / "picture.png").write_text("mine too")
    other = Runs(begun)
    cellalign.tune(tiny, runs=other, **FAST | {"epochs": 1, "grid": {"lr": [1e-3]}})
    runs.remove()
    assert names(begun) == {"notes.txt", runs.used[0].name, other.used[0].name}
    assert names(runs.used[0]) == {"picture.png"}
    assert cellalign.load(other.used[0]).record.training["epochs"] == 1


def test_all_that_was_used_is_removed(tiny, begun):
    runs = Runs(begun)
    with runs.held(False):
        cellalign.tune(tiny, runs=runs, **FAST)
        runs.remove()
    assert not begun.exists()


HOLDING = """
import sys
from cellalign.tasks.tune_runs import Runs
with Runs(sys.argv[1]).held(False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_job_refuses(tiny, tmp_path, trainings):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path / "runs"], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=r"another job \(process \d+ on .*\) is making the runs of"):
            cellalign.tune(tiny, runs=tmp_path / "runs", **FAST)
        other.stdin.close()
    assert not trainings and not (tmp_path / "runs").exists()


def test_a_file_in_the_place_of_the_folder_is_left(tiny, tmp_path, trainings):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(UsageError, match="is not cellalign's"):
        cellalign.tune(tiny, runs=tmp_path / "runs", **FAST)
    assert (tmp_path / "runs").read_text() == "mine" and not trainings
