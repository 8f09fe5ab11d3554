"""Every baseline against a plain loop, and what it may know."""

import numpy as np
import pytest

from cellalign.evaluation import baselines as b
from cellalign.evaluation.baselines import Chosen, Groups

G = 40


def groups(n=5, seed=0, places=None):
    rng = np.random.default_rng(seed)
    control, noise = rng.normal(size=(n, G)), 0.1 * rng.normal(size=(n, G))
    treated = control + 1 + rng.normal(size=(n, G))
    names = tuple("abcdefgh"[i] for i in range(n))
    return Groups(names, places or ("",) * n, treated, control, np.stack([control + noise, control - noise]))


def test_mean_matched_nearest_and_local_shift_by_loops():
    of = groups(4, places=("1", "1", "2", "2"))
    of = Groups(("x", "y", "x", "y"), of.places, of.treated, of.control, of.halves)
    control = np.random.default_rng(1).normal(size=G)
    found = b.changes_by_name(control, of, Chosen(2.0, 0.3, 1.0), kind="x", place="1")
    change = [[of.treated[i, g] - of.control[i, g] for g in range(G)] for i in range(4)]
    distance = [sum((of.control[i, g] - control[g]) ** 2 for g in range(G)) ** 0.5 for i in range(4)]
    for g in range(G):
        assert found["mean shift"][g] == pytest.approx(sum(change[i][g] for i in range(4)) / 4)
        assert found["matched mean shift"][g] == pytest.approx(change[2][g]), "x at the other donor"
        assert found["nearest cell type"][g] == pytest.approx(change[int(np.argmin(distance))][g])
        for name, sharpness, shrink in (("local shift", 4, 0), ("shrunk local shift", 2, 0.3)):
            w = [np.exp(-sharpness * d / (sum(distance) / 4)) for d in distance]
            local = sum(w[i] * change[i][g] for i in range(4)) / sum(w)
            deviation = control[g] - sum(w[i] * of.control[i, g] for i in range(4)) / sum(w)
            assert found[name][g] == pytest.approx(local - shrink * deviation)


def test_the_linear_model_is_ridge_regression_of_changes_on_controls():
    of, control = groups(), np.random.default_rng(1).normal(size=G)
    x, y = of.control - of.control.mean(0), of.changes - of.changes.mean(0)
    for ridge in (0.1, 3.0):
        penalty = ridge * np.trace(x @ x.T) / len(of)
        slopes = np.linalg.solve(x.T @ x + penalty * np.eye(G), x.T @ y)  # of G x G, as the equation stands
        expected = of.changes.mean(0) + (control - of.control.mean(0)) @ slopes
        np.testing.assert_allclose(b.linear_model(control, of, ridge), expected, rtol=1e-8)
    np.testing.assert_allclose(b.linear_model(control, of, 1e12), b.mean_shift(of), atol=1e-9)


def test_several_conditions_at_once():
    rng = np.random.default_rng(0)
    control, none = rng.normal(size=G), groups(0)
    conditions = {name: rng.normal(size=G) for name in "abc"}
    found = b.changes_by_name(control, none, Chosen(), conditions=conditions, parts=["a", "b"])
    assert list(found) == ["mean response", "matching mean", "additive"]
    for g in range(G):
        a, other, c = (conditions[name][g] for name in "abc")
        assert found["additive"][g] == pytest.approx((a - control[g]) + (other - control[g]))
        assert found["matching mean"][g] == pytest.approx((a + other) / 2 - control[g])
        assert found["mean response"][g] == pytest.approx((a + other + c) / 3 - control[g])
    half = b.changes_by_name(control, none, Chosen(), conditions=conditions, parts=["a", "z"])
    mean = np.mean(list(conditions.values()), axis=0)
    assert "additive" not in half
    np.testing.assert_allclose(half["matching mean"], (conditions["a"] + mean) / 2 - control)
    assert list(b.changes_by_name(control, none, Chosen(), conditions=conditions, parts=["c"])) == ["mean response"]
    assert b.changes_by_name(control, none, Chosen()) == {}


def test_what_there_are_too_few_groups_for_is_left_out():
    control = np.zeros(G)
    assert list(b.changes_by_name(control, groups(1), Chosen())) == ["mean shift"]
    assert list(b.changes_by_name(control, groups(2), Chosen())) == ["mean shift", "nearest cell type", "local shift"]
    assert len(b.changes_by_name(control, groups(3), Chosen())) == 5
    assert b.choose(groups(2)) == Chosen()


def converging(shrink, noise, n=8, genes=400):
    """Groups that give up a share of their deviation, with controls of so much noise."""
    rng = np.random.default_rng(0)
    centre, deviation, common = rng.normal(size=genes), rng.normal(size=(n, genes)), rng.normal(size=genes)
    halves = centre + deviation + noise * rng.normal(size=(2, n, genes))
    treated = centre + common + (1 - shrink) * deviation + noise * rng.normal(size=(n, genes))
    names = tuple(map(str, range(n)))
    return Groups(names, ("",) * n, treated, halves.mean(0), halves)


def test_shrinkage_is_chosen_where_states_converge_and_not_for_the_noise_of_controls():
    assert b.choose(converging(0.4, 0.1)).shrink == pytest.approx(0.4, abs=0.11)
    assert b.choose(converging(0.0, 1.0)).shrink == 0
    assert b.choose(converging(0.4, 0.1)).ridge < b.choose(converging(0.0, 1.0)).ridge
