"""Likelihood and KL against plain float64 loops and numerical gradients."""

import math

import numpy as np
import torch
from scipy import integrate, stats

from cellalign.nn.distributions import gaussian_nll, gumbel_sigmoid, kl_to_standard_normal, log_normal, sample_normal


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


def test_log_normal_is_torchs():
    torch.manual_seed(0)
    z, mean, scale = torch.randn(5, 4, 3), torch.randn(4, 3), torch.rand(4, 3) + 0.1
    expected = torch.distributions.Normal(mean, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(log_normal(z, mean, scale), expected)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(log_normal(z, 0.0, 1.0), standard)


def test_gumbel_sigmoid_draws_bits_with_their_probability_and_passes_the_gradient():
    torch.manual_seed(0)
    logits = torch.tensor([-2.0, 0.0, 1.5]).requires_grad_()
    draws = gumbel_sigmoid(logits.expand(200_000, 3))
    # the value is 0 or 1 up to the rounding of hard + soft - soft
    assert float(draws.detach().sub(draws.detach().round()).abs().max()) < 1e-6
    torch.testing.assert_close(draws.mean(0).detach(), torch.sigmoid(logits.detach()), atol=5e-3, rtol=0)
    (gradient,) = torch.autograd.grad(draws.mean(0).sum(), logits)
    # E[s (1 - s)] of the relaxed draw s, by a sum over a grid of the noise's quantiles
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    soft = torch.sigmoid(logits.detach().double() + (grid.log() - torch.log1p(-grid))[:, None])
    torch.testing.assert_close(gradient.double(), (soft * (1 - soft)).mean(0), atol=2e-3, rtol=0)
