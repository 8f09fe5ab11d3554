"""Conformal intervals against plain loops, and on groups whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from cellalign.calibration import (
    FEWEST,
    Asked,
    Groups,
    TooFewGroups,
    _Scale,
    _weights,
    interval,
    others,
    pooled_quantile,
    why_abstain,
)

GENES = 400


def made(n: int, seed: int = 0, error: float = 0.05, cells: int = 50, targets: int = 1) -> Groups:
    """Groups whose prediction errors are normal: of the noise of their mean, and in proportion to the change."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.5, 0.6, GENES)
    effect = rng.normal(0, 0.3, GENES) * (rng.random(GENES) < 0.2)
    names, conditions, parts = [], [], []
    for i in range(n):
        control = np.abs(base + 0.05 * rng.normal(size=GENES))
        for t in range(targets):
            predicted = np.maximum(control + effect, 0)
            variance = 0.3 * predicted + 0.01
            sd = np.sqrt(variance / cells + (error * (1 + 4 * np.abs(effect))) ** 2)
            real = np.maximum(predicted + sd * rng.normal(size=GENES), 0)
            names.append(f"g{i}")
            conditions.append(f"t{t}")
            parts.append((predicted, real, variance, control, 0.3 * control + 0.01))
    arrays = [np.stack(each).astype(np.float32) for each in zip(*parts, strict=True)]
    return Groups(names, conditions, *arrays, cells=np.full((n * targets, 2), cells))


def asked(groups: Groups, i: int) -> Asked:
    """One of the groups as one that is predicted."""
    n = int(groups.cells[i, 1])
    return Asked(
        groups.names[i], groups.targets[i], groups.predicted[i], groups.control[i], groups.control_variance[i], n
    )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_held_out_groups_are_covered_as_asked(level):
    covered = []
    for seed in range(4):
        groups = made(8, seed)
        low, high = interval(groups, asked(groups, 0), level)
        covered.append(np.mean((groups.real[0] >= low) & (groups.real[0] <= high)))
    assert np.mean(covered) == pytest.approx(level, abs=0.04)


def test_coverage_of_the_genes_that_turn_out_to_differ_most_is_promised_apart():
    covered, widths = {"all": [], "de": []}, {"all": [], "de": []}
    for seed in range(6):
        groups = made(8, seed, error=0.1)
        noise = groups.variance[0] / 50 + groups.control_variance[0] / 50
        de = np.argsort(-np.abs(groups.real[0] - groups.control[0]) / np.sqrt(noise))[:50]
        for over in ("all", "de"):
            low, high = interval(groups, asked(groups, 0), 0.9, over=over)
            covered[over].append(np.mean(((groups.real[0] >= low) & (groups.real[0] <= high))[de]))
            widths[over].append(np.mean(high - low))
    assert np.mean(covered["all"]) < 0.85 < np.mean(covered["de"]) < 0.97
    assert np.mean(widths["all"]) < np.mean(widths["de"])


def test_a_group_never_calibrates_itself():
    groups = made(6)
    mine = asked(groups, 2)
    before = interval(groups, mine, 0.9)
    groups.real[2] += 100  # whatever was observed of it
    np.testing.assert_array_equal(interval(groups, mine, 0.9), before)
    groups.real[3] += 100
    assert np.any(interval(groups, mine, 0.9)[1] != before[1])


def test_where_groups_are_conditions_these_are_left_out():
    groups = made(1, targets=6)
    assert others(groups, asked(groups, 1), by_target=True).targets == ["t0", "t2", "t3", "t4", "t5"]
    low, high = interval(groups, asked(groups, 1), 0.9, by_target=True)
    assert np.all(low <= high)


def test_too_few_groups_are_refused_and_two_of_many_conditions_are_not():
    groups = made(FEWEST)
    with pytest.raises(TooFewGroups, match=r"2 other held-out groups calibrate 'g0'; at least 3"):
        interval(groups, asked(groups, 0), 0.9)
    many = made(FEWEST, targets=4)
    low, high = interval(many, asked(many, 0), 0.9)
    assert 0.8 < np.mean((many.real[0] >= low) & (many.real[0] <= high)) < 0.99


def test_intervals_are_wider_of_fewer_cells_and_of_higher_levels_and_not_below_zero():
    groups = made(6)
    mine = asked(groups, 0)
    width = {n: np.mean(np.subtract(*interval(groups, mine, 0.9, cells=n)[::-1])) for n in (5, 50, 5000)}
    assert width[5] > width[50] > width[5000]
    default = np.mean(np.subtract(*interval(groups, mine, 0.9)[::-1]))
    assert default == pytest.approx(width[50], rel=1e-6)  # as many as control cells, as in the groups held out
    assert np.mean(np.subtract(*interval(groups, mine, 0.99)[::-1])) > width[50]
    assert interval(groups, mine, 0.9)[0].min() == 0
    assert interval(groups, mine, 0.9, at_least=None)[0].min() < 0


def test_the_pooled_quantile_is_that_of_loops():
    rng = np.random.default_rng(1)
    ratios = [np.abs(rng.normal(size=n)) * s for n, s in ((30, 1), (80, 2), (50, 0.5), (70, 1.2))]

    def quantile(parts, level):
        pairs = sorted((v, 1 / len(part) / len(parts)) for part in parts for v in part)
        total = 0.0
        for value, weight in pairs:
            total += weight
            if total - 1e-9 >= level:
                return value
        return pairs[-1][0]

    def covered(level):
        found = []
        for i, own in enumerate(ratios):
            end = quantile(ratios[:i] + ratios[i + 1 :], level)
            found.append(sum(v <= end for v in own) / len(own))
        return sum(found) / len(found)

    levels = sorted([*np.linspace(0.7, 1, 201), 0.8])
    enough = next(level for level in levels if covered(level) >= 0.8)
    assert pooled_quantile(ratios, list("abcd"), 0.8) == quantile(ratios, enough)
    assert pooled_quantile(ratios[:2], list("ab"), 0.8) == quantile(ratios[:2], 0.8)


def test_weights_of_the_terms_are_found():
    rng = np.random.default_rng(0)
    terms = rng.gamma(1, 1, (40_000, 5)) * [1, 0.1, 2, 1, 0.5]
    true = np.array([1.0, 2.0, 0.3, 0.0, 0.1])
    squared = (terms @ true) * rng.chisquare(1, len(terms))
    np.testing.assert_allclose(_weights(terms, squared), true, atol=0.12)


def test_the_terms_of_a_held_out_group_are_those_of_loops():
    groups = made(5, targets=2)
    scale = _Scale.of(groups)
    terms = scale._of_held_out(3)
    same = [i for i in range(len(groups)) if i != 3 and groups.targets[i] == groups.targets[3]]
    changes = np.array([groups.real[i] - groups.control[i] for i in same])
    controls = {groups.names[i]: groups.control[i] for i in range(len(groups)) if groups.names[i] != groups.names[3]}
    g = 7
    mean = sum(c[g] for c in changes) / len(changes)
    spread = sum((c[g] - mean) ** 2 for c in changes) / (len(changes) - 1)
    far = groups.control[3][g] - sum(c[g] for c in controls.values()) / len(controls)
    wanted = [(groups.predicted[3][g] - groups.control[3][g]) ** 2, spread, far**2]
    np.testing.assert_allclose(terms[g, 2:], wanted, rtol=1e-4)
    np.testing.assert_allclose(terms[g, 1], groups.control_variance[3][g] / 50, rtol=1e-6)
    # the variance follows the mean, of which it is 0.3 times + 0.01 here
    some = groups.predicted[3] > 0.3
    np.testing.assert_allclose((terms[:, 0] * 50)[some], (0.3 * groups.predicted[3] + 0.01)[some], rtol=0.5)


def test_abstains_where_held_out_errors_say_so():
    groups = made(6, error=0.01)
    assert why_abstain(groups, asked(groups, 0)) == ""
    lost = groups.of(range(6))
    lost.predicted[:] = lost.control + np.random.default_rng(0).normal(0, 1, lost.control.shape)
    assert why_abstain(lost, asked(groups, 0)) == "no better than no change"
    worse = groups.of(range(6))
    worse.predicted[:] = worse.control + 0.5 * (worse.predicted - worse.control)
    assert why_abstain(worse, asked(groups, 0)) == "worse than the mean shift"
    # of a group that was held out itself, its own error counts
    one = groups.of(range(6))
    one.predicted[0] = one.control[0]
    assert why_abstain(one, asked(groups, 0)) == "no better than no change"
    assert why_abstain(one, asked(groups, 1)) == ""
