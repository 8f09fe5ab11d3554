"""Likelihood and KL against plain float64 loops and numerical gradients."""

import math

import numpy as np
import torch
from scipy import integrate, stats

from cellalign.nn.distributions import gaussian_nll, kl_to_standard_normal, sample_normal


def test_gaussian_nll_equals_scipy_summed_over_genes():
    rng = np.random.default_rng(0)
    x, mean, scale = rng.normal(size=(5, 7)), rng.normal(size=(5, 7)), rng.uniform(0.05, 3, size=(5, 1))
    expected = [-sum(stats.norm.logpdf(x[i, g], mean[i, g], scale[i, 0]) for g in range(7)) for i in range(5)]
    got = gaussian_nll(*(torch.from_numpy(a) for a in (x, mean, scale)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_gaussian_nll_gradient():
    torch.manual_seed(0)
    args = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)] + [torch.rand(3, 1, dtype=torch.float64) + 0.1]
    for a in args:
        a.requires_grad_()
    assert torch.autograd.gradcheck(gaussian_nll, args)


def test_kl_equals_numerical_integration():
    mean, scale = 0.7, 0.3

    def integrand(z):
        q = stats.norm.pdf(z, mean, scale)
        return q * (stats.norm.logpdf(z, mean, scale) - stats.norm.logpdf(z))

    expected = integrate.quad(integrand, mean - 12 * scale, mean + 12 * scale)[0]
    got = kl_to_standard_normal(torch.tensor([[mean] * 3]), torch.tensor([[scale] * 3]))
    assert math.isclose(float(got), 3 * expected, rel_tol=1e-5)


def test_kl_gradient_and_zero_at_the_prior():
    mean = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(4, 3, dtype=torch.float64) + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(kl_to_standard_normal, (mean, scale))
    assert float(kl_to_standard_normal(torch.zeros(1, 5), torch.ones(1, 5))) == 0


def test_draws_have_the_posteriors_moments():
    torch.manual_seed(0)
    mean = torch.tensor([1.0, -2.0]).expand(200_000, 2)
    z = sample_normal(mean, torch.tensor(0.5))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)
