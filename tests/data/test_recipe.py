"""Raw counts and other totals are brought to a model's scale; what cannot be is refused."""

import logging

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import cellalign
from cellalign.data import recipe
from cellalign.errors import InputError, UsageError

SMALL = {"settings": {"hidden": [8], "latent_dim": 2}, "epochs": 1}


def scanpys(counts, total):
    made = ad.AnnData(counts.X.copy(), obs=counts.obs.copy(), var=counts.var.copy())
    sc.pp.normalize_total(made, target_sum=total)
    sc.pp.log1p(made)
    return made


@pytest.fixture
def raw(tiny_counts):
    found = tiny_counts.copy()
    found.X = sparse.csr_matrix(found.X, dtype=np.float32)
    return found[np.asarray(found.X.sum(1)).ravel() > 0].copy()


def test_counts_are_normalised_as_scanpy_does(raw):
    found = recipe.log_like(raw, "X", 750.0)
    np.testing.assert_allclose(found.x.toarray(), scanpys(raw, 750.0).X.toarray(), rtol=1e-6)
    assert found.var is raw.var


def test_another_total_is_noticed_and_mended(raw, caplog):
    caplog.set_level(logging.INFO, "cellalign")
    logging.getLogger("cellalign").propagate = True
    given = scanpys(raw, 1e4)
    found = recipe.log_like(given, "X", 750.0, "new cells")
    assert "new cells is normalised to 10000 counts a cell; brought to 750" in caplog.text
    np.testing.assert_allclose(found.x.toarray(), scanpys(raw, 750.0).X.toarray(), rtol=2e-5)
    dense = ad.AnnData(given.X.toarray(), obs=given.obs, var=given.var)
    np.testing.assert_allclose(recipe.log_like(dense, "X", 750.0).x, found.x.toarray(), rtol=1e-6)
    caplog.clear()
    assert recipe.log_like(given, "X", 1e4).x is given.X and not caplog.text


def test_the_files_own_record_says_the_total_of_a_part_of_the_genes(raw):
    prepared = cellalign.preprocess(raw, n_top_genes=20, target_sum=1e4)
    assert recipe.total_of(prepared) == 1e4
    found = recipe.log_like(prepared, "X", 500.0)
    expected = cellalign.preprocess(raw, n_top_genes=0, target_sum=500.0)[:, prepared.var_names]
    np.testing.assert_allclose(found.x.toarray(), expected.X.toarray(), rtol=2e-5)


def test_raw_counts_without_a_known_total_are_refused(raw):
    with pytest.raises(InputError, match="raw counts.*not known"):
        recipe.log_like(raw, "X", None)


def test_training_on_raw_counts_is_training_on_what_preprocess_makes(raw):
    options = {"method": "cvae", "condition": "stim", **SMALL}
    one = cellalign.train(raw, n_top_genes=30, **options)
    prepared = cellalign.preprocess(raw, n_top_genes=30)
    two = cellalign.train(prepared, **options)
    assert one.genes == two.genes and one.target_sum == two.target_sum
    assert one.record.recipe.n_top_genes == 30 and two.record.recipe.n_top_genes is None
    np.testing.assert_array_equal(one.embed(prepared), two.embed(prepared))
    np.testing.assert_array_equal(one.embed(raw), one.embed(prepared))
    with pytest.raises(UsageError, match="n_top_genes=3 is of raw counts"):
        cellalign.train(prepared, n_top_genes=3, **options)


def test_a_cell_without_counts_is_kept(raw):
    with_empty = raw.copy()
    with_empty.X[3] = 0
    model = cellalign.train(with_empty, method="cvae", condition="stim", **SMALL)
    assert model.embed(with_empty).shape[0] == with_empty.n_obs == model.record.cells.all


@pytest.mark.parametrize("method", ["cvae", "scvi"])
def test_new_cells_are_read_as_those_trained_on(raw, method, tmp_path):
    options = {"cvae": {"condition": "stim"}, "scvi": {"batch": ["stim"]}}[method]
    prepared = cellalign.preprocess(raw, n_top_genes=30)
    model = cellalign.train(prepared, method=method, **options, **SMALL)
    order = np.random.default_rng(0).permutation(raw.n_vars)
    shuffled = raw[:, order].copy()
    wanted = model.embed(prepared)
    np.testing.assert_allclose(model.embed(shuffled), wanted, atol=1e-5)
    in_layer = scanpys(shuffled, 1e4)
    in_layer.layers["counts"] = shuffled.X
    np.testing.assert_allclose(model.embed(in_layer), wanted, atol=1e-5)
    like = cellalign.preprocess(shuffled, like=model)
    assert list(like.var_names) == model.genes and like.n_obs == raw.n_obs
    np.testing.assert_allclose(like.X.toarray(), prepared.X.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(like.layers["counts"].toarray(), prepared.layers["counts"].toarray())
    np.testing.assert_allclose(model.embed(like), wanted, atol=1e-5)
    elsewhere = in_layer.copy()
    elsewhere.layers["foo"] = elsewhere.layers.pop("counts")
    found = cellalign.preprocess(elsewhere, like=model, layer="foo")
    np.testing.assert_array_equal(found.layers["counts"].toarray(), like.layers["counts"].toarray())
    with pytest.raises(UsageError, match="n_top_genes=5 cannot stand beside like"):
        cellalign.preprocess(raw, like=model, n_top_genes=5)


def test_a_model_that_kept_no_total_asks_its_training_file(raw, tmp_path):
    prepared = cellalign.preprocess(raw, n_top_genes=30)
    prepared.write_h5ad(tmp_path / "pp.h5ad")
    model = cellalign.train(prepared, method="cvae", condition="stim", source=tmp_path / "pp.h5ad", **SMALL)
    wanted = model.target_sum
    older = cellalign.Model(
        model.method, model.record.model_copy(update={"recipe": type(model.record.recipe)()}), model.history
    )
    assert older.target_sum == wanted
    np.testing.assert_allclose(older.embed(raw), model.embed(prepared), atol=1e-5)


def test_real_cells_are_compared_on_the_scale_of_the_prediction(raw):
    prepared = cellalign.preprocess(raw, n_top_genes=30)
    model = cellalign.train(prepared, method="linear", condition="stim", settings={"latent_dim": 2})
    predicted = model.counterfactual(prepared, to="stimulated")
    scores = [
        cellalign.evaluate(predicted, against=real, condition="stim", panels=["response"]).frame()["value"]
        for real in (prepared, raw, scanpys(raw, 1e4), scanpys(raw, 333.0))
    ]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-3, atol=1e-4)


def test_logarithms_of_another_base_are_brought_to_the_models(raw, caplog):
    caplog.set_level(logging.INFO, "cellalign")
    logging.getLogger("cellalign").propagate = True
    natural = scanpys(raw, 1e4)
    in_base_2 = natural.copy()
    in_base_2.X = natural.X / np.float32(np.log(2))
    found = recipe.log_like(in_base_2, "X", 1e4)
    assert "a logarithm of base 2; brought to that of base e" in caplog.text
    np.testing.assert_allclose(found.x.toarray(), natural.X.toarray(), rtol=1e-5)
    model = cellalign.train(in_base_2, method="cvae", condition="stim", **SMALL)
    wanted = model.embed(in_base_2)
    for cells in (natural, raw, scanpys(raw, 500.0)):
        np.testing.assert_allclose(model.embed(cells), wanted, atol=1e-4)


def test_log_expression_in_a_layer_only_is_trained_on(raw):
    made = scanpys(raw, 1e4)
    cells = ad.AnnData(obs=made.obs, var=made.var, layers={"lognorm": made.X})
    model = cellalign.train(cells, method="cvae", condition="stim", **SMALL)
    assert model.matrix == "lognorm" and model.target_sum == pytest.approx(1e4)
    np.testing.assert_allclose(model.embed(raw), model.embed(cells), atol=1e-5)
    with pytest.raises(InputError, match="no raw counts"):
        cellalign.train(ad.AnnData(obs=made.obs, var=made.var), method="cvae", condition="stim", **SMALL)


def test_real_cells_in_the_base_of_the_prediction_are_left_as_they_are(raw):
    natural = scanpys(raw, 1e4)
    in_base_2 = natural.copy()
    in_base_2.X = natural.X / np.float32(np.log(2))
    model = cellalign.train(in_base_2, method="linear", condition="stim", settings={"latent_dim": 2})
    predicted = model.counterfactual(in_base_2, to="stimulated")
    assert recipe.comparable(predicted, in_base_2, "log", "real").X is in_base_2.X
    found = recipe.comparable(predicted, natural, "log", "real")
    np.testing.assert_allclose(found.X.toarray(), in_base_2.X.toarray(), rtol=1e-4)


def test_a_total_that_was_written_before_cells_were_normalised_again_does_not_count(tiny_counts, caplog):
    """The record stays in uns when X is replaced."""
    cells = cellalign.preprocess(tiny_counts, target_sum=500, n_top_genes=0)
    assert recipe.total_of(cells) == 500
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    cells.X = cells.X.expm1().multiply(10).tocsr().log1p()
    assert recipe.total_of(cells) == pytest.approx(5000, rel=1e-3)
    assert "normalised again since" in caplog.text
