"""Drawn cells of log expression: counts are gained and lost, the mean moves as asked, zeros stay zeros."""

from __future__ import annotations

import math

import anndata
import numpy as np
import pytest
import torch
from scipy.stats import binom, false_discovery_control, mannwhitneyu, poisson
from support import at_every_change

from cellalign.engine import draws
from cellalign.engine.draws import exchanged, gaining, groups_of, how_near, keeping, leaves, moved, unit

RATES = np.array([0.01, 0.1, 0.5, 2.0, 8.0, 40.0, 0.3])


def cells(n: int, factor=1.0, seed: int = 0) -> torch.Tensor:
    """Overdispersed counts of seven genes and many that fill up the library, as log1p of counts per 10,000."""
    rng = np.random.default_rng(seed)
    rates = np.concatenate([RATES * factor, np.full(60, 3.0)])
    size = rng.uniform(0.6, 1.6, (n, 1))
    counts = rng.poisson(rates * size * rng.gamma(2, 0.5, (n, len(rates))))
    return torch.from_numpy(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))


@pytest.mark.parametrize("size", [0.002, 0.3, 4, 900])
@pytest.mark.parametrize("rise", [1e-4, 0.03, 0.7, 3])
def test_the_mean_over_gained_counts_is_the_rise(size, rise):
    size, rise = (torch.tensor([float(v)], dtype=torch.float64) for v in (size, rise))
    rate = float(gaining(size, rise)[0])
    k = np.arange(int(rate + 40 * math.sqrt(rate) + 60))
    by_loop = float((poisson.pmf(k, rate) * np.log1p(float(size[0]) * k)).sum())
    assert by_loop == pytest.approx(float(rise[0]), rel=0.01)


@pytest.mark.parametrize("n", [1, 2, 9, 40, 41, 100, 600])
@pytest.mark.parametrize("size", [0.05, 2, 60])
@pytest.mark.parametrize("part", [0.1, 0.6, 0.97])
def test_the_mean_over_kept_counts_is_the_part(n, size, part):
    share = float(keeping(*(torch.tensor([float(v)], dtype=torch.float64) for v in (n, size, part)))[0])
    by_loop = sum(binom.pmf(k, n, share) * math.log1p(size * k) for k in range(n + 1))
    assert by_loop / math.log1p(size * n) == pytest.approx(part, rel=0.03 if n > 40 else 0.005)


@pytest.mark.parametrize("change", at_every_change([-0.6, -0.05, 0.002, 0.05, 0.7, 2.0], [-0.6, 0.05]))
@pytest.mark.parametrize("kind", ["all alike", "by its size"])
def test_the_mean_moves_by_the_change(change, kind):
    """Of every gene to the mean of cells that are changed, be all changed alike or some more: what is below 0 is 0."""
    torch.manual_seed(0)
    x = cells(3000)
    wanted = torch.full_like(x, change) if kind == "all alike" else min(change, 0.3) * x
    found = moved(x, wanted)
    error = (found - (x + wanted).clamp(min=0)).mean(0)
    sampling = 4 * (found - x).std(0) / math.sqrt(len(x))
    assert bool((error.abs() < 0.02 * wanted.mean(0).abs() + sampling + 0.003).all()), error
    assert bool((found >= 0).all())


def test_many_values_are_moved_some_rows_at_a_time(monkeypatch):
    torch.manual_seed(0)
    x = cells(900)
    wanted = (torch.arange(x.shape[1]) % 3 - 1.0) * 0.3 + torch.zeros_like(x)
    monkeypatch.setattr(draws, "MOVED_TOGETHER", 10 * x.shape[1])
    found = moved(x, wanted)
    sampling = 4 * (found - x).std(0) / math.sqrt(len(x))
    assert bool(((found - (x + wanted).clamp(min=0)).mean(0).abs() < sampling + 0.01).all())
    torch.manual_seed(0)
    parts = [moved(cells(900)[:10], wanted[:10])]  # the same draws as of those rows alone
    torch.manual_seed(0)
    torch.testing.assert_close(moved(x, wanted)[:10], parts[0])


def test_no_change_changes_nothing_and_a_rise_leaves_most_zeros():
    torch.manual_seed(0)
    x = cells(400)
    torch.testing.assert_close(moved(x, torch.zeros_like(x)), x)
    risen = moved(x, torch.full_like(x, 0.003))
    assert float((risen[:, 0] == 0).double().mean()) > 0.95 * float((x[:, 0] == 0).double().mean())
    # what is gained is counts of the cell
    new = (risen > 0) & (x == 0)
    steps = (risen.expm1() / unit(x))[new]
    torch.testing.assert_close(steps, steps.round(), atol=1e-6, rtol=0)


def test_cells_change_places_with_near_ones_of_their_group_and_each_is_taken_once():
    torch.manual_seed(0)
    z = torch.randn(700, 4)
    groups = torch.stack([torch.arange(700) % 3, torch.zeros(700, dtype=torch.int64)], 1)
    groups[5] = torch.tensor([7, -1])  # alone
    leaf = leaves(z, groups)
    assert int(leaf.bincount().max()) <= 24 and len(leaf.unique()) > 3 * 233 / 24
    found = exchanged(z, leaf, how_near(z))
    assert sorted(found.tolist()) == list(range(700)) and int(found[5]) == 5
    assert torch.equal(groups[found], groups)
    among = torch.cdist(z, z).mean()
    assert float((z[found] - z).norm(dim=1).mean()) < 0.75 * float(among)
    assert float((found == torch.arange(700)).double().mean()) < 0.5
    assert not torch.equal(exchanged(z, leaf, how_near(z)), found)  # by the random numbers of the draw
    few = torch.zeros(1, 2, dtype=torch.int64)
    assert leaves(z[:1], few).tolist() == [0] and leaves(z[:0], few[:0]).tolist() == []
    assert exchanged(z[:1], leaves(z[:1], few), how_near(z[:1])).tolist() == [0]


@pytest.mark.parametrize("factor", [1.0, 1.5, 0.5])
def test_as_many_genes_differ_as_in_real_cells(factor):
    """Real cells, rates those of the control times a factor, against control cells moved by the mean change."""
    torch.manual_seed(1)
    genes = np.ones(7)
    genes[:4] = factor
    control, real, more = cells(300, seed=1), cells(300, genes, seed=2), cells(20_000, genes, seed=3)
    change = (more.mean(0) - cells(20_000, seed=4).mean(0)).expand_as(control)
    start = cells(300, seed=5)
    change = change if factor > 1 else change / cells(20_000, seed=4).mean(0) * start  # what is nowhere cannot fall
    drawn = moved(start, change)
    p = [mannwhitneyu(each, control, axis=0).pvalue for each in (real, drawn)]
    found = [(false_discovery_control(each) < 0.05).sum() for each in p]
    assert found[1] <= 1.5 * found[0] + 1 and found[0] <= 1.5 * found[1] + 1, found
    zeros = [(each == 0).double().mean(0)[:7].numpy() for each in (real, drawn)]
    np.testing.assert_allclose(zeros[1], zeros[0], atol=0.17)


@pytest.mark.parametrize("kind", ["CD14 Mono", "NK"])
def test_of_real_cells_as_many_genes_differ_where_the_mean_is_right(kang_path, kind):
    """Halves of the control: one is moved to the observed mean of the stimulated cells, the other is compared with."""
    own = anndata.read_h5ad(kang_path)
    own = own[own.obs["cell_type"] == kind]
    counts = own.X.toarray().astype(np.float64)
    x = torch.from_numpy(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
    stimulated = torch.from_numpy((own.obs["stim"] == "stimulated").to_numpy())
    start, rest = x[~stimulated][::2], x[~stimulated][1::2]
    mean, before = x[stimulated].mean(0), start.mean(0)
    part = (mean / before.clamp(min=1e-9)).clamp(max=1)
    torch.manual_seed(0)
    drawn = moved(start, torch.where(mean < before, start * (part - 1), mean - before))
    real = x[stimulated][: len(start)]
    there = (torch.cat([real, drawn, rest]) > 0).any(0)
    p = [np.nan_to_num(mannwhitneyu(each[:, there], rest[:, there], axis=0).pvalue, nan=1) for each in (real, drawn)]
    found = [(false_discovery_control(each) < 0.05).sum() for each in p]
    assert found[0] > 15 and 1 / 1.5 < found[1] / found[0] < 1.5, found


def test_a_change_that_is_not_finite_is_seen():
    x = cells(5)
    change = torch.full_like(x, 0.1)
    change[1, 2], change[2, 3], change[3, 4] = torch.nan, torch.inf, -torch.inf
    found = moved(x, change)
    assert (~found.isfinite()).nonzero().tolist() == [[1, 2], [2, 3], [3, 4]]


def test_a_little_loss_of_values_that_are_no_counts_is_little():
    torch.manual_seed(0)
    x = torch.rand(3000, 5, dtype=torch.float64) * 1.5 + 0.1
    found = moved(x, torch.full_like(x, -1e-4))
    assert float((found - x).abs().mean()) < 0.002 and float((found - x).mean()) == pytest.approx(-1e-4, abs=2e-4)


def test_numbers_far_apart_and_labels_are_of_other_groups():
    columns = [
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0.0, 5, 5, 5]),
        torch.tensor([[0.0, 1], [0, 1], [0, 1], [1, 0]]),
    ]
    found = groups_of(columns, 4, torch.device("cpu"))
    doses = groups_of([torch.tensor([0.0] * 7 + [5.0] * 6 + [9.0] * 5)], 18, torch.device("cpu"))
    assert len(doses[:7].unique(dim=0)) == len(doses[7:13].unique(dim=0)) == 1 and len(doses.unique(dim=0)) == 3
    assert len(found.unique(dim=0)) == 4 and len(groups_of([], 4, torch.device("cpu")).unique(dim=0)) == 1


def test_values_that_are_no_counts_and_genes_that_are_nowhere():
    torch.manual_seed(0)
    x = torch.rand(500, 6, dtype=torch.float64) * 3
    x[:, 5] = 0
    change = torch.tensor([0.3, -0.3, 0.0, -9.0, 0.1, 0.2]).double().expand_as(x)
    found = moved(x, change)
    assert bool(found.isfinite().all())
    wanted = ((x + change).clamp(min=0) - x).mean(0)
    np.testing.assert_allclose((found - x).mean(0)[[0, 1, 4, 5]], wanted[[0, 1, 4, 5]], atol=0.06)
    assert float(found[:, 3].max()) == 0
    nothing = torch.zeros(3, 6)
    assert bool(moved(nothing, torch.zeros(3, 6)).eq(0).all())
