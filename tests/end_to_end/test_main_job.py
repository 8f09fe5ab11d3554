"""The main job as a user types it, on simulated and on real cells: files, figures, pipes, resumption."""

import io
import signal
import subprocess
import time
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

import cellalign as api


def scores(text: str) -> pd.Series:
    table = pd.read_csv(io.StringIO(text))
    return table.set_index(["panel", "system", "group", "metric"])["value"]


@pytest.fixture(scope="module")
def job(tmp_path_factory, cellalign, kang_path):
    """The real cells through every command, with a small network so that it takes seconds."""
    folder = tmp_path_factory.mktemp("job")
    run = cellalign(cwd=folder)
    steps = [
        ("preprocess", kang_path, "-o", "kang.pp.h5ad", "--n-top-genes", 1000),
        (*"train kang.pp.h5ad --method comp --condition stim --epochs 120".split(), "--set", "hidden=[128, 128]"),
        ("embed", "-o", "kang.emb.h5ad", "--umap", "--plot", "umap.png"),
        ("counterfactual", "--to", "stimulated"),
    ]
    for step in steps:
        done = run(*step)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", "standard output is for results only"
    return folder, run


def test_the_real_cells_mix_and_keep_their_types(job):
    folder, run = job
    options = ("--condition", "stim", "--label", "cell_type", "--format", "csv", "--min-cells", 150)
    found = scores(run("evaluate", "kang.emb.h5ad", *options).stdout)
    # loose bounds around what the small network reaches; the full figures are in benchmarks/README.md
    assert found["mixing", "all", "all", "kBET"] < 0.15
    assert abs(found["mixing", "all", "all", "s"]) < 0.03
    assert found["probe", "cell_type", "all", "15-nearest-neighbour"] > 0.8
    assert (folder / "umap.png").stat().st_size > 50_000


def test_the_prediction_beats_the_baselines(job):
    _, run = job
    done = run(
        "evaluate", "kang.stimulated.h5ad", "--against", "kang.pp.h5ad",
        "--condition", "stim", "--label", "cell_type", "--format", "csv",
    )  # fmt: skip
    found = scores(done.stdout)
    for metric in ("r_all", "r_de"):
        prediction = found["response", "prediction", "mean", metric]
        assert prediction > 0.98
        assert (
            prediction
            > found["response", "mean shift", "mean", metric]
            > found["response", "no change", "mean", metric]
        )


def test_files_hold_what_they_should(job):
    folder, _ = job
    cells, embedded = ad.read_h5ad(folder / "kang.pp.h5ad"), ad.read_h5ad(folder / "kang.emb.h5ad")
    assert embedded.obsm["X_comp"].shape == (2000, 40) and embedded.obsm["X_umap"].shape == (2000, 2)
    assert (embedded.X != cells.X).nnz == 0 and list(embedded.obs) == [*cells.obs, "comp_split"]
    predicted = ad.read_h5ad(folder / "kang.stimulated.h5ad")
    source = cells[cells.obs["stim"] == "control"]
    assert list(predicted.obs_names) == list(source.obs_names)
    assert set(predicted.obs["stim"]) == {"stimulated"} and set(predicted.obs["stim_source"]) == {"control"}
    np.testing.assert_array_equal(predicted.layers["source"].toarray(), source.X.toarray())
    model = folder / "cellalign-model"
    assert {p.name for p in model.iterdir()} == {"model.yaml", "weights.safetensors", "history.csv", "cells.npy"}
    spec = yaml.safe_load((model / "model.yaml").read_text())
    assert spec["fields"][0]["reference"] == "control" and spec["source"]["path"] == str(folder / "kang.pp.h5ad")
    history = pd.read_csv(model / "history.csv")
    assert len(history) == spec["outcome"]["epochs"] and history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_python_and_the_command_give_the_same(job):
    folder, _ = job
    model = api.load(folder / "cellalign-model")
    cells = ad.read_h5ad(folder / "kang.pp.h5ad")
    shuffled = cells[np.random.default_rng(0).permutation(cells.n_obs), cells.var_names[::-1]].copy()
    expected = pd.DataFrame(ad.read_h5ad(folder / "kang.emb.h5ad").obsm["X_comp"], index=cells.obs_names)
    got = api.embed(shuffled, model).obsm["X_comp"]
    np.testing.assert_allclose(got, expected.loc[shuffled.obs_names], atol=1e-3)


def test_where_from_and_samples(job):
    folder, run = job
    options = ("--to", "control", "--from", "stimulated", "--where", "cell_type=NK", "--samples", 5)
    assert run("counterfactual", *options, "-o", "nk.h5ad").returncode == 0
    assert run("counterfactual", *options, "-o", "again.h5ad").returncode == 0
    first, again = (ad.read_h5ad(folder / name) for name in ("nk.h5ad", "again.h5ad"))
    assert set(first.obs["cell_type"]) == {"NK"} and set(first.obs["stim_source"]) == {"stimulated"}
    assert first.layers["sd"].mean() > 0
    np.testing.assert_array_equal(first.X, again.X)


@pytest.mark.slow
def test_pipes(kang_raw, cellalign, tmp_path):
    run = cellalign(cwd=tmp_path)
    piped = run("preprocess", "-", "-o", "-", stdin=kang_raw.read_bytes(), text=False)
    assert piped.returncode == 0, piped.stderr
    small = ("--epochs", 1, "--set", "hidden=[8]")
    trained = run("train", "-", "--condition", "stim", *small, stdin=piped.stdout, text=False)
    assert trained.returncode == 0, trained.stderr
    embedded = run("embed", "-", "-o", "-", stdin=piped.stdout, text=False)
    (tmp_path / "out.h5ad").write_bytes(embedded.stdout)
    assert "X_comp" in ad.read_h5ad(tmp_path / "out.h5ad").obsm
    unknown = run("embed", "-o", "x.h5ad")
    assert unknown.returncode == 3 and "or a pipe" in unknown.stderr


@pytest.mark.slow
def test_same_seed_same_files(kang_like, cellalign, tmp_path):
    run = cellalign(cwd=tmp_path, process=True)
    options = ("--condition", "stim", "--epochs", 10, "--set", "hidden=[512]", "--threads", 2)
    for name in ("a", "b"):
        assert run("train", kang_like, *options, "-m", name, "-o", f"{name}.h5ad").returncode == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_leaves_the_old_model(kang_like, model, command, tmp_path, number, status):
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    options = ("--condition", "stim", "-m", str(model), "--force", "--epochs", "100000", "--restart")
    arguments = [str(command), "train", str(kang_like), *options]
    # a shell that runs the tests in the background has its children ignore SIGINT
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert process.stderr is not None
    assert any("epoch 1/" in line for line in process.stderr)
    time.sleep(0.2)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()  # one that did not heed the signal must not go on for days
    assert process.returncode == status and "Traceback" not in said
    assert " of 100000 epochs are kept; go on with: cellalign train " in said and said.endswith(" --resume\n")
    assert (model.parent / f"{model.name}.partial" / "state.safetensors").exists()
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before


def test_three_conditions_and_a_counterfactual_to_each(kang_like, cellalign, tmp_path):
    adata = ad.read_h5ad(kang_like)
    dose = np.where(adata.obs["stim"] == "control", "none", np.where(np.arange(adata.n_obs) % 2, "low", "high"))
    adata.obs["dose"] = dose
    adata.write_h5ad(tmp_path / "dose.h5ad")
    run = cellalign(cwd=tmp_path)
    small = ("--epochs", 2, "--set", "hidden=[16]")
    assert run("train", "dose.h5ad", "--condition", "dose", "--control", "none", *small).returncode == 0
    for to in ("low", "high"):
        assert run("counterfactual", "--to", to).returncode == 0
        got = ad.read_h5ad(tmp_path / f"dose.{to}.h5ad")
        assert set(got.obs["dose_source"]) == {"none"} and set(got.obs["dose"]) == {to}


def test_the_precision_is_chosen_said_and_kept(tmp_path, cellalign, kang_like):
    run = cellalign(cwd=tmp_path)
    short = ("train", kang_like, "--condition", "stim", "--epochs", 1, "--set", "hidden=[8]")
    for precision in ("float32", "bfloat16"):
        done = run(*short, "--precision", precision, "-m", precision)
        assert done.returncode == 0 and f"products in {precision}" in done.stderr
        kept = yaml.safe_load((tmp_path / precision / "model.yaml").read_text())
        assert kept["training"]["precision"] == precision
    assert run(*short, "--precision", "half", "-m", "m").returncode == 2
