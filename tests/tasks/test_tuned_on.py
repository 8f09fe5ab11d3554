"""Held-out cells by which tune chose the settings are no independent test, and every score of them says so."""

import json

import numpy as np
import pytest
from conftest import make_counts, preprocessed

import cellalign
from cellalign.data import fingerprints
from cellalign.evaluation.response_table import tables
from cellalign.records import ModelRecord, Provenance, TunedRecord
from cellalign.reporting.cautions import _of_scores as of_scores
from cellalign.reporting.response import finding, section
from cellalign.reporting.scores import Scores
from cellalign.tasks.info_of_model import of_record
from cellalign.tasks.reproduce import reproduce

NK, ALL_OF_B = "cell_type=NK,stim=stimulated", "cell_type=B"
ASKED = {"condition": "stim", "label": "cell_type", "panels": ["response"]}
SMALL = {"method": "cvae", "condition": "stim", "seeds": 1, "epochs": 3, "settings": {"hidden": [8], "latent_dim": 2}}
BY_TUNE = "predicted, but no independent test (the settings were chosen by how well "


@pytest.fixture(scope="module")
def cells():
    return preprocessed(make_counts())


@pytest.fixture(scope="module")
def model(cells):
    """Tuned on natural killer cells; B cells are held out too, and took no part."""
    return cellalign.tune(cells, grid={"beta": [0.1, 1.0]}, holdout=[NK, ALL_OF_B], **SMALL)[0]


def statuses(result):
    return {
        row.group: row.evidence.status
        for row in result.rows
        if (row.system, row.metric) == ("prediction", "r_all") and not row.group.startswith("mean")
    }


def evaluated(model, cells, against=None, **more):
    predicted = model.counterfactual(cells, to="stimulated", **more)
    return cellalign.evaluate(predicted, against=cells if against is None else against, **ASKED)


def test_the_model_says_by_which_cells_its_settings_were_chosen(model, tmp_path):
    known = model.record.tuned
    assert (known.by, known.runs, known.holdout) == ("response", 2, [{"cell_type": "NK", "stim": "stimulated"}])
    assert 0 < len(known.cells) <= 100
    model.save(tmp_path / "model")
    assert cellalign.load(tmp_path / "model").record.tuned == known
    said = dict(of_record(model.record))["settings chosen"]
    assert said == "by tune, the best of 2 runs by response: cell_type=NK,stim=stimulated"


def test_scores_of_these_cells_say_so_and_those_of_others_are_predicted(model, cells):
    result = evaluated(model, cells)
    assert statuses(result) == {"B": "predicted", "CD14 Mono": "fitted", "NK": "tuned"}
    assert "held out in training: B, NK" in result.notes
    assert "tune chose the settings by how well these are predicted: NK" in result.notes
    assert BY_TUNE not in result.verdict and "fitted" not in result.verdict, "the verdict is of B alone"
    values = {group: result.value("r_all", system="prediction", group=group) for group in ("mean", "B", "NK")}
    assert values["mean"] == values["B"]
    assert result.value("r_all", system="prediction", group="mean of groups tuned on") == values["NK"]
    written = result.frame()
    assert set(written[written["group"] == "NK"]["status"].dropna()) == {"tuned"}


def test_where_nothing_else_is_held_out_the_verdict_says_it(cells):
    model = cellalign.tune(cells, grid={"beta": [0.1, 1.0]}, holdout=[NK], **SMALL)[0]
    predicted = model.counterfactual(cells, to="stimulated", where=["cell_type=NK"])
    result = cellalign.evaluate(predicted, against=cells, **ASKED)
    assert statuses(result) == {"NK": "tuned"}
    assert result.verdict.startswith(f"{BY_TUNE}these cells are predicted); the response is ")
    whole = evaluated(model, cells)
    assert BY_TUNE in whole.verdict and "mean of fitted groups" in {row.group for row in whole.rows}
    assert tables(result.rows, result.measurable)[0][2][0][0] == "prediction (tuned)"


def test_a_prediction_carries_it_through_a_file(model, cells, tmp_path):
    predicted = cellalign.counterfactual(cells, model, to="stimulated")
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    read = cellalign.read(tmp_path / "predicted.h5ad")
    record = Provenance.of(read.uns).counterfactual
    assert list(record.tuned_on) == model.record.tuned.holdout and list(record.tuned_cells) == model.record.tuned.cells
    assert statuses(cellalign.evaluate(read, against=cells, **ASKED))["NK"] == "tuned"
    several = model.counterfactual(cells, to=["stimulated"], with_control=True)
    assert statuses(cellalign.evaluate(several, against=cells, **ASKED))["NK"] == "tuned"


def test_other_cells_of_the_same_names_took_no_part_in_the_choice(model, cells):
    new = preprocessed(make_counts(seed=5))
    assert statuses(evaluated(model, new)) == {"B": "predicted", "CD14 Mono": "predicted", "NK": "predicted"}
    some = cells[np.random.default_rng(0).permutation(cells.n_obs)[:160]].copy()
    some.obs_names = [f"new{i}" for i in range(some.n_obs)]
    assert statuses(evaluated(model, cells, some))["NK"] == "tuned", "known by what they hold"


def test_without_fingerprints_the_columns_say_it(model, cells):
    predicted = model.counterfactual(cells, to="stimulated")
    del predicted.uns[fingerprints.KEY]
    assert statuses(cellalign.evaluate(predicted, against=cells, **ASKED))["NK"] == "tuned"
    renamed = cells.copy()
    renamed.obs["kind"] = renamed.obs.pop("cell_type")
    predicted.obs["kind"] = predicted.obs["cell_type"]
    result = cellalign.evaluate(predicted, against=renamed, **{**ASKED, "label": "kind"})
    assert statuses(result) == {"B": "predicted", "CD14 Mono": "fitted", "NK": "tuned"}


def test_a_choice_by_other_cells_leaves_them_predicted(cells):
    best, _ = cellalign.tune(cells, grid={"lr": [0.01, 0.001]}, by="loss", holdout=[NK], **SMALL)
    assert best.record.tuned == TunedRecord(by="loss", runs=2)
    assert statuses(evaluated(best, cells))["NK"] == "predicted"


def test_models_and_predictions_of_before_are_read(model, cells):
    plain = model.record.plain()
    del plain["tuned"]
    assert ModelRecord.read(plain).tuned is None
    own = cellalign.train(cells, method="linear", condition="stim", holdout=[NK])
    assert "tuned" not in own.record.plain()
    assert "tuned_on" not in own.counterfactual(cells, to="stimulated").uns["cellalign"]["counterfactual"]


def test_what_is_made_of_the_model_keeps_it(model, cells):
    assert reproduce(model, cells).model.record.tuned == model.record.tuned
    learned = cellalign.train(cells, from_=model, learn="all", epochs=1, holdout=[NK])
    assert statuses(evaluated(learned, cells)) == {"B": "fitted", "CD14 Mono": "fitted", "NK": "tuned"}


def test_baselines_learn_nothing_of_such_cells(model, cells):
    """B's baselines know of the type alone that the model has seen: its change is the mean shift."""
    result = evaluated(model, cells)
    x, obs = cells.X.toarray(), cells.obs
    mean = {
        (kind, stim): x[((obs["cell_type"] == kind) & (obs["stim"] == stim)).to_numpy()].mean(0)
        for kind in ("CD14 Mono", "B")
        for stim in ("control", "stimulated")
    }
    shift = mean["CD14 Mono", "stimulated"] - mean["CD14 Mono", "control"]
    error = np.mean((mean["B", "control"] + shift - mean["B", "stimulated"]) ** 2)
    assert result.value("mse_all", system="mean shift", group="B") == pytest.approx(error, rel=1e-4)


def test_the_report_says_it(cells):
    model = cellalign.tune(cells, grid={"beta": [0.1, 1.0]}, holdout=[NK], **SMALL)[0]
    predicted = model.counterfactual(cells, to="stimulated", where=["cell_type=NK"])
    scores = Scores.of_json(json.loads(cellalign.evaluate(predicted, against=cells, **ASKED).to_json()), "scores")
    found = finding(scores, "")
    assert found.mark.startswith("settings chosen by these cells: ") and found.tone == "care"
    said = section(scores, None, "response", "")
    assert any("with settings chosen by how well" in getattr(block, "caption", "") for block in said.blocks)
    held = [line for line in of_scores(scores) if line.startswith("The settings were chosen by how well NK ")]
    assert len(held) == 1


def test_held_out_cells_take_no_part_in_udr(cells):
    options = {"grid": {"lr": [0.01]}, "by": "udr", "seeds": 2, "holdout": [NK], "method": "beta-vae"}
    options |= {"epochs": 60, "settings": {"hidden": [16], "latent_dim": 2, "beta": 0.1}}
    changed = cells.copy()
    rows = ((cells.obs["cell_type"] == "NK") & (cells.obs["stim"] == "stimulated")).to_numpy()
    counts = changed.layers["counts"].toarray()  # which this method reads
    counts[rows] = counts[rows][:, ::-1]
    changed.layers["counts"] = type(changed.X)(counts)
    one, other = (cellalign.tune(each, **options)[1] for each in (cells, changed))
    assert np.isfinite(one["udr"]).all() and (one["udr"] != 0).all()
    np.testing.assert_array_equal(one["udr"], other["udr"])
