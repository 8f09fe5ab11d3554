"""The CoMP penalty against the equation written as a plain float64 loop, its gradient, and the edge cases."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cellalign.nn.penalties import MULTI_SCALE, misalignment, mmd


def penalty_by_loop(z, mean, scale, condition, include_self):
    """Eq. 4 of Foster et al., one cell and one density at a time."""
    n, p = z.shape
    scale = np.broadcast_to(scale, (n, p))
    total = 0.0
    for i in range(n):
        own, other = [], []
        for j in range(n):
            density = math.exp(sum(stats.norm.logpdf(z[i, k], mean[j, k], scale[j, k]) for k in range(p)))
            if condition[j] != condition[i]:
                other.append(density)
            elif include_self or i != j:
                own.append(density)
        if own and other:
            total += math.log(np.mean(own)) - math.log(np.mean(other))
    return total / n


def batch(n=12, p=3, conditions=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=(n, p)), rng.integers(0, conditions, n)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("conditions", [2, 3, 5])
@pytest.mark.parametrize("learned", [False, True])
def test_equals_the_equation(include_self, conditions, learned):
    z, mean, condition = batch(conditions=conditions)
    scale = np.random.default_rng(1).uniform(0.3, 1.5, z.shape) if learned else np.float64(0.6)
    expected = penalty_by_loop(z, mean, scale, condition, include_self)
    got = misalignment(
        *(torch.as_tensor(a) for a in (z, mean, scale)), torch.from_numpy(condition), include_self=include_self
    )
    assert float(got) == pytest.approx(expected, rel=1e-10)


def test_floor_bounds_every_cell_and_changes_nothing_above_it():
    z, mean, condition = (torch.from_numpy(a) for a in batch(n=20))
    scale = torch.tensor(0.6, dtype=torch.float64)
    options = dict(condition=condition, include_self=False)
    free = misalignment(z, mean, scale, **options)
    torch.testing.assert_close(misalignment(z, mean, scale, floor=1e6, **options), free)
    assert float(misalignment(z, mean, scale, floor=0.0, **options)) >= max(0.0, float(free))
    # pairs of unlike cells far from all others: without a floor this would be rewarded without bound
    pairs = torch.arange(10, dtype=torch.float64).repeat_interleave(2)[:, None] * 100
    alternating = torch.arange(20) % 2
    assert float(misalignment(pairs, pairs, scale, alternating, include_self=False)) < -1000
    assert float(misalignment(pairs, pairs, scale, alternating, include_self=False, floor=2.0)) == -2


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("learned", [False, True])
def test_gradient(include_self, learned):
    z, mean, condition = (torch.from_numpy(a) for a in batch(n=8))
    scale = torch.rand(8, 3, dtype=torch.float64) + 0.3 if learned else torch.tensor(0.5, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (z, mean, scale)]
    assert torch.autograd.gradcheck(
        lambda a, b, c: misalignment(a, b, c, condition, include_self=include_self), tensors
    )


@pytest.mark.parametrize("condition", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_a_cell_without_own_or_other_contributes_zero(condition):
    z = torch.randn(4, 2, requires_grad=True)
    value = misalignment(z, z * 0.9, torch.tensor(0.1), torch.tensor(condition), include_self=False)
    value.backward()
    assert float(value.detach()) == 0
    assert z.grad is not None and bool(z.grad.isfinite().all())


def test_one_cell_of_a_condition_is_finite_and_equals_the_equation():
    z, mean, _ = batch(n=6)
    condition = np.array([0, 0, 0, 0, 0, 1])
    tensors = [torch.from_numpy(a).requires_grad_() for a in (z, mean)]
    got = misalignment(*tensors, torch.tensor(0.4), torch.from_numpy(condition), include_self=False)
    got.backward()
    assert float(got) == pytest.approx(penalty_by_loop(z, mean, np.float64(0.4), condition, False), rel=1e-5)
    assert all(bool(t.grad.isfinite().all()) for t in tensors)


def test_float32_holds_far_from_the_origin():
    """The expanded square cancels badly at |z| ~ 1000 unless the batch is centred."""
    z, mean, condition = batch(n=16, p=10)
    exact = penalty_by_loop(z, mean, np.float64(0.5), condition, True)
    shifted = [torch.from_numpy(a + 1000).float() for a in (z, mean)]
    got = misalignment(*shifted, torch.tensor(0.5), torch.from_numpy(condition), include_self=True)
    assert float(got) == pytest.approx(exact, rel=1e-3)


def test_bounds_the_divergence_and_tightens_with_batch_size():
    """Theorem 2: for two normals a distance apart the bound falls towards KL = distance^2 / (2 variance)."""
    torch.manual_seed(0)
    scale, spread, distance = 0.5, 1.0, 1.0
    exact = distance**2 / (2 * (spread**2 + scale**2))

    def mean_penalty(n, draws):
        values = []
        for _ in range(draws):
            condition = torch.arange(n) % 2
            mean = torch.randn(n, 1) * spread + condition[:, None] * distance
            z = mean + scale * torch.randn(n, 1)
            values.append(float(misalignment(z, mean, torch.tensor(scale), condition, include_self=True)))
        return np.mean(values)

    small, large = mean_penalty(16, 400), mean_penalty(1024, 20)
    assert small > large > exact * 0.98
    assert large == pytest.approx(exact, rel=0.1)


def mmd_by_loop(z, condition, sigmas, unbiased=False):
    """Every pair of conditions, every pair of cells, every kernel, in float64."""
    z, total = z.double(), 0.0

    def k(u, v):
        squared = sum((float(a) - float(b)) ** 2 for a, b in zip(u, v, strict=True))
        return sum(math.exp(-squared / (2 * s)) for s in sigmas) / len(sigmas)

    groups = [z[condition == c] for c in sorted(set(condition.tolist()))]
    for i, p in enumerate(groups):
        for q in groups[:i]:
            within = []
            for g in (p, q):
                own = [k(u, v) for m, u in enumerate(g) for n, v in enumerate(g) if m != n or not unbiased]
                within.append(sum(own) / len(own) if own else 0.0)
            total += sum(within) - 2 * sum(k(u, v) for u in p for v in q) / (len(p) * len(q))
    return total


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("sigmas", [MULTI_SCALE, (4.0,)])
@pytest.mark.parametrize("codes", [[0, 1], [0, 1, 2], [0, 3]], ids=["two", "three", "absent ones"])
def test_mmd_is_the_sum_over_pairs_of_conditions(sigmas, codes, unbiased):
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


def test_mmd_gradient_is_the_numerical_one():
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
