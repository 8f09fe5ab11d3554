"""pca, linear and scgen: what follows in closed form from the trained cells."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.decomposition import PCA as Reference

import cellalign


def by_type(adata, condition):
    """Mean expression of every cell type under a condition, [types, genes]."""
    chosen = adata[adata.obs["stim"] == condition]
    return np.stack([np.asarray(chosen[chosen.obs["cell_type"] == t].X.mean(0)).ravel() for t in CELL_TYPES])


CELL_TYPES = ("B", "CD14 Mono", "NK")


@pytest.mark.parametrize("layout", [sparse.csr_matrix, np.asarray])
def test_pca_is_sklearns(tiny, layout):
    tiny.X = layout(tiny.X.toarray())
    model = cellalign.train(tiny, method="pca", latent_dim=6, validation=0)
    dense = tiny.X.toarray() if sparse.issparse(tiny.X) else tiny.X
    reference = Reference(6, svd_solver="full").fit(dense)
    z = model.embed(tiny)
    expected = reference.transform(dense)
    expected *= np.sign((expected * z).sum(0))
    np.testing.assert_allclose(z[:, :3], expected[:, :3], atol=1e-3)
    # later components lie close together: their space is what can be compared
    assert np.linalg.norm(z) == pytest.approx(np.linalg.norm(expected), rel=1e-3)


def test_more_components_than_genes_are_as_many_as_genes(tiny):
    assert cellalign.train(tiny[:, :8].copy(), method="pca", latent_dim=20).embed(tiny[:, :8].copy()).shape == (240, 8)


def test_shift_adds_the_mean_change_of_cell_types(tiny):
    model = cellalign.train(tiny, method="linear", condition="stim", label="cell_type", validation=0)
    predicted = cellalign.counterfactual(tiny, model, to="stimulated")
    shift = (by_type(tiny, "stimulated") - by_type(tiny, "control")).mean(0)
    control = tiny[tiny.obs["stim"] == "control"].X.toarray()
    assert ((control + shift) < 0).any()  # there is no log expression below zero
    np.testing.assert_allclose(predicted.X, np.maximum(control + shift, 0), atol=1e-5)


def test_ridge_follows_each_cell_type_as_shrinkage_falls(tiny):
    change = by_type(tiny, "stimulated") - by_type(tiny, "control")
    errors = []
    for ridge in (1e4, 1.0, 1e-4):
        settings = {"change": "ridge", "ridge": ridge}
        model = cellalign.train(
            tiny, method="linear", condition="stim", label="cell_type", validation=0, settings=settings
        )
        control = tiny[tiny.obs["stim"] == "control"].copy()
        # before it is cut at zero
        predicted = model.method.predict(next(model.cells(control).in_order(1000)), {"stim": "stimulated"}).mean.numpy()
        mean = [predicted[control.obs["cell_type"] == t].mean(0) for t in CELL_TYPES]
        errors.append(np.abs(np.stack(mean) - by_type(tiny, "control") - change).mean())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05 * errors[0]


def test_scgen_moves_by_the_difference_of_mean_latents(tiny):
    settings = {"hidden": [16], "latent_dim": 3}
    model = cellalign.train(
        tiny, method="scgen", condition="stim", label="cell_type", epochs=5, validation=0, settings=settings
    )
    z = model.embed(tiny)
    condition, kind = tiny.obs["stim"].to_numpy(), tiny.obs["cell_type"].to_numpy()
    centre = {
        c: np.mean([z[(condition == c) & (kind == t)].mean(0) for t in CELL_TYPES], axis=0)
        for c in ("control", "stimulated")
    }
    codes = model.conditions
    for c, mean in centre.items():
        np.testing.assert_allclose(model.method.centres[codes.index(c)], mean, atol=1e-4)
    predicted = cellalign.counterfactual(tiny, model, to="stimulated", decoded=True)
    moved = torch.from_numpy(z[condition == "control"] + centre["stimulated"] - centre["control"])
    batch = model.cells(tiny).batch(torch.from_numpy(np.flatnonzero(condition == "control")))
    np.testing.assert_allclose(predicted.X, model.method.decode(moved, batch).distribution.mean.detach(), atol=1e-3)


@pytest.mark.parametrize("method", ["linear", "scgen"])
def test_without_labels_and_with_a_held_out_cell_type(tiny, method):
    fast = {} if method == "linear" else {"hidden": [8], "epochs": 2}
    options = {"condition": "stim", "holdout": ["cell_type=NK,stim=stimulated"], "settings": fast, "validation": 0}
    for label in (None, "cell_type"):
        model = cellalign.train(tiny, method=method, label=label, **options)
        predicted = cellalign.counterfactual(tiny, model, to="stimulated", where={"cell_type": "NK"})
        assert np.isfinite(predicted.X).all() and predicted.n_obs == 40


def test_saved_and_loaded(tiny, tmp_path):
    model = cellalign.train(tiny, method="linear", condition="stim", settings={"change": "ridge"})
    model.save(tmp_path / "linear")
    again = cellalign.load(tmp_path / "linear")
    before, after = (cellalign.counterfactual(tiny, m, to="stimulated").X for m in (model, again))
    np.testing.assert_array_equal(before, after)
