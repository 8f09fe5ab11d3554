"""Panel screen: many conditions at once, each between the mean response and one half of the real cells."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.evaluation import screened as cells_of
from cellalign.evaluation.export import beside, for_cell_eval
from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.screen_splits import mean_response
from cellalign.records import Counterfactual, Provenance

FIXTURE = Path(__file__).parents[1] / "fixtures" / "screen" / "screen.npz"
OLD = Path(__file__).parents[1] / "fixtures" / "format1"
ASKED = {"condition": "target", "panels": ["screen"]}
SYSTEMS = ("prediction", "mean response", "split half", "anchored")


def made(data, kind, log=False):
    x = data[kind].astype(np.float32)
    if log:
        x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    labels = data[f"{kind}_labels"]
    names = [f"{kind}{i}" for i in range(len(labels))]
    obs = pd.DataFrame({"target": labels}, index=names)
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=data["genes"]))


@pytest.fixture(scope="module")
def data():
    with np.load(FIXTURE) as found:
        return dict(found)


@pytest.fixture(params=["counts", "log"])
def pair(request, data):
    """Another tool's prediction, with its own control cells, and the real cells."""
    return [made(data, kind, request.param == "log") for kind in ("predicted", "real")]


@pytest.fixture
def counts(data):
    return [made(data, kind) for kind in ("predicted", "real")]


def test_every_score_stands_between_its_anchors(pair):
    predicted, real = pair
    result = cellalign.evaluate(predicted, against=real, **ASKED)
    assert {row.panel for row in result.rows} == {"screen"} and {row.system for row in result.rows} == set(SYSTEMS)
    assert result.value("discrimination", system="mean response") == pytest.approx(0.5, abs=1e-12)
    for metric in scr.SCORES:
        u, b, r, s = (result.value(metric.name, system=name) for name in SYSTEMS)
        if np.isfinite(s):
            assert s == pytest.approx((u - b) / (r - b), rel=1e-9)
    assert result.value("discrimination", system="prediction") > 0.9
    assert any("of 10 conditions are measurable" in note for note in result.notes)
    shown = dict((title, rows) for title, _, rows in result.summary())["screen"]
    assert any("±" in cell for line in shown for cell in line)


def test_it_runs_by_itself_where_there_are_several_conditions(counts):
    predicted, real = counts
    result = cellalign.evaluate(predicted, against=real, condition="target")
    assert {row.panel for row in result.rows} == {"response", "screen"}
    two = predicted[predicted.obs["target"].isin(["G3", "G5"])].copy()
    result = cellalign.evaluate(two, against=real, condition="target")
    assert {row.panel for row in result.rows} == {"response"} and "screen" not in result.left_out
    with pytest.raises(InputError, match="panel screen cannot run: it scores 3 predicted conditions or more, or 3"):
        cellalign.evaluate(two, against=real, **ASKED)


def test_real_cells_score_as_their_halves_do_and_no_change_as_nothing(counts):
    """Another draw of the truth is at 1 within its error, control cells under every name at 0 or below."""
    _, real = counts
    rng = np.random.default_rng(1)
    half = rng.random(real.n_obs) < 0.5
    names = real.obs["target"].to_numpy()
    guess, rest = real[half & (names != "ctrl")].copy(), real[~half | (names == "ctrl")].copy()
    guess.obs_names = [f"other-{name}" for name in guess.obs_names]
    result = cellalign.evaluate(guess, against=rest, **ASKED)
    for name in ("discrimination", "centroid"):
        assert result.value(name, system="anchored") > 0.4
    # halves of half of the cells call hardly a gene: nothing lies between them and the mean response
    assert np.isnan(result.value("de_overlap", system="anchored"))
    assert any("tell a repetition from the mean response by error, direction, de_overlap" in n for n in result.notes)
    parts = []
    for name in sorted(set(names) - {"ctrl"}):
        part = rest[rest.obs["target"] == "ctrl"].copy()
        part.obs["target"] = name
        parts.append(part)
    pasted = ad.concat(parts)
    pasted.obs_names = [f"pasted{i}" for i in range(pasted.n_obs)]
    result = cellalign.evaluate(pasted, against=rest, **ASKED)
    for metric in scr.SCORES:
        found = result.value(metric.name, system="anchored")
        spread = result.value(f"{metric.name}_se", system="anchored")
        assert not found > 2 * spread, metric.name


def test_a_prediction_that_leans_on_its_own_control_gains_nothing(counts):
    """Changes that are the control's noise alone: with one control for both they would be told apart."""
    _, real = counts
    control = real[real.obs["target"] == "ctrl"]
    parts = []
    for name in sorted(set(real.obs["target"]) - {"ctrl"}):
        part = control.copy()
        part.obs["target"] = name
        part.X = sparse.csr_matrix(np.maximum(np.round(2 * np.median(part.X.toarray(), axis=0) - part.X.toarray()), 0))
        parts.append(part)
    leaning = ad.concat(parts, index_unique="-")
    result = cellalign.evaluate(leaning, against=real, **ASKED)
    assert result.value("discrimination", system="prediction") == pytest.approx(0.5, abs=0.12)


def test_each_condition_is_listed_where_asked_for(counts):
    predicted, real = counts
    result = cellalign.evaluate(predicted, against=real, each_condition=True, **ASKED)
    each = [
        result.value("discrimination", system="prediction", group=name) for name in set(real.obs["target"]) - {"ctrl"}
    ]
    assert np.mean(each) == pytest.approx(result.value("discrimination", system="prediction"))
    able = {row.group: row.record()["measurable"] for row in result.rows if row.group != "all"}
    note = next(note for note in result.notes if "are measurable" in note)
    assert note.startswith(
        f"screen: {sum(able.values())} of {len(able)} conditions are measurable as they are scored here"
    )
    assert len(able) == len(each) and "check takes all genes" in note
    assert all("measurable" not in row.record() for row in result.rows if row.group == "all")


def test_the_groups_of_one_condition_are_a_screen_too(counts):
    """Cell types that answer one stimulus each in its own way, each with control cells of its own."""
    predicted, real = counts
    rng = np.random.default_rng(0)
    for cells in (predicted, real):
        kinds = {name: f"type {i % 5}" for i, name in enumerate(sorted(set(cells.obs["target"]) - {"ctrl"}))}
        cells.obs["kind"] = [kinds.get(name, f"type {rng.integers(5)}") for name in cells.obs["target"]]
        cells.obs["stim"] = np.where(cells.obs["target"] == "ctrl", "ctrl", "stim")
    more = real[real.obs["stim"] == "ctrl"].copy()
    more.obs_names = [f"more-{name}" for name in more.obs_names]
    more.obs["kind"] = [f"type {i % 5}" for i in range(more.n_obs)]
    real = ad.concat([real, more])
    asked = {"condition": "stim", "label": "kind", "control": "ctrl"}
    result = cellalign.evaluate(predicted, against=real, panels=["screen"], each_condition=True, **asked)
    assert {row.group for row in result.rows} == {"all", *(f"type {i}" for i in range(5))}
    assert not any(row.panel == "screen" for row in cellalign.evaluate(predicted, against=real, **asked).rows)


def test_cellaligns_own_prediction_of_all_conditions_is_one(tmp_path):
    cells = ad.read_h5ad(OLD / "cells.h5ad")
    model = cellalign.load(OLD / "svae+")
    for more in ({}, {"with_control": True}, {"draws": 1}, {"per_condition": 30}):
        predicted = model.counterfactual(cells, to="all", **more)
        result = cellalign.evaluate(predicted, against=cells, panels=["screen"])
        assert result.value("discrimination", system="mean response") == pytest.approx(0.5)
        response = cellalign.evaluate(predicted, against=cells, panels=["response"])
        assert {row.group for row in response.rows} == {"g1, all", "g2, all", "g3, all", "mean"}


def test_control_cells_in_a_prediction_of_one_condition_are_no_prediction():
    cells = ad.read_h5ad(OLD / "cells.h5ad")
    model = cellalign.load(OLD / "svae+")
    predicted = model.counterfactual(cells, to="g1", with_control=True)
    result = cellalign.evaluate(predicted, against=cells, panels=["response"])
    [pictured] = result.responses
    assert pictured.n_cells["predicted"] == (cells.obs["guide"] == "ctrl").sum() == predicted.n_obs / 2


def test_changes_of_the_prediction_start_from_one_half_and_real_ones_from_the_other(counts):
    predicted, real = counts
    screen = screened_of(predicted, real)
    half, own = screen.halves(np.random.default_rng(0))
    control = np.flatnonzero(real.obs["target"] == "ctrl")
    assert set(half[control]) == {0, 1} and abs((half[control] == 0).sum() - 22) <= 1
    assert (half[real.obs["target"] != "ctrl"] == -1).all()
    for group, mine in zip(screen.groups, own, strict=True):
        assert len(mine) == len(group.real) and abs(int((mine == 0).sum()) * 2 - len(mine)) <= 1


def screened_of(predicted, real, **more):
    """What panel screen reads."""
    from cellalign.evaluation.inputs import Inputs
    from cellalign.evaluation.predictions import of_another_tool
    from cellalign.evaluation.table import Evaluation

    records = of_another_tool(predicted, real, "target", "ctrl")
    return cells_of.screened(
        Inputs(predicted, real, "target", None, "ctrl", {}, 0, Evaluation(), predictions=records, **more)
    )


def test_within_a_plate_controls_count_as_the_real_cells_of_a_condition_are(counts):
    """A plate that shifts every cell shifts no change, however the cells of a condition are spread over plates."""
    predicted, real = counts
    rng = np.random.default_rng(2)
    plate = rng.random(real.n_obs) < 0.5
    rows = np.flatnonzero(real.obs["target"] == "G5")
    plate[rows] = np.arange(len(rows)) < 38  # of 44
    real.obs["plate"] = np.where(plate, "p1", "p2")
    x = real.X.toarray()
    x[plate, :20] *= 4
    real.X = sparse.csr_matrix(x)
    screen = screened_of(predicted, real, within="plate")
    group = next(g for g in screen.groups if g.name == "G5")
    weights = screen.weights(group, group.control)
    of = screen.strata[group.control]
    share = weights[of == screen.strata[rows[0]]].sum() / weights.sum()
    assert share == pytest.approx(38 / 44)
    profile, noise = screen.level(screen.real(group.control), weights, of)
    expected = np.log1p(5e4 * (weights @ x[group.control]) / (weights @ x[group.control]).sum())
    np.testing.assert_allclose(profile, expected)
    assert noise > 0
    plain, within = (
        cellalign.evaluate(predicted, against=real, within=key, each_condition=True, **ASKED) for key in (None, "plate")
    )
    assert within.value("lfc_error", system="prediction") <= plain.value("lfc_error", system="prediction") + 0.1


def test_conditions_of_another_plate_than_all_controls_are_left_out(counts):
    predicted, real = counts
    real.obs["plate"] = np.where(real.obs["target"] == "G5", "p2", "p1")
    result = cellalign.evaluate(predicted, against=real, within="plate", **ASKED)
    assert any("screen skips groups with fewer than 10 cells: G5 (0 real, 0 control)" in note for note in result.notes)
    with pytest.raises(InputError, match="no within column 'donor'"):
        cellalign.evaluate(predicted, against=real, within="donor", **ASKED)


def test_within_needs_a_prediction(tiny):
    tiny.obsm["X_x"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 2))
    with pytest.raises(UsageError, match="within='donor' chooses the controls of a prediction"):
        cellalign.evaluate(tiny, condition="stim", within="donor", k=10)


def test_which_genes_a_condition_targets():
    genes = ["KLF1", "MAP2K6", "Cd4", "IL2"]
    for name, columns in {
        "KLF1": [0],
        "MAP2K6+KLF1": [0, 1],
        "KLF1+ctrl": [0],
        "KLF1g2": [0],
        "klf1_3": [0],
        "CD4-1": [2],
        "drug 10": [],
        "MAP2K": [],
    }.items():
        assert list(cells_of.targeted(name, genes, "control")) == columns, name


def test_the_mean_response_is_the_mean_change_from_each_own_control():
    real, start = np.array([[3.0, 1], [5, 0]]), np.array([[2.0, 1], [2, 2]])
    np.testing.assert_array_equal(mean_response(real, start), [[4, 0], [4, 1]])


# what cannot be compared ----------------------------------------------------------------------------------------------


def several(cells, expression, **changes):
    """The same cells as cellalign's own prediction of every condition."""
    from cellalign.records.provenance import Target

    names = sorted(set(cells.obs["target"]) - {"ctrl"})
    targets = tuple(Target(to=name, from_="ctrl", changes={"target": name}) for name in names)
    said = {"method": "cvae", "condition": "target", "from_": "ctrl", "to": "all", "targets": targets} | changes
    own = cells[cells.obs["target"] != "ctrl"].copy()
    own.uns["cellalign"] = Provenance().with_steps(Counterfactual(expression=expression, **said)).plain()
    return own


@pytest.mark.parametrize("draws", [0, 1])
@pytest.mark.parametrize("panel", ["response", "screen", "de", "intervals"])
def test_of_all_conditions_too_it_refuses_what_cannot_be_compared(data, panel, draws):
    of_panel = {"de": {"written": "draw"}, "intervals": {"interval": 0.9, "groups": "target"}}.get(panel, {})
    log = several(made(data, "predicted", log=True), "log", draws=draws, **of_panel)
    counted = several(made(data, "predicted"), "counts", draws=draws, **of_panel)
    log.layers["lower"] = log.layers["upper"] = log.X.copy()
    asked = {"panels": [panel]}
    with pytest.raises(InputError, match="against holds raw counts .* is not known; normalise"):
        cellalign.evaluate(log, against=made(data, "real"), **asked)
    if panel != "intervals":  # of counts there are none
        with pytest.raises(InputError, match="the prediction is of counts, but against holds none"):
            cellalign.evaluate(counted, against=made(data, "real", log=True), **asked)
    with pytest.raises(InputError, match="against holds cells that cellalign counterfactual predicted"):
        cellalign.evaluate(made(data, "real", log=True), against=log, condition="target", **asked)
    with pytest.raises(InputError, match="against lacks 1 of the predicted genes"):
        cellalign.evaluate(log, against=made(data, "real", log=True)[:, 1:].copy(), **asked)
    broken = log.copy()
    broken.X[3, 4] = np.nan
    with pytest.raises(InputError, match="the prediction's X holds 1 NaN"):
        cellalign.evaluate(broken, against=made(data, "real", log=True), **asked)
    if panel == "intervals":  # which another tool's file does not have
        return
    foreign = log.copy()
    del foreign.uns["cellalign"]
    foreign.X = foreign.X.expm1().multiply(30).log1p().tocsr()
    with pytest.raises(InputError, match="they are not normalised alike"):
        cellalign.evaluate(foreign, against=made(data, "real", log=True), condition="target", control="ctrl", **asked)


def test_another_total_is_brought_to_the_predictions_or_said(data, caplog):
    log, real = several(made(data, "predicted", True), "log"), made(data, "real", log=True)
    log.uns["cellalign"]["preprocess"] = {"step": 1, "version": "", "n_top_genes": 0, "target_sum": 1e4}
    other = real.copy()
    other.X = real.X.expm1().multiply(3).log1p().tocsr()
    with caplog.at_level("WARNING", logger="cellalign"):
        result = cellalign.evaluate(log, against=other, panels=["screen"])
    assert "normalised to 30000 counts a cell; brought to 10000" in caplog.text
    same = cellalign.evaluate(log, against=real, panels=["screen"])
    assert result.value("error", system="prediction") == pytest.approx(
        same.value("error", system="prediction"), rel=0.01
    )


@pytest.mark.parametrize("panel", ["de", "intervals"])
def test_another_total_is_brought_to_the_predictions_for_genes_and_intervals_too(data, caplog, panel):
    of_panel = {"de": {"written": "draw"}, "intervals": {"interval": 0.9, "groups": "target"}}[panel]
    log, real = several(made(data, "predicted", True), "log", **of_panel), made(data, "real", log=True)
    log.layers["lower"], log.layers["upper"] = log.X * 0.5, log.X * 1.5
    log.uns["cellalign"]["preprocess"] = {"step": 1, "version": "", "n_top_genes": 0, "target_sum": 1e4}
    other = real.copy()
    other.X = real.X.expm1().multiply(3).log1p().tocsr()
    with caplog.at_level("WARNING", logger="cellalign"):
        result = cellalign.evaluate(log, against=other, panels=[panel])
    assert "normalised to 30000 counts a cell; brought to 10000" in caplog.text
    same = cellalign.evaluate(log, against=real, panels=[panel])
    assert [(row.system, row.group, row.metric) for row in result.rows] == [
        (row.system, row.group, row.metric) for row in same.rows
    ]
    np.testing.assert_allclose([r.value for r in result.rows], [r.value for r in same.rows], rtol=0.02, atol=0.02)


def test_any_values_are_no_screen(data):
    predicted = several(made(data, "predicted", True), "any")
    with pytest.raises(InputError, match="panel screen cannot run: a screen is of expression"):
        cellalign.evaluate(predicted, against=made(data, "real", True), panels=["screen"])
    assert {row.panel for row in cellalign.evaluate(predicted, against=made(data, "real", True)).rows} == {"response"}


# cell-eval2 -----------------------------------------------------------------------------------------------------------


def test_an_export_has_controls_the_same_genes_and_conditions_and_unique_names(pair):
    predicted, real = pair
    real = real[:, ::-1].copy()
    predicted.obs_names = list(real.obs_names[: predicted.n_obs])  # names that occur among the controls too
    guess, truth = for_cell_eval(predicted, real, condition="target", control="ctrl")
    assert list(guess.var_names) == list(truth.var_names) == list(predicted.var_names)
    assert set(guess.obs["target"]) == set(truth.obs["target"]) == set(real.obs["target"])
    assert guess.obs_names.is_unique and truth.obs_names.is_unique and guess.X.min() >= 0
    for some in (guess, truth):
        own = some[some.obs["target"] == "ctrl"]
        np.testing.assert_array_equal(own.X.toarray(), real[real.obs["target"] == "ctrl"][:, own.var_names].X.toarray())
    assert beside("a/pred.h5ad") == "a/pred.real.h5ad"


def test_what_cell_eval_does_not_read_is_not_exported(counts):
    predicted, real = counts
    asked = {"condition": "target", "control": "ctrl"}
    own = several(predicted, "counts")
    own.X = own.X * 0.5
    with pytest.raises(InputError, match="the prediction holds expected counts"):
        for_cell_eval(own, real)
    with pytest.raises(InputError, match="no cell of against is a control"):
        for_cell_eval(predicted, real[real.obs["target"] != "ctrl"].copy(), **asked)
    other = predicted.copy()
    other.obs["target"] = np.where(predicted.obs["target"] == "ctrl", "ctrl", "unheard of")
    with pytest.raises(InputError, match="against has no cell of a predicted condition"):
        for_cell_eval(other, real, **asked)


@pytest.mark.filterwarnings("ignore")
def test_cell_eval2_reads_an_export(pair, tmp_path):
    pytest.importorskip("cell_eval2", reason="cell-eval2 is not installed (extra screen)")
    from cell_eval2 import compute_metrics

    predicted, real = pair
    paths = [tmp_path / "pred.h5ad", tmp_path / "real.h5ad"]
    for some, path in zip(for_cell_eval(predicted, real, condition="target", control="ctrl"), paths, strict=True):
        some.write_h5ad(path)
    kind = "counts" if predicted.X.max() > 20 else "lognorm"
    found = compute_metrics(
        *map(str, paths), metrics=["pds_cosine"], pert_col="target", control="ctrl", input_type=kind
    )
    assert found["value"].is_finite().all() and len(found) == 10


def test_a_screen_says_what_the_model_has_seen(data):
    """Of trained conditions a fit was called a prediction, with a discrimination of 1."""
    from cellalign.data import fingerprints

    real = made(data, "real", log=True)
    names = sorted(set(real.obs["target"]) - {"ctrl"})
    predicted = several(made(data, "predicted", log=True), "log")

    def said(seen):
        trained = real[real.obs["target"].isin(seen)].copy()
        predicted.uns |= fingerprints.written(fingerprints.of_matrix(trained.X), real.var_names)
        notes = cellalign.evaluate(predicted, against=real, panels=["screen"]).notes
        return [note.removeprefix("screen: ") for note in notes if "trained" in note or "training" in note]

    assert said(names) == ["fitted, not predicted (the model was trained on these cells)"]
    one, rest = names[0], names[1:]
    found = said([one])
    assert f"fitted, not predicted (the model was trained on {one})" in found
    assert any(note.startswith("held out in training: ") and rest[0] in note for note in found)
