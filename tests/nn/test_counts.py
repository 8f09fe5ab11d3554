"""Count likelihoods against plain float64 loops written from the equations, and their gradients."""

from __future__ import annotations

import functools
import math

import mpmath
import numpy as np
import pytest
import torch

from cellalign.nn.counts import negative_binomial_nll, zero_inflated_nll
from cellalign.nn.kernels import elementary, ops, tensors
from cellalign.nn.sparse import SparseRows


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
    x[0, :3] = torch.tensor([15.0, 16.0, 40.0])  # the last that is looked up, and others that are not
    x[1, :2] = torch.tensor([2.5, 0.3])  # counts corrected for ambient RNA
    return x, torch.randn(6, 25), torch.randn(25), torch.randn(6, 25)


@pytest.fixture(params=["compiled", "tensors", "tensors without float64"])
def form(request, monkeypatch):
    """As on a CPU; as where loops are not compiled, or on a GPU; as on MPS."""
    use(request.param, monkeypatch)
    # all the same in float64, or the numbers would not do for the tests of large counts
    monkeypatch.setattr(tensors, "has_float64", lambda _: "without" not in request.param)
    if "without" in request.param:
        monkeypatch.setattr(tensors, "exact", torch.Tensor.double)
    return request.param


def use(form, monkeypatch):
    monkeypatch.setattr(ops, "prefers_tensors", lambda *_: "" if form == "compiled" else "of this test")


def library_of(logits):
    """The library size with which softmax(logits) stands for means of exp(logits)."""
    return logits.detach().logsumexp(1, keepdim=True).exp()


def nb(sparse, log_mean, log_theta):
    return negative_binomial_nll(sparse, log_mean, library_of(log_mean), log_theta)


def zinb(sparse, log_mean, log_theta, dropout):
    return zero_inflated_nll(sparse, log_mean, library_of(log_mean), log_theta, dropout)


@pytest.mark.usefixtures("form")
def test_values_are_those_of_the_equation(cells):
    x, log_mean, log_theta, dropout = cells
    sparse = SparseRows.of(x)
    torch.testing.assert_close(
        nb(sparse, log_mean, log_theta).double(), loop(x, log_mean, log_theta), rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(
        zinb(sparse, log_mean, log_theta, dropout).double(),
        loop(x, log_mean, log_theta, dropout),
        rtol=1e-6,
        atol=1e-5,
    )


@pytest.mark.parametrize("more", [0.0, 20.0], ids=["small counts", "large counts"])
def test_gradients_are_numerical_ones(cells, more):
    x, *parameters = (value.double() for value in cells)
    x[:4] += more
    sparse, library = SparseRows.of(x), x.sum(1, keepdim=True).clamp(min=1)
    logits, log_theta, dropout = (p.clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(lambda r, t: negative_binomial_nll(sparse, r, library, t), (logits, log_theta))
    assert torch.autograd.gradcheck(
        lambda r, t, h: zero_inflated_nll(sparse, r, library, t, h), (logits, log_theta, dropout)
    )


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("inflated", [False, True], ids=["nb", "zinb"])
def test_gradients_in_float32_are_those_of_float64(cells, inflated):
    x, *parameters = cells
    library = x.sum(1, keepdim=True).clamp(min=1)
    found, expected = [], []
    for nll, dtype, gradients in ((likelihood, torch.float32, found), (in_plain_float64, torch.float64, expected)):
        logits, log_theta, dropout = leaves = [p.to(dtype).requires_grad_() for p in parameters]
        cost = nll(x, logits, library, log_theta, dropout if inflated else None)
        leaves = leaves if inflated else leaves[:2]
        gradients += [cost.double(), *torch.autograd.grad((cost * torch.arange(1.0, 7)).sum(), leaves)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def likelihood(x, logits, library, log_theta, dropout):
    sparse = SparseRows.of(x)
    if dropout is None:
        return negative_binomial_nll(sparse, logits, library, log_theta)
    return zero_inflated_nll(sparse, logits, library, log_theta, dropout)


def in_plain_float64(x, logits, library, log_theta, dropout):
    """The equations as autograd takes them."""
    x, mean, t = x.double(), logits.softmax(1) * library, log_theta.exp()
    nll = torch.lgamma(t) + torch.lgamma(x + 1) - torch.lgamma(x + t)
    nll = nll - t * torch.log(t / (t + mean)) - x * torch.log(mean / (t + mean))
    if dropout is not None:
        zero = -torch.log(dropout.sigmoid() + (1 - dropout.sigmoid()) * torch.exp(-nll))
        nll = torch.where(x == 0, zero, nll - torch.log(1 - dropout.sigmoid()))
    return nll.sum(1)


def test_what_is_not_a_number_shows(cells):
    x, logits, log_theta, dropout = cells
    logits[3, 7] = torch.nan
    cost = likelihood(x, logits, torch.ones(6, 1), log_theta, dropout)
    assert cost.isnan().tolist() == [False, False, False, True, False, False]
    log_theta[0] = torch.nan
    assert likelihood(x, logits, torch.ones(6, 1), log_theta, None).isnan().all()


@pytest.mark.usefixtures("form")
def test_a_zeros_dropout_logit_that_is_not_a_number_shows():
    dropout = torch.tensor([[0.0, torch.nan]])
    cost = likelihood(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2), torch.ones(1, 1), torch.zeros(2), dropout)
    assert cost.isnan().all()
    empty = likelihood(torch.zeros(1, 2), dropout, torch.ones(1, 1), torch.zeros(2), torch.zeros(1, 2))
    assert empty.isnan().all()


@pytest.mark.usefixtures("form")
def test_other_precisions_of_library_and_dispersion_change_nothing(cells):
    x, logits, log_theta, _ = cells
    library = torch.tensor([[1e-7], [1.0], [3.0], [40.0], [5.0], [6.0]])
    for more in (None, torch.zeros(6, 25)):
        expected = likelihood(x, logits, library, log_theta, more)
        torch.testing.assert_close(
            likelihood(x, logits, library.double(), log_theta.double(), more).to(expected.dtype), expected
        )


@pytest.mark.parametrize("change", ["genes", "cells", "library", "theta", "dropout"])
def test_compiled_loops_refuse_what_does_not_fit(cells, change):
    x, logits, log_theta, dropout = cells
    library = torch.ones(6, 1)
    given = {
        "genes": (x[:, :-1], logits, library, log_theta, dropout),
        "cells": (x[:-1], logits, library, log_theta, dropout),
        "library": (x, logits, library[:1], log_theta, dropout),
        "theta": (x, logits, library, log_theta[:-1], dropout),
        "dropout": (x, logits, library, log_theta, dropout[:, :-1]),
    }
    with pytest.raises(ValueError, match="must be"):
        likelihood(*given[change])


def test_the_compiled_form_is_for_float32(monkeypatch):
    cells = SparseRows.of(torch.tensor([[1.0, 15.0, 16.0]]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ops.prefers_tensors(cells, torch.zeros(1, 3)) == ""
    assert "float64" in ops.prefers_tensors(cells, torch.zeros(1, 3, dtype=torch.float64))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "64 threads" in ops.prefers_tensors(cells, torch.zeros(1, 3))


REDUCTIONS = {
    "mean": torch.mean,  # as it is kept
    "thrice the sum": lambda cost: 3 * cost.sum(),  # scaled, and not computed again
    "weights": lambda cost: cost @ torch.linspace(0, 1, len(cost)),
}


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_of_any_weights(n, inflated, reduction, monkeypatch):
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(n, 9))
    library = torch.rand(n, 1) + 5
    parameters = [torch.randn(*shape, requires_grad=True) for shape in ((n, 9), (9,), (n, 9))][: 2 + inflated]
    gradients = []
    for form in ("compiled", "tensors", "plain"):
        use(form, monkeypatch)
        nll = in_plain_float64 if form == "plain" else likelihood
        given = [p.double() for p in parameters] if form == "plain" else parameters
        logits, log_theta, dropout = given if inflated else (*given, None)
        cost = REDUCTIONS[reduction](nll(x, logits, library, log_theta, dropout).float())
        first = torch.autograd.grad(cost, parameters, retain_graph=True)
        gradients.append(torch.autograd.grad(cost, parameters))
        for one, other in zip(first, gradients[-1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    for others in gradients[:2]:
        for one, other in zip(others, gradients[2], strict=True):
            torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_logits_in_bfloat16_cost_what_they_cost_in_float32(inflated, reduction, monkeypatch):
    """And their derivatives are those, rounded."""
    torch.manual_seed(0)
    x, library, log_theta = torch.poisson(torch.rand(40, 60) * 20), torch.rand(40, 1) + 5, torch.randn(60)
    rounded = [torch.randn(40, 60).bfloat16().requires_grad_() for _ in range(1 + inflated)]
    for form in ("compiled", "tensors"):
        use(form, monkeypatch)
        costs, slopes = [], []
        for logits, *dropout in (rounded, [values.detach().float().requires_grad_() for values in rounded]):
            theta = log_theta.clone().requires_grad_()
            cost = likelihood(x, logits, library, theta, *(dropout or [None]))
            assert cost.dtype == torch.float32
            costs.append(cost)
            slopes.append(torch.autograd.grad(REDUCTIONS[reduction](cost), [theta, logits, *dropout]))
        torch.testing.assert_close(costs[0], costs[1], rtol=1e-6, atol=0)
        torch.testing.assert_close(slopes[0][0], slopes[1][0], rtol=1e-4, atol=1e-6)
        for narrow, wide in zip(slopes[0][1:], slopes[1][1:], strict=True):
            assert narrow.dtype == torch.bfloat16
            torch.testing.assert_close(narrow.float(), wide, rtol=2**-6, atol=1e-9)  # twice rounded under weights


def test_rounding_is_torchs():
    torch.manual_seed(0)
    values = torch.cat(
        [torch.randn(10_000) * torch.randn(10_000).exp() ** 9, torch.tensor([0.0, -0.0, 1e-40, torch.inf])]
    )
    bits = np.empty(len(values), np.int16)
    elementary.narrow(values.numpy(), bits)
    assert torch.equal(torch.from_numpy(bits), values.bfloat16().view(torch.int16))
    wide = np.empty(len(values), np.float32)
    elementary.widen(bits, wide)
    assert torch.equal(torch.from_numpy(wide), values.bfloat16().float())


@pytest.mark.usefixtures("form")
def test_a_gradient_has_no_gradient_and_says_so(cells):
    x, logits, log_theta, _ = cells
    weights = torch.ones(6, requires_grad=True)
    cost = likelihood(x, logits.requires_grad_(), torch.ones(6, 1), log_theta, None)
    (by_logits,) = torch.autograd.grad(cost @ weights, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_logits.sum().backward()


def test_a_cells_share_of_the_mean_is_torchs():
    for n in range(1, 600):
        cost = torch.zeros(n, requires_grad=True)
        cost.mean().backward()
        assert (cost.grad == ops.share(n)).all()


def many_digits_log_nb(x, mean, theta):
    """log NB(x; mean, inverse dispersion theta) of mpmath's numbers."""
    rising = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return rising + theta * mpmath.log(theta / (theta + mean)) + x * mpmath.log(mean / (theta + mean))


@functools.cache
def many_digits(theta, x, mean):
    """The next test's value and gradients; computed once for all forms."""
    mpmath.mp.dps = 50
    logits, log_theta, library = extreme(theta, mean)
    counts = [mpmath.mpf(x), mpmath.mpf(2)]

    def nll(logit, log_t):
        # with the very numbers the float32 tensors hold
        shares = [mpmath.exp(value) for value in (logit, mpmath.mpf(logits[0, 1].item()))]
        total = 0
        for v, share, t in zip(counts, shares, (mpmath.exp(log_t), mpmath.mpf(1)), strict=True):
            m = mpmath.mpf(library.item()) * share / sum(shares)
            total -= many_digits_log_nb(v, m, t)
        return total

    at = (mpmath.mpf(logits[0, 0].item()), mpmath.mpf(log_theta[0].item()))
    return float(nll(*at)), float(mpmath.diff(nll, at, (1, 0))), float(mpmath.diff(nll, at, (0, 1)))


def extreme(theta, mean):
    """Logits and log theta of two genes of the same mean, the second of theta 1, and the library size."""
    logits = torch.tensor([[math.log(mean)] * 2], requires_grad=True)
    return logits, torch.tensor([math.log(theta), 0.0], requires_grad=True), library_of(logits)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("theta", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("x", [0.0, 1.0, 1e3, 1e7])
@pytest.mark.parametrize("mean", [1e-3, 1.0, 1e7])
def test_extremes_stay_exact_in_float32(theta, x, mean):
    # a second gene of count 2, so that the share of the first has a gradient
    logits, log_theta, library = extreme(theta, mean)
    found = negative_binomial_nll(SparseRows.of(torch.tensor([[x, 2.0]])), logits, library, log_theta)
    by_logits, by_theta = torch.autograd.grad(found.sum(), (logits, log_theta))
    value, expected_by_logit, expected_by_theta = many_digits(theta, x, mean)
    assert found.item() == pytest.approx(value, rel=1e-5, abs=1e-5)
    rounding = 3e-7 * min(x, mean)  # of a mean in float32, where the gradient is what mean and count differ by
    assert by_logits[0, 0].item() == pytest.approx(expected_by_logit, rel=1e-4, abs=1e-4 + rounding)
    assert by_theta[0].item() == pytest.approx(expected_by_theta, rel=1e-4, abs=1e-3)


COUNTS = (0.0, 1.0, 3.0, 15.0, 16.0, 2.5, 400.0)


@functools.cache
def slopes_of_many_digits(logits, library, log_theta):
    """Value of one cell of COUNTS, its derivatives by logits and by log theta [G], and what of them is rounding.

    From the equation: with s = m / (t + m), by log m it is t s - x (1 - s).
    """
    mpmath.mp.dps = 40
    exponentials, theta = [mpmath.exp(logit) for logit in logits], mpmath.exp(log_theta)
    shares = [e / sum(exponentials) for e in exponentials]
    value, by_log_m, by_log_t, rounding = mpmath.mpf(0), [], [], []
    for x, share in zip(COUNTS, shares, strict=True):
        m, t = library * share, theta
        s, rest = m / (t + m), t / (t + m)
        value -= many_digits_log_nb(mpmath.mpf(x), m, t)
        by_log_m.append(t * s - x * rest)
        rising = mpmath.digamma(x + t) - mpmath.digamma(t)
        by_log_t.append(t * (mpmath.log1p(m / t) - s - rising) + x * rest)
        rounding.append(float((m + x) * rest))
    total = sum(by_log_m)
    by_logits = [float(b - share * total) for b, share in zip(by_log_m, shares, strict=True)]
    return float(value), by_logits, [float(b) for b in by_log_t], rounding


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("log_theta", [-40.0, -25.0, -13.0, -5.0, 0.0, 12.0, 20.0])
@pytest.mark.parametrize("spread", [1.0, 30.0, 120.0])  # the last: shares down to e^-720, of which float32 holds none
def test_all_regimes_are_exact_in_float32(log_theta, spread):
    logits = (spread * torch.linspace(-6, 0, len(COUNTS))).flip(0)[None].requires_grad_()
    theta = torch.full((len(COUNTS),), log_theta).requires_grad_()
    found = negative_binomial_nll(SparseRows.of(torch.tensor([COUNTS])), logits, torch.tensor([[1000.0]]), theta)
    by_logits, by_theta = torch.autograd.grad(found.sum(), (logits, theta))
    value, slopes, slopes_t, rounding = slopes_of_many_digits(tuple(logits[0].tolist()), 1000.0, log_theta)
    assert found.item() == pytest.approx(value, rel=1e-6)
    shares = logits.detach()[0].softmax(0).tolist()
    for j in range(len(COUNTS)):
        of_sum = 1e-6 * sum(rounding) * shares[j]
        assert by_logits[0, j].item() == pytest.approx(slopes[j], rel=1e-5, abs=1e-6 * rounding[j] + of_sum)
        assert by_theta[j].item() == pytest.approx(slopes_t[j], rel=1e-4, abs=1e-6 + 1e-14 * math.exp(log_theta))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("logit", [-60.0, -5.0, 0.0, 5.0, 100.0])
@pytest.mark.parametrize("mean", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("x", [0.0, 3.0])
def test_dropout_stays_exact_in_float32(logit, mean, x):
    mpmath.mp.dps = 50
    log_mean, theta = torch.tensor([[math.log(mean)]]), 50.0
    h = torch.tensor([[logit]], requires_grad=True)
    found = zinb(SparseRows.of(torch.tensor([[x]])), log_mean, torch.tensor([math.log(theta)]), h)
    (by_dropout,) = torch.autograd.grad(found.sum(), h)

    def nll(h):
        t, m, v = mpmath.mpf(theta), mpmath.exp(mpmath.mpf(log_mean.item())), mpmath.mpf(x)
        p = 1 / (1 + mpmath.exp(-h))
        return -mpmath.log((1 - p) * mpmath.exp(many_digits_log_nb(v, m, t)) + (p if x == 0 else 0))

    assert found.item() == pytest.approx(float(nll(mpmath.mpf(logit))), rel=1e-5, abs=1e-5)
    assert by_dropout.item() == pytest.approx(float(mpmath.diff(nll, mpmath.mpf(logit))), rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("log_theta", [-100.0, -45.0, 25.0, 100.0])
def test_absurd_dispersions_give_finite_values_and_gradients(log_theta):
    counts = SparseRows.of(torch.tensor([[0.0, 2.0, 40.0], [0.0, 0.0, 3.0]]))
    leaves = [torch.randn(2, 3), torch.full((3,), log_theta), torch.randn(2, 3)]
    logits, theta, dropout = (leaf.requires_grad_() for leaf in leaves)
    library = torch.tensor([[42.0], [3.0]])
    for cost in (
        negative_binomial_nll(counts, logits, library, theta),
        zero_inflated_nll(counts, logits, library, theta, dropout),
    ):
        assert cost.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(cost.sum(), (logits, theta)))


def test_dropout_logits_may_lie_in_any_order(cells):
    x, logits, log_theta, dropout = cells
    sparse, turned = SparseRows.of(x), dropout.t().contiguous().t()
    torch.testing.assert_close(zinb(sparse, logits, log_theta, turned), zinb(sparse, logits, log_theta, dropout))


@pytest.mark.usefixtures("form")
def test_shares_too_small_for_float32_still_have_a_finite_cost_and_a_gradient():
    logits = torch.tensor([[0.0, -200.0, 0.0, 0.0]], requires_grad=True)
    counts = SparseRows.of(torch.tensor([[5.0, 3.0, 0.0, 0.0]]))
    cost = negative_binomial_nll(counts, logits, torch.tensor([[8.0]]), torch.tensor([0.0, 0.0, 0.0, -200.0]))
    cost.sum().backward()
    assert cost.isfinite().all()
    assert logits.grad[0, 1] < -1  # up


@pytest.mark.usefixtures("form")
def test_each_cell_weighs_its_own_gradient(cells):
    x, logits, log_theta, _ = cells
    logits, weight = logits.requires_grad_(), torch.rand(6)
    (nb(SparseRows.of(x), logits, log_theta) * weight).sum().backward()
    weighted = logits.grad.clone()
    logits.grad = None
    nb(SparseRows.of(x), logits, log_theta).sum().backward()
    torch.testing.assert_close(weighted, logits.grad * weight[:, None])


@pytest.mark.usefixtures("form")
def test_explicit_zeros_change_nothing(cells):
    x, log_mean, log_theta, _ = cells
    everywhere = SparseRows(torch.arange(0, 151, 25), torch.arange(25).repeat(6), x.flatten(), 25)
    torch.testing.assert_close(nb(everywhere, log_mean, log_theta), nb(SparseRows.of(x), log_mean, log_theta))
