"""Total correlation against inVAE's equations as a float64 loop, and against all pairs at once; the edge cases."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from cellalign.nn.penalties import gaussian_total_correlation, total_correlation
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


# the normal plug-in


def gaussian_by_loop(mean, sd, split, domain) -> float:
    """Its docstring's equation, one cell after another."""
    n, p = mean.shape
    covariance, domains = np.zeros((p, p)), sorted(set(domain))
    for d in domains:
        own = [i for i in range(n) if domain[i] == d]
        centre = sum(mean[i] for i in own) / len(own)
        for i in own:
            covariance += np.outer(mean[i] - centre, mean[i] - centre) / max(1, n - len(domains))
    for i in range(n):
        covariance += np.diag(sd[i] ** 2) / n
    first, second = covariance[:split, :split], covariance[split:, split:]
    return 0.5 * (np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1] - np.linalg.slogdet(covariance)[1])


def tied(n, rho, shared, seed=0, p_first=20, p_second=5):
    """Posterior means and sds of 20 + 5 latents of which `shared` pairs correlate by rho, noise included."""
    torch.manual_seed(seed)
    z = torch.randn(n, p_first + p_second)
    z[:, p_first : p_first + shared] = rho * z[:, :shared] + (1 - rho**2) ** 0.5 * z[:, p_first : p_first + shared]
    return z, torch.full_like(z, 0.1)


@pytest.mark.parametrize("rho, shared", [(0.0, 5), (0.28, 5), (0.55, 5), (0.825, 5)])
@pytest.mark.parametrize("domains", [1, 12])
def test_the_plug_in_gives_known_answers_where_weighting_gives_none(rho, shared, domains):
    """20 + 5 latents, batches of 512, domains far apart."""
    truth = -0.5 * shared * math.log(1 - rho**2)
    found, weighted = [], []
    for seed in range(3):
        z, sd = tied(512, rho, shared, seed)
        domain = torch.arange(512) % domains
        z = z + 3 * torch.randn(domains, 25)[domain]
        found.append(float(gaussian_total_correlation(z, sd, 20, domain)))
        weighted.append(float(total_correlation(z + sd * torch.randn_like(z), z, sd, 20, 512, domain)))
    bias = 20 * 5 / (2 * (512 - domains))
    assert np.mean(found) == pytest.approx(truth + bias, abs=0.05 + 0.03 * truth)
    assert np.mean(weighted) > 10 or domains > 1  # all of every mixture is the cell itself, so blocks seem to share all


def test_the_plug_in_is_the_equation():
    tensors, domain = inputs(40)[1:], torch.randint(5, (40,))
    found = gaussian_total_correlation(*tensors, 5, domain)
    assert float(found) == pytest.approx(gaussian_by_loop(*(t.numpy() for t in tensors), 5, domain.tolist()), rel=1e-7)
    without = gaussian_by_loop(*(t.numpy() for t in tensors), 5, [0] * 40)
    assert float(gaussian_total_correlation(*tensors, 5)) == pytest.approx(without, rel=1e-7)
    single = gaussian_total_correlation(*(t.float() for t in tensors), 5, domain)
    assert float(single) == pytest.approx(float(found), rel=1e-4)
    leaves = tuple(t.clone().requires_grad_() for t in inputs(9)[1:])
    assert torch.autograd.gradcheck(lambda *t: gaussian_total_correlation(*t, 5, torch.arange(9) % 2), leaves)


@pytest.mark.parametrize(
    "case", ["one cell", "two cells", "all alone", "few cells", "alike", "one latent twice", "huge", "tiny", "no noise"]
)
def test_the_plug_in_is_finite_where_covariances_are_singular(case):
    mean, sd = (t.float() for t in inputs(30)[1:])
    domain = torch.arange(30) % 3
    if case in ("one cell", "two cells"):
        n = 1 if case == "one cell" else 2
        mean, sd, domain = mean[:n], sd[:n], domain[:n]
    elif case == "all alone":
        domain = torch.arange(30)
    elif case == "few cells":  # fewer than latents, in domains of one and two
        mean, sd, domain = mean[:5], sd[:5], torch.tensor([0, 0, 1, 2, 2])
    elif case == "alike":
        mean = torch.zeros_like(mean)
    elif case == "one latent twice":
        mean, sd = torch.cat([mean[:, :1], mean[:, 1:6], mean[:, :1]], 1), torch.full_like(sd, 0.01)
    elif case == "no noise":
        mean, sd = torch.cat([mean[:, :6], mean[:, :1]], 1), torch.zeros_like(sd)
    else:
        mean, sd = (t * (1e12 if case == "huge" else 1e-12) for t in (mean, sd))
    leaves = [t.clone().requires_grad_() for t in (mean, sd)]
    value = gaussian_total_correlation(*leaves, 5, domain)
    assert bool(value.isfinite()) and float(value.detach()) >= -1e-6
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value, leaves))
    if case in ("one cell", "all alone", "alike"):
        assert float(value.detach()) == pytest.approx(0, abs=1e-6)


def test_the_plug_in_shows_what_is_not_a_number_and_does_not_care_for_order_or_scale():
    mean, sd = inputs(30)[1:]
    domain, order = torch.randint(4, (30,)), torch.randperm(30)
    value = gaussian_total_correlation(mean, sd, 5, domain)
    torch.testing.assert_close(gaussian_total_correlation(mean[order], sd[order], 5, domain[order]), value)
    scale = 10.0 ** torch.arange(-3, 4)
    torch.testing.assert_close(gaussian_total_correlation(mean * scale, sd * scale, 5, domain), value)
    mean[3, 2] = torch.nan
    assert bool(gaussian_total_correlation(mean, sd, 5, domain).isnan())
