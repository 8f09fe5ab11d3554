"""The Python API takes an AnnData that was opened backed, and a view of a larger one."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import cellalign


@pytest.mark.parametrize("dense", [False, True])
def test_every_function_takes_backed_cells(tiny, tmp_path, dense):
    if dense:
        tiny.X = tiny.X.toarray()
    tiny.write_h5ad(tmp_path / "in.h5ad")

    def backed():
        return ad.read_h5ad(tmp_path / "in.h5ad", backed="r")

    assert cellalign.preprocess(backed(), n_top_genes=0).n_obs == tiny.n_obs
    given = {"condition": "stim", "method": "cvae", "epochs": 1, "settings": {"hidden": [8]}}
    model = cellalign.train(backed(), **given)
    expected = model.embed(tiny)
    cells = backed()
    np.testing.assert_array_equal(cellalign.embed(cells, model).obsm["X_cvae"], expected)
    predicted = cellalign.counterfactual(backed(), model, to="stimulated")
    np.testing.assert_array_equal(predicted.X, cellalign.counterfactual(tiny, model, to="stimulated").X)
    result = cellalign.evaluate(predicted, against=backed(), condition="stim", panels=["response"])
    assert len(result.frame())
    assert len(cellalign.evaluate(cells, condition="stim", panels=["probe"]).frame())
    assert len(cellalign.annotate(backed(), model, reference=backed(), label="cell_type")) == tiny.n_obs


def test_every_function_takes_a_view_of_backed_cells(tiny, tmp_path):
    """Latents were computed, and then could not be put into it."""
    tiny.write_h5ad(tmp_path / "in.h5ad")
    view = ad.read_h5ad(tmp_path / "in.h5ad", backed="r")[::2]
    model = cellalign.train(view, condition="stim", method="cvae", epochs=1, settings={"hidden": [8]})
    found = cellalign.embed(view, model)
    np.testing.assert_array_equal(found.obsm["X_cvae"], model.embed(tiny[::2].copy()))
    assert len(cellalign.annotate(view, model, reference=view, label="cell_type")) == view.n_obs
    assert cellalign.counterfactual(view, model, to="stimulated").n_obs
    assert len(cellalign.evaluate(found, condition="stim", panels=["probe"]).frame())


@pytest.mark.parametrize("dense", [False, True])
def test_every_function_takes_a_view(tiny, dense):
    if dense:
        tiny.X = tiny.X.toarray()
    other = tiny[:7].copy()
    other.obs_names = [f"other{i}" for i in range(other.n_obs)]
    whole = ad.concat([tiny, other])

    def view():
        found = whole[: tiny.n_obs]
        assert found.is_view
        return found

    given = {"condition": "stim", "method": "cvae", "epochs": 1, "settings": {"hidden": [8]}}
    model, expected = cellalign.train(view(), **given), cellalign.train(tiny, **given)
    np.testing.assert_array_equal(model.embed(view()), expected.embed(tiny))
    assert cellalign.preprocess(view(), n_top_genes=0).n_obs == tiny.n_obs
    predicted = cellalign.counterfactual(view(), model, to="stimulated")
    np.testing.assert_array_equal(predicted.X, cellalign.counterfactual(tiny, expected, to="stimulated").X)
    assert len(cellalign.evaluate(predicted, against=view(), condition="stim", panels=["response"]).frame())
    cells = cellalign.embed(view(), model)
    assert len(cellalign.evaluate(cells, condition="stim", panels=["probe"]).frame())
    assert len(cellalign.annotate(view(), model, reference=view(), label="cell_type")) == tiny.n_obs
    assert cellalign.check(view(), condition="stim").frame().equals(cellalign.check(tiny, condition="stim").frame())
    assert cellalign.info(view())["obs stim"] == cellalign.info(tiny)["obs stim"]
    rows = cellalign.benchmark(view(), methods=["linear"], condition="stim", holdout_each="cell_type", groups=["NK"])
    assert len(rows)
    best, _ = cellalign.tune(view(), method="vae", grid={"latent_dim": [2]}, seeds=1, by="loss", epochs=1)
    assert best.embed(view()).shape == (tiny.n_obs, 2)


def test_matrices_of_dask_are_computed(tiny):
    """Blocks that are sparse ended in a traceback."""
    array = pytest.importorskip("dask.array")
    lazy = tiny.copy()
    lazy.X = array.from_array(tiny.X.toarray(), chunks=(100, -1)).map_blocks(sparse.csr_matrix)
    del lazy.layers["counts"]
    model = cellalign.train(lazy, condition="stim", method="linear")
    assert model.embed(lazy).tolist() == model.embed(tiny).tolist()
    assert cellalign.info(lazy)["obs stim"] == cellalign.info(tiny)["obs stim"]
    assert cellalign.check(lazy, condition="stim").frame().shape[1]
