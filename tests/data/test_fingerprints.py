"""The same cells are known again, however they are kept or scaled, and no others."""

import numpy as np
import pytest
from scipy import sparse

import cellalign
from cellalign.data import fingerprints as fp


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.5, 2, size=400), size=(3000, 400)).astype(np.float32)


def log_of(counts, total=1e4):
    return np.log1p(counts / counts.sum(1, keepdims=True) * total)


def test_cells_are_told_apart_and_known_again(counts):
    found = fp.of_matrix(sparse.csr_matrix(counts))
    assert found.dtype == np.int64 and len(np.unique(found)) == len(np.unique(counts, axis=0))
    np.testing.assert_array_equal(found, fp.of_matrix(counts))
    order = np.random.default_rng(1).permutation(len(counts))
    np.testing.assert_array_equal(found[order], fp.of_matrix(sparse.csc_matrix(counts[order])))
    log = log_of(counts)
    rounded = log * (1 + 1e-6 * np.random.default_rng(2).normal(size=log.shape))
    of = fp.of_matrix(sparse.csr_matrix(log))
    np.testing.assert_array_equal(of, fp.of_matrix(rounded.astype(np.float32)))
    assert (of != fp.of_matrix(log_of(np.roll(counts, 1, axis=1)))).all(), "genes count"


def test_any_values_and_empty_cells():
    x = np.random.default_rng(0).normal(size=(500, 30))
    assert len(np.unique(fp.of_matrix(x))) == 500
    x[3] = 0
    assert fp.of_matrix(sparse.csr_matrix(x))[3] == 0
    assert not fp.among(np.zeros(2, dtype=np.int64), np.zeros(1, dtype=np.int64)).any()
    np.testing.assert_array_equal(fp.of_matrix(np.ones((2, 5))), fp.of_matrix(np.ones((2, 5)) * (1 + 1e-7)))


def test_what_a_prediction_keeps_is_of_its_genes():
    cells, genes = np.array([-5, 7, 9]), ["a", "b"]
    kept = fp.written(cells, genes)
    np.testing.assert_array_equal(fp.read(kept, genes), cells)
    assert fp.read(kept, ["b", "a"]) is None and fp.read({}, genes) is None and fp.written(None, genes) == {}
    assert fp.read({fp.KEY: {"cells": "no", "genes": kept[fp.KEY]["genes"]}}, genes) is None
    np.testing.assert_array_equal(fp.among(np.array([7, 8, 100, -5]), cells), [True, False, False, True])
    assert not fp.among(cells, cells[:0]).any()


def test_a_model_knows_the_cells_it_has_seen(tiny, tmp_path):
    held = "cell_type=NK,stim=stimulated"
    options = {"method": "linear", "condition": "stim", "label": "cell_type"}
    model = cellalign.train(tiny, holdout=[held], model_path=tmp_path / "m", **options)
    left_out = ((tiny.obs["cell_type"] == "NK") & (tiny.obs["stim"] == "stimulated")).to_numpy()
    np.testing.assert_array_equal(fp.among(fp.of_matrix(tiny.X), model.trained), ~left_out)
    again = cellalign.load(tmp_path / "m")
    np.testing.assert_array_equal(again.trained, model.trained)
    predicted = again.counterfactual(tiny, to="stimulated")
    predicted.write_h5ad(tmp_path / "p.h5ad")
    import anndata as ad

    read = ad.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(fp.read(read.uns, read.var_names), model.trained)
    (tmp_path / "m" / "cells.npy").write_bytes(b"damaged")
    assert cellalign.load(tmp_path / "m").trained is None
    (tmp_path / "m" / "cells.npy").unlink()
    old = cellalign.load(tmp_path / "m")
    assert old.trained is None and fp.KEY not in old.counterfactual(tiny, to="stimulated").uns
    old.save(tmp_path / "m", force=True)


def test_a_model_that_learns_on_knows_both(tiny, tmp_path):
    options = {"settings": {"hidden": [8], "latent_dim": 2}, "epochs": 1}
    first = cellalign.train(tiny[::2].copy(), method="cvae", condition="stim", **options)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str)
    more = tiny[1::2].copy()
    more.obs.loc[more.obs["stim"] == "stimulated", "stim"] = "heated"
    second = cellalign.train(more, from_=first, epochs=1)
    assert fp.among(fp.of_matrix(tiny.X), second.trained).all() and len(second.trained) > len(first.trained)
    first.trained = None
    assert cellalign.train(more, from_=first, epochs=1).trained is None
