"""Drawn cells of log expression: counts are gained and lost, the mean moves as asked, zeros stay zeros."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, false_discovery_control, mannwhitneyu, poisson
from support import at_every_change

from cellalign.engine.draws import CountNoise, _mean_log, _mean_log_kept, unit

RATES = np.array([0.01, 0.1, 0.5, 2.0, 8.0, 40.0, 0.3])


def cells(n: int, factor=1.0, seed: int = 0) -> torch.Tensor:
    """Overdispersed counts of seven genes and many that fill up the library, as log1p of counts per 10,000."""
    rng = np.random.default_rng(seed)
    rates = np.concatenate([RATES * factor, np.full(60, 3.0)])
    size = rng.uniform(0.6, 1.6, (n, 1))
    counts = rng.poisson(rates * size * rng.gamma(2, 0.5, (n, len(rates))))
    return torch.from_numpy(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))


@pytest.mark.parametrize(("level", "one", "rate"), [(0, 6, 0.01), (0, 6, 1.7), (12, 6, 2.5), (30, 3, 20), (0, 1, 400)])
def test_the_mean_over_gained_counts_is_its_sum(level, one, rate):
    by_loop = sum(poisson.pmf(k, rate) * math.log1p(level + one * k) for k in range(2000))
    found = float(_mean_log(*(torch.tensor([float(v)], dtype=torch.float64) for v in (level, one, rate)))[0])
    assert found == pytest.approx(by_loop, rel=0.04)


@pytest.mark.parametrize(("n", "share"), [(1, 0.3), (4, 0.9), (9, 0.5), (30, 0.7), (500, 0.1)])
def test_the_mean_over_kept_counts_is_its_sum(n, share):
    by_loop = sum(binom.pmf(k, n, share) * math.log1p(6 * k) for k in range(n + 1))
    level, one = torch.tensor([6.0 * n], dtype=torch.float64), torch.tensor([6.0], dtype=torch.float64)
    found = float(_mean_log_kept(level, one, torch.tensor(share, dtype=torch.float64))[0])
    assert found == pytest.approx(by_loop, rel=0.02)


@pytest.mark.parametrize("change", at_every_change([-0.6, -0.05, 0.002, 0.05, 0.7, 2.0], [-0.6, 0.05]))
def test_the_mean_moves_by_the_change(change):
    torch.manual_seed(0)
    x = cells(3000)
    wanted = torch.full_like(x, change)
    moved = CountNoise.of(x[:1500]).moved(x, wanted)
    expected = (x.mean(0) + change).clamp(min=0) - x.mean(0)
    error = (moved.mean(0) - x.mean(0) - expected)[:7]
    sampling = 4 * (moved.std(0) + x.std(0))[:7] / math.sqrt(len(x))
    assert bool((error.abs() < 0.05 * abs(change) + sampling).all()), error
    assert bool((moved >= 0).all())


def test_no_change_changes_nothing_and_a_rise_leaves_most_zeros():
    torch.manual_seed(0)
    x = cells(400)
    noise = CountNoise.of(x)
    torch.testing.assert_close(noise.moved(x, torch.zeros_like(x)), x)
    risen = noise.moved(x, torch.full_like(x, 0.003))
    assert float((risen[:, 0] == 0).double().mean()) > 0.95 * float((x[:, 0] == 0).double().mean())
    # what is gained is counts of the cell
    new = (risen > 0) & (x == 0)
    steps = (risen.expm1() / unit(x))[new]
    torch.testing.assert_close(steps, steps.round(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 1.5, 0.5])
def test_as_many_genes_differ_as_in_real_cells(factor):
    """Real cells, rates those of the control times a factor, against control cells moved by the mean change."""
    torch.manual_seed(1)
    genes = np.ones(7)
    genes[:4] = factor
    control, real, more = cells(300, seed=1), cells(300, genes, seed=2), cells(20_000, genes, seed=3)
    change = (more.mean(0) - cells(20_000, seed=4).mean(0)).expand_as(control)
    start = cells(300, seed=5)
    drawn = CountNoise.of(start).moved(start, change)
    p = [mannwhitneyu(each, control, axis=0).pvalue for each in (real, drawn)]
    found = [(false_discovery_control(each) < 0.05).sum() for each in p]
    assert found[1] <= 1.5 * found[0] + 1 and found[0] <= 1.5 * found[1] + 1, found
    zeros = [(each == 0).double().mean(0)[:7].numpy() for each in (real, drawn)]
    np.testing.assert_allclose(zeros[1], zeros[0], atol=0.12)


def test_values_that_are_no_counts_and_genes_that_are_nowhere():
    torch.manual_seed(0)
    x = torch.rand(500, 6, dtype=torch.float64) * 3
    x[:, 5] = 0
    moved = CountNoise.of(x).moved(x, torch.tensor([0.3, -0.3, 0.0, -9.0, 0.1, 0.2]).double().expand_as(x))
    assert bool(moved.isfinite().all())
    np.testing.assert_allclose((moved - x).mean(0)[[0, 1, 4, 5]], [0.3, -0.3, 0.1, 0.2], atol=0.06)
    assert float(moved[:, 3].max()) == 0
    nothing = torch.zeros(3, 6)
    assert bool(CountNoise.of(nothing).moved(nothing, torch.zeros(3, 6)).eq(0).all())
