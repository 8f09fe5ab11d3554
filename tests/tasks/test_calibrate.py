"""train(calibrate=...) and counterfactual(interval=...): what is left out, what is kept, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_counts, preprocessed

import cellalign
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.methods.linear import Linear
from cellalign.records import ModelRecord, Provenance
from cellalign.tasks.calibrate import Held, _places

KNOWN = {"method": "linear", "condition": "stim", "label": "donor", "latent_dim": 3}


@pytest.fixture(scope="module")
def donors() -> ad.AnnData:
    """The tiny cells of six donors, each in both conditions; of the last no cell is stimulated but for two."""
    adata = preprocessed(make_counts())
    rng = np.random.default_rng(0)
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in rng.integers(0, 6, adata.n_obs)])
    stimulated = np.flatnonzero((adata.obs["donor"] == "d5") & (adata.obs["stim"] == "stimulated"))
    return adata[np.setdiff1d(np.arange(adata.n_obs), stimulated[2:])].copy()


@pytest.fixture(scope="module")
def model(donors):
    """A linear model, which calibrates itself."""
    return cellalign.train(donors, **KNOWN)


def mean_of(adata, donor, stim):
    cells = adata[(adata.obs["donor"] == donor) & (adata.obs["stim"] == stim)].X.toarray().astype(np.float64)
    return cells.mean(0), cells.var(0, ddof=1), len(cells)


def test_what_is_kept_is_the_prediction_of_a_model_that_never_saw_the_group(donors, model):
    kept, record = model.calibration, model.record.calibration
    assert (record.key, record.folds, record.groups) == ("donor", 5, ["d0", "d1", "d2", "d3", "d4"])
    for i in (0, 3):
        held = [f"donor=d{i},stim=stimulated"]
        other = cellalign.train(donors, **KNOWN, holdout=held, calibrate="none")
        assert other.calibration is None and other.record.calibration is None
        predicted = other.counterfactual(donors, to="stimulated", where={"donor": f"d{i}"})
        np.testing.assert_allclose(kept.predicted[i], predicted.X.mean(0, dtype=np.float64), rtol=1e-4, atol=1e-5)
        mean, variance, n = mean_of(donors, f"d{i}", "stimulated")
        np.testing.assert_allclose(kept.real[i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(kept.variance[i], variance, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(kept.control[i], mean_of(donors, f"d{i}", "control")[0], rtol=1e-5, atol=1e-6)
        assert tuple(kept.cells[i]) == (n, mean_of(donors, f"d{i}", "control")[2])


def test_held_out_cells_are_no_calibration(donors):
    found = cellalign.train(donors, **KNOWN, holdout=["donor=d1,stim=stimulated"])
    assert found.record.calibration.groups == ["d0", "d2", "d3", "d4"]
    changed = donors.copy()
    rows = np.flatnonzero((donors.obs["donor"] == "d1") & (donors.obs["stim"] == "stimulated"))
    x = changed.X.toarray()
    x[rows] += 1
    changed.X = x
    again = cellalign.train(changed, **KNOWN, holdout=["donor=d1,stim=stimulated"])
    np.testing.assert_array_equal(again.calibration.predicted, found.calibration.predicted)
    np.testing.assert_array_equal(again.calibration.real, found.calibration.real)


def test_networks_refit_in_folds_and_only_where_it_is_asked(donors):
    given = {"method": "cvae", "condition": "stim", "epochs": 1, "latent_dim": 2, "settings": {"hidden": [4]}}
    assert cellalign.train(donors, **given, label="donor").calibration is None
    found = cellalign.train(donors, **given, calibrate="donor", calibrate_folds=2)
    assert found.record.calibration.folds == 2 and len(found.calibration) == 5
    assert sorted(found.record.calibration.groups) == ["d0", "d1", "d2", "d3", "d4"]
    plain = cellalign.train(donors, **given)
    for name, weight in plain.method.state_dict().items():
        np.testing.assert_array_equal(weight, found.method.state_dict()[name])


def test_every_cell_has_its_groups_interval(donors, model):
    found = model.counterfactual(donors, to="stimulated", interval=0.8)
    lower, upper = found.layers["lower"], found.layers["upper"]
    assert lower.dtype == upper.dtype == np.float32 and lower.min() >= 0
    for donor in found.obs["donor"].unique():
        rows = np.flatnonzero(found.obs["donor"] == donor)
        assert (np.ptp(lower[rows], 0) == 0).all() and (np.ptp(upper[rows], 0) == 0).all()
        mean = found.X[rows].mean(0)
        assert ((lower[rows[0]] <= mean + 1e-5) & (mean <= upper[rows[0]] + 1e-5)).all()
    record = Provenance.of(found.uns).counterfactual
    assert (record.interval, record.interval_over, record.groups) == (0.8, "all", "donor")
    assert found.obs["abstain"].dtype == bool
    whole = model.counterfactual(donors, to="stimulated")
    np.testing.assert_array_equal(found.X, whole.X)
    assert "lower" not in whole.layers and "abstain" not in whole.obs


def test_draws_have_the_same_intervals(donors, model):
    one = model.counterfactual(donors, to="stimulated", interval=0.9, where={"donor": "d5"})
    two = model.counterfactual(donors, to="stimulated", interval=0.9, where={"donor": "d5"}, draws=2)
    np.testing.assert_array_equal(two.layers["upper"], np.concatenate([one.layers["upper"]] * 2))
    wide = model.counterfactual(donors, to="stimulated", interval=0.9, interval_cells=2, where={"donor": "d5"})
    assert (wide.layers["upper"] - one.layers["upper"]).mean() > 0


def test_the_calibration_is_written_and_read(donors, model, tmp_path):
    model.save(tmp_path / "m")
    again = cellalign.load(tmp_path / "m")
    assert again.record.calibration == model.record.calibration
    for name in ("predicted", "real", "variance", "control", "control_variance", "cells"):
        np.testing.assert_array_equal(getattr(again.calibration, name), getattr(model.calibration, name))
    ours, theirs = (m.counterfactual(donors, to="stimulated", interval=0.9).layers["lower"] for m in (model, again))
    np.testing.assert_array_equal(ours, theirs)
    again.save(tmp_path / "m", force=True)  # its file is part of a model
    file = tmp_path / "m" / "calibration.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"0000")
    with pytest.raises(ModelError, match=r"calibration.safetensors is damaged"):
        cellalign.load(tmp_path / "m")
    file.unlink()
    with pytest.raises(ModelError, match=r"is incomplete: calibration.safetensors is missing"):
        cellalign.load(tmp_path / "m")


def test_a_complete_model_is_calibrated_later(donors, tmp_path, caplog):
    options = {"method": "cvae", "condition": "stim", "settings": {"latent_dim": 2, "hidden": [4], "epochs": 2}}
    asked = {**options, "calibrate": "donor", "calibrate_folds": 2}
    once = cellalign.train(donors, **asked, model_path=tmp_path / "once")
    plain = cellalign.train(donors, **options, model_path=tmp_path / "m")
    assert plain.calibration is None
    with caplog.at_level("INFO", logger="cellalign"):
        later = cellalign.train(donors, **asked, model_path=tmp_path / "m", auto_resume=True)
    assert any("is not calibrated by donor" in message for message in caplog.messages)
    read = cellalign.load(tmp_path / "m")
    assert read.record.weights_checksum == plain.record.weights_checksum == once.record.weights_checksum
    for model in (later, read):
        np.testing.assert_array_equal(model.calibration.predicted, once.calibration.predicted)
    caplog.clear()
    again = cellalign.train(donors, **asked, model_path=tmp_path / "m", auto_resume=True)
    assert again.record.calibration == read.record.calibration
    assert not any("is not calibrated" in message for message in caplog.messages)


def test_a_record_of_before_has_no_calibration(model):
    plain = model.record.plain()
    del plain["calibration"]
    assert ModelRecord.read(plain).calibration is None


def test_what_was_not_calibrated_is_refused(donors, model):
    def refused(kind, match, of=model, cells=donors, **options):
        with pytest.raises(kind, match=match):
            of.counterfactual(cells, **({"to": "stimulated", "interval": 0.9} | options))

    bare = cellalign.train(donors, **KNOWN, calibrate="none")
    refused(ModelError, r"knows no errors of held-out groups.*train\(\.\.\., calibrate='cell_type'\)", of=bare)
    refused(UsageError, r"interval=90.* no share", interval=90)
    refused(UsageError, r"decoded=True", decoded=True)
    refused(UsageError, r"calibrated from stim=control", from_="stimulated", to="control")
    refused(UsageError, r"interval_over='some' is none of all, de", interval_over="some")
    unknown = donors.copy()
    unknown.obs["donor"] = unknown.obs["donor"].astype(object)
    unknown.obs.iloc[:9, unknown.obs.columns.get_loc("donor")] = None
    refused(InputError, r"source cells have no 'donor'", cells=unknown)
    refused(UsageError, r"interval_cells must be at least 1, got 0", interval_cells=0)
    refused(UsageError, r"interval_cells must be at least 1, got -5", interval_cells=-5)


def test_cells_whose_label_means_none_are_no_group(donors):
    found = cellalign.train(donors, **KNOWN, unlabelled="d1")
    assert found.record.calibration.groups == ["d0", "d2", "d3", "d4"]
    with pytest.raises(InputError, match=r"source cells have no 'donor'"):
        found.counterfactual(donors, to="stimulated", interval=0.9)
    known = found.counterfactual(donors[donors.obs["donor"] != "d1"].copy(), to="stimulated", interval=0.9)
    assert (known.layers["upper"] > known.layers["lower"]).any()


@pytest.mark.parametrize("few", [4, 8])
def test_a_refit_knows_a_group_under_the_control_alone(donors, monkeypatch, few):
    """Cells under conditions that had too few of them, or that no other group was under, stayed."""
    adata = donors[donors.obs["donor"] != "d5"].copy()
    treated = (adata.obs["stim"] == "stimulated").to_numpy()
    stim, donor = adata.obs["stim"].astype(str).to_numpy(), adata.obs["donor"].astype(str).to_numpy()
    for name in np.unique(donor)[: 5 if few < 5 else 1]:
        stim[np.flatnonzero(treated & (donor == name))[:few]] = "other"
    adata.obs["stim"] = stim
    seen, closed = [], Linear.fit_closed_form

    def noted(self, batches):
        label, condition = (torch.cat([getattr(batch, name) for batch in batches()]) for name in ("label", "condition"))
        seen.append({int(code) for code in label.unique() if not bool((condition[label == code] > 0).any())})
        closed(self, batches)

    monkeypatch.setattr(Linear, "fit_closed_form", noted)
    found = cellalign.train(adata, **KNOWN)
    assert set(found.record.calibration.targets) == {"stimulated"} and seen == [set(), {0}, {1}, {2}, {3}, {4}]


def test_every_refit_learns_from_every_condition():
    """Of a condition that two groups are under, one is left out at a time, whatever the number of refits."""
    rng, obs = np.random.default_rng(0), []
    conditions = {kind: ["control", "most", *(["few"] if kind in "AE" else [])] for kind in "ABCDEFGH"}
    for kind, under in conditions.items():
        obs += [{"stim": stim, "kind": kind} for stim in under for _ in range(6)]
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(len(obs))])
    x = rng.gamma(4, 0.5, (len(frame), 20)).astype(np.float32) + 0.5 * (frame["stim"] == "few").to_numpy()[:, None]
    adata = ad.AnnData(x.astype(np.float32), obs=frame)
    given = {"method": "linear", "condition": "stim", "control": "control", "label": "kind", "latent_dim": 3}
    found = cellalign.train(adata, **given, calibrate="kind", calibrate_folds=4)
    known = found.calibration
    for i, (name, target) in enumerate(zip(known.names, known.targets, strict=True)):
        if target == "few":
            held = [f"kind={name},stim={other}" for other in ("few", "most")]
            alone = cellalign.train(adata, **given, holdout=held, calibrate="none")
            mean = alone.counterfactual(adata, to="few", where={"kind": name}).X.mean(0)
            assert np.abs(known.predicted[i] - mean).mean() < 0.1  # another group's absence moves the shift a little
            assert np.abs(known.predicted[i] - known.control[i]).mean() > 0.3


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_refit_leaves_out_all_groups_of_a_condition(n):
    nothing = np.empty(0, dtype=int)
    pairs = [("a", "t1"), ("b", "t1"), ("b", "t2"), ("c", "t2"), ("a", "t3"), ("c", "t3"), ("d", "t4"), ("g", "t4")]
    pairs += [(name, "t5") for name in "abcdefg"]
    found = [Held(name, target, nothing, nothing) for name, target in pairs]
    places = _places(found, list("abcdefg"), n)
    assert set(places.values()) == set(range(max(n, 3)))  # a, b and c are left out one by one
    for target in {target for _, target in pairs}:
        assert len({places[name] for name, other in pairs if other == target}) > 1
    even = _places([held for held in found if held.target == "t5"], list("abcdefg"), n)
    assert even == {name: i % n for i, name in enumerate("abcdefg")}


def test_two_replicates_of_many_conditions_calibrate_a_third(donors):
    """As of a screen in three replicates, of which one is held out."""
    cells, n = donors.copy(), donors.n_obs
    cells.obs["donor"] = pd.Categorical([f"d{i % 3}" for i in range(n)])
    cells.obs["guide"] = pd.Categorical([("control", "a", "b", "c")[i // 3 % 4] for i in range(n)])
    held = [f"donor=d2,guide={guide}" for guide in "abc"]
    known = {"method": "linear", "condition": "guide", "label": "donor", "latent_dim": 3, "holdout": held}
    model = cellalign.train(cells, **known, calibrate="donor")
    assert sorted(set(model.calibration.names)) == ["d0", "d1"] and len(model.calibration.names) == 6
    found = model.counterfactual(cells, to="a", where={"donor": "d2"}, interval=0.9)
    assert np.all(found.layers["lower"] <= found.layers["upper"])


def test_what_cannot_be_calibrated_is_refused(donors):
    def refused(kind, match, **options):
        with pytest.raises(kind, match=match):
            cellalign.train(donors, **(KNOWN | options))

    refused(InputError, r"calibrate='cell_type'.*at least 3", calibrate="cell_type", holdout=["cell_type=B"])
    refused(InputError, r"'nobody'", calibrate="nobody")
    refused(UsageError, r"predicts no expression|needs condition", method="pca", condition=None, calibrate="donor")
    whole = (
        r"is the condition, of which only combinations.*0 are there, at least 3.*name a column of groups.*: donor \("
    )
    refused(InputError, whole, calibrate="stim")


def test_combinations_are_left_out_one_after_the_other():
    rng = np.random.default_rng(0)
    names = ["ctrl", "a", "b", "c", "d", "a+b", "a+c", "b+c", "b+d"]
    effect = {name: rng.normal(0, 0.4, 80) * (rng.random(80) < 0.3) for name in "abcd"}
    obs = pd.DataFrame({"p": np.repeat(names, 30)}, index=[f"x{i}" for i in range(270)])
    effect["ctrl"] = np.zeros(80)
    mean = np.stack([2 + sum(effect[part] for part in name.split("+")) for name in obs["p"]])
    adata = ad.AnnData(np.maximum(mean + rng.normal(0, 0.5, mean.shape), 0).astype(np.float32), obs=obs)
    given = {"method": "linear", "condition": "p", "control": "ctrl", "latent_dim": 2}
    model = cellalign.train(adata, **given, holdout=["p=b+d"], calibrate="p")
    assert model.record.calibration.targets == ["a+b", "a+c", "b+c"]
    x = {name: adata.X[obs["p"] == name].mean(0) for name in names}
    np.testing.assert_allclose(model.calibration.predicted[0], x["a"] + x["b"] - x["ctrl"], atol=0.02)
    found = model.counterfactual(adata, to="b+d", interval=0.9)
    inside = (x["b+d"] >= found.layers["lower"][0]) & (x["b+d"] <= found.layers["upper"][0])
    assert inside.mean() > 0.75
    result = cellalign.evaluate(found, against=adata, condition="p", panels=["intervals"])
    value = {(r.system, r.metric): r.value for r in result.rows if r.group == "b+d"}
    assert value["prediction", "coverage_all"] == pytest.approx(inside.mean())
    assert value["prediction", "width_all"] < value["mean shift", "width_all"]
    with pytest.raises(ModelError, match=r"calibrated for combinations.*not for a"):
        model.counterfactual(adata, to="a", interval=0.9)


def test_the_panel_counts_what_lies_inside(donors):
    held = ["donor=d2,stim=stimulated"]
    model = cellalign.train(donors, **KNOWN, holdout=held)
    found = model.counterfactual(donors, to="stimulated", interval=0.9, where=["donor=d2"])
    result = cellalign.evaluate(found, against=donors, condition="stim", label="cell_type", panels=["intervals"])
    real = mean_of(donors, "d2", "stimulated")[0].astype(np.float32)
    low, high = found.layers["lower"][0], found.layers["upper"][0]
    values = {(r.system, r.group, r.metric): r.value for r in result.rows}
    inside = sum(a <= v <= b for a, v, b in zip(low, real, high, strict=True)) / len(real)
    assert values["prediction", "d2", "coverage_all"] == values["prediction", "mean", "coverage_all"] == inside
    assert values["prediction", "d2", "width_all"] == pytest.approx(np.mean(high - low), rel=1e-6)
    assert values["prediction", "d2", "level"] == 0.9
    assert ("mean shift", "d2", "coverage_all") in values
    everyone = model.counterfactual(donors, to="stimulated", interval=0.9)
    result = cellalign.evaluate(everyone, against=donors, condition="stim", panels=["intervals"])
    assert any("not known to have been held out in training: d0, d1, d3, d4; they are not" in n for n in result.notes)
    mean = {r.metric: r.value for r in result.rows if (r.system, r.group) == ("prediction", "mean")}
    assert mean["coverage_all"] == inside


def test_groups_that_settings_were_chosen_by_are_not_in_the_mean_of_predicted_ones(donors):
    model = cellalign.train(donors, **KNOWN, holdout=["donor=d1,stim=stimulated", "donor=d2,stim=stimulated"])
    two = donors[donors.obs["donor"].isin(["d1", "d2"])].copy()
    found = model.counterfactual(two, to="stimulated", interval=0.9)
    found.uns["cellalign"]["counterfactual"]["tuned_on"] = '[{"donor": "d1"}]'
    del found.uns["cellalign_trained"]

    def scored(*held):
        found.obs["held_out"] = found.obs["donor"].isin(held)
        result = cellalign.evaluate(found, against=donors, condition="stim", panels=["intervals"])
        rows = {r.group: r for r in result.rows if (r.system, r.metric) == ("prediction", "coverage_all")}
        return rows, [note for note in result.notes if note.startswith("intervals: tune chose")]

    rows, [note] = scored("d1", "d2")
    assert (rows["mean"].value, rows["mean"].n_cells) == (rows["d2"].value, rows["d2"].n_cells)
    assert note.endswith("these are predicted: d1; they are not in the mean")
    rows, [note] = scored("d1")  # better than of fitted ones
    assert rows["mean"].value == rows["d1"].value and note.endswith("predicted: d1")


def test_the_panel_takes_a_prediction_whose_layers_are_on_disk(donors, tmp_path):
    """It asked for one row of a layer by its number, and ended with a TypeError."""
    model = cellalign.train(donors, **KNOWN, holdout=["donor=d2,stim=stimulated"])
    found = model.counterfactual(donors, to="stimulated", interval=0.9, where=["donor=d2"])
    found.write_h5ad(tmp_path / "found.h5ad")
    left = cellalign.read(tmp_path / "found.h5ad", stream=True)
    asked = {"against": donors, "condition": "stim", "label": "cell_type", "panels": ["intervals"]}
    rows, expected = (cellalign.evaluate(each, **asked).frame() for each in (left, found))
    assert rows["value"].equals(expected["value"])


def test_a_number_has_no_intervals(donors):
    """The advice was to calibrate by a column, which is refused of a number."""
    donors.obs["dose"] = np.where(donors.obs["stim"] == "control", 0.0, 1.0)
    model = cellalign.train(donors, method="local", condition="dose", continuous=True, label="cell_type")
    with pytest.raises(
        UsageError, match=r"interval=0.9: intervals are of conditions that are categories, and 'dose' is"
    ):
        model.counterfactual(donors, to=1, from_=0, interval=0.9)


def shifts(found, against):
    """Rows of the mean shift by group and metric, and what is noted."""
    result = cellalign.evaluate(found, against=against, condition="stim", panels=["intervals"])
    rows = {(r.group, r.metric): r.value for r in result.rows if r.system == "mean shift" and r.group != "mean"}
    return rows, "; ".join(result.notes)


@pytest.mark.parametrize("known_by", ["fingerprints", "held_out"])
def test_the_mean_shift_knows_no_group_that_the_model_has_not_seen(donors, known_by):
    """As the baselines of panel response: beside d1 it had learned from d2, which was held out as well."""
    model = cellalign.train(donors, **KNOWN, holdout=["donor=d1,stim=stimulated", "donor=d2,stim=stimulated"])
    two = donors[donors.obs["donor"].isin(["d1", "d2"])].copy()
    found = model.counterfactual(two, to="stimulated", interval=0.9)
    if known_by == "held_out":
        found.uns = {"cellalign": found.uns["cellalign"]}
    before, _ = shifts(found, donors)
    assert {group for group, _ in before} == {"d1", "d2"}
    changed, x = donors.copy(), donors.X.toarray()
    x[(donors.obs["donor"] == "d2") & (donors.obs["stim"] == "stimulated")] *= 1.5
    changed.X = x
    after, _ = shifts(found, changed)
    ours, theirs = ({key: rows[key] for key in rows if key[0] == "d1"} for rows in (before, after))
    assert ours == theirs and after != before


def test_where_the_model_has_seen_no_other_group_the_mean_shift_learns_from_all(donors, model):
    found = model.counterfactual(donors, to="stimulated", interval=0.9)
    expected, _ = shifts(found, donors)
    assert len({group for group, _ in expected}) == 5
    found.uns = {"cellalign": found.uns["cellalign"]}
    found.obs["held_out"] = True
    assert shifts(found, donors)[0] == expected
    found.obs["held_out"] = found.obs["donor"].isin(["d1", "d2", "d3"])
    some, notes = shifts(found, donors)
    assert some == {}  # each of the five has seen groups beside it, and no three
    assert "no mean shift beside d1: the model has seen real cells of fewer than 3 other groups" in notes


def test_the_time_of_the_refits_is_told_with_that_of_the_training(donors, caplog, tmp_path):
    with caplog.at_level("INFO", "cellalign"):
        found = cellalign.train(donors, **KNOWN)
    assert "calibrating intervals of predictions by 5 refits, without groups of 'donor' in turn" in caplog.text
    outcome = found.record.outcome
    assert outcome.seconds_calibrating > 0
    longer = outcome.model_copy(update={"seconds": 2.0, "seconds_calibrating": 3.0})
    assert longer.took == "5 s"
    assert longer.model_copy(update={"seconds": 0.1, "seconds_calibrating": None}).took == "less than 1 s"
    found.save(tmp_path / "m")
    assert "with calibration" in dict(cellalign.info(tmp_path / "m"))["trained"]


def test_what_calibrates_only_when_asked_says_how_and_tells_its_refits_apart(donors, caplog):
    asked = {"method": "auto", "condition": "stim", "label": "donor", "settings": {"members": "local"}}
    with caplog.at_level("INFO", "cellalign"):
        assert cellalign.train(donors, **asked).calibration is None
        assert "no intervals of predictions: calibrate='donor' gives them, by 5 refits" in caplog.text
        caplog.clear()
        cellalign.train(donors, **asked, calibrate="donor")
    assert "no intervals of predictions" not in caplog.text
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "refit " in line] == [
        f"calibrating, refit {i + 1} of 5 without d{i}" for i in range(5)
    ]
    caplog.clear()
    with caplog.at_level("INFO", "cellalign"):
        few = {"members": "local,cvae", "folds": 2, "fold_epochs": 0.1}
        cellalign.train(donors, **(asked | {"settings": few}), calibrate="donor", calibrate_folds=2, epochs=1)
    assert "refit 2 of 2, auto: fold 1 of 2" in caplog.text  # where each takes a while
