"""Total correlation against inVAE's equations as a float64 loop, and against all pairs at once; the edge cases."""

import math
from functools import partial

import pytest
import torch

from cellalign.nn.penalties import total_correlation
from cellalign.nn.penalties.densities import Densities
from cellalign.nn.penalties.dependence import total_correlation_of_all_pairs


def loop_total_correlation(z, mean, scale, split, n_cells, domain) -> float:
    """inVAE eq. 10 and 11 as they stand, one cell after another."""

    def log_q(i, j, block):
        return sum(
            -0.5 * ((z[i, k] - mean[j, k]) / scale[j, k]) ** 2 - math.log(scale[j, k]) - 0.5 * math.log(2 * math.pi)
            for k in block
        )

    p, total = z.shape[1], 0.0
    for i in range(len(z)):
        own = [j for j in range(len(z)) if domain[j] == domain[i]]
        pairs = len(own) * n_cells * len(own) / len(z)
        terms = []
        for block in (range(p), range(split), range(split, p)):
            terms.append(math.log(sum(math.exp(log_q(i, j, block)) for j in own) / pairs))
        total += terms[0] - terms[1] - terms[2]
    return total / len(z)


@pytest.mark.parametrize("domains", [1, 3])
def test_total_correlation_is_the_equation(domains, block_size):
    torch.manual_seed(0)
    z, mean, scale = torch.randn(9, 5).double(), torch.randn(9, 5).double(), 0.3 + torch.rand(9, 5).double()
    domain = torch.arange(9) % domains
    found = total_correlation(z, mean, scale, 3, 900, domain if domains > 1 else None)
    expected = loop_total_correlation(z.numpy(), mean.numpy(), scale.numpy(), 3, 900, domain.tolist())
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_total_correlation_is_higher_where_the_blocks_depend_and_its_gradient_is_right(block_size):
    torch.manual_seed(0)
    free = torch.randn(256, 2).double()
    tied = torch.cat([free[:, :1], free[:, :1] + 0.1 * free[:, 1:]], 1)
    scale = torch.full((256, 2), 0.2).double()
    values = [float(total_correlation(m + 0.2 * torch.randn_like(m), m, scale, 1, 256)) for m in (free, tied)]
    assert values[1] > values[0] + 0.5
    z, mean, scale = torch.randn(6, 3).double(), torch.randn(6, 3).double(), 0.3 + torch.rand(6, 3).double()
    domain = torch.tensor([0, 0, 0, 1, 1, 2])
    inputs = tuple(t.requires_grad_() for t in (z, mean, scale))
    assert torch.autograd.gradcheck(lambda *t: total_correlation(*t, 2, 100, domain), inputs)


def inputs(n, p=7, dtype=torch.float64):
    torch.manual_seed(n)
    mean = torch.randn(n, p, dtype=dtype)
    sd = 0.3 + torch.rand(n, p, dtype=dtype)
    return mean + sd * torch.randn(n, p, dtype=dtype), mean, sd


def test_gradients_are_the_loops(block_size, slope):
    tensors, domain = inputs(8, 3), torch.tensor([0, 0, 0, 0, 4, 4, 2, 0])
    leaves = [t.clone().requires_grad_() for t in tensors]
    found = torch.autograd.grad(total_correlation(*leaves, 2, 100, domain), leaves)
    expected = slope(lambda *t: loop_total_correlation(*(a.numpy() for a in t), 2, 100, domain.tolist()), *tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("domains", [0, 1, 2, 7, 90])
def test_blocks_are_all_pairs(domains, block_size, agree):
    for n in (1, 2, 3, 17, 64, 131, 300):
        tensors = inputs(n)
        domain = torch.randint(domains, (n,)) if domains else None
        found, expected = (
            partial(penalty, split=5, n_cells=1000, domain=domain)
            for penalty in (total_correlation, total_correlation_of_all_pairs)
        )
        agree(found, expected, *tensors, value=1e-11)


@pytest.mark.parametrize("domains", [0, 10])
def test_blocks_are_all_pairs_of_a_thousand_cells_in_float32(domains, agree):
    tensors = inputs(1000, 25, torch.float32)
    domain = torch.randint(domains, (1000,)) if domains else None
    agree(
        lambda *t: total_correlation(*t, 20, 5000, domain).double(),
        lambda *t: total_correlation_of_all_pairs(*(a.double() for a in t), 20, 5000, domain),
        *tensors,
        value=1e-6,
    )


def test_cells_far_apart_are_finite_and_equal_the_equation(block_size):
    z, mean, sd = inputs(12, 3, torch.float32)
    shift = 1000.0 * torch.arange(12)[:, None]
    domain = torch.arange(12) % 2
    leaves = [t.requires_grad_() for t in (z + shift, mean + shift, sd)]
    value = total_correlation(*leaves, 2, 100, domain)
    value.backward()
    # the loop has no density left of other cells, but of a cell under its own posterior it has
    expected = loop_total_correlation(*(t.detach().double().numpy() for t in leaves), 2, 100, domain.tolist())
    assert float(value.detach()) == pytest.approx(expected, rel=0.1)
    assert all(bool(t.grad.isfinite().all()) for t in leaves)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("domains", [0, 4])
def test_what_is_not_a_number_shows(domains, which, block_size):
    tensors = inputs(25)
    tensors[which][3, 1] = torch.nan
    leaves = [t.requires_grad_() for t in tensors]
    value = total_correlation(*leaves, 5, 1000, torch.randint(domains, (25,)) if domains else None)
    value.backward()
    assert bool(value.isnan()) and any(bool(t.grad.isnan().any()) for t in leaves)


def test_only_the_value_is_computed_where_no_gradient_is_asked_for(monkeypatch):
    z, mean, sd = inputs(40)
    expected = total_correlation(z.clone().requires_grad_(), mean, sd, 5, 1000)
    monkeypatch.delattr(Densities, "pass_back")
    assert torch.equal(total_correlation(z, mean, sd, 5, 1000), expected.detach())
