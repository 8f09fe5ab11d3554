"""Models that version 0.1.0 saved (format 1) load, give the same numbers to 1e-5, and can be saved anew."""

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml
from scipy import sparse

import cellalign
from cellalign.errors import ModelError
from cellalign.records import Provenance, find_obsm_key, obsm_key

OLD = Path(__file__).parent / "fixtures" / "format1"
NAMES = sorted(path.parent.name for path in OLD.glob("*/model.yaml"))
TO = {
    "comp": "stimulated",
    "svae+": "g1+g2",
    "scanvi": "stimulated",
    "invae": "site=b",
    "cvae-dose": "2.5",
    "cvae-missing": "stimulated",
    "scgen": "stimulated",
    "stgan": "stimulated",
    "linear": "stimulated",
    "celligner": "stimulated",
    "mmd-ae": "stimulated",
    "trvae": "stimulated",
    "vfae": "stimulated",
}
SCORED = ["comp", "cvae-dose", "cvae-missing", "nf-ivae", "scanvi", "scgen", "svae+", "trvae", "vae", "vfae"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def expected():
    """What version 0.1.0 computed, by model."""
    return dict(np.load(OLD / "expected.npz"))


@pytest.fixture(scope="module")
def cells():
    """90 cells x 40 genes with columns of every kind."""
    return ad.read_h5ad(OLD / "cells.h5ad")


@pytest.fixture(scope="module", params=["as it was", "saved anew"])
def models(request, tmp_path_factory):
    """All old models, as they were written and after being saved by this version."""
    loaded = {name: cellalign.load(OLD / name) for name in NAMES}
    if request.param == "as it was":
        return loaded
    folder = tmp_path_factory.mktemp("anew")
    for name, model in loaded.items():
        model.save(folder / name)
        assert yaml.safe_load((folder / name / "model.yaml").read_text())["format_version"] == 2
    return {name: cellalign.load(folder / name) for name in NAMES}


def test_every_expected_number_is_looked_at(expected):
    looked_at = {"counterfactual", "nelbo", "probability", "label", "inferred"}
    assert {key.split("/")[0] for key in expected} == set(NAMES)
    assert {key.split("/")[1] for key in expected} == looked_at | {"embed"}
    assert {key.split("/")[0] for key in expected if key.endswith("/counterfactual")} == set(TO)
    assert {key.split("/")[0] for key in expected if key.endswith("/nelbo")} == set(SCORED)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_the_same(models, expected, cells, name):
    found = models[name].embeddings(cells)
    old = {key.split("/")[2]: z for key, z in expected.items() if key.startswith(f"{name}/embed/")}
    assert len(found) == len(old)
    for key, z in found.items():
        np.testing.assert_allclose(z, old[find_obsm_key(key, old)], **CLOSE)
    assert models[name].embedding_key in found and models[name].embedding_key == obsm_key(models[name].name)


@pytest.mark.parametrize("name", sorted(TO))
def test_decoded_counterfactuals_are_the_same_but_for_values_below_zero(models, expected, cells, name):
    old = expected[f"{name}/counterfactual"]
    predicted = models[name].counterfactual(cells, to=TO[name], decoded=True)
    assert predicted.shape == old.shape and predicted.X.min() >= 0
    np.testing.assert_allclose(predicted.X, np.maximum(old, 0), **CLOSE)
    assert Provenance.of(predicted.uns).counterfactual.written == "decoded"


def test_log_expression_below_zero_was_predicted_then(expected):
    assert (expected["comp/counterfactual"] < 0).any()  # or the test above shows nothing of the cut


@pytest.mark.parametrize("name", SCORED)
def test_likelihoods_are_the_same(models, expected, cells, name):
    np.testing.assert_allclose(models[name].nelbo(cells, seed=0), expected[f"{name}/nelbo"], **CLOSE)


def test_the_graph_is_the_same(models, expected):
    graph = cellalign.targets(models["svae+"])
    np.testing.assert_allclose(graph.layers["probability"], expected["svae+/probability"], **CLOSE)
    assert list(graph.obs_names) == ["g1", "g2", "g3"]


def test_label_probabilities_are_the_same(models, expected, cells):
    model = models["scanvi"]
    np.testing.assert_allclose(model.label_probability(model.embed(cells)), expected["scanvi/label"], **CLOSE)
    assert model.labels == ["B", "CD14 Mono", "NK"]


def test_inferred_conditions_are_the_same(models, expected, cells):
    found = models["cvae-missing"].inferred_condition(cells)
    np.testing.assert_allclose(found["some_stim_probability"], expected["cvae-missing/inferred"], **CLOSE)
    given = cells.obs["some_stim"].notna().to_numpy()
    assert (np.asarray(found["some_stim_inferred"])[given] == cells.obs["some_stim"][given]).all()


def test_settings_are_read_under_their_old_names(models):
    assert models["invae"].method.hp.covariate_dropout == 0.5 and models["nf-ivae"].method.hp.covariate_dropout == 0.5
    assert models["invae"].method.hp.correlation_estimate == "within-domain"  # as it was trained
    assert models["stgan"].method.hp.discriminator_hidden == (8,)
    assert models["stgan"].method.hp.discriminator_dropout == 0.5


def test_an_old_setting_that_is_not_the_default_is_obeyed(tmp_path):
    directory = Path(shutil.copytree(OLD / "invae", tmp_path / "invae"))
    plain = yaml.safe_load((directory / "model.yaml").read_text())
    plain["hyperparameters"]["hide"] = 0.25
    (directory / "model.yaml").write_text(yaml.safe_dump(plain))
    assert cellalign.load(directory).method.hp.covariate_dropout == 0.25


@pytest.mark.parametrize(
    "method, old, new",
    [
        ("nf-ivae", "hide", "covariate_dropout"),
        ("invae", "hide", "covariate_dropout"),
        ("stgan", "judge_dropout", "discriminator_dropout"),
    ],
)
def test_old_names_of_settings_are_still_accepted_with_a_note(caplog, tiny, method, old, new):
    told = {"condition": "stim"} if method == "stgan" else {"batch": ["donor"], "covariate": ["cell_type"]}
    settings = {old: 0.125, "hidden": [4], "epochs": 1}
    with caplog.at_level("INFO", logger="cellalign"):
        model = cellalign.train(tiny, method=method, settings=settings, **told)
    assert model.record.hyperparameters[new] == 0.125 and old not in model.record.hyperparameters
    notes = [record.getMessage() for record in caplog.records if "is called" in record.getMessage()]
    assert len(notes) == 1 and repr(old) in notes[0] and repr(new) in notes[0]


@pytest.mark.parametrize("name", ["comp", "linear", "cvae-missing"])
def test_columns_of_old_models_mean_what_they_meant(models, name):
    model = models[name]
    assert model.control == "control" and model.conditions == ["control", "stimulated"]
    assert model.condition_may_be_missing == (name == "cvae-missing")
    assert model.label == (None if name == "cvae-missing" else "cell_type")


def test_the_training_cells_of_an_old_model_are_split_as_they_were(models, cells):
    rows = models["comp"].validation_rows(cells)
    assert len(rows) == models["comp"].record.cells.validation
    held_out = (cells.obs["cell_type"] == "NK") & (cells.obs["stim"] == "stimulated")
    assert not held_out.to_numpy()[rows].any()


def decoded_as_they_are(model, cells):
    """The decoded mean under each cell's own condition."""
    with torch.no_grad():
        batch = model.cells(cells).batch(torch.arange(cells.n_obs))
        return model.method.predict(batch, {}).mean.numpy()


def test_residual_transfer_of_an_old_model_is_what_its_decoder_says(models, expected, cells):
    model, old = models["trvae"], expected["trvae/counterfactual"]
    predicted = model.counterfactual(cells, to="stimulated")
    control = cells[cells.obs["stim"] == "control"]
    observed = control.X.toarray() if sparse.issparse(control.X) else control.X
    own = decoded_as_they_are(model, control)
    np.testing.assert_allclose(predicted.X, np.maximum(observed + old - own, 0), **CLOSE)


def test_a_likelihood_whose_normaliser_is_not_known_is_refused_in_words():
    model = cellalign.load(OLD / "invae")
    assert not model.has_likelihood
    with pytest.raises(ModelError, match="invae"):
        model.nll(ad.read_h5ad(OLD / "cells.h5ad"), particles=2)
