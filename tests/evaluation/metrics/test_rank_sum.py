"""DE of a screen: the rank-sum test, and van Elteren's of it within places, each against plain loops in float64."""

import math

import numpy as np
import pytest
from scipy import sparse, stats

from cellalign.evaluation.metrics import rank_sum


def test_de_is_the_rank_sum_test_with_benjamini_and_hochberg_among_tested_genes(monkeypatch):
    monkeypatch.setattr(rank_sum, "BLOCK", 7)
    rng = np.random.default_rng(7)
    a, b = rng.poisson(3, (25, 20)) * 1.0, rng.poisson(2, (31, 20)) * 1.0
    a[:, 2] = b[:, 2] = 0
    a[:, 3], b[:, 3] = rng.normal(0.3, 1, 25).round(1), rng.normal(0, 1, 31).round(1)
    a[:, 4] += 1  # no zeros
    b[:, 4] += 1
    tested = np.arange(20) != 5
    found = rank_sum.different(sparse.csr_matrix(a), b, tested)
    p = np.ones(20)
    for g in np.flatnonzero(tested & (np.arange(20) != 2)):
        p[g] = stats.mannwhitneyu(a[:, g], b[:, g], use_continuity=False, method="asymptotic").pvalue
    np.testing.assert_allclose(found.p, p, rtol=1e-9)
    np.testing.assert_allclose(found.q[tested], stats.false_discovery_control(p[tested]), rtol=1e-9)
    assert found.q[5] == 1 and not found.significant(np.array([], dtype=int))[5]
    for g in np.flatnonzero(tested & (np.arange(20) != 3)):
        assert found.change[g] == pytest.approx(math.log2((a[:, g].mean() + 1e-9) / (b[:, g].mean() + 1e-9)))


def van_elteren(a, b, of_a, of_b):
    """p of one gene, rank by rank."""
    away = variance = 0.0
    for place in sorted(set(of_a) & set(of_b)):
        mine, control = ([float(v) for v in x[of == place]] for x, of in ((a, of_a), (b, of_b)))
        both = mine + control
        n, m, size = len(mine), len(control), len(both)
        ranks = [sum(v < u for v in both) + (sum(v == u for v in both) + 1) / 2 for u in both]
        spread = sum((rank - (size + 1) / 2) ** 2 for rank in ranks)
        weight = 1 / (size + 1)
        away += weight * (sum(ranks[:n]) - n * (size + 1) / 2)
        variance += weight**2 * n * m / (size * (size - 1)) * spread
    return math.erfc(abs(away) / math.sqrt(variance) / math.sqrt(2)) if variance else 1.0


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_within_places_it_is_van_elterens(kind, monkeypatch):
    monkeypatch.setattr(rank_sum, "BLOCK", 7)
    rng = np.random.default_rng(8)
    a, b = rng.poisson(3, (40, 20)) * 1.0, rng.poisson(2, (60, 20)) * 1.0
    a[:, 2] = b[:, 2] = 0
    a[:, 3], b[:, 3] = rng.normal(0.3, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    of_a, of_b = rng.choice([0, 1, 2, 4], 40, p=[0.2, 0.5, 0.2, 0.1]), rng.choice([0, 1, 2, 3], 60)  # 3, 4: one kind
    tested = np.arange(20) != 5
    found = rank_sum.different(kind(a), kind(b), tested, (of_a, of_b))
    expected = [van_elteren(a[:, g], b[:, g], of_a, of_b) if tested[g] else 1.0 for g in range(20)]
    np.testing.assert_allclose(found.p, expected, rtol=1e-9)
    np.testing.assert_allclose(found.q[tested], stats.false_discovery_control(np.array(expected)[tested]), rtol=1e-9)
    shared = [place for place in (0, 1, 2) if (of_a == place).any()]
    n = [(of_a == place).sum() for place in shared]
    for g in (0, 4, 19):
        mean = sum(a[of_a == p, g].sum() for p in shared) / sum(n)
        start = sum(k * b[of_b == p, g].mean() for k, p in zip(n, shared, strict=True)) / sum(n)
        assert found.change[g] == pytest.approx(math.log2((mean + 1e-9) / (start + 1e-9)))


def test_of_one_place_it_is_the_plain_test_and_of_none_it_finds_nothing():
    rng = np.random.default_rng(9)
    a, b, tested = rng.poisson(4, (15, 9)) * 1.0, rng.poisson(2, (25, 9)) * 1.0, np.ones(9, dtype=bool)
    plain, one = (rank_sum.different(a, b, tested, of) for of in (None, (np.ones(15, int), np.ones(25, int))))
    for field in ("p", "q", "change"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(one, field))
    apart = rank_sum.different(a, b, tested, (np.zeros(15, int), np.ones(25, int)))
    assert (apart.p == 1).all() and (apart.q == 1).all() and not apart.change.any()
    assert not rank_sum.different(a, b[:0], tested, (np.zeros(15, int), np.zeros(0, int))).change.any()


def test_what_places_differ_in_is_no_effect_and_what_holds_in_each_is_found():
    rng = np.random.default_rng(10)
    places = rng.random(400) < 0.2, rng.random(400) < 0.9
    shift, fold = np.exp(rng.normal(0, 0.7, 200)), np.where(np.arange(200) < 40, 1.6, 1.0)
    control, none = (rng.poisson(5 * np.where(of[:, None], shift, 1)) * 1.0 for of in places)
    some = rng.poisson(5 * np.where(places[1][:, None], shift, 1) * fold) * 1.0
    of = (places[1].astype(int), places[0].astype(int))
    tested = np.ones(200, dtype=bool)
    assert (rank_sum.different(none, control, tested).q < 0.05).mean() > 0.7
    assert (rank_sum.different(none, control, tested, of).p < 0.05).mean() < 0.09
    found = rank_sum.different(some, control, tested, of)
    assert (found.q[:40] < 0.05).all() and (found.q[40:] < 0.05).mean() < 0.05
    np.testing.assert_allclose(found.change[:40].mean(), np.log2(1.6), atol=0.1)
