"""The command: exit status 0 where a model is reproduced, 5 where not, and a line for those that cannot be."""

import json

import pytest

import cellalign as cellalign_package

FAST = ["--condition", "stim", "--epochs", 1, "--set", "hidden=[8]", "--set", "latent_dim=3"]


def test_reproduce(cellalign, tmp_path, kang_raw):
    run = cellalign(cwd=tmp_path)
    cells = tmp_path / "cells.h5ad"
    cells.write_bytes(kang_raw.read_bytes())
    assert run("train", cells, *FAST, "-m", "model").returncode == 0
    done = run("reproduce", "model", "--format", "json", "-o", "again")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["loss_then"] == row["loss_now"] > 0
    assert [row[key] for key in ("result", "weights", "latents", "tolerance", "differs")] == [
        "identical", 0, 0, 0, None,
    ]  # fmt: skip
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("model", "again")]
    assert weights[0] == weights[1]
    assert run("reproduce", "model", "-o", "again").returncode == 2  # is there already

    cells.rename(tmp_path / "moved.h5ad")
    done = run("reproduce", "model")
    assert done.returncode == 3 and "is gone; name an INPUT" in done.stderr
    assert run("reproduce", "model", "moved.h5ad").returncode == 0

    model = cellalign_package.load(tmp_path / "model")
    next(iter(model.method.parameters())).data += 0.1
    model.save(tmp_path / "changed")
    done = run("reproduce", "changed", "moved.h5ad", "--format", "json")
    assert done.returncode == 5 and "changed is not reproduced: latents differ by" in done.stderr
    assert json.loads(done.stdout)[0]["result"] == "different"
    assert run("reproduce", "nothing").returncode == 4


@pytest.mark.slow
def test_a_process_starts_with_the_model_s_threads(cellalign, tmp_path, kang_raw):
    run = cellalign(cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert run("train", kang_raw, *FAST, "-m", "model", "--threads", 2).returncode == 0
    done = run("reproduce", "model", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("identical,0.0,0.0,0.0,") and done.stdout.endswith(",\n")
