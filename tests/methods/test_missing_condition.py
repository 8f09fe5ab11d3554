"""Cells without a condition: inferred by the model, trained on, embedded."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import rewritten

import cellalign
from cellalign.data import files
from cellalign.data.files import checksum
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.methods.condition_means import ConditionMeans
from cellalign.records.provenance import Provenance
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


SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def three():
    """480 cells of three conditions and two donors, the condition of about every third one missing."""
    cells, rng = preprocessed(make_counts(480)), np.random.default_rng(0)
    cells.obs["drug"] = rng.choice(["none", "a", "b"], 480)
    cells.obs.loc[rng.random(480) < 0.3, "drug"] = np.nan
    cells.obs["donor"] = rng.choice(["d1", "d2"], 480)
    return cells


@pytest.fixture(scope="module")
def of_three(three):
    options = {"condition": "drug", "control": "none", "batch": ["donor"], "label": "cell_type"}
    return cellalign.train(three, method="trvae", allow_missing_condition=True, settings=SMALL, **options)


def test_a_model_of_three_conditions_and_unknown_ones_is_loaded(three, of_three, tmp_path):
    """Cells without a condition were a group of the observed means, which no model was allowed to have on loading."""
    of_three.save(tmp_path / "model")
    loaded = cellalign.load(tmp_path / "model")
    kept, read = of_three.method.observed, loaded.method.observed
    assert torch.equal(read.groups, kept.groups) and torch.equal(read.means, kept.means) and read.complete
    assert bool((kept.groups[:, 0] >= 0).all()) and int(kept.sizes.sum()) == three.obs["drug"].notna().sum()
    names = of_three.conditions
    for (condition, kind), mean in zip(kept.groups.tolist(), kept.means.numpy(), strict=True):
        own = three.obs["cell_type"] == of_three.fields.one("label").categories[kind]
        own &= three.obs["drug"] == names[condition]
        np.testing.assert_allclose(mean, np.asarray(three[own].X.mean(0)).ravel(), rtol=1e-4, atol=1e-5)
    for model in (of_three, loaded):
        found = model.counterfactual(three, to="a+b")
        assert Provenance.of(found.uns).counterfactual.combined == "observed"
        np.testing.assert_array_equal(found.X, of_three.counterfactual(three, to="a+b").X)


def test_cells_of_unknown_condition_change_as_those_of_the_inferred_one(three, of_three):
    asked = {"donor": "d2", "drug": "a+b"}
    found = of_three.counterfactual(three, to=asked)
    assert found.obs["drug_source"].isna().any() and np.isfinite(found.X).all()
    told = three.copy()
    told.obs["drug"] = of_three.inferred_condition(three)["drug_inferred"].astype(str)
    np.testing.assert_allclose(found.X, of_three.counterfactual(told, to=asked).X, rtol=1e-4, atol=1e-4)


def test_a_condition_that_no_cell_has_is_not_made_up_for_by_unknown_ones(of_three):
    kept = of_three.method.observed
    fewer, there = ConditionMeans(kept.layout, kept.width), kept.groups[:, 0] != 1
    groups = torch.cat([torch.tensor([[-1, 0]]), kept.groups[there]])
    sizes, means = (torch.cat([values[:1], values[there]]) for values in (kept.sizes, kept.means))
    fewer.load_state_dict({"groups": groups, "sizes": sizes, "means": means})
    assert torch.equal(fewer.groups, kept.groups[there]) and not fewer.complete


def test_learning_on_keeps_the_means_of_cells_that_have_a_condition(three, of_three):
    new = three[three.obs["drug"].isna() | (three.obs["drug"] == "none")].copy()
    new.obs["donor"] = "d3"
    child = cellalign.train(new, from_=of_three, epochs=1)
    kept, before = child.method.observed, of_three.method.observed
    assert torch.equal(kept.groups, before.groups) and kept.complete
    control = before.groups[:, 0] == of_three.conditions.index("none")
    same = before.groups[~control, 1, None] == before.groups[control, 1]  # of which type the control is
    changes = [each.means[~control] - same.float() @ each.means[control] for each in (kept, before)]
    torch.testing.assert_close(*changes, rtol=0, atol=1e-5)


def test_a_model_of_before_that_has_a_group_of_unknown_ones_is_loaded(three, of_three, tmp_path):
    of_three.save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    before = dict(weights)
    for name, first in {"groups": [[-1, -1], [-1, 0]], "sizes": [3, 4], "means": np.ones((2, three.n_vars))}.items():
        own = weights["observed." + name]
        before["observed." + name] = torch.cat([torch.as_tensor(first, dtype=own.dtype), own])
    write(tmp_path / "model", before)
    loaded = cellalign.load(tmp_path / "model")
    assert torch.equal(loaded.method.observed.groups, weights["observed.groups"])
    assert torch.equal(loaded.method.observed.means, weights["observed.means"]) and loaded.method.observed.complete
    loaded.save(tmp_path / "again")
    assert torch.equal(
        load_file(tmp_path / "again" / "weights.safetensors")["observed.sizes"], weights["observed.sizes"]
    )
    before["observed.groups"][0, 0] = -2  # damaged
    write(tmp_path / "model", before)
    with pytest.raises(ModelError, match="do not fit"):
        cellalign.load(tmp_path / "model")


def write(directory, weights):
    """Weights of a model directory, with their checksum."""
    save_file(weights, directory / "weights.safetensors")
    rewritten(directory, lambda plain: plain | {"weights_checksum": checksum(directory / "weights.safetensors")})
