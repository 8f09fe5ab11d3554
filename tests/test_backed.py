"""The Python API takes an AnnData that was opened backed."""

import anndata as ad
import numpy as np
import pytest

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
