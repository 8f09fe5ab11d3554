"""Count likelihoods against plain float64 loops written from the equations, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from cellalign.nn import counts as module
from cellalign.nn.batch import SparseRows
from cellalign.nn.counts import negative_binomial_nll, zero_inflated_nll


def log_nb(x: float, mean: float, theta: float) -> float:
    """log NB(x; mean, inverse dispersion theta), as the methods page prints it."""
    return (
        math.lgamma(x + theta)
        - math.lgamma(theta)
        - math.lgamma(x + 1)
        + theta * (math.log(theta) - math.log(theta + mean))
        + (x * (math.log(mean) - math.log(theta + mean)) if x else 0.0)
    )


def loop(x, log_mean, log_theta, dropout=None):
    """Negative log-likelihood per cell, one value at a time."""
    result = []
    for i in range(len(x)):
        total = 0.0
        for g in range(x.shape[1]):
            value, mean, theta = float(x[i, g]), math.exp(log_mean[i, g]), math.exp(log_theta[g])
            likelihood = math.exp(log_nb(value, mean, theta))
            if dropout is not None:
                p = 1 / (1 + math.exp(-dropout[i, g]))
                likelihood = (1 - p) * likelihood + (p if value == 0 else 0.0)
            total -= math.log(likelihood)
        result.append(total)
    return torch.tensor(result, dtype=torch.float64)


@pytest.fixture
def cells():
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(6, 25) * torch.tensor([0.0, 0.5, 4.0])[torch.randint(0, 3, (6, 25))])
    x[2] = 0  # a cell without a count
    x[:, 3] = 0  # a gene without a count
    return x, torch.randn(6, 25), torch.randn(25), torch.randn(6, 25)


@pytest.fixture(params=[0.0, 0.5, 1.0], ids=["dense", "by density", "sparse"])
def path(request, monkeypatch):
    """Both ways of computing the same, whatever the density."""
    monkeypatch.setattr(module, "DENSE_FROM", request.param)


@pytest.mark.usefixtures("path")
def test_values_are_those_of_the_equation(cells):
    x, log_mean, log_theta, dropout = cells
    sparse = SparseRows.of(x)
    torch.testing.assert_close(
        negative_binomial_nll(sparse, log_mean, log_theta).double(), loop(x, log_mean, log_theta), rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(
        zero_inflated_nll(sparse, log_mean, log_theta, dropout).double(),
        loop(x, log_mean, log_theta, dropout),
        rtol=1e-6,
        atol=1e-5,
    )


@pytest.mark.usefixtures("path")
def test_gradients_are_numerical_ones(cells):
    x, *parameters = (value.double() for value in cells)
    sparse = SparseRows.of(x)
    log_mean, log_theta, dropout = (p.clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(lambda m, t: negative_binomial_nll(sparse, m, t), (log_mean, log_theta))
    assert torch.autograd.gradcheck(lambda m, t, h: zero_inflated_nll(sparse, m, t, h), (log_mean, log_theta, dropout))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("theta", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("x", [0.0, 1.0, 1e3, 1e7])
@pytest.mark.parametrize("mean", [1e-3, 1.0, 1e7])
def test_extremes_stay_exact_in_float32(theta, x, mean):
    import mpmath

    mpmath.mp.dps = 50
    log_mean = torch.tensor([[math.log(mean)]], requires_grad=True)
    log_theta = torch.tensor([math.log(theta)], requires_grad=True)
    found = negative_binomial_nll(SparseRows.of(torch.tensor([[x]])), log_mean, log_theta)
    by_mean, by_theta = torch.autograd.grad(found.sum(), (log_mean, log_theta))
    # the very numbers the float32 tensors hold
    m, t, v = mpmath.exp(log_mean.item()), mpmath.exp(log_theta.item()), mpmath.mpf(x)

    def nll(log_m, log_t):
        m, t = mpmath.exp(log_m), mpmath.exp(log_t)
        rising = mpmath.loggamma(v + t) - mpmath.loggamma(t) - mpmath.loggamma(v + 1)
        return -(rising + t * mpmath.log(t / (t + m)) + v * mpmath.log(m / (t + m)))

    a, b = mpmath.log(m), mpmath.log(t)
    assert found.item() == pytest.approx(float(nll(a, b)), rel=1e-5, abs=1e-5)
    assert by_mean.item() == pytest.approx(float(mpmath.diff(nll, (a, b), (1, 0))), rel=1e-4, abs=1e-4)
    assert by_theta.item() == pytest.approx(float(mpmath.diff(nll, (a, b), (0, 1))), rel=1e-4, abs=1e-3)


def test_each_cell_weighs_its_own_gradient(cells):
    x, log_mean, log_theta, _ = cells
    log_mean, weight = log_mean.requires_grad_(), torch.rand(6)
    (negative_binomial_nll(SparseRows.of(x), log_mean, log_theta) * weight).sum().backward()
    weighted = log_mean.grad.clone()
    log_mean.grad = None
    negative_binomial_nll(SparseRows.of(x), log_mean, log_theta).sum().backward()
    torch.testing.assert_close(weighted, log_mean.grad * weight[:, None])


def test_explicit_zeros_change_nothing(cells):
    x, log_mean, log_theta, dropout = cells
    everywhere = SparseRows(torch.arange(0, 151, 25), torch.arange(25).repeat(6), x.flatten(), 25)
    torch.testing.assert_close(
        negative_binomial_nll(everywhere, log_mean, log_theta),
        negative_binomial_nll(SparseRows.of(x), log_mean, log_theta),
    )
