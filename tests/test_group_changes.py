"""Changes in closed form against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellalign.group_changes import (
    Known,
    LeftOut,
    Setting,
    agreed,
    changes,
    columns_asked,
    likeness,
    local_shift,
    others,
    soft_choice,
)


def by_loops(control, controls, changes, sharpness, shrink):
    distance = [math.sqrt(sum((a - b) ** 2 for a, b in zip(control, row, strict=True))) for row in controls]
    scale = sum(distance) / len(distance)
    raw = [math.exp(-sharpness * d / scale) for d in distance]
    found = []
    for g in range(len(control)):
        change = sum(w * row[g] for w, row in zip(raw, changes, strict=True)) / sum(raw)
        near = sum(w * row[g] for w, row in zip(raw, controls, strict=True)) / sum(raw)
        found.append(change - shrink * (control[g] - near))
    return found


@pytest.mark.parametrize(("sharpness", "shrink"), [(0.0, 0.0), (4.0, 0.0), (4.0, 0.2), (8.0, 0.4)])
def test_local_shift_is_its_formula(sharpness, shrink):
    rng = np.random.default_rng(0)
    control, controls, changes = rng.normal(size=7), rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    found = local_shift(control, controls, changes, sharpness=sharpness, shrink=shrink)
    np.testing.assert_allclose(found, by_loops(control, controls, changes, sharpness, shrink), atol=1e-12)
    if sharpness == shrink == 0:
        np.testing.assert_allclose(found, changes.mean(0))


def test_several_groups_at_once_and_one_group_alone():
    rng = np.random.default_rng(1)
    many, controls, changes = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    each = [local_shift(row, controls, changes, shrink=0.2) for row in many]
    np.testing.assert_allclose(local_shift(many, controls, changes, shrink=0.2), each)
    np.testing.assert_allclose(likeness(many, controls).sum(-1), 1)
    # the only other group, even at no distance, counts whole
    np.testing.assert_allclose(local_shift(controls[0], controls[:1], changes[:1]), changes[0])


def test_changes_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    known = Known(
        rng.random((4, 6)), rng.random((4, 6)), rng.random((4, 2)), np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    )
    own, values = rng.random(6), np.array([0, -1])
    settings = [Setting(3, 0.2, 0.5, 1.0), Setting(0, 0, 1, 0), Setting(4, 0.4, 1, 2)]
    found = changes(own, values, known, settings)
    between = sum(np.var([known.treated[i, g] - known.controls[i, g] for i in range(4)], ddof=1) for g in range(6))
    between -= np.mean([sum(each) for each in known.noise])
    reliable = [1 / (max(between, 0.1 * known.noise.sum() / 4) + sum(each)) for each in known.noise]
    distance = [math.dist(own, each) for each in known.controls]
    for row, s in enumerate(settings):
        scale = np.mean(distance)
        weight = [math.exp(-s.sharpness * d / scale + s.kinship * (i < 2)) for i, d in enumerate(distance)]
        weight = [w * r for w, r in zip(weight, reliable, strict=True)]
        for g in range(6):
            before = sum(w * known.controls[i, g] for i, w in enumerate(weight)) / sum(weight)
            after = sum(w * known.treated[i, g] for i, w in enumerate(weight)) / sum(weight)
            a, b, t = (math.log(math.exp(v) - 1 + s.offset) for v in (own[g], before, after))
            expected = math.log(1 + max(0, math.exp(a + t - b - s.shrink * (a - b)) - s.offset)) - own[g]
            if s.offset == 1:
                expected = t - b - s.shrink * (a - b)
            assert found[row, g] == pytest.approx(expected, abs=1e-9)


def test_what_leans_on_the_noise_of_its_own_control_gains_nothing():
    """Groups that differ by noise alone: with a shared control shrinking looks like a gain, with halves it is none."""
    rng, genes, n = np.random.default_rng(0), 400, 8
    settings = [Setting(0, b, 1, 0) for b in (0, 0.2, 0.4)]
    noisy = rng.standard_normal((2, n, genes)) * 0.1  # of both halves
    treated = 1 + 0.3 * rng.standard_normal(genes) + 0.05 * rng.standard_normal((n, genes))
    whole = 1 + noisy.mean(0)
    best = {}
    for name, start, end in (("shared", whole, whole), ("halves", 1 + noisy[0], 1 + noisy[1])):
        errors = []
        for i in range(n):
            rest = np.arange(n) != i
            known = Known(whole[rest], treated[rest], np.full((n - 1, 2), 0.01), np.zeros((n - 1, 1), int))
            left = LeftOut((treated[i] - end[i])[None], changes(start[i], np.zeros(1, int), known, settings)[None])
            errors.append(left.errors())
        best[name] = settings[np.mean(errors, 0).argmin()].shrink
    assert best == {"shared": 0.4, "halves": 0}


def test_the_error_of_an_average_follows_from_products():
    rng = np.random.default_rng(6)
    left = LeftOut(rng.normal(size=(3, 20)), rng.normal(size=(3, 4, 20)))
    share = np.array([0.4, 0.3, 0.2, 0.1])
    mixed = LeftOut(left.truth, (share @ left.predicted)[:, None]).errors()[0]
    np.testing.assert_allclose(share @ left.products() @ share, mixed)
    np.testing.assert_allclose(left.products().diagonal(), left.errors())


def test_groups_choose_softly_when_they_are_few():
    errors = np.tile([1.0, 1.1, 2.0], (2, 1)) + [[0.3, 0, 0], [0, 0, 0]]
    many = np.tile(errors, (20, 1))
    few, sure = soft_choice(errors), soft_choice(many)
    assert few.sum() == pytest.approx(1) and few[1] > few[0] > few[2]
    assert sure[2] == 0 and sure.max() > few.max()
    np.testing.assert_allclose(soft_choice(errors[:1]), 1 / 3)
    np.testing.assert_allclose(soft_choice(np.ones((5, 4))), 1 / 4)


def test_what_is_left_out_is_what_is_asked_for():
    values = np.array([[t, d] for t in range(3) for d in range(2)])
    known = Known(*(np.zeros((6, 2)),) * 2, np.zeros((6, 2)), values)
    assert columns_asked(np.array([[0, 2], [1, 2]]), np.array([5, 9]), values) == [1]
    assert columns_asked(np.array([[0, 2], [3, 1]]), np.array([5, 9]), values) == [0]
    assert columns_asked(values[:2], np.ones(2, int), values) == []
    assert columns_asked(values[:0], np.ones(0, int), values) == []
    # what is not known is no value that anybody asks for, however many cells lack it
    assert columns_asked(np.array([[0, 2], [-1, 0], [-1, 1]]), np.array([5, 90, 90]), values) == [1]
    assert columns_asked(np.array([[-1, 2], [0, 0]]), np.array([5, 3]), values) == [1]
    assert others(known, 0, []).tolist() == [False] + [True] * 5
    assert others(known, 0, [1]).tolist() == [False, True] * 3
    assert others(known, 0, [0]).tolist() == [False, False] + [True] * 4
    assert others(known.among(np.array([0, 2, 4])), 0, [1]).tolist() == [False, True, True]  # of one donor all would go


def test_regression_on_components_is_that_of_numpy():
    rng = np.random.default_rng(1)
    controls, treated = rng.random((5, 30)), rng.random((5, 30))
    known = Known(controls, treated, np.ones((5, 2)), np.zeros((5, 1), int))
    own = rng.random(30)
    found = changes(own, np.zeros(1, int), known, [Setting(0, 0, 1, 0, 2, 0.3), Setting(0, 0, 1, 0, 3, 1e9)])
    spread, change = controls - controls.mean(0), treated - controls
    _, _, vt = np.linalg.svd(spread, full_matrices=False)
    z = spread @ vt[:2].T
    slope = np.linalg.solve(z.T @ z + 0.3 * (z**2).sum() / 5 * np.eye(2), z.T @ (change - change.mean(0)))
    np.testing.assert_allclose(found[0], change.mean(0) + (own - controls.mean(0)) @ vt[:2].T @ slope, atol=1e-9)
    np.testing.assert_allclose(found[1], change.mean(0), atol=1e-6)
    alone = Known(controls[:1], treated[:1], np.ones((1, 2)), np.zeros((1, 1), int))
    np.testing.assert_allclose(changes(own, np.zeros(1, int), alone, [Setting(0, 0, 1, 0, 3, 1)])[0], change[0])


@pytest.mark.parametrize("doubt", [0.5, 1.0, 2.0])
def test_a_change_is_believed_by_its_error_between_groups(doubt):
    rng = np.random.default_rng(2)
    each, weights = rng.normal(size=(5, 9)), rng.random(5)
    weights /= weights.sum()
    change = weights @ each
    alone = sum(w**2 for w in weights)
    errors = []
    for g in range(9):
        mean = sum(w * row[g] for w, row in zip(weights, each, strict=True))
        spread = sum(w * (row[g] - mean) ** 2 for w, row in zip(weights, each, strict=True))
        errors.append(spread * alone / (1 - alone))
    least = sorted(errors)[4]
    expected = [c**4 / (c**4 + (doubt * max(e, least)) ** 2) for c, e in zip(change, errors, strict=True)]
    np.testing.assert_allclose(agreed(change, each, weights, doubt), expected, atol=1e-12)
    for scale in (1e-9, 1e9):  # in whatever units
        np.testing.assert_allclose(agreed(scale * change, scale * each, weights, doubt), expected, atol=1e-12)
    assert np.isfinite(agreed(0 * change, each, weights, doubt)).all()


def test_the_error_of_a_mean_of_groups_is_unbiased():
    """Drawn again and again, the variance of a weighted mean is what one draw says of it, on average."""
    rng = np.random.default_rng(3)
    weights = np.array([0.5, 0.2, 0.2, 0.1])
    each = rng.normal(size=(4, 200_000))
    alone = (weights**2).sum()
    said = (weights @ each**2 - (weights @ each) ** 2) * alone / (1 - alone)
    assert said.mean() == pytest.approx((weights @ each).var(), rel=0.02)


def test_how_far_a_change_is_believed_does_not_depend_on_units():
    """Of columns of any unit (a table that is not standardised, small fractions) each is judged in its own."""
    rng = np.random.default_rng(5)
    each, weights = 1 + rng.normal(size=(4, 8)) * 0.1, np.full(4, 0.25)
    spread = rng.uniform(0.5, 2, 8)
    alike = agreed(weights @ each, each, weights, units=spread)
    assert alike.min() > 0.9
    for unit in (np.where(np.arange(8) % 4, 50.0, 1.0), np.full(8, 1e-7)):
        found = agreed(weights @ (each * unit), each * unit, weights, units=spread * unit)
        np.testing.assert_allclose(found, alike, rtol=1e-9)
    # of a unit that is not known a gene is judged by its own groups
    own = agreed(weights @ each, each, weights, units=np.zeros(8))
    np.testing.assert_array_equal(own, [agreed(weights @ e[:, None], e[:, None], weights)[0] for e in each.T])
    np.testing.assert_array_equal(agreed(np.zeros(8), np.zeros((4, 8)), weights, units=np.zeros(8)), 0)


def test_genes_that_do_not_respond_are_told_from_those_that_do():
    """Few of many genes respond: drawn to none where groups do not agree, the change is nearer to the truth."""
    rng, n, genes = np.random.default_rng(4), 6, 500
    truth = np.where(np.arange(genes) < 50, rng.normal(size=genes), 0)
    noise = rng.normal(size=(n, genes)) * 0.3
    known = Known(np.ones((n, genes)), 1 + truth + noise, np.full((n, 2), 1.0), np.zeros((n, 1), int))
    plain, doubted = changes(
        np.ones(genes), np.zeros(1, int), known, [Setting(0, 0, 1, 0), Setting(0, 0, 1, 0, doubt=1)]
    )
    assert ((doubted - truth) ** 2).mean() < 0.6 * ((plain - truth) ** 2).mean()
    strong = np.abs(truth) > 0.6
    np.testing.assert_allclose(doubted[strong], plain[strong], rtol=0.1)
    # where every gene responds alike in every group nothing is taken away, and one group alone is believed
    sure = Known(np.ones((n, genes)), np.tile(1 + truth, (n, 1)), np.full((n, 2), 1.0), np.zeros((n, 1), int))
    one = sure.among(np.array([0]))
    for which in (sure, one):
        found = changes(np.ones(genes), np.zeros(1, int), which, [Setting(0, 0, 1, 0, doubt=1)])[0]
        np.testing.assert_allclose(found, truth, atol=1e-9)


def test_units_do_not_matter():
    """Shares of 1e-8 are any real values too: floors against division by zero were as large as their squares."""
    rng = np.random.default_rng(5)
    controls, treated, noise = rng.normal(size=(5, 40)), rng.normal(size=(5, 40)), rng.random((5, 2))
    errors, reliable = [], []
    for unit in (1.0, 1e-8):
        known = Known(unit * controls, unit * treated, unit**2 * noise, np.zeros((5, 1), int))
        left = LeftOut(unit * treated[:1], unit * treated[None, 1:4])
        errors.append(left.errors())
        reliable.append(known.reliability())
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-6)
    np.testing.assert_allclose(reliable[1], reliable[0], rtol=1e-6)
