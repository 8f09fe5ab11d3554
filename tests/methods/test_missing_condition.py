"""Cells without a condition: inferred by the model, trained on, embedded."""

import numpy as np
import pytest

import cellalign
from cellalign.data import files
from cellalign.errors import InputError, UsageError
from tests.conftest import make_counts, preprocessed

SETTINGS = {"hidden": [64, 64], "latent_dim": 8, "epochs": 40, "batch_size": 128}


@pytest.fixture(scope="module")
def partly():
    """480 cells, the condition of every third one missing; obs["true"] keeps it."""
    cells = preprocessed(make_counts(480))
    cells.obs["true"] = cells.obs["stim"]
    cells.obs.loc[np.arange(480) % 3 == 1, "stim"] = np.nan
    return cells


@pytest.fixture(scope="module")
def model(partly):
    return cellalign.train(partly, condition="stim", allow_missing_condition=True, settings=SETTINGS)


def test_missing_conditions_are_refused_unless_allowed(partly):
    with pytest.raises(InputError, match="160 missing values; .*allow_missing_condition=True"):
        cellalign.train(partly, condition="stim")
    said = "'scgen' does not take cells whose condition is missing; methods that do: cvae"
    with pytest.raises(UsageError, match=said):
        cellalign.train(partly, method="scgen", condition="stim", allow_missing_condition=True)


def test_the_condition_is_inferred(partly, model):
    found = model.inferred_condition(partly)
    missing = partly.obs["stim"].isna().to_numpy()
    right = np.asarray(found["stim_inferred"]) == np.asarray(partly.obs["true"])
    assert right[~missing].all() and (found["stim_probability"][~missing] == 1).all()
    assert right[missing].mean() > 0.9
    assert 0.5 <= found["stim_probability"][missing].min() and found["stim_probability"].max() <= 1


def test_cells_are_embedded_as_if_their_condition_were_known(partly, model):
    embedded = cellalign.embed(partly.copy(), model)
    assert list(embedded.obs.columns[-2:]) == ["stim_inferred", "stim_probability"]
    known = partly.copy()
    known.obs["stim"] = embedded.obs["stim_inferred"]
    np.testing.assert_allclose(model.embed(known), embedded.obsm["X_comp"], atol=1e-5)
    bare = partly.copy()
    del bare.obs["stim"]  # a file without the column at all
    right = np.asarray(model.inferred_condition(bare)["stim_inferred"]) == np.asarray(partly.obs["true"])
    assert right.mean() > 0.9


def test_options_of_embed_reach_the_inferred_condition(partly):
    partly = partly.copy()
    partly.obs["donor"] = np.where(np.arange(480) % 2, "d1", "d2")
    options = dict(settings=SETTINGS | {"epochs": 1}, batch=["donor"])
    model = cellalign.train(partly, condition="stim", allow_missing_condition=True, **options)
    fewer = partly[:50, 5:].copy()
    fewer.obs["donor"] = "d3"
    embedded = cellalign.embed(fewer, model, missing_genes="zero", unseen=True)
    assert embedded.obs["stim_probability"].notna().all() and np.isfinite(embedded.obsm["X_comp"]).all()


def test_cells_of_unknown_condition_are_trained_on(partly, model):
    assert model.record.cells.trained + model.record.cells.validation == 480
    assert model.conditions == ["control", "stimulated"] and model.method.layout.n_conditions == 2
    # of all cells, those without a condition mix like the others
    z = model.embed(partly)
    assert np.isfinite(z).all() and np.isfinite([row["train_loss"] for row in model.history]).all()
    stimulated = cellalign.counterfactual(partly, model, to="stimulated")
    assert stimulated.n_obs == int((partly.obs["stim"] == "control").sum())
    again = model.nelbo(partly)
    assert again.shape == (480,) and np.isfinite(again).all()


def test_saved_loaded_and_written(partly, model, tmp_path):
    model.save(tmp_path / "model")
    loaded = cellalign.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.embed(partly), model.embed(partly))
    partly.write_h5ad(tmp_path / "in.h5ad")
    columns = model.inferred_condition(partly)
    files.write_with(tmp_path / "in.h5ad", tmp_path / "out.h5ad", obs=columns)
    back = files.read(tmp_path / "out.h5ad")
    assert list(back.obs["stim_inferred"]) == list(columns["stim_inferred"])
    assert back.obs["stim"].isna().sum() == 160 and back.X.shape == partly.X.shape
