"""Several conditions in one file: all of them or some, a row per source cell and condition, written batch by batch."""

import functools
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from support import at_every_change

import cellalign
from cellalign import predictions
from cellalign.data import files
from cellalign.engine import predict
from cellalign.engine.ranks import Ranks
from cellalign.errors import InputError, UsageError
from cellalign.evaluation.predictions import source_names
from cellalign.records import Provenance

OLD = Path(__file__).parent / "fixtures" / "format1"
SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 1}


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


@pytest.fixture(scope="module")
def cells():
    """90 cells x 40 genes: X normalised log1p, counts in a layer; guide is ctrl, g1, g2 or g3."""
    return ad.read_h5ad(OLD / "cells.h5ad")


@pytest.fixture(scope="module")
def counted():
    """svae+, which reads counts."""
    return cellalign.load(OLD / "svae+")


@pytest.fixture(scope="module")
def guides(cells):
    """A cvae of log expression over the guides."""
    return cellalign.train(cells, method="cvae", condition="guide", control="ctrl", settings=SMALL)


@pytest.fixture(params=["counts", "log"])
def model(request, counted, guides):
    return counted if request.param == "counts" else guides


def test_all_is_every_condition_but_the_source_as_each_by_itself(model, cells):
    together = model.counterfactual(cells, to="all")
    assert list(dict.fromkeys(together.obs["guide"])) == ["g1", "g2", "g3"]
    assert together.obs_names.is_unique and set(together.obs["guide_source"]) == {"ctrl"}
    for name in ("g1", "g2", "g3"):
        alone = model.counterfactual(cells, to=name)
        own = together[together.obs["guide"] == name]
        np.testing.assert_array_equal(own.X, alone.X)
        assert (dense(own.layers["source"]) == dense(alone.layers["source"])).all()
        assert (
            list(own.obs["source_cell"])
            == list(alone.obs_names)
            == list(source_names(together)[own.obs_names.map({n: i for i, n in enumerate(together.obs_names)})])
        )
    record = Provenance.of(together.uns).counterfactual
    assert [(one.to, one.from_) for one in record.each()] == [("g1", "ctrl"), ("g2", "ctrl"), ("g3", "ctrl")]


def test_some_are_predicted_in_the_order_asked_and_none_twice(model, cells):
    some = model.counterfactual(cells, to=["g3", "g1+g2", "g2+g1", "g3"])
    assert list(dict.fromkeys(some.obs["guide"])) == ["g3", "g1+g2"]
    np.testing.assert_array_equal(some[some.obs["guide"] == "g1+g2"].X, model.counterfactual(cells, to="g1+g2").X)


def test_pairs_among_the_cells_are_predicted_too_and_the_unknown_said(guides, cells, caplog):
    more = cells.copy()
    names = more.obs["guide"].astype(str).to_numpy(dtype=object)
    names[np.flatnonzero(names == "g3")[:4]] = ["g1+g2", "g1+g2", "new", "g1+new"]
    more.obs["guide"] = names
    with caplog.at_level("INFO", logger="cellalign"):
        together = guides.counterfactual(more, to="all")
    assert list(dict.fromkeys(together.obs["guide"])) == ["g1", "g2", "g3", "g1+g2"]
    assert "2 conditions of these cells were never trained on and are left out: g1+new, new" in caplog.text


def test_source_cells_of_a_condition_never_trained_on_are_left_out_and_said(guides, cells, caplog):
    """Asked for the control, which is known, it was refused for a condition of other cells."""
    more = cells.copy()
    names = more.obs["guide"].astype(str).to_numpy(dtype=object)
    names[np.flatnonzero(names == "g3")[:4]] = "new"
    more.obs["guide"] = names
    with caplog.at_level("WARNING", logger="cellalign"):
        found = guides.counterfactual(more, to="ctrl")
    assert set(found.obs["guide_source"]) == {"g1", "g2", "g3"}
    assert "4 cells of conditions never trained on are no source cells: new; name the source cells by" in caplog.text
    more.obs["guide"] = "new"
    with pytest.raises(InputError, match="'new' in column 'guide' was never trained on"):
        guides.counterfactual(more, to="ctrl")


def test_from_another_condition_all_holds_the_control(guides, cells):
    together = guides.counterfactual(cells, to="all", from_="g2")
    assert list(dict.fromkeys(together.obs["guide"])) == ["ctrl", "g1", "g3"]
    assert set(together.obs["guide_source"]) == {"g2"}
    left = guides.counterfactual(cells, to=["g1", "g2"], from_="g2")
    assert set(left.obs["guide"]) == {"g1"}


def test_all_of_a_batch_and_beside_one(cells):
    model = cellalign.train(cells, method="cvae", condition="stim", batch=["site"], settings=SMALL)
    sites = model.counterfactual(cells, to="site=all")
    assert set(sites.obs["site"]) == {"a", "b"} and (sites.obs["site"] != sites.obs["site_source"].astype(str)).all()
    both = model.counterfactual(cells, to="all,site=b")
    assert set(both.obs["stim"]) == {"stimulated"} and set(both.obs["site"]) == {"b"}
    with pytest.raises(UsageError, match="asks for all of two columns"):
        model.counterfactual(cells, to="all,site=all")
    with pytest.raises(UsageError, match="sets other columns in one prediction than in another"):
        model.counterfactual(cells, to=["stimulated", "site=b"])


def test_a_condition_called_all_is_that_one(cells, caplog):
    named = cells.copy()
    named.obs["guide"] = named.obs["guide"].astype(str).replace({"g1": "all"}).astype("category")
    model = cellalign.train(named, method="cvae", condition="guide", control="ctrl", settings=SMALL)
    with caplog.at_level("INFO", logger="cellalign"):
        one = model.counterfactual(named, to="all")
        two = model.counterfactual(named, to=["all", "g2"])
    assert set(one.obs["guide"]) == {"all"} and set(two.obs["guide"]) == {"all", "g2"}


def test_numbers_are_several_conditions_but_never_all(cells, caplog):
    model = cellalign.load(OLD / "cvae-dose")
    with caplog.at_level("INFO", logger="cellalign"):
        found = model.counterfactual(cells, to=[0.5, 2])
    assert caplog.text.count("the source cells are all") == 1
    assert found.n_obs == 2 * cells.n_obs and set(found.obs["dose"]) == {0.5, 2.0}
    np.testing.assert_array_equal(found[found.obs["dose"] == 2].X, model.counterfactual(cells, to=2).X)
    with pytest.raises(UsageError, match=r"is no number, but 'dose' holds numbers; .*to=\[1, 2\]"):
        model.counterfactual(cells, to="all")


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"to": []}, UsageError, "names no condition"),
        ({"to": ["g1", "g9"]}, InputError, "'g9' in column 'guide' was never trained on"),
        ({"to": ["g1"], "from_": "g1"}, InputError, "names no condition but that of the source cells"),
        ({"to": "all", "per_condition": -1}, UsageError, "per_condition must not be negative"),
        ({"to": "all", "draws": -1}, UsageError, "draws must not be negative"),
        ({"to": "all", "within": "plate"}, InputError, "no within column 'plate'"),
        ({"to": "all", "where": {"cell_type": "T"}}, InputError, "no cell has cell_type=T"),
    ],
)
def test_what_cannot_be_predicted_is_refused(guides, cells, asked, error, said):
    with pytest.raises(error, match=said):
        guides.counterfactual(cells, **asked)


def test_draws_follow_their_cell_and_differ_between_conditions(model, cells):
    drawn = model.counterfactual(cells, to=["g1", "g2"], draws=3)
    n = int((cells.obs["guide"] == "ctrl").sum())
    assert drawn.n_obs == 2 * n * 3 and list(drawn.obs["draw"][:6]) == [1, 2, 3, 1, 2, 3]
    assert list(drawn.obs["source_cell"][:3]) == [drawn.obs["source_cell"].iloc[0]] * 3
    assert drawn.obs_names[0].endswith("-g1-draw1") and drawn.obs_names.is_unique
    assert np.abs(drawn.X[0] - drawn.X[1]).max() > 0
    again = model.counterfactual(cells, to=["g1", "g2"], draws=3)
    np.testing.assert_array_equal(drawn.X, again.X)


def test_so_many_of_each_from_cells_of_their_own(guides, cells):
    some = guides.counterfactual(cells, to="all", per_condition=7, seed=3)
    assert some.obs["guide"].astype(str).value_counts().to_dict() == {"g1": 7, "g2": 7, "g3": 7}
    chosen = [set(some.obs.loc[some.obs["guide"] == name, "source_cell"]) for name in ("g1", "g2", "g3")]
    assert all(len(one) == 7 for one in chosen) and len(set.union(*chosen)) > 7
    again = guides.counterfactual(cells, to="all", per_condition=7, seed=3)
    assert list(some.obs_names) == list(again.obs_names)
    few = guides.counterfactual(cells, to=["g1"], per_condition=10_000)
    assert few.n_obs == (cells.obs["guide"] == "ctrl").sum()


def test_within_a_donor_cells_of_that_donor_are_the_source(guides, cells):
    plates = cells.copy()
    rng = np.random.default_rng(0)
    plates.obs["plate"] = rng.choice(["p1", "p2"], plates.n_obs)
    plates.obs.loc[plates.obs["guide"] == "g1", "plate"] = "p1"
    rows = np.flatnonzero(plates.obs["guide"] == "g2")
    plates.obs.iloc[rows, plates.obs.columns.get_loc("plate")] = ["p2"] * (len(rows) - 1) + ["p1"]
    found = guides.counterfactual(plates, to=["g1", "g2"], within="plate")
    n = (plates.obs["guide"] == "ctrl").to_numpy()
    assert set(found.obs.loc[found.obs["guide"] == "g1", "plate"]) == {"p1"}
    assert (found.obs["guide"] == "g1").sum() == (n & (plates.obs["plate"] == "p1")).sum()
    assert (found.obs["guide"] == "g2").sum() == n.sum()
    some = guides.counterfactual(plates, to=["g2"], within="plate", per_condition=8)
    assert (some.obs["plate"] == "p2").sum() >= 6  # as 13 of 14 real cells
    assert Provenance.of(found.uns).counterfactual.within == "plate"


def test_control_cells_stand_beside_them_as_they_were_observed(model, cells):
    found = model.counterfactual(cells, to=["g1"], with_control=True)
    own = found[found.obs["guide"] == "ctrl"]
    key = "counts" if model.expression == "counts" else "X"
    observed = cells[own.obs_names]
    np.testing.assert_array_equal(own.X, dense(observed.X if key == "X" else observed.layers[key]))
    assert own.n_obs == (cells.obs["guide"] == "ctrl").sum() and found.X.min() >= 0 and found.obs_names.is_unique
    assert Provenance.of(found.uns).counterfactual.with_control == "ctrl"


def test_without_a_control_there_is_none_to_write(cells):
    three = cells.copy()
    three.obs["kind"] = np.array(["x", "y", "z"])[np.arange(three.n_obs) % 3]
    model = cellalign.train(three, method="cvae", condition="kind", settings=SMALL)
    found = model.counterfactual(three, to="all")
    assert set(found.obs["kind"]) == {"x", "y", "z"}
    assert (found.obs["kind"].astype(str) != found.obs["kind_source"].astype(str)).all()
    with pytest.raises(UsageError, match="with_control=True needs a control"):
        model.counterfactual(three, to="all", with_control=True)


def test_names_that_would_meet_are_told_apart(guides, cells):
    named = cells.copy()
    names = list(named.obs_names)
    a, b = np.flatnonzero(named.obs["guide"] == "ctrl")[:2]
    names[a], names[b] = "c", "c-g1"
    named.obs_names = names
    named.obs["guide"] = named.obs["guide"].astype(str)
    found = guides.counterfactual(named, to=["g1", "g1+g2"])
    assert found.obs_names.is_unique and {"c", "c-g1"} <= set(source_names(found))


@pytest.mark.parametrize("ending", at_every_change(["h5ad", "zarr"], ["h5ad"]))
def test_it_is_written_batch_by_batch_and_never_all_in_memory(model, cells, tmp_path, monkeypatch, ending):
    monkeypatch.setattr("cellalign.predictions.OBSERVED", 16)
    asked = {"to": ["g1", "g2"], "with_control": True, "draws": 2}
    predicted = model.predict(cells, **asked)
    assert predicted.bare().X is None and not predicted.bare().layers
    path = tmp_path / f"all.{ending}"
    files.write_batches(predicted.bare(), predicted.own_batches(), path, copies=predicted.copies)
    read, whole = files.read(path), model.counterfactual(cells, **asked)
    np.testing.assert_array_equal(dense(read.X), whole.X)
    assert list(read.obs_names) == list(whole.obs_names) and set(read.layers) == set(whole.layers)
    for name in whole.layers:
        np.testing.assert_array_equal(dense(read.layers[name]), dense(whole.layers[name]))


@pytest.mark.parametrize("options", [{}, {"per_condition": 7}, {"draws": 3}])
def test_ranks_take_turns_over_all_conditions(guides, cells, monkeypatch, options):
    """Each batch is one rank's, in its place, whatever conditions there are; controls are the first one's."""
    monkeypatch.setattr("cellalign.predictions.OBSERVED", 16)
    monkeypatch.setattr(predict.n_batches, "__defaults__", (0, 5))
    by_hand = functools.partial(predict._predicting, batch_size=5)
    monkeypatch.setattr(predict, "_predicting", by_hand)
    predicted = guides.predict(cells, to=["g1", "g2", "g3"], with_control=True, **options)
    whole, rows, turns = list(predicted.batches()), [], []
    for rank in range(4):
        monkeypatch.setattr(predict, "current", lambda rank=rank: Ranks(rank, 4))
        monkeypatch.setattr(predictions, "current", lambda rank=rank: Ranks(rank, 4))
        own = list(predicted.own_batches())
        assert [first for first, _ in own] == sorted(first for first, _ in own)
        rows += own
        turns.append(sum(first < len(predicted.obs) - len(predicted.control) for first, _ in own))
    assert max(turns) - min(turns) <= 1
    rows.sort(key=lambda part: part[0])
    assert [first for first, _ in rows] == np.cumsum([0, *(len(part["X"]) for part in whole)])[:-1].tolist()
    for (_, own), part in zip(rows, whole, strict=True):
        assert list(own) == list(part)
        for name in part:
            np.testing.assert_array_equal(dense(own[name]), dense(part[name]))


def test_held_out_cells_are_marked_in_every_condition(cells):
    options = {"condition": "guide", "control": "ctrl", "settings": SMALL}
    model = cellalign.train(cells, method="cvae", holdout=["cell_type=NK,guide=g1"], **options)
    found = model.counterfactual(cells, to="all").obs
    assert (found["held_out"] == ((found["guide"] == "g1") & (found["cell_type"] == "NK"))).all()
