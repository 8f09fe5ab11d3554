"""pca, linear and scgen: what follows in closed form from the trained cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.decomposition import PCA as Reference

import cellalign
from cellalign.errors import ModelError
from cellalign.model_directory import write_model
from cellalign.records import Provenance


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
    delta = model.method.latents.change(codes.index("control"), codes.index("stimulated"))
    np.testing.assert_allclose(delta, centre["stimulated"] - centre["control"], atol=1e-4)
    predicted = cellalign.counterfactual(tiny, model, to="stimulated", decoded=True)
    moved = torch.from_numpy(z[condition == "control"] + centre["stimulated"] - centre["control"])
    batch = model.cells(tiny).batch(torch.from_numpy(np.flatnonzero(condition == "control")))
    np.testing.assert_allclose(predicted.X, model.method.decode(moved, batch).distribution.mean.detach(), atol=1e-3)


def test_scgens_loss_is_that_of_its_code(tiny):
    """0.5 sum of squares over genes + 0.0005 x 0.5 sum over latents, mean over cells, by loops in float64."""
    model = cellalign.train(
        tiny, method="scgen", condition="stim", epochs=1, validation=0, settings={"hidden": [8], "latent_dim": 3}
    )
    batch = next(model.cells(tiny).in_order(20))
    with torch.no_grad():
        torch.manual_seed(0)
        latent = model.method.encode(batch)
        decoded = model.method.decode(latent.z, batch).distribution.mean
        torch.manual_seed(0)
        total = model.method(batch).total.item()
    expected = 0.0
    for x, found, mean, sd in zip(batch.x.double(), decoded.double(), latent.mean, latent.sd, strict=True):
        squares = sum(float(a - b) ** 2 for a, b in zip(x, found, strict=True))
        kl = sum(float(s) ** 2 + float(m) ** 2 - 1 - np.log(float(s) ** 2) for m, s in zip(mean, sd, strict=True))
        expected += (0.5 * squares + 0.0005 * 0.5 * kl) / 20
    assert total == pytest.approx(expected, rel=1e-5)


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


def unlike(seed=0):
    """Three conditions, no cell type under all: every pair shares one, and b adds 0.5 to gene 0, c 1 to gene 1.

    Types differ by far more: type t has 3 in gene 2 + t.
    """
    rng = np.random.default_rng(seed)
    sizes = {("a", "T"): 60, ("a", "B"): 20, ("b", "T"): 20, ("b", "NK"): 70, ("c", "NK"): 30, ("c", "B"): 40}
    change = {"a": [0, 0], "b": [0.5, 0], "c": [0, 1.0]}
    x, obs = [], []
    for (condition, kind), n in sizes.items():
        mean = np.full(12, 1.0)
        mean[:2] += change[condition]
        mean[2 + ("T", "B", "NK").index(kind)] += 3
        x.append(mean + 0.05 * rng.standard_normal((n, 12)))
        obs += [{"drug": condition, "kind": kind}] * n
    index = [f"cell{i}" for i in range(len(obs))]
    return ad.AnnData(np.abs(np.concatenate(x)).astype(np.float32), obs=pd.DataFrame(obs, index=index))


def over_shared_types(x, obs, source, target):
    """The change from one condition to another, by loops over the cells: types that both have count the same."""
    groups = {}
    for row, condition, kind in zip(x.astype(np.float64), obs["drug"], obs["kind"], strict=True):
        groups.setdefault((condition, kind), []).append(row)
    changes = []
    for kind in ("T", "B", "NK"):
        if (source, kind) in groups and (target, kind) in groups:
            before, after = (sum(groups[c, kind]) / len(groups[c, kind]) for c in (source, target))
            changes.append(after - before)
    return sum(changes) / len(changes)


@pytest.mark.parametrize("source, target", [("a", "b"), ("a", "c"), ("b", "c"), ("c", "a")])
def test_every_pair_of_conditions_is_compared_over_the_types_that_it_shares(source, target):
    cells = unlike()
    model = cellalign.train(cells, method="linear", condition="drug", control="a", label="kind", validation=0)
    expected = over_shared_types(cells.X, cells.obs, source, target)
    change = model.method.expression_means.change(model.conditions.index(source), model.conditions.index(target))
    np.testing.assert_allclose(change, expected, atol=1e-6)
    assert np.abs(change[2:]).max() < 0.05  # what tells types apart does not change
    settings = {"hidden": [8], "latent_dim": 3, "epochs": 2}
    model = cellalign.train(
        cells, method="scgen", condition="drug", control="a", label="kind", validation=0, settings=settings
    )
    z = model.embed(cells)
    delta = model.method.latents.change(model.conditions.index(source), model.conditions.index(target))
    np.testing.assert_allclose(delta, over_shared_types(z, cells.obs, source, target), atol=1e-5)


def test_ridge_learns_from_the_types_that_a_pair_shares():
    cells = unlike()
    options = {"condition": "drug", "control": "a", "label": "kind", "validation": 0, "settings": {"change": "ridge"}}
    model = cellalign.train(cells, method="linear", **options)
    predicted = model.counterfactual(cells, to="b", where={"kind": "T"})
    # one shared type: nothing to learn a slope from
    np.testing.assert_allclose(predicted.X.mean(0)[0], 1.5, atol=0.05)


@pytest.mark.parametrize("method", ["linear", "scgen"])
def test_a_pair_without_a_type_in_common_is_said_when_it_is_trained_and_when_it_is_predicted(method, caplog, tmp_path):
    cells = unlike()
    cells = cells[~((cells.obs["drug"] == "b") & (cells.obs["kind"] == "T"))].copy()
    fast = {} if method == "linear" else {"hidden": [8], "epochs": 1}
    with caplog.at_level("WARNING", logger="cellalign"):
        model = cellalign.train(
            cells, method=method, condition="drug", control="a", label="kind", validation=0, settings=fast
        )
    said = "no 'kind' was trained on under both 'a' and 'b'"
    assert sum(said in message for message in caplog.messages) == 1
    assert not any("'c'" in message for message in caplog.messages)
    model.save(tmp_path / "model")
    for fitted in (model, cellalign.load(tmp_path / "model")):
        caplog.clear()
        predicted = fitted.counterfactual(cells, to="b")
        assert any(said in message for message in caplog.messages)
        assert said in Provenance.of(predicted.uns).counterfactual.notes
        caplog.clear()
        shared = fitted.counterfactual(cells, to="c")
        assert not caplog.messages and not Provenance.of(shared.uns).counterfactual.notes
    if method == "linear":  # all cells of both, other types included
        all_cells = cells.X[cells.obs["drug"] == "b"].mean(0) - cells.X[cells.obs["drug"] == "a"].mean(0)
        np.testing.assert_allclose(model.method.expression_means.change(0, 1), all_cells, atol=1e-5)


def test_without_a_label_nothing_is_said_of_types(caplog):
    with caplog.at_level("WARNING", logger="cellalign"):
        cellalign.train(unlike(), method="linear", condition="drug", control="a", validation=0)
    assert not any("trained on under both" in message for message in caplog.messages)


def test_cells_without_a_label_are_no_type_of_their_own():
    cells = unlike()
    some = (cells.obs["kind"] == "NK").to_numpy()
    cells.obs["kind"] = cells.obs["kind"].where(~some)
    model = cellalign.train(cells, method="linear", condition="drug", control="a", label="kind", validation=0)
    known = cells[~some]
    expected = over_shared_types(known.X, known.obs, "a", "b")
    np.testing.assert_allclose(model.method.expression_means.change(0, 1), expected, atol=1e-6)


@pytest.mark.parametrize("change", [(0, 7), (1, -2)])
def test_means_of_conditions_that_are_not_there_are_refused(change, tmp_path):
    model = cellalign.train(unlike(), method="linear", condition="drug", control="a", label="kind", validation=0)
    column, code = change
    model.method.expression_means.groups[0, column] = code
    model.save(tmp_path / "model")
    with pytest.raises(ModelError, match="do not fit"):
        cellalign.load(tmp_path / "model")


def weights_of_before(method, shape):
    """Of a ridge as version 0.1.0 saved it: means, states and slopes over the types that all conditions share."""
    weights = {"centre": method.centre, "components": method.components}
    k, p, g = shape
    pairs = [[method.expression_means.pair(s, t) for t in range(k)] for s in range(k)]
    mean = torch.stack([pairs[s][s][0].mean(0) for s in range(k)])
    states = [(pairs[s][s][0] - method.centre) @ method.components for s in range(k)]
    slope = torch.zeros(k, k, p, g)
    for s in range(k):
        spread = states[s] - states[s].mean(0)
        gram = spread @ spread.T
        dual = torch.linalg.solve(gram + gram.diagonal().mean() * torch.eye(len(gram)), spread)
        for t in range(k):
            slope[s, t] = dual.T @ (pairs[s][t][1] - pairs[s][t][0] - (mean[t] - mean[s]))
    return weights | {"mean": mean, "state": torch.stack([z.mean(0) for z in states]), "slope": slope}


def test_a_ridge_of_before_predicts_what_it_did_and_can_be_saved_anew(tiny, tmp_path):
    model = cellalign.train(
        tiny, method="linear", condition="stim", label="cell_type", validation=0, settings={"change": "ridge"}
    )
    expected = model.counterfactual(tiny, to="stimulated").X
    shape = (2, model.method.components.shape[1], tiny.n_vars)
    write_model(tmp_path / "old", model.record, weights_of_before(model.method, shape), [], model.calibration)
    old = cellalign.load(tmp_path / "old")
    np.testing.assert_allclose(old.counterfactual(tiny, to="stimulated").X, expected, atol=1e-4)
    old.save(tmp_path / "new")
    again = cellalign.load(tmp_path / "new").counterfactual(tiny, to="stimulated").X
    np.testing.assert_array_equal(again, old.counterfactual(tiny, to="stimulated").X)
