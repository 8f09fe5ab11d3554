"""On a GPU every method computes what it computes on a CPU, trains, predicts and draws; skipped without one."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import cellalign
from cellalign.errors import TrainingError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
FOLDER = Path(__file__).parent.parent / "fixtures" / "format1"
MODELS = sorted(path.name for path in FOLDER.iterdir() if (path / "model.yaml").is_file())
TARGETS = {"svae+": "g1+g2", "invae": "site=b", "cvae-dose": "2.5"}
TRAINED = [
    "comp",
    "scvi",
    "scanvi",
    "invae",
    "svae+",
    "stgan",
    "trvae",
    "linear",
    "local",
    "lemur",
    "auto",
    "celligner",
]
SMALL = {"hidden": [16], "latent_dim": 4}


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return ad.read_h5ad(FOLDER / "cells.h5ad")


def target_of(model: cellalign.Model, name: str) -> str | None:
    return TARGETS.get(name, "stimulated") if model.condition is not None or name in TARGETS else None


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same_on_both(name, cells):
    model = cellalign.load(FOLDER / name)
    on_cpu = model.embeddings(cells, device="cpu")
    on_gpu = model.embeddings(cells, device="cuda")
    for key, z in on_cpu.items():
        np.testing.assert_allclose(on_gpu[key], z, rtol=1e-3, atol=1e-3)
    target = target_of(model, name)
    if target is not None:
        for options in ({"decoded": True}, {}):
            a, b = (model.counterfactual(cells, to=target, device=d, **options).X for d in ("cpu", "cuda"))
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)
        drawn = model.counterfactual(cells, to=target, device="cuda", draws=2, samples=2)
        assert np.isfinite(drawn.X).all() and (drawn.X >= 0).all()
    if model.has_likelihood:
        assert np.isfinite(model.nelbo(cells, device="cuda")).all()
        assert np.isfinite(model.nll(cells, particles=3, device="cuda")).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", TRAINED)
def test_training_repeats_itself(method, precision, cells, monkeypatch):
    monkeypatch.setattr("cellalign.nn.products.WORTH_ROUNDING", 0)
    options = {"method": method, "condition": "stim", "label": "cell_type", "device": "cuda", "precision": precision}
    options["settings"] = {"hidden": [8, 4, 8]} if method == "stgan" else dict(SMALL)
    if method in ("linear", "local", "lemur", "auto", "celligner"):
        options["settings"] = {"latent_dim": 4}
    else:
        options["epochs"] = 4
    first, second = (cellalign.train(cells, seed=1, **options).embed(cells, device="cuda") for _ in range(2))
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", TRAINED)
def test_where_it_is_asked_for_only_deterministic_algorithms_are_used(method, cells):
    settings = {"hidden": [8, 4, 8]} if method == "stgan" else {"latent_dim": 4}
    epochs = None if method in ("linear", "local", "lemur", "auto", "celligner") else 2
    options = {"method": method, "condition": "stim", "label": "cell_type", "device": "cuda", "settings": settings}
    try:
        model = cellalign.train(cells, **options, epochs=epochs, deterministic=True)
    except TrainingError as error:
        assert "deterministic" in str(error) and "cpu" in str(error)
        return
    assert model.record.machine.device == "cuda" and model.record.machine.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
