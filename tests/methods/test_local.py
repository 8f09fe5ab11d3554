"""local: changes of like groups; against loops, on data whose answer is known, and over all mixtures of columns."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign

QUIET = {"condition": "stim", "control": "control", "settings": {"latent_dim": 5}}


def cells(n=30, types="ABCDE", donors=("d1",), genes=40, seed=0, noise=0.2):
    """Log expression: types lie on a line, and gene 1 to 8 rise by where a type is on it; donors shift gene 30 on."""
    rng = np.random.default_rng(seed)
    rows, obs = [], []
    for i, kind in enumerate(types):
        for j, donor in enumerate(donors):
            for stim in ("control", "stimulated"):
                mean = np.full(genes, 1.0)
                mean[10:20] += 0.5 * i
                mean[20:25] -= 0.15 * i
                mean[30:] += 0.2 * j
                if stim == "stimulated":
                    mean[:8] += 0.4 + 0.3 * i
                    mean[8:10] -= 0.8
                rows.append(np.maximum(mean + noise * rng.standard_normal((n, genes)), 0))
                obs += [{"stim": stim, "cell_type": kind, "donor": donor}] * n
    x = np.concatenate(rows).astype(np.float32)
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(len(x))])
    return ad.AnnData(sparse.csr_matrix(x), obs=frame, var=pd.DataFrame(index=[f"G{i}" for i in range(genes)]))


def mean(adata, **where):
    chosen = np.logical_and.reduce([adata.obs[key] == value for key, value in where.items()])
    return np.asarray(adata[chosen].X.mean(0)).ravel()


def predicted(model, adata, **where):
    chosen = np.logical_and.reduce([adata.obs[key] == value for key, value in where.items()])
    found = cellalign.counterfactual(adata[chosen].copy(), model, to="stimulated", from_="control")
    return np.asarray(found.X.mean(0)).ravel() - mean(adata, **where)


@pytest.mark.parametrize("held_out", ["A", "C", "E"])
def test_a_type_that_was_held_out_changes_as_its_neighbours(held_out):
    adata = cells()
    model = cellalign.train(
        adata, method="local", label="cell_type", holdout=[f"cell_type={held_out},stim=stimulated"], **QUIET
    )
    truth = mean(adata, stim="stimulated", cell_type=held_out) - mean(adata, stim="control", cell_type=held_out)
    others = [
        mean(adata, stim="stimulated", cell_type=t) - mean(adata, stim="control", cell_type=t)
        for t in "ABCDE"
        if t != held_out
    ]
    found = predicted(model, adata, stim="control", cell_type=held_out)
    assert ((found - truth) ** 2).sum() <= ((np.mean(others, 0) - truth) ** 2).sum() + 0.02
    own, shift, _ = model.method.evidence.mean(0).tolist()
    assert own < 0.6 * shift
    assert "groups left out in turn" in model.record.outcome.findings[0]


def test_cells_fall_in_proportion_so_that_the_mean_is_the_groups_and_nothing_is_negative():
    adata = cells(noise=0.6)
    model = cellalign.train(adata, method="local", label="cell_type", **QUIET)
    groups, (rise, fall) = model.method.groups, model.method.changes(0, 1)
    assert bool((rise >= 0).all() and (fall <= 0).all() and (fall >= -1).all()) and bool((fall < 0).any())
    control = adata[adata.obs["stim"] == "control"].copy()
    found = cellalign.counterfactual(control, model, to="stimulated")
    for row, kind in enumerate("ABCDE"):
        change = (rise[row] + fall[row] * groups.means[groups.of(0)][row]).numpy()
        own = control.obs["cell_type"] == kind
        np.testing.assert_allclose(
            found.X[own.to_numpy()].mean(0) - mean(control, cell_type=kind), change, atol=1e-4, err_msg=kind
        )
    assert found.X.min() >= 0


@pytest.mark.slow
def test_a_donor_that_was_held_out_is_told_by_the_same_type_of_others():
    adata = cells(donors=("d1", "d2", "d3"), n=15)
    options = QUIET | {"holdout": ["donor=d3,stim=stimulated"]}
    model = cellalign.train(adata, method="local", label="cell_type", batch=["donor"], **options)
    for kind in "ABCDE":
        where = {"stim": "control", "cell_type": kind, "donor": "d3"}
        truth = mean(adata, **(where | {"stim": "stimulated"})) - mean(adata, **where)
        matched = mean(adata, stim="stimulated", cell_type=kind) - mean(adata, stim="control", cell_type=kind)
        found = predicted(model, adata, **where)
        assert np.corrcoef(found, truth)[0, 1] > np.corrcoef(matched, truth)[0, 1] - 0.05
    assert len(model.method.evidence) == 10  # donor by donor, each with the types of the other


def test_without_a_column_clusters_are_the_groups():
    adata = cells(types="ACE", n=80)
    model = cellalign.train(adata, method="local", condition="stim", control="control",
                            settings={"latent_dim": 5, "states": 3})  # fmt: skip
    for kind in "ACE":
        truth = mean(adata, stim="stimulated", cell_type=kind) - mean(adata, stim="control", cell_type=kind)
        found = predicted(model, adata, stim="control", cell_type=kind)
        assert np.corrcoef(found, truth)[0, 1] > 0.97
        assert found[:8].mean() == pytest.approx(truth[:8].mean(), abs=0.15)


def test_cells_whose_type_is_missing_belong_to_groups_near_them():
    adata = cells()
    model = cellalign.train(adata, method="local", label="cell_type", **QUIET)
    known = adata[(adata.obs["stim"] == "control") & (adata.obs["cell_type"] == "E")].copy()
    unknown = known.copy()
    unknown.obs["cell_type"] = "not seen"
    found = [cellalign.counterfactual(each, model, to="stimulated").X.mean(0) for each in (known, unknown)]
    np.testing.assert_allclose(found[0], found[1], atol=0.05)


def test_cells_whose_type_is_missing_do_so_though_such_cells_were_trained_on():
    """Trained cells without a type are no group of their own: what is found of the others is as if they were not."""
    adata = cells()
    missing = np.flatnonzero(np.random.default_rng(0).random(adata.n_obs) < 0.3)
    some = adata.copy()
    some.obs["cell_type"] = some.obs["cell_type"].astype(object)
    some.obs.iloc[missing, some.obs.columns.get_loc("cell_type")] = np.nan
    model = cellalign.train(some, method="local", label="cell_type", **QUIET)
    for kind in "AE":
        truth = mean(adata, stim="stimulated", cell_type=kind) - mean(adata, stim="control", cell_type=kind)
        unknown = adata[(adata.obs["stim"] == "control") & (adata.obs["cell_type"] == kind)].copy()
        unknown.obs["cell_type"] = np.nan
        found = cellalign.counterfactual(unknown, model, to="stimulated").X.mean(0) - unknown.X.mean(0)
        np.testing.assert_allclose(np.asarray(found).ravel()[:8], truth[:8], atol=0.15)
    # the spread is that within types, of the cells that have one
    z = np.asarray((adata.X.toarray() - model.method.centre.numpy()) @ model.method.components.numpy())
    names = (adata.obs["cell_type"] + adata.obs["stim"]).to_numpy()
    kept = np.setdiff1d(np.arange(adata.n_obs), missing)
    within = sum(((z[own] - z[own].mean(0)) ** 2).sum(0) for own in (kept[names[kept] == n] for n in set(names)))
    np.testing.assert_allclose(model.method.spread, within / (len(kept) - len(set(names))), rtol=1e-4)


def test_a_cell_alone_says_less_of_a_change_than_many():
    """Its group had no variance, so it was taken for the surest of all."""
    adata = cells(noise=1.0)
    alone = (adata.obs["stim"] == "stimulated") & (adata.obs["cell_type"] == "E")
    adata = adata[~alone | (alone.cumsum() == 1)].copy()
    groups = cellalign.train(adata, method="local", label="cell_type", calibrate="none", **QUIET).method.groups
    x, own = adata.X.toarray().astype(np.float64), (adata.obs["cell_type"] + adata.obs["stim"]).to_numpy()
    parts = [x[own == name] for name in np.unique(own)]
    squares = sum(float(((part - part.mean(0)) ** 2).sum()) for part in parts)
    one = groups.sizes == 1
    assert one.sum() == 1
    assert float(groups.noise[one]) == pytest.approx(squares / (len(x) - len(parts)), rel=1e-4)
    reliability = groups.known(0, 1)[0].reliability()
    assert reliability[-1] < 0.5 * reliability[:-1].min()


def test_means_and_noise_are_those_of_values_that_are_large_beside_their_spread():
    adata = cells(n=20, noise=0.5)
    given = {"method": "local", "label": "cell_type", "expression": "any", "calibrate": "none", **QUIET}
    near, far = adata.copy(), adata.copy()
    near.X = adata.X.toarray()
    far.X = near.X + np.float32(10_000)
    own = [cellalign.train(each, **given).method.groups for each in (near, far)]
    np.testing.assert_allclose(own[1].noise, own[0].noise, rtol=0.01)
    np.testing.assert_allclose(own[1].means - 10_000, own[0].means, atol=1e-3)


def test_the_change_of_a_column_does_not_depend_on_the_units_of_others():
    """Of a table that is not standardised: columns of small numbers were drawn to no change beside those of large."""
    adata = cells(n=40)
    x = adata.X.toarray().astype(np.float64)
    large = np.arange(x.shape[1]) % 4 > 0
    x[:, large] *= 50
    adata.X = x.astype(np.float32)
    holdout = ["cell_type=C,stim=stimulated"]
    model = cellalign.train(
        adata, method="local", label="cell_type", expression="any", calibrate="none", holdout=holdout, **QUIET
    )
    truth = mean(adata, stim="stimulated", cell_type="C") - mean(adata, stim="control", cell_type="C")
    found = predicted(model, adata, stim="control", cell_type="C")
    np.testing.assert_allclose(found[[0, 4, 8]], truth[[0, 4, 8]], rtol=0.3)
    np.testing.assert_allclose(model.method.groups.units[1:8], [10, 10, 10, 0.2, 10, 10, 10], rtol=0.15)
    written = model.method.state_dict()
    fresh = type(model.method)(model.method.hp, model.method.layout)
    fresh.load_state_dict({key: value for key, value in written.items() if not key.endswith("units")})  # of before
    assert bool((fresh.groups.units == 1).all())
    with pytest.raises(RuntimeError, match="Missing"):
        fresh.load_state_dict({key: value for key, value in written.items() if not key.startswith("groups.")})


def test_doses_between_those_trained_on_are_interpolated():
    rng = np.random.default_rng(0)
    dose = np.repeat([0.0, 1.0, 2.0, 4.0], 60)
    x = 1 + 0.1 * rng.standard_normal((240, 20))
    x[:, :5] += 0.3 * dose[:, None]
    obs = pd.DataFrame({"dose": dose, "kind": np.tile(["a", "b"], 120)}, index=[f"c{i}" for i in range(240)])
    adata = ad.AnnData(sparse.csr_matrix(np.maximum(x, 0).astype(np.float32)), obs=obs)
    model = cellalign.train(
        adata, method="local", condition="dose", continuous=True, label="kind", settings={"latent_dim": 3}
    )
    control = adata[adata.obs["dose"] == 0].copy()
    for value, expected in ((1.0, 0.3), (3.0, 0.9), (4.0, 1.2), (0.0, 0.0), (9.0, 1.2)):
        found = cellalign.counterfactual(control, model, to=value).X.mean(0) - np.asarray(control.X.mean(0)).ravel()
        assert found[:5].mean() == pytest.approx(expected, abs=0.1), value


def test_values_of_any_sign_are_added_to():
    adata = cells()
    adata.X = adata.X.toarray() - 1.5
    model = cellalign.train(adata, method="local", label="cell_type", expression="any", **QUIET)
    assert model.method.settings[:, 2].unique().tolist() == [1]
    truth = mean(adata, stim="stimulated", cell_type="C") - mean(adata, stim="control", cell_type="C")
    np.testing.assert_allclose(predicted(model, adata, stim="control", cell_type="C"), truth, atol=0.2)


def test_a_model_of_before_there_was_doubt_has_none():
    own = cellalign.train(cells(noise=0.6), method="local", label="cell_type", **QUIET).method
    written = {key: value for key, value in own.state_dict().items() if not key.endswith("units")}
    fresh = type(own)(own.hp, own.layout)
    fresh.load_state_dict(written | {"settings": written["settings"][:, :-1]})
    none = type(own)(own.hp, own.layout)
    none.load_state_dict(own.state_dict())
    none.settings[:, -1] = 0
    for found, expected in zip(fresh.changes(0, 1), none.changes(0, 1), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.allclose(fresh.changes(0, 1)[0], own.changes(0, 1)[0])
    assert "doubt" in own.findings()[0] and "doubt" not in fresh.findings()[0]
    with pytest.raises(RuntimeError, match="size mismatch"):
        fresh.load_state_dict(written | {"settings": written["settings"][:, :-2]})


def test_it_is_the_same_when_it_is_read_again(tmp_path):
    adata = cells(donors=("d1", "d2"), n=10)
    model = cellalign.train(adata, method="local", label="cell_type", batch=["donor"], **QUIET)
    model.save(tmp_path / "m")
    again = cellalign.load(tmp_path / "m")
    found = [cellalign.counterfactual(adata, each, to="stimulated").X for each in (model, again)]
    np.testing.assert_array_equal(*found)
    assert again.method.findings() == model.method.findings() == again.record.outcome.findings
