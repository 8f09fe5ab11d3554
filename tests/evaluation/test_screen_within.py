"""Panel screen with `within`: what batches differ in is no effect, in profiles and in DE genes alike."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.evaluation import screened as cells_of
from cellalign.evaluation.inputs import Inputs
from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.panels.screen import Screen
from cellalign.evaluation.predictions import of_another_tool
from cellalign.evaluation.screen_scores import Scores
from cellalign.evaluation.screen_splits import _expressed, _Split, mean_response, scored
from cellalign.evaluation.table import Evaluation

NAMES, GENES = [f"drug {i}" for i in range(4)], 250
ASKED = {"condition": "target", "control": "ctrl", "panels": ["screen"], "within": "batch"}


def design(fold=1.0, shares=(0.9, 0.9, 0.9, 0.9), seed=0):
    """Predicted and real counts; controls are of batch b0 mostly, conditions mostly of b1; of each 30 genes change."""
    rng = np.random.default_rng(seed)
    base, shift = rng.gamma(1, 3, GENES) + 0.2, np.exp(rng.normal(0, 0.5, GENES))

    def cells(name, n, share, changed=()):
        batch = rng.random(n) < share
        rate = base * np.where(batch[:, None], shift, 1) * rng.gamma(20, 1 / 20, n)[:, None]
        rate[:, list(changed)] *= fold
        return rng.poisson(rate), [name] * n, np.where(batch, "b1", "b0")

    def together(parts, prefix):
        x, names, batches = zip(*parts, strict=True)
        obs = pd.DataFrame({"target": np.concatenate(names), "batch": np.concatenate(batches)})
        obs.index = [f"{prefix}{i}" for i in range(len(obs))]
        var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
        return ad.AnnData(sparse.csr_matrix(np.vstack(x).astype(np.float32)), obs=obs, var=var)

    real, predicted = (
        [
            cells(name, 150, share, range(20 * i, 20 * i + 30))
            for i, (name, share) in enumerate(zip(NAMES, shares, strict=True))
        ]
        for _ in range(2)
    )
    return together(predicted, "p"), together([cells("ctrl", 400, 0.2), *real], "r")


def screen_of(predicted, real):
    records = of_another_tool(predicted, real, "target", "ctrl")
    inputs = Inputs(predicted, real, "target", None, "ctrl", {}, 0, Evaluation(), predictions=records, within="batch")
    return cells_of.screened(inputs), inputs


def tables(predicted, real):
    """DE of every group, by system, of one split."""
    cells, _ = screen_of(predicted, real)
    rng = np.random.default_rng(0)
    half, own = cells.halves(rng)
    split = _Split(cells, half, own, _expressed(cells), rng)
    split.changes(Scores())
    return split, [split._tables(group, mine) for group, mine in zip(cells.groups, split.real, strict=True)]


@pytest.mark.parametrize("known", [True, False], ids=["own batches", "unknown batches"])
def test_a_batch_is_no_effect(known):
    predicted, real = design(seed=3)
    if not known:
        del predicted.obs["batch"]
    _, found = tables(predicted, real)
    for system in ("guess", "truth", "a", "b"):
        table = [each[system] for each in found]
        assert np.mean([each.significant(np.array([], int)).mean() for each in table]) < 0.01, system
        assert np.mean([(each.p[each.tested] < 0.05).mean() for each in table]) < 0.07, system
    changes = [
        (each["guess"].change[each["guess"].tested], each["truth"].change[each["guess"].tested]) for each in found
    ]
    assert abs(np.mean([np.corrcoef(*each)[0, 1] for each in changes])) < 0.2
    result = cellalign.evaluate(predicted, against=real, **ASKED)
    assert result.value("direction", system="prediction") < 0.2  # of one gene or two that are called
    assert np.isnan(result.value("lfc_error", system="prediction"))  # of 10 DE genes or more, which are nowhere
    said = [note for note in result.notes if "without a 'batch' of the real ones" in note]
    assert len(said) == (not known)


@pytest.mark.parametrize("known", [True, False], ids=["own batches", "unknown batches"])
def test_an_effect_of_both_batches_is_found(known):
    predicted, real = design(fold=1.8)
    if not known:
        del predicted.obs["batch"]
    _, found = tables(predicted, real)
    for i, each in enumerate(found):
        changed = np.isin(np.arange(GENES), range(20 * i, 20 * i + 30))
        for system in ("guess", "truth"):
            there = each[system].significant(np.array([], int))
            assert there[changed & each[system].tested].mean() > 0.6, system
            assert there[~changed].mean() < 0.1, system  # of a million counts the others have fewer
            assert each[system].change[changed].mean() == pytest.approx(np.log2(1.8), abs=0.2)
    result = cellalign.evaluate(predicted, against=real, **ASKED)
    assert result.value("direction", system="prediction") > 0.7
    assert result.value("de_overlap", system="prediction") > 0.4
    assert result.value("lfc_error", system="prediction") < 0.45


def test_a_prediction_of_other_batches_than_the_real_cells_has_no_effect_either():
    """Its cells say which they are of: its control is composed as it is, not as the real cells are."""
    predicted, _ = design(shares=(0.3, 0.3, 0.3, 0.3), seed=1)
    _, real = design(seed=1)
    predicted.obs.loc[predicted.obs_names[::7], "batch"] = "b9"  # of which there are no controls
    split, found = tables(predicted, real)
    assert np.mean([(each["guess"].p < 0.05).mean() for each in found]) < 0.1
    for group in split.cells.groups:
        rows = split.mine(group)
        assert set(predicted.obs["batch"].iloc[rows]) == {"b0", "b1"}
        of = split.composed(group, rows)
        np.testing.assert_array_equal(np.bincount(of), np.bincount(split.cells.places[rows]))


def test_each_condition_has_a_mean_response_of_its_own_proportions():
    predicted, real = design(fold=1.8, shares=(0.9, 0.1, 0.5, 0.7))
    split, found = tables(predicted, real)
    cells = split.cells
    starts = [split.start(g, 0, cells.strata[mine[0]])[0] for g, mine in zip(cells.groups, split.real, strict=True)]
    others = [split.start(group, 1, cells.strata[group.real])[0] for group in cells.groups]
    reals = [cells.level(cells.real(g.real))[0] for g in cells.groups]
    whole = (np.stack(starts) + np.stack(others)) / 2
    expected = mean_response(np.stack(reals), whole, np.stack(starts))
    for group, mean, start, each in zip(cells.groups, expected, starts, found, strict=True):
        fold = np.expm1(mean) / np.maximum(np.expm1(start), 1e-9)
        np.testing.assert_allclose(split.fold[group.name], fold)
        changed = np.log2(fold)[each["mean"].tested]
        assert np.corrcoef(changed, each["mean"].change[each["mean"].tested])[0, 1] > 0.8
    assert len({id(each["mean"]) for each in found}) == len(cells.groups)


def test_controls_in_proportion_are_as_many_as_there_are():
    control, of = np.repeat([0, 1, 3], [80, 20, 5]), np.repeat([0, 1, 2], [10, 90, 7])
    rows = cells_of.in_proportion(control, of, np.random.default_rng(0))
    assert np.bincount(control[rows]).tolist() == [2, 20] and len(set(rows)) == 22
    assert len(cells_of.in_proportion(control, np.array([2, 2]), np.random.default_rng(0))) == 0
    weights = cells_of.proportions(control, of)
    assert weights[control == 1].sum() / weights.sum() == pytest.approx(0.9)


def test_it_is_the_same_for_the_same_seed():
    predicted, real = design()
    del predicted.obs["batch"]
    cells, inputs = screen_of(predicted, real)
    one, other = (scored(cells, inputs.seed) for _ in range(2))
    for metric in scr.SCORES:
        for system in ("prediction", "mean response", "split half"):
            values = [each.of(system, metric).values(np.arange(4)[None]) for each in (one, other)]
            np.testing.assert_array_equal(*values)
    assert Screen().concerns(inputs)
