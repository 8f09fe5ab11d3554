"""Intervals against loops, and whether they hold the truth as often as they say."""

from itertools import product

import numpy as np
import pytest

from cellalign.evaluation import intervals as iv
from cellalign.evaluation.metrics.response import bounds_of


def test_resampled_means_are_those_of_drawn_cells():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 3))
    weights = iv.resample(rng, 7, 20)
    assert (weights.sum(1) == 7).all()
    found = iv.means(weights, x, np.ones(7))
    for draw in range(20):
        rows = [i for i in range(7) for _ in range(int(weights[draw, i]))]
        np.testing.assert_allclose(found[draw], np.mean([x[i] for i in rows], axis=0), rtol=1e-5, atol=1e-6)


def test_parts_stand_for_many_cells(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 2)) * [1, 3]
    spread = {}
    for most in (150, 5000):
        monkeypatch.setattr(iv, "MOST_PARTS", most)
        part = iv.parts_of(rng, len(x))
        n = part.max() + 1
        size = np.bincount(part)
        assert n == min(most, 3000) and np.ptp(size) <= 1
        drawn = iv.means(iv.resample(rng, n, 400), iv.sums(x, part, n), size)
        spread[most] = drawn.std(0)
    np.testing.assert_allclose(spread[150], spread[5000], rtol=0.2)
    np.testing.assert_allclose(spread[5000], x.std(0) / np.sqrt(3000), rtol=0.15)


def test_an_interval_is_put_around_the_score():
    drawn = np.random.default_rng(0).normal(0.5, 0.1, 100_000)
    found = iv.Interval.around(0.9, drawn)
    assert (found.low, found.high) == pytest.approx((0.9 - 0.196, 0.9 + 0.196), abs=0.003)
    assert np.isnan(iv.Interval.around(0.9, np.full(4, np.nan)).low)
    assert np.isnan(iv.Interval.around(float("nan"), drawn).high)


def test_an_interval_does_not_reach_beyond_what_a_score_can_be():
    """Of one group of 60 cells r_change_de was said to lie between 0.833 and 1.023."""
    found = iv.Interval(0.833, 1.023).within(*bounds_of("r_change_de"))
    assert (found.low, found.high) == (0.833, 1.0)
    assert iv.Interval(-0.01, 0.2).within(*bounds_of("mse_change_all")) == iv.Interval(0.0, 0.2)
    assert iv.Interval(-1.2, -0.9).within(*bounds_of("r_all")).low == -1
    for metric in ("r2_means", "direction_de"):
        assert iv.Interval(0.9, 1.1).within(*bounds_of(metric)) == iv.Interval(0.9, 1.0)
    assert iv.Interval(-0.1, 3.0).within(*bounds_of("energy")) == iv.Interval(-0.1, 3.0)
    assert np.isnan(iv.Interval(float("nan"), 1.0).within(-1, 1).low)


def test_the_mean_over_groups_varies_by_cells_and_by_groups():
    rng, held, alone = np.random.default_rng(0), 0, []
    for _ in range(200):
        true = rng.normal(0, 1, 12)
        values = true + rng.normal(0, 0.5, 12)
        drawn = [v + rng.normal(0, 0.5, 200) for v in values]
        found = iv.mean_interval(values, drawn)
        held += found.low <= 0 <= found.high
        alone.append(found.high - found.low)
    assert 0.92 <= held / 200 <= 0.99
    assert np.mean(alone) > 2 * 1.96 * np.sqrt(1.25 / 12) * 0.9


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_an_interval_over_few_groups_holds_the_truth_as_often_as_it_says(n, noise):
    """Groups drawn again held it in 55 of 100 cases with two groups, in 90 with seven."""
    rng, trials = np.random.default_rng(n), 1000
    held = 0
    for _ in range(trials):
        values = rng.normal(0, 1, n) + rng.normal(0, noise, n)
        drawn = [value + noise * rng.normal(size=100) for value in values]
        found = iv.mean_interval(values, drawn)
        held += found.low <= 0 <= found.high
    assert 0.935 <= held / trials <= (0.985 if noise < 1 else 1.0)  # of noisy cells whichever is wider is taken


def test_groups_that_agree_by_chance_are_no_surer_than_their_cells():
    drawn = [np.random.default_rng(i).normal(0.5, 0.1, 10_000) for i in range(4)]
    found = iv.mean_interval([0.5] * 4, drawn)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / 2, rel=0.03)
    assert np.isnan(iv.mean_interval([0.5]).low) and np.isnan(iv.mean_interval([]).low)
    one = iv.mean_interval([0.5, float("nan")], drawn[:2])  # by its cells alone
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.1, rel=0.05)
    assert iv.mean_interval([0.4, 0.6]).high == pytest.approx(0.5 + 12.706 * 0.1, rel=1e-3)  # t of one degree


def test_signs_are_flipped_in_every_way():
    values = np.array([0.3, 0.1, -0.05, 0.2, 0.02])
    every = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=5)]
    assert iv.sign_flip(values) == pytest.approx(np.mean([each >= sum(values) - 1e-12 for each in every]))
    assert iv.sign_flip(np.full(7, 0.1)) == pytest.approx(2 / 2**7)
    assert iv.sign_flip(np.full(40, 0.1)) == pytest.approx(1 / iv.FLIPS)
    assert np.isnan(iv.sign_flip(np.ones(4)))
    rng = np.random.default_rng(0)
    null = [iv.sign_flip(rng.normal(size=8)) for _ in range(400)]
    assert np.mean(np.array(null) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_pairs_that_cannot_be_compared_are_left_out():
    rng = np.random.default_rng(0)
    differences = {"a": 0.1, "b": 0.2, "c": float("nan")}
    drawn = {name: rng.normal(0, 0.01, 200) for name in differences}
    found = iv.compare_pairs(differences, drawn, 0)
    assert found.difference == pytest.approx(0.15) and found.verdict == "undecided" and np.isnan(found.p)  # of two
    more = {name: differences["a"] for name in "abcd"}
    assert iv.compare_pairs(more, dict.fromkeys(more, drawn["a"]), 0).verdict == "better"
    assert iv.compare_pairs({"a": -0.1}, drawn, 0).verdict == "worse"
    assert iv.compare_pairs({"a": 0.001}, drawn, 0).verdict == "undecided"
    nothing = iv.compare_pairs({"c": float("nan")}, drawn, 0)
    assert np.isnan(nothing.difference) and nothing.verdict == "undecided"
