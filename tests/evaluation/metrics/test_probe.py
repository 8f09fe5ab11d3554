"""Probes tell what follows from the latents, and what does not."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from cellalign.evaluation.metrics import probe
from cellalign.evaluation.metrics.probe import (
    CLASSIFIERS,
    OF_CONDITION,
    OF_LABEL,
    OF_NUMBER,
    REGRESSIONS,
    probes,
    regressions,
)


@pytest.fixture
def latents():
    """600 cells: z's first column gives a class, its second a number, a third is noise."""
    rng = np.random.default_rng(0)
    kind, dose = rng.integers(0, 2, 600), rng.uniform(size=600)
    return np.stack([3 * kind + rng.normal(size=600), dose + 0.1 * rng.normal(size=600), rng.normal(size=600)], 1), (
        kind,
        dose,
    )


def test_classes(latents):
    z, (kind, _) = latents
    scores = probes(z, kind)
    assert scores.pop("majority") == pytest.approx(max(kind.mean(), 1 - kind.mean()))
    assert min(scores.values()) > 0.85
    assert max(v for k, v in probes(z[:, 2:], kind).items() if k != "majority") < 0.6


def test_numbers(latents):
    z, (_, dose) = latents
    scores = regressions(z[:, 1:2], dose)
    # the signal's share of the variance: (1/12) / (1/12 + 0.01)
    assert scores["linear regression R2"] == pytest.approx(0.89, abs=0.02)
    assert min(scores.values()) > 0.8
    assert max(regressions(z[:, 2:], dose).values()) < 0.05


def test_what_is_computed_is_what_is_declared(latents):
    z, (kind, dose) = latents
    assert list(probes(z, kind)) == [*CLASSIFIERS, "majority"] == [metric.name for metric in OF_CONDITION]
    assert [metric.name for metric in OF_LABEL] == list(probes(z, kind))
    assert list(regressions(z, dose)) == list(REGRESSIONS) == [metric.name for metric in OF_NUMBER]
    # the same classifier is read the other way round where it is asked for the condition
    assert {str(metric.better) for metric in OF_CONDITION} == {"towards majority", "none"}
    assert {str(metric.better) for metric in OF_LABEL} == {"up", "none"}
    assert {str(metric.better) for metric in OF_NUMBER} == {"towards 0"}


@pytest.mark.slow
def test_of_many_conditions_some_are_trained_under_and_all_are_tested(monkeypatch):
    monkeypatch.setattr(probe, "ALL_TRAINED", 3)
    rng = np.random.default_rng(0)
    condition, label = np.repeat([f"g{i}" for i in range(6)], 20), np.tile(["a", "b"], 60)
    z = rng.normal(size=(120, 3)) + 3 * (label == "a")[:, None]
    found = probe.cross_condition(z, condition, label)
    assert (found.n_trained, found.n_conditions, len(found.scores)) == (3, 6, 15)
    assert {tested for _, tested in found.scores} == set(condition)
    assert found.mean > 0.9 and set(found.by_trained()) == {trained for trained, _ in found.scores}
    np.testing.assert_allclose(np.mean(list(found.by_trained().values())), found.mean)
    again = probe.cross_condition(z, condition, label)
    assert again == found and probe.cross_condition(z, condition, label, 1).scores.keys() != found.scores.keys()


@pytest.mark.slow
def test_each_pair_is_scored_as_by_itself():
    """One prediction of all conditions' cells gives what one for each pair gives, also where labels are not shared."""
    rng = np.random.default_rng(0)
    condition, label = (
        np.array(["a", "b", "c -> d"])[rng.integers(0, 3, 150)],
        np.array(list("xyzw"))[rng.integers(0, 4, 150)],
    )
    label[(condition == "a") & (label == "x")] = "y"
    label[condition == "b"] = np.where(label[condition == "b"] == "w", "x", label[condition == "b"])
    z = rng.normal(size=(150, 4)) + 2 * (label == "y")[:, None]
    found, ever = probe.cross_condition(z, condition, label), np.zeros(150, dtype=bool)
    for (trained, tested), value in found.scores.items():
        rows = condition == trained
        shared = np.intersect1d(label[rows], label[condition == tested])
        others = (condition == tested) & np.isin(label, shared)
        forest = RandomForestClassifier(200, random_state=0).fit(z[rows], label[rows])
        assert value == pytest.approx(np.mean(forest.predict(z[others]) == label[others]))
        assert found.n_tested[trained, tested] == others.sum()
        ever |= others
    assert found.n_cells == ever.sum()
    assert found.n_by_trained()["a"] == found.n_tested["a", "b"] + found.n_tested["a", "c -> d"]


def test_conditions_that_share_no_two_labels_are_not_tested():
    condition, label = np.repeat(["a", "b", "c"], 20), np.tile(["x", "y"], 30)
    label[condition == "c"] = "z"
    found = probe.cross_condition(np.random.default_rng(0).normal(size=(60, 2)), condition, label)
    assert set(found.scores) == {("a", "b"), ("b", "a")} and found.n_cells == 40


def test_of_a_number_that_cannot_be_told_there_is_no_score():
    z = np.random.default_rng(0).normal(size=(20, 3))
    assert probe.regressions(z[:2], np.arange(2.0)) == {} == probe.regressions(z, np.ones(20))
    assert set(probe.regressions(z[:3], np.arange(3.0))) == set(probe.REGRESSIONS)
