"""Tests of genes against plain loops, and on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from cellalign.evaluation.metrics import de


def test_benjamini_and_hochberg_by_loops():
    p = np.random.default_rng(0).random(40) ** 2
    order = sorted(range(40), key=lambda i: p[i])
    adjusted, least = {}, 1.0
    for rank in range(40, 0, -1):
        i = order[rank - 1]
        least = min(least, p[i] * 40 / rank)
        adjusted[i] = least
    np.testing.assert_allclose(de.benjamini_hochberg(p), [adjusted[i] for i in range(40)])
    assert de.benjamini_hochberg(np.empty(0)).shape == (0,)
    found = de.Test.of(np.ones(41), np.append(p, np.nan))  # what is not defined is 1, and counts
    np.testing.assert_array_equal(found.adjusted, de.benjamini_hochberg(np.append(p, 1.0)))


def test_wilcoxon_gene_by_gene():
    rng = np.random.default_rng(1)
    cells, control = rng.poisson(0.8, (30, 700)) * 0.7, rng.poisson(0.6, (50, 700)) * 0.7
    cells[:, 3] = control[:30, 3] = 0
    control[:, 3] = 0
    found = de.wilcoxon(cells, control)
    assert found.p[3] == 1 and found.change[3] == 0
    for g in (0, 17, 499, 500, 699):
        both = np.concatenate([cells[:, g], control[:, g]])
        ranks = stats.rankdata(both)
        n, m = 30, 50
        u = ranks[:n].sum() - n * (n + 1) / 2
        ties = sum(t**3 - t for t in np.unique(both, return_counts=True)[1].tolist())
        sd = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
        z = (abs(u - n * m / 2) - 0.5) / sd
        assert found.p[g] == pytest.approx(2 * stats.norm.sf(z))
        folded = [math.log2(1 + sum(math.expm1(v) for v in x[:, g]) / len(x)) for x in (cells, control)]
        assert found.change[g] == pytest.approx(folded[0] - folded[1])
    raw = de.wilcoxon(cells - 1, control - 1, is_log=False)
    np.testing.assert_allclose(raw.change, cells.mean(0) - control.mean(0), atol=1e-12)


@pytest.mark.parametrize("paired", [True, False])
def test_moderated_t_by_loops(paired):
    rng = np.random.default_rng(2)
    sd = np.sqrt(0.1 / rng.gamma(4, 0.25, 300))
    a, b = rng.normal(0.2, sd, (4, 300)), rng.normal(0, sd, (4, 300))
    found = de.moderated_t(a, b, paired=paired)
    df = 3 if paired else 6
    variance = (a - b).var(0, ddof=1) if paired else (a.var(0, ddof=1) + b.var(0, ddof=1)) / 2
    prior_df, prior = de.prior_of_variances(variance, df)
    e = [math.log(v) - digamma(df / 2) + math.log(df / 2) for v in variance]
    mean = sum(e) / len(e)
    spread = sum((x - mean) ** 2 for x in e) / (len(e) - 1)
    assert polygamma(1, prior_df / 2) == pytest.approx(spread - polygamma(1, df / 2), rel=1e-6)
    assert prior == pytest.approx(math.exp(mean + digamma(prior_df / 2) - math.log(prior_df / 2)))
    for g in (0, 100, 299):
        shrunk = (prior_df * prior + df * variance[g]) / (prior_df + df)
        change = sum(a[:, g]) / 4 - sum(b[:, g]) / 4
        t = change / math.sqrt(shrunk * (1 / 4 if paired else 1 / 4 + 1 / 4))
        assert found.p[g] == pytest.approx(2 * stats.t.sf(abs(t), prior_df + df))
        assert found.change[g] == pytest.approx(change)


def test_the_prior_is_that_of_which_variances_are_drawn():
    rng = np.random.default_rng(3)
    true = 0.4 * 10 / rng.chisquare(10, 20_000)  # inverse chi squared of 10 degrees of freedom, scale 0.4
    df, prior = de.prior_of_variances(true * rng.chisquare(4, 20_000) / 4, 4)
    assert df == pytest.approx(10, rel=0.15) and prior == pytest.approx(0.4, rel=0.05)
    same = de.prior_of_variances(0.4 * rng.chisquare(4, 5000) / 4, 4)
    assert same[0] > 100 and same[1] == pytest.approx(0.4, rel=0.05)
    assert de.prior_of_variances(np.zeros(5), 3) == (0, 0)


def test_replicates_that_do_not_differ_have_uniform_p_values():
    rng = np.random.default_rng(4)
    found = de.moderated_t(rng.normal(size=(3, 4000)), rng.normal(size=(3, 4000)), paired=False)
    assert np.mean(found.p < 0.05) == pytest.approx(0.05, abs=0.012)
    assert (found.adjusted < 0.05).sum() <= 2
    still = de.moderated_t(np.ones((3, 5)), np.ones((3, 5)), paired=True)
    assert (still.p == 1).all()


def test_agreement_is_of_the_same_direction():
    def test(change, adjusted):
        return de.Test(np.array(change), np.array(adjusted), np.array(adjusted))

    ours = test([1.0, -1, 1, 1, 0.1], [0.01, 0.01, 0.01, 0.01, 0.9])
    theirs = test([1.0, 1, 1, 1, 1], [0.01, 0.01, 0.2, 0.3, 0.01])
    found = de.counts(ours, theirs)
    assert (found["de_predicted"], found["de_real"]) == (4, 3)
    assert found["de_ratio"] == pytest.approx(4 / 3) and de.jaccard(ours, theirs) == pytest.approx(1 / 5)
    nothing = test([0.0], [1.0])
    assert np.isnan(de.jaccard(nothing, nothing)) and np.isnan(de.counts(nothing, nothing)["de_ratio"])
