"""The CoMP penalty against the equation as a plain float64 loop and against all pairs at once; the edge cases."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from cellalign.evaluation.metrics.mixing import mixed, neighbours
from cellalign.nn.penalties import misalignment
from cellalign.nn.penalties.densities import Densities
from cellalign.nn.penalties.mixtures import misalignment_of_all_pairs


def penalty_by_loop(z, mean, scale, condition, include_self, floor=None, width=0.5):
    """Eq. 4 of Foster et al., one cell and one density at a time; of values with the kernel's weights."""
    n, p = z.shape
    scale = np.broadcast_to(scale, (n, p))
    by_value = np.issubdtype(condition.dtype, np.floating)

    def log_mixture(weights, logs):
        # the greatest is taken out, or cells far from all others would have a density of 0
        most = max(logs[j] for j in weights)
        return most + math.log(sum(w * math.exp(logs[j] - most) for j, w in weights.items()) / sum(weights.values()))

    total = 0.0
    for i in range(n):
        logs, own, other = [], {}, {}
        for j in range(n):
            logs.append(
                sum(-0.5 * ((z[i, k] - mean[j, k]) / scale[j, k]) ** 2 - math.log(scale[j, k]) for k in range(p))
            )
            apart = condition[i] - condition[j]
            kinship = math.exp(-(apart**2) / (2 * width**2)) if by_value else float(apart == 0)
            if kinship < 1:
                other[j] = 1 - kinship
            if kinship > 0 and (include_self or i != j):
                own[j] = kinship
        if own and other:
            difference = log_mixture(own, logs) - log_mixture(other, logs)
            total += difference if floor is None else max(difference, -floor)
    return total / n


def batch(n=12, p=3, conditions=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=(n, p)), rng.integers(0, conditions, n)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("conditions", [2, 3, 5])
@pytest.mark.parametrize("learned", [False, True])
def test_equals_the_equation(include_self, conditions, learned, block_size):
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


def aligned_by_penalty(**options):
    """Posterior means of 200 cells that nothing but the penalty and a prior hold, conditions a unit apart at first."""
    torch.manual_seed(0)
    condition = torch.arange(200) % 2
    mean = (torch.randn(200, 10) + condition[:, None]).requires_grad_()
    optimiser, sd = torch.optim.Adam([mean], lr=0.05), torch.tensor(1.0)
    for _ in range(150):
        loss = misalignment(mean + torch.randn(200, 10), mean, sd, condition, **options)
        loss = loss + 0.05 * mean.square().sum() / 200
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    z = mean.detach().numpy()
    return mixed(neighbours(z, 15), condition.numpy(), k=15, alpha=0.1), float(loss.detach())


@pytest.mark.slow
def test_conditions_mix_as_permuted_ones_where_a_cell_counts_in_its_own_mixture():
    """Left out of it, as in the authors' code, it is rewarded for fleeing its kind: without bound, or to a floor."""
    found, value = aligned_by_penalty(include_self=True)
    null = found.null("own share")
    assert abs(found.values["own share"] - null.mean) < 3 * null.sd and value > 0
    repelled, value = aligned_by_penalty(include_self=False, floor=5.0)
    null = repelled.null("own share")
    assert repelled.values["own share"] < null.mean - 2.5 * null.sd and value < -1
    _, value = aligned_by_penalty(include_self=False)
    assert value < -20


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


def inputs(n, conditions, learned, p=6, dtype=torch.float64):
    """Draws, means, scale and conditions; values if there are no conditions."""
    torch.manual_seed(n + conditions)
    mean = torch.randn(n, p, dtype=dtype)
    z = mean + torch.randn(n, p, dtype=dtype)
    sd = 0.5 + torch.rand(n, p, dtype=dtype) if learned else torch.tensor(0.9, dtype=dtype)
    return (z, mean, sd), torch.randint(conditions, (n,)) if conditions else torch.randn(n, dtype=dtype)


@pytest.mark.parametrize("floor", [None, 0.2])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("conditions", [0, 2, 4])
def test_gradients_are_the_loops(conditions, learned, include_self, floor, block_size, slope):
    tensors, condition = inputs(9, conditions, learned, p=2)

    def by_loop(z, mean, sd):
        return penalty_by_loop(*(t.numpy() for t in (z, mean, sd, condition)), include_self, floor)

    leaves = [t.clone().requires_grad_() for t in tensors]
    value = misalignment(*leaves, condition, include_self=include_self, floor=floor)
    assert float(value.detach()) == pytest.approx(by_loop(*tensors), rel=1e-10)
    for found, expected in zip(torch.autograd.grad(value, leaves), slope(by_loop, *tensors), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("floor", [None, 0.2])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("conditions", [0, 1, 2, 7, 90])
def test_blocks_are_all_pairs(conditions, include_self, floor, block_size, agree):
    for n, learned in product((1, 2, 3, 17, 64, 131), (False, True)):
        tensors, condition = inputs(n, conditions, learned)
        found, expected = (
            partial(penalty, condition=condition, include_self=include_self, floor=floor)
            for penalty in (misalignment, misalignment_of_all_pairs)
        )
        agree(found, expected, *tensors, value=1e-11)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("conditions", [0, 2, 60])
def test_blocks_are_all_pairs_of_a_thousand_cells_in_float32(conditions, learned, agree):
    (z, mean, sd), condition = inputs(1000, conditions, learned, p=20, dtype=torch.float32)
    shift = 0.5 * condition[:, None] / max(1, conditions)  # or the penalty would be a small difference
    tensors = z + shift, mean + shift, sd
    exact = condition if conditions else condition.double()
    options = dict(include_self=False, floor=5.0)

    def expected(*t):
        return misalignment_of_all_pairs(*(a.double() for a in t), exact, **options)

    agree(lambda *t: misalignment(*t, exact, **options), expected, *(t.double() for t in tensors), value=1e-11)
    agree(lambda *t: misalignment(*t, condition, **options).double(), expected, *tensors, value=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("include_self", [True, False])
def test_mixtures_a_thousand_standard_deviations_away_still_count(include_self, learned, dtype, block_size):
    """Cells of three conditions at three places, in one case each at its own, in the other at one of another."""
    (z, mean, sd), _ = inputs(18, 1, learned, p=3, dtype=dtype)
    place = torch.arange(18) % 3
    for condition in (place, torch.arange(18) % 2):
        shift = 1000.0 * place[:, None] * sd.mean()
        leaves = [t.clone().requires_grad_() for t in (z + shift, mean + shift, sd)]
        value = misalignment(*leaves, condition, include_self=include_self)
        value.backward()
        exact = penalty_by_loop(*(t.detach().double().numpy() for t in leaves), condition.numpy(), include_self)
        assert float(value.detach()) == pytest.approx(exact, rel=1e-5 if dtype is torch.float32 else 1e-10, abs=0.05)
        assert all(bool(t.grad.isfinite().all()) for t in leaves)


def test_the_other_mixture_is_not_what_its_own_leaves_of_all():
    """Own outweighs the other by 200 nats: beyond what one common maximum, or a difference of sums, would show."""
    mean = torch.tensor([[0.0], [0.1], [20.0], [21.0]])
    condition = torch.tensor([0, 0, 1, 1])
    found = misalignment(mean, mean, torch.tensor(1.0), condition)
    exact = penalty_by_loop(mean.double().numpy(), mean.double().numpy(), 1.0, condition.numpy(), True)
    assert exact > 180 and float(found) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("conditions", [0, 2, 5])
@pytest.mark.parametrize("include_self", [True, False])
def test_cells_that_are_all_alike_are_aligned(conditions, include_self, block_size):
    _, condition = inputs(20, conditions, False, dtype=torch.float32)
    z = torch.full((20, 4), 3.3).requires_grad_()
    value = misalignment(z, z, torch.tensor(0.5), condition, include_self=include_self)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert float(z.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("include_self", [True, False])
def test_of_one_condition_there_is_nothing_to_align(include_self, block_size):
    (z, mean, sd), _ = inputs(30, 1, True)
    leaves = [t.requires_grad_() for t in (z, mean, sd)]
    value = misalignment(*leaves, torch.full((30,), 4), include_self=include_self)
    value.backward()
    assert float(value.detach()) == 0 and all(float(t.grad.abs().max()) == 0 for t in leaves)


@pytest.mark.parametrize(("which", "conditions"), [("condition", 0), *product(["z", "mean", "sd"], [0, 2, 7])], ids=str)
def test_what_is_not_a_number_shows(which, conditions, block_size):
    (z, mean, sd), condition = inputs(25, conditions, True)
    {"z": z, "mean": mean, "sd": sd, "condition": condition}[which][3] = torch.nan
    leaves = [t.requires_grad_() for t in (z, mean, sd)]
    value = misalignment(*leaves, condition, include_self=False, floor=1.0)
    value.backward()
    assert bool(value.isnan()) and any(bool(t.grad.isnan().any()) for t in leaves)


def test_only_the_value_is_computed_where_no_gradient_is_asked_for(monkeypatch):
    (z, mean, sd), condition = inputs(40, 2, False)
    expected = misalignment(z.clone().requires_grad_(), mean, sd, condition)
    monkeypatch.delattr(Densities, "pass_back")
    found = misalignment(z, mean, sd, condition)
    with torch.no_grad():
        assert torch.equal(misalignment(z.requires_grad_(), mean, sd, condition), found)
    assert torch.equal(found, expected.detach()) and not found.requires_grad


def test_products_stay_in_float32_under_autocast():
    (z, mean, sd), condition = inputs(40, 2, False, dtype=torch.float32)
    results = []
    for enabled in (False, True):
        leaf = z.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = misalignment(leaf, mean, sd, condition)
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
