"""What is fitted is said to be fitted, what is measurable is counted, and the verdict says it in words."""

import json

import numpy as np
import pandas as pd
import pytest

import cellalign
from cellalign.data import fingerprints
from cellalign.evaluation.response_table import tables

ASKED = {"condition": "stim", "label": "cell_type", "panels": ["response"]}
HELD = "cell_type=NK,stim=stimulated"


def predicted(cells, **more):
    model = cellalign.train(cells, method="linear", condition="stim", label="cell_type", **more)
    return model.counterfactual(cells, to="stimulated")


def statuses(result):
    return {
        row.group: row.evidence.status
        for row in result.rows
        if (row.system, row.metric) == ("prediction", "r_all") and not row.group.startswith("mean")
    }


def test_what_the_model_was_trained_on_is_fitted_whatever_the_file_says(tiny):
    cells = predicted(tiny, holdout=[HELD])
    result = cellalign.evaluate(cells, against=tiny, **ASKED)
    assert statuses(result) == {"B": "fitted", "CD14 Mono": "fitted", "NK": "predicted"}
    assert "held out in training: NK" in result.notes
    cells.obs["held_out"] = True  # which it is not
    assert statuses(cellalign.evaluate(cells, against=tiny, **ASKED))["B"] == "fitted"
    new = tiny[np.random.default_rng(0).permutation(tiny.n_obs)].copy()
    new.obs_names = [f"new{i}" for i in range(new.n_obs)]
    assert statuses(cellalign.evaluate(cells, against=new, **ASKED))["B"] == "fitted", "known by what they hold"
    whole = cellalign.evaluate(predicted(tiny), against=tiny, **ASKED)
    assert set(statuses(whole).values()) == {"fitted"}
    assert whole.verdict.startswith("fitted, not predicted (the model was trained on these cells); the fit is ")


def test_some_cell_types_are_compared_with_the_same(tiny):
    """A prediction of one held-out type beside real cells of all is no fit, and its type's change is its own."""
    model = cellalign.train(tiny, method="linear", condition="stim", label="cell_type", holdout=[HELD])
    some = model.counterfactual(tiny, to="stimulated", where={"cell_type": "NK"})
    asked = {"condition": "stim", "panels": ["response"]}
    alone, named = cellalign.evaluate(some, against=tiny, **asked), cellalign.evaluate(some, against=tiny, **ASKED)
    pd.testing.assert_frame_equal(alone.frame(), named.frame())
    assert statuses(alone) == {"NK": "predicted"}
    said = "the prediction is of 1 of 3 values of 'cell_type'"
    assert any(note.startswith(f"{said}, the label of the model, and is compared by it") for note in alone.notes)
    assert not any(said in note for note in named.notes)
    every = cellalign.evaluate(model.counterfactual(tiny, to="stimulated"), against=tiny, **asked)
    assert set(statuses(every)) == {"all"}, "as a whole, as ever"


def test_so_they_are_where_one_of_the_predicted_conditions_has_no_real_cells(tiny):
    other = (tiny.obs["stim"] == "stimulated") & (np.random.default_rng(0).random(tiny.n_obs) < 0.5)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str).where(~other, "other")
    model = cellalign.train(tiny, method="linear", condition="stim", label="cell_type")
    some = model.counterfactual(tiny, to=["other", "stimulated"], where={"cell_type": "NK"})
    for real in (tiny, tiny[~other].copy()):
        result = cellalign.evaluate(some, against=real, condition="stim", panels=["response"])
        assert any("1 of 3 values of 'cell_type', the label of the model" in note for note in result.notes)


def test_some_cell_types_beside_all_are_told_of_where_the_model_has_no_label(tiny):
    model = cellalign.train(tiny, method="linear", condition="stim", holdout=[HELD])
    some = model.counterfactual(tiny, to="stimulated", where={"cell_type": "NK"})
    result = cellalign.evaluate(some, against=tiny, condition="stim", panels=["response"])
    assert any("1 of 3 values of 'cell_type' and is compared with real cells of all of them" in n for n in result.notes)
    assert any("said to be held out in training, but" in note for note in result.notes)


def test_samples_that_are_of_one_condition_are_no_cell_types(tiny):
    """Nor is a column of lists, which nobody named."""
    tiny.obs["sample"] = [f"{stim}-{i % 2}" for i, stim in enumerate(tiny.obs["stim"])]
    tiny.obs["tags"] = [["x"]] * tiny.n_obs
    model = cellalign.train(tiny, method="linear", condition="stim")
    result = cellalign.evaluate(
        model.counterfactual(tiny, to="stimulated", from_="control"), against=tiny, **{**ASKED, "label": None}
    )
    assert not any("compares like with like" in note for note in result.notes)


def test_what_else_names_the_conditions_is_no_cell_type(tiny):
    tiny.obs["guide"] = ["none" if stim == "control" else f"sg{i % 2}" for i, stim in enumerate(tiny.obs["stim"])]
    tiny.obs["target"] = tiny.obs["guide"].astype(str).where(tiny.obs["guide"] != "none", "control")
    model = cellalign.train(tiny, method="linear", condition="target")
    for to in ("sg0", ["sg0", "sg1"]):
        result = cellalign.evaluate(model.counterfactual(tiny, to=to), against=tiny, panels=["response"])
        assert not any("of all of them" in note for note in result.notes)


def test_a_model_that_does_not_know_its_cells_is_believed_or_it_is_said(tiny):
    cells = predicted(tiny, holdout=[HELD])
    del cells.uns[fingerprints.KEY]
    result = cellalign.evaluate(cells, against=tiny, **ASKED)
    assert statuses(result) == {"B": "fitted", "CD14 Mono": "fitted", "NK": "predicted"}, "by obs held_out"
    del cells.obs["held_out"]
    result = cellalign.evaluate(cells, against=tiny, **ASKED)
    assert set(statuses(result).values()) == {""}
    assert any("whether it is fitted is not known" in note for note in result.notes)
    reordered = predicted(tiny, holdout=[HELD])[:, ::-1].copy()
    assert statuses(cellalign.evaluate(reordered, against=tiny, **ASKED))["NK"] == "predicted"


def test_a_group_that_is_left_unchanged_is_counted(tiny):
    """It ended in a KeyError."""
    cells = predicted(tiny, holdout=["cell_type=NK,stim=stimulated", "cell_type=B,stim=stimulated"])
    x = cells.X.toarray() if hasattr(cells.X, "toarray") else np.array(cells.X)
    source = cells.layers["source"]
    same = (cells.obs["cell_type"] == "NK").to_numpy()
    x[same] = (source.toarray() if hasattr(source, "toarray") else source)[same]
    cells.X = x
    result = cellalign.evaluate(cells, against=tiny, **ASKED)
    assert "no change is predicted of NK, scored as r 0" in result.verdict
    value = {group: result.value("r_change_de", system="prediction", group=group) for group in ("mean", "NK", "B")}
    assert value["NK"] == 0 and value["mean"] == pytest.approx(value["B"] / 2)


def test_the_mean_is_of_what_is_predicted_and_fitted_groups_have_their_own(tiny):
    result = cellalign.evaluate(predicted(tiny, holdout=[HELD]), against=tiny, **ASKED)
    of = {group: result.value("r_all", system="prediction", group=group) for group in ("mean", "NK")}
    assert of["mean"] == of["NK"]
    fitted = result.value("r_all", system="prediction", group="mean of fitted groups")
    alone = [result.value("r_all", system="prediction", group=name) for name in ("B", "CD14 Mono")]
    assert fitted == pytest.approx(np.mean(alone))
    assert "fitted" not in result.verdict.split(";")[0]


def test_baselines_learn_from_what_the_model_has_seen(tiny):
    held = ["cell_type=NK,stim=stimulated", "cell_type=B,stim=stimulated"]
    result = cellalign.evaluate(predicted(tiny, holdout=held), against=tiny, **ASKED)
    x, obs = tiny.X.toarray(), tiny.obs
    mean = {
        (kind, stim): x[((obs["cell_type"] == kind) & (obs["stim"] == stim)).to_numpy()].mean(0)
        for kind in ("CD14 Mono", "NK")
        for stim in ("control", "stimulated")
    }
    shift = mean["CD14 Mono", "stimulated"] - mean["CD14 Mono", "control"]
    error = np.mean((mean["NK", "control"] + shift - mean["NK", "stimulated"]) ** 2)
    assert result.value("mse_all", system="mean shift", group="NK") == pytest.approx(error, rel=1e-4)


def test_within_a_donor_the_same_type_of_the_others_is_a_baseline(tiny):
    cells = predicted(tiny, holdout=["donor=d2,stim=stimulated"])
    cells = cells[cells.obs["donor"] == "d2"].copy()
    result = cellalign.evaluate(cells, against=tiny, within="donor", **ASKED)
    groups = set(statuses(result))
    assert groups == {"B, d2", "CD14 Mono, d2", "NK, d2"}
    assert set(statuses(result).values()) == {"predicted"}
    x, obs = tiny.X.toarray(), tiny.obs

    def mean(donor, stim):
        return x[((obs["cell_type"] == "B") & (obs["donor"] == donor) & (obs["stim"] == stim)).to_numpy()].mean(0)

    matched = mean("d2", "control") + mean("d1", "stimulated") - mean("d1", "control")
    error = np.mean((matched - mean("d2", "stimulated")) ** 2)
    found = result.value("mse_all", system="matched mean shift", group="B, d2")
    assert found == pytest.approx(error, rel=1e-4)


def test_programs_get_all_of_it(tiny):
    result = cellalign.evaluate(predicted(tiny, holdout=[HELD]), against=tiny, **ASKED)
    plain = json.loads(result.to_json())
    assert plain["measurable"] == {"groups": 3, "of": 3} and plain["verdict"] == result.verdict
    assert {"scores", "left_out", "notes"} <= set(plain)
    frame = result.frame()
    first = ["panel", "system", "group", "metric", "value", "n_cells", "better", "null", "null_sd"]
    assert list(frame)[:9] == first
    own = frame[(frame["system"] == "prediction") & (frame["metric"] == "r_change_de")].set_index("group").loc["NK"]
    assert own["low"] < own["value"] < own["high"] and own["status"] == "predicted" and bool(own["measurable"])
    assert own["best_baseline"] in set(frame["system"])
    best = frame[(frame["system"] == own["best_baseline"]) & (frame["metric"] == "r_change_de")]
    difference = own["value"] - best.set_index("group").loc["NK", "value"]
    assert own["difference"] == pytest.approx(difference, abs=0.02)  # less what it may owe to its control's noise
    assert own["difference_low"] < own["difference"] < own["difference_high"]
    assert pd.isna(own["p"])


def test_tables_fit_a_hundred_columns_and_open_with_what_can_be_measured(tiny):
    result = cellalign.evaluate(predicted(tiny, holdout=[HELD]), against=tiny, **ASKED)
    found = tables(result.rows, result.measurable)
    assert found[0][0] == "response: measurable groups: 3 of 3; mean over these"
    for _, columns, lines in found:
        widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
        assert sum(widths) + 3 * len(widths) <= 102
    names = [line[0] for line in found[0][2]]
    assert names[0] == "prediction (predicted)" and "prediction (fitted)" in names and "mean shift" in names
    each = {line[0]: line[1:] for line in found[1][2]}
    assert set(each) == {"B (fitted)", "CD14 Mono (fitted)", "NK (predicted)"}


def test_small_errors_are_told_apart():
    from cellalign.evaluation.response_table import _small

    values = (0.12345, -0.12345, 0.01, 0.00496, 0.000048, 0.0, float("nan"))
    assert [_small(v) for v in values] == ["0.123", "-0.123", "0.010", "0.0050", "0.000048", "0.000", ""]


def test_a_donor_held_out_and_compared_with_all_donors_is_told_how_to_be_compared(tiny):
    tiny.obs["donor"] = [f"d{i // 2 % 2}" for i in range(tiny.n_obs)]
    held = "donor=d1,stim=stimulated"
    model = cellalign.train(tiny, method="linear", condition="stim", label="cell_type", holdout=[held])
    some = model.counterfactual(tiny, to="stimulated", where={"donor": "d1"})
    asked = {"condition": "stim", "label": "cell_type", "panels": ["response"]}
    notes = cellalign.evaluate(some, against=tiny, **asked).notes
    assert [note for note in notes if "these are others" in note and "within='donor' compares like with like" in note]
    result = cellalign.evaluate(some, against=tiny, within="donor", **asked)
    assert not any("these are others" in note for note in result.notes)
    assert set(statuses(result).values()) == {"predicted"}
