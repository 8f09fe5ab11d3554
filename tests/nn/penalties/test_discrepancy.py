"""MMD against a float64 loop over pairs, kernels and conditions, and against all pairs at once; the edge cases."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from support import at_every_change

from cellalign.nn.penalties import MULTI_SCALE, mmd
from cellalign.nn.penalties.discrepancy import mmd_of_all_pairs


def mmd_by_loop(z, condition, sigmas, unbiased=False):
    """Every pair of conditions, every pair of cells, every kernel, in float64."""
    z, total = z.double(), 0.0

    def k(u, v):
        squared = sum((float(a) - float(b)) ** 2 for a, b in zip(u, v, strict=True))
        return sum(math.exp(-squared / (2 * s)) for s in sigmas) / len(sigmas)

    groups = [z[condition == c] for c in sorted(set(condition.tolist()))]
    groups = [own for own in groups if len(own) > 1 or not unbiased]  # one cell has no pair of its own
    for i, p in enumerate(groups):
        for q in groups[:i]:
            within = []
            for g in (p, q):
                own = [k(u, v) for m, u in enumerate(g) for n, v in enumerate(g) if m != n or not unbiased]
                within.append(sum(own) / len(own))
            total += sum(within) - 2 * sum(k(u, v) for u in p for v in q) / (len(p) * len(q))
    return total


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("sigmas", [MULTI_SCALE, (4.0,)])
@pytest.mark.parametrize("codes", [[0, 1], [0, 1, 2], [0, 3]], ids=["two", "three", "absent ones"])
def test_mmd_is_the_sum_over_pairs_of_conditions(sigmas, codes, unbiased, block_size):
    torch.manual_seed(0)
    condition = torch.tensor(codes)[torch.randint(len(codes), (17,))]
    z = torch.randn(17, 3, dtype=torch.float64) * 2 + condition[:, None]
    z[5], condition[5] = z[3] + 1e-3, condition[3]  # a pair that the narrowest kernels see
    found = float(mmd(z, condition, sigmas, unbiased=unbiased))
    assert found == pytest.approx(mmd_by_loop(z, condition, sigmas, unbiased), rel=1e-9)
    single = float(mmd(z.float(), condition, sigmas[6:] or sigmas, unbiased=unbiased))
    assert single == pytest.approx(mmd_by_loop(z, condition, sigmas[6:] or sigmas, unbiased), rel=1e-4, abs=1e-6)


def test_unbiased_mmd_of_one_distribution_is_nothing_on_average():
    torch.manual_seed(0)
    condition = torch.arange(40) % 2
    draws = [torch.randn(40, 3) for _ in range(300)]
    unbiased, biased = (np.mean([float(mmd(z, condition, unbiased=u)) for z in draws]) for u in (True, False))
    assert abs(unbiased) < 0.003 and biased > 0.02


# among single cells: conditions that count, one that does, none
ALONE = {"two": [0, 0, 0, 1, 2, 2, 3], "one": [0, 1, 1, 1, 2], "none": [0, 1, 2], "a pair and one": [1, 0, 1]}


@pytest.mark.parametrize("penalty", [mmd, mmd_of_all_pairs], ids=["blocks", "all pairs"])
@pytest.mark.parametrize("codes", ALONE.values(), ids=ALONE)
def test_one_cell_of_a_condition_counts_as_absent_where_the_estimate_is_unbiased(codes, penalty, block_size, slope):
    torch.manual_seed(6)
    z, condition, sigmas = torch.randn(len(codes), 2, dtype=torch.float64), torch.tensor(codes), MULTI_SCALE[4:]
    leaf = z.clone().requires_grad_()
    value = penalty(leaf, condition, sigmas, unbiased=True)
    (found,) = torch.autograd.grad(value, leaf)
    assert float(value.detach()) == pytest.approx(mmd_by_loop(z, condition, sigmas, True), rel=1e-9, abs=1e-12)
    (expected,) = slope(lambda z: mmd_by_loop(z, condition, sigmas, True), z)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    several = torch.bincount(condition)[condition] > 1
    assert bool((found[~several] == 0).all())
    assert float(penalty(z, condition, sigmas, unbiased=False)) > 0  # of the other form each counts


@pytest.mark.parametrize("penalty", [mmd, mmd_of_all_pairs], ids=["blocks", "all pairs"])
def test_one_cell_beside_many_of_the_same_distribution_is_nothing_on_average(penalty):
    torch.manual_seed(0)
    condition = torch.tensor([0] * 128 + [1])
    draws = [float(penalty(torch.randn(129, 3), condition, unbiased=True)) for _ in range(100)]
    assert abs(np.mean(draws)) <= 3 * np.std(draws) / 10 + 1e-6
    condition = torch.tensor([0] * 64 + [1] * 64 + [2])
    draws = [float(penalty(torch.randn(129, 3), condition, unbiased=True)) for _ in range(100)]
    assert 0 < abs(np.mean(draws)) <= 3 * np.std(draws) / 10


def test_mmd_gradient_is_the_numerical_one(block_size):
    torch.manual_seed(1)
    condition = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1])
    z = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    for unbiased in (False, True):
        assert torch.autograd.gradcheck(lambda z: mmd(z, condition, (0.5, 1.0, 20.0), unbiased=unbiased), z)  # noqa: B023


def test_mmd_of_one_condition_is_nothing_and_of_one_cell_is_finite():
    z = torch.randn(6, 2, requires_grad=True)
    alone = mmd(z, torch.zeros(6, dtype=torch.int64))
    assert float(alone.detach()) == pytest.approx(0, abs=1e-6)
    single = mmd(z, torch.tensor([0, 0, 0, 0, 0, 1]))
    single.backward()
    assert bool(single.isfinite()) and bool(z.grad.isfinite().all())


def test_mmd_falls_as_conditions_come_together():
    torch.manual_seed(2)
    condition = torch.arange(200) % 2
    z = torch.randn(200, 5)
    apart = [float(mmd(z + shift * condition[:, None], condition)) for shift in (0.0, 0.5, 2.0)]
    assert apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize(
    "sigmas", at_every_change([MULTI_SCALE, (0.5,), (4.0,)], [MULTI_SCALE]), ids=["many", "narrow", "wide"]
)
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("conditions", [1, 2, 7, 90])
def test_blocks_are_all_pairs(conditions, unbiased, sigmas, block_size, agree):
    # all cells near, very near, few near, none
    for n, (p, spread) in product((1, 2, 3, 17, 64, 131), ((2, 1.0), (2, 0.01), (12, 1.0), (12, 100.0))):
        torch.manual_seed(n + conditions)
        condition, z = torch.randint(conditions, (n,)), spread * torch.randn(n, p, dtype=torch.float64)
        found, expected = (
            partial(penalty, condition=condition, sigmas=sigmas, unbiased=unbiased)
            for penalty in (mmd, mmd_of_all_pairs)
        )
        agree(found, expected, z, value=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("p", [3, 300])
def test_blocks_are_all_pairs_of_a_thousand_cells_in_float32(p, unbiased, agree):
    torch.manual_seed(p)
    condition = torch.randint(3, (1000,))
    z = torch.randn(1000, p) + condition[:, None]

    def expected(z):
        return mmd_of_all_pairs(z.double(), condition, unbiased=unbiased)

    agree(lambda z: mmd(z, condition, unbiased=unbiased), expected, z.double(), value=1e-10)
    agree(lambda z: mmd(z, condition, unbiased=unbiased).double(), expected, z, value=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_are_the_loops(unbiased, block_size, slope):
    torch.manual_seed(3)
    z, condition = torch.randn(9, 2, dtype=torch.float64), torch.arange(9) % 3
    leaf = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(mmd(leaf, condition, MULTI_SCALE[4:], unbiased=unbiased), leaf)
    (expected,) = slope(lambda z: mmd_by_loop(z, condition, MULTI_SCALE[4:], unbiased), z)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("unbiased", [False, True])
def test_cells_that_coincide_do_so_in_float32_too(unbiased, block_size):
    """The expanded square is some 1e-5 here, of which the narrowest kernels would make anything."""
    torch.manual_seed(4)
    condition = torch.arange(24) % 2
    z = 3 * torch.randn(24, 30)
    z[[1, 8, 9]] = z[[0, 0, 2]]  # of another condition, of the same, of another
    z[20] = z[4] + 1e-4
    leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    value = mmd(leaf, condition, unbiased=unbiased)
    value.backward()
    assert float(value.detach()) == pytest.approx(mmd_by_loop(z, condition, MULTI_SCALE, unbiased), rel=1e-5)
    mmd(exact, condition, unbiased=unbiased).backward()
    assert float((leaf.grad - exact.grad).abs().max() / exact.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("sigmas", [MULTI_SCALE, (0.5,), (4.0,)], ids=["many", "narrow", "wide"])
@pytest.mark.parametrize("penalty", [mmd, mmd_of_all_pairs], ids=["blocks", "all pairs"])
@pytest.mark.parametrize("p, scale", [(2, 1e-3), (2, 1e3), (40, 1.0), (40, 30.0), (40, 1e5), (300, 1e3)])
def test_duplicated_cells_are_no_discrepancy(p, scale, penalty, sigmas, block_size):
    """At whatever scale: the expanded square of cells that are alike is a rounding of squares as large as these."""
    torch.manual_seed(5)
    z, order = scale * (torch.randn(40, p) + 3), torch.randperm(120)
    z, condition = torch.cat([z, z, z])[order].requires_grad_(), (torch.arange(120) // 40)[order]
    value = penalty(z, condition, sigmas)
    (slope,) = torch.autograd.grad(value, z)
    (one,) = torch.autograd.grad(penalty(z, torch.arange(120), sigmas), z)  # what pulls at it if all are strangers
    assert abs(float(value.detach())) < 2e-6
    assert float(slope.abs().max()) <= 1e-4 * float(one.abs().max()) + 1e-9


def test_cells_that_are_all_alike_are_aligned(block_size):
    z = torch.full((30, 5), 0.7).requires_grad_()
    value = mmd(z, torch.arange(30) % 3)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6) and float(z.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("sigmas", [MULTI_SCALE, (0.5,), (4.0,)], ids=["many", "narrow", "wide"])
def test_what_is_not_a_number_shows(sigmas, block_size):
    z = torch.randn(30, 5)
    z[7, 2] = torch.nan
    value = mmd(z.requires_grad_(), torch.arange(30) % 3, sigmas)
    value.backward()
    assert bool(value.isnan()) and bool(z.grad.isnan().any())


@pytest.mark.parametrize("sigmas", [MULTI_SCALE, (0.5,), (4.0,)], ids=["many", "narrow", "wide"])
def test_the_value_without_a_gradient_is_the_same(sigmas):
    z, condition = torch.randn(40, 2), torch.arange(40) % 3
    expected = mmd(z.clone().requires_grad_(), condition, sigmas)
    assert torch.equal(mmd(z, condition, sigmas), expected.detach())


def test_products_stay_in_float32_under_autocast():
    z, condition = torch.randn(40, 6), torch.arange(40) % 3
    expected = mmd(z, condition)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mmd(z, condition), expected)
