"""info: any file or model in words; --share leaves no folder of this machine in model.yaml."""

import json
import os

import anndata as ad
import numpy as np
import pytest
import yaml

import cellalign
from cellalign.tasks.info import share
from cellalign.tasks.info_of_model import record_without_folders


@pytest.fixture
def stored(tiny_path, tmp_path):
    """A model of two epochs, trained by absolute paths."""
    adata = ad.read_h5ad(tiny_path)
    options = {"method": "vae", "condition": "stim", "epochs": 2, "settings": {"hidden": [8], "latent_dim": 3}}
    cellalign.train(adata, **options, source=os.path.abspath(tiny_path), model_path=tmp_path / "m")
    return tmp_path / "m"


def test_a_file_is_told_by_a_sample_as_in_memory(tiny_path, tmp_path):
    adata = ad.read_h5ad(tiny_path)
    told = cellalign.info(adata)
    of_file = cellalign.info(tiny_path)
    assert {key: of_file[key] for key in ("cells", "genes")} == {key: told[key] for key in ("cells", "genes")}
    assert [key for key in told if key.startswith("obs ")] == [f"obs {key}" for key in adata.obs]
    for name in ("control", "stimulated"):
        assert f"{name} ({(adata.obs['stim'] == name).sum()})" in told["obs stim"]
    assert "control is called as controls are" in told["obs stim"]
    adata.layers["counts"] = np.rint(np.abs(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X))
    adata.write_zarr(tmp_path / "cells.zarr")
    of_store = cellalign.info(tmp_path / "cells.zarr")
    assert of_store["layer counts"].startswith("counts; ") and of_store["cells"] == told["cells"]


@pytest.mark.parametrize(("method", "is_"), [("linear", "log expression, predicted"), ("scvi", "expected counts")])
def test_a_prediction_is_told_by_its_record(tiny_cells, tmp_path, method, is_):
    settings = {} if method == "linear" else {"hidden": [8], "latent_dim": 3, "epochs": 1}
    model = cellalign.train(tiny_cells, method=method, condition="stim", settings=settings)
    predicted = cellalign.counterfactual(tiny_cells, model, to="stimulated")
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    for given in (predicted, tmp_path / "predicted.h5ad"):
        told = cellalign.info(given)
        assert told["X"].startswith(f"{is_}; ") and told["layer source"].startswith(("log; ", "counts; "))
    if method == "scvi":
        drawn = cellalign.info(cellalign.counterfactual(tiny_cells, model, to="stimulated", draws=1))
        assert drawn["X"].startswith("counts; ")


def test_a_matrix_stored_by_genes_and_one_that_is_raw(tiny_path, tmp_path):
    adata = ad.read_h5ad(tiny_path)
    adata.raw = adata
    adata.X = adata.X.tocsc() if hasattr(adata.X, "tocsc") else adata.X
    adata.write_h5ad(tmp_path / "csc.h5ad")
    told, plain = cellalign.info(tmp_path / "csc.h5ad"), cellalign.info(tiny_path)
    kind = plain["X"].partition(";")[0]
    assert told["X"].startswith(kind) and told["raw"].startswith(kind)


def test_a_model_is_told(stored):
    told = cellalign.info(stored)
    assert told["method"].startswith("vae: ") and "2 epochs" in told["trained"] and "seed 0" in told["trained"]
    assert {"epochs=2", "latent_dim=3"} <= set(told["settings"].split(", "))
    assert "control: control" in told["condition stim"]
    assert cellalign.info(cellalign.load(stored))["trained"] == told["trained"]


def test_a_model_without_its_weights_is_told_as_one(stored):
    assert "incomplete" not in cellalign.info(stored)
    (stored / "weights.safetensors").unlink()
    assert cellalign.info(stored)["incomplete"] == "weights.safetensors is missing; restore it or train again"


def test_what_is_shared_names_no_folder(stored, tiny_path):
    before = yaml.safe_load((stored / "model.yaml").read_text())
    assert os.path.isabs(before["source"]["path"])
    cut = share(stored)
    assert str(tiny_path.resolve()) in cut
    after = yaml.safe_load((stored / "model.yaml").read_text())
    assert after["source"]["path"] == tiny_path.name
    assert str(tiny_path.parent) not in (stored / "model.yaml").read_text()
    kept = {key: value for key, value in after.items() if key not in ("source", "command", "command_hint", "checksum")}
    assert kept == {key: before[key] for key in kept}
    cellalign.load(stored)  # its checksum is right
    assert share(stored) == []


def test_paths_of_every_system_are_cut():
    plain = {
        "method": "vae",
        "genes": ["/gene"],
        "source": {"path": "C:\\data\\a.h5ad", "others": [{"path": "/x/b.h5ad"}], "metadata": None},
        "command": "/opt/bin/cellalign train '/home/me/my cells.h5ad' --set a=/x/y.gmt rel/c.h5ad -m/srv/me/m",
        "command_hint": "cellalign preprocess c.h5ad",
    }
    found, cut = record_without_folders(plain)
    assert found["source"] == {"path": "a.h5ad", "others": [{"path": "b.h5ad"}], "metadata": None}
    assert found["command"] == "cellalign train 'my cells.h5ad' --set a=y.gmt rel/c.h5ad -mm"
    assert (found["command_hint"], found["genes"]) == (plain["command_hint"], plain["genes"])
    assert len(cut) == 6


@pytest.mark.process
def test_the_command(stored, tiny_path, mistaken):
    run = mistaken(cwd=stored.parent)
    done = run("info", stored, "--share")
    assert done.returncode == 0 and "vae" in done.stdout and str(tiny_path) not in done.stdout
    [told] = json.loads(run("info", stored, "--format", "json").stdout)
    assert told["method"].startswith("vae")
    assert "1 files" not in run("info", tiny_path).stdout
    done = run("info", tiny_path, "--share")
    assert done.returncode == 2 and "is of one model directory" in done.stderr
    assert run("info", "nothing.h5ad").returncode == 3
