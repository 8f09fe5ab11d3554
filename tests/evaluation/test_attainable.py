"""Predictions whose distribution is the true one, or whose change is, and cells without any change."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from support import counterfactual_record

import cellalign
from cellalign.evaluation.compared import CellType
from cellalign.evaluation.scored import Genes, score

N, G, TYPES = 300, 400, ("a", "b", "c")


def counts_of(rng, mean, n=N):
    """Negative binomial counts [n, G] of inverse dispersion 1, cells of unlike depth."""
    depth = rng.lognormal(0, 0.3, size=(n, 1))
    return rng.poisson(rng.gamma(1, mean * depth)), mean * depth


@pytest.fixture(scope="module")
def experiment():
    """Real counts of three types, which respond unlike, and the true means and depths of other stimulated cells."""
    rng = np.random.default_rng(0)
    parts, obs, drawn, expected = [], [], [], []
    common = rng.normal(size=G)
    for kind in TYPES:
        mean = rng.lognormal(-1, 1.5, size=G)
        shifted = mean * np.exp(0.5 * (common + rng.normal(size=G)))
        for stim, m in (("control", mean), ("stimulated", shifted)):
            parts.append(counts_of(rng, m)[0])
            obs += [(stim, kind)] * N
        counts, of = counts_of(rng, shifted)
        drawn.append(counts)
        expected.append(of)
    frame = pd.DataFrame(obs, columns=["stim", "cell_type"])
    frame.index = [f"c{i}" for i in range(len(frame))]
    real = ad.AnnData(sparse.csr_matrix(np.concatenate(parts).astype(np.float32)), obs=frame)
    source = real[real.obs["stim"] == "control"].copy()
    source.layers["source"] = source.X.copy()
    source.X = np.concatenate(expected).astype(np.float32)
    source.layers["drawn"] = sparse.csr_matrix(np.concatenate(drawn).astype(np.float32))
    source.obs["stim"] = "stimulated"
    source.uns["cellalign"] = counterfactual_record(expression="counts", method="scvi")
    return source, real


def scored(predicted, real):
    return cellalign.evaluate(predicted, against=real, condition="stim", label="cell_type")


def test_the_true_distribution_of_counts_beats_every_baseline(experiment):
    result = scored(*experiment)
    prediction = {row.metric: row.value for row in result.rows if (row.system, row.group) == ("prediction", "mean")}
    for system in ("no change", "mean shift"):
        for row in result.rows:
            if (row.system, row.group) == (system, "mean") and row.better in ("up", "down"):
                ours, theirs = prediction[row.metric], row.value
                assert ours > theirs if row.better == "up" else ours < theirs, (system, row.metric)
    assert abs(prediction["energy"]) < 0.05


def test_the_log_of_expected_counts_is_said_to_be_another_number(experiment):
    predicted, real = experiment
    bare = predicted.copy()
    del bare.layers["drawn"]
    result, drawn = scored(bare, real), scored(predicted, real)
    assert any("holds expected counts and no draws" in note for note in result.notes)
    ours, theirs = (each.value("mse_all", system="prediction", group="mean") for each in (drawn, result))
    assert ours < theirs / 3
    assert not any("expected counts" in note for note in drawn.notes)


def test_predicted_counts_hold_draws(tiny):
    model = cellalign.train(tiny, method="scvi", batch=["stim"], epochs=1, seed=0)
    predicted = model.counterfactual(tiny, to={"stim": "stimulated"})
    drawn = predicted.layers["drawn"]
    assert sparse.issparse(drawn) and drawn.shape == predicted.shape
    assert (drawn.data == np.round(drawn.data)).all() and drawn.sum() > 0
    total = np.asarray(drawn.sum(1)).ravel()
    assert np.corrcoef(total, predicted.X.sum(1))[0, 1] > 0.5


def cell_type(seed, effect=0.0, n=60, genes=1500, n_real=None):
    """Control, real and predicted cells of one type; the prediction is each control cell plus the true change."""
    rng = np.random.default_rng(seed)
    mean, change = rng.gamma(2, 1, size=genes), effect * rng.normal(size=genes)
    control = mean + rng.normal(size=(n, genes))
    real = mean + change + rng.normal(size=(n_real or n, genes))
    return CellType("t", control + change, real, control, np.arange(n)), change


@pytest.mark.parametrize(
    ("n", "n_real", "effect"),
    [
        (60, 60, 0.3),
        (40, 400, 0.3),
        *(pytest.param(*of, marks=pytest.mark.slow) for of in ((60, 60, 0.1), (600, 60, 0.3), (200, 200, 0.3))),
    ],
)
def test_an_oracle_reaches_what_is_attainable_and_does_not_pass_it(n, n_real, effect):
    passed = {"r_change_all": [], "r_change_de": []}
    for seed in range(6):
        cells, _ = cell_type(seed, effect, n, n_real=n_real)
        scores = score(cells, Genes.of(cells.control, cells.real, False), seed).values
        for metric, beyond in passed.items():
            beyond.append(scores["prediction"][metric] - scores["attainable"][metric])
            assert scores["prediction"][metric] > scores["split half"][metric]
    for metric, beyond in passed.items():
        error = np.std(beyond) / np.sqrt(len(beyond))
        assert abs(np.mean(beyond)) <= 3 * error + 0.005, (metric, beyond)


def test_no_change_where_there_is_one_counts_as_nothing_known():
    """A method that left hard groups alone was scored over the others only."""
    cells, _ = cell_type(0, effect=0.3)
    same = CellType("t", cells.control, cells.real, cells.control, cells.source)
    found = score(same, Genes.of(cells.control, cells.real, True), 0)
    correlations = {name: value for name, value in found.values["prediction"].items() if name.startswith("r_change")}
    assert set(correlations.values()) == {0.0} and len(correlations) == 4
    assert found.values["prediction"]["direction_de"] == 0.5 and not found.changed
    assert not any(name.startswith("r_change") for name in found.values["no change"])
    assert score(cells, Genes.of(cells.control, cells.real, False), 0).changed


def test_cells_without_a_response_have_no_reproducible_change():
    halves, attainable, of_noise = [], [], []
    for seed in range(6):
        cells, _ = cell_type(seed)
        noise = np.random.default_rng(seed + 100).normal(size=cells.real.shape[1])
        guessed = CellType("t", cells.control + noise, cells.real, cells.control, cells.source)
        scores = score(guessed, Genes.of(cells.control, cells.real, True), seed).values
        halves.append([scores["split half"][name] for name in ("r_change_all", "r_change_de", "r_change_de100")])
        of_noise.append([scores["prediction"][name] for name in ("r_change_all", "r_change_de", "r_change_de100")])
        attainable.append(scores["attainable"]["r_change_all"])
    assert np.abs(np.mean(halves, axis=0)).max() < 0.1
    assert np.abs(np.mean(of_noise, axis=0)).max() < 0.2  # sd 0.06
    assert np.mean(attainable) < 0.25


def test_what_leans_on_the_noise_of_its_own_control_gains_nothing():
    gained = []
    for seed in range(3):
        cells, change = cell_type(seed, effect=0.3)
        own = cells.control.mean(0)
        leaning = CellType(
            "t", cells.control + change - 0.4 * (own - own.mean()), cells.real, cells.control, cells.source
        )
        genes = Genes.of(cells.control, cells.real, False)
        of = [score(each, genes, seed).values["prediction"]["r_change_all"] for each in (leaning, cells)]
        gained.append(of[0] - of[1])
    assert np.mean(gained) < 0


def test_a_prediction_starts_from_its_own_sources_whatever_the_order():
    cells, change = cell_type(0, effect=0.3)
    order = np.random.default_rng(1).permutation(len(cells.control))[:40]
    some = CellType("t", cells.control[order] + change, cells.real, cells.control, order)
    for split in some.splits(0):
        assert not set(split.start) & set(split.other)
        assert np.allclose(some.predicted_change(split), change)
    strangers = CellType("t", cells.control + change, cells.real, cells.control, np.full(60, -1), start=cells.control)
    assert np.allclose(strangers.predicted_change(next(strangers.splits(0))), change)
