"""What a decoder predicts: means, variances, likelihoods and draws against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cellalign.nn.distributions import NegativeBinomial, Normal, Point, ZeroInflatedNegativeBinomial
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.sparse import SparseRows

CELLS, GENES, DRAWS, MANY = 5, 7, 3, 20_000


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def real(dtype=torch.float64):
    return Minibatch(numbers(CELLS, GENES, seed=1).to(dtype))


def counts(sparse=False):
    x = torch.from_numpy(np.random.default_rng(1).poisson(2.0, (CELLS, GENES)).astype(np.float32))
    x[0] = 0  # a cell without a single count
    return Minibatch(SparseRows.of(x) if sparse else x)


def negative_binomial(*lead):
    library = torch.tensor([1.0, 12.0, 30.0, 5.0, 100.0])[:, None]
    logits = numbers(*lead, CELLS, GENES).float()
    return NegativeBinomial(logits, library, torch.linspace(-1.5, 3.0, GENES))


def zero_inflated(*lead):
    return ZeroInflatedNegativeBinomial(negative_binomial(*lead), numbers(*lead, CELLS, GENES, seed=2).float())


def make(kind, *lead):
    location = numbers(*lead, CELLS, GENES)
    if kind == "normal":
        return Normal(location, 0.1 + numbers(*lead, CELLS, 1, seed=3).abs())
    return {"point": Point, "nb": lambda _: negative_binomial(*lead), "zinb": lambda _: zero_inflated(*lead)}[kind](
        location
    )


def batch_for(kind):
    return counts() if kind in ("nb", "zinb") else real()


def parameters(given):
    """Means m [B, G] and inverse dispersions t [G] of a negative binomial, in float64 loops."""
    logits, library = given.logits.double().numpy(), given.library.double().numpy()
    means = np.zeros((CELLS, GENES))
    for i in range(CELLS):
        total = sum(math.exp(v) for v in logits[i])
        for g in range(GENES):
            means[i, g] = library[i, 0] * math.exp(logits[i, g]) / total
    return means, [math.exp(v) for v in given.log_theta.double().numpy()]


def log_nb(x, m, t):
    """log NB(x; m, t): the number of failures before t successes of chance t / (t + m)."""
    pmf = math.lgamma(x + t) - math.lgamma(t) - math.lgamma(x + 1)
    return pmf + t * math.log(t / (t + m)) + x * math.log(m / (t + m))


KINDS = ["normal", "point", "nb", "zinb"]


def test_the_formula_of_this_file_is_scipys_negative_binomial():
    for x, m, t in ((0, 2.0, 0.5), (3, 0.1, 7.0), (40, 25.0, 2.0)):
        assert log_nb(x, m, t) == pytest.approx(stats.nbinom.logpmf(x, t, t / (t + m)), rel=1e-12)


def test_a_normal_has_its_mean_and_one_variance_for_all_genes_of_a_cell():
    given = make("normal")
    torch.testing.assert_close(given.mean, given.location)
    for i in range(CELLS):
        for g in range(GENES):
            assert float(given.variance[i, g]) == pytest.approx(float(given.sd[i, 0]) ** 2, rel=1e-12)


def test_a_normals_likelihood_is_the_sum_of_log_densities():
    given, batch = make("normal"), real()
    for i in range(CELLS):
        expected = -sum(stats.norm.logpdf(batch.x[i, g], given.location[i, g], given.sd[i, 0]) for g in range(GENES))
        assert float(given.nll(batch)[i]) == pytest.approx(expected, rel=1e-10)


def test_a_point_has_no_spread_and_half_the_squared_error():
    given, batch = make("point"), real()
    torch.testing.assert_close(given.mean, given.location)
    assert not given.has_spread and given.variance.shape == (CELLS, GENES) and not given.variance.any()
    for i in range(CELLS):
        expected = sum(0.5 * float(batch.x[i, g] - given.location[i, g]) ** 2 for g in range(GENES))
        assert float(given.nll(batch)[i]) == pytest.approx(expected, rel=1e-10)
    assert torch.equal(given.sample(), given.mean)


def test_a_points_likelihood_is_that_of_a_unit_normal_but_for_a_constant():
    given, batch = make("point"), real()
    normal = Normal(given.location, torch.ones(CELLS, 1, dtype=torch.float64))
    constant = GENES * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(given.nll(batch) + constant, normal.nll(batch))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_negative_binomials_moments_and_likelihood(sparse):
    given, batch = negative_binomial(), counts(sparse)
    means, thetas = parameters(given)
    np.testing.assert_allclose(given.mean.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(given.mean.sum(1), given.library[:, 0], rtol=1e-5)
    for g, t in enumerate(thetas):
        expected = [stats.nbinom.var(t, t / (t + means[i, g])) for i in range(CELLS)]
        np.testing.assert_allclose(given.variance[:, g].numpy(), expected, rtol=1e-4)
    expected = [-sum(log_nb(float(batch.x[i, g]), means[i, g], thetas[g]) for g in range(GENES)) for i in range(CELLS)]
    np.testing.assert_allclose(given.nll(batch).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_zero_inflated_negative_binomials_moments_and_likelihood(sparse):
    given, batch = zero_inflated(), counts(sparse)
    means, thetas = parameters(given.counts)
    dropped = given.dropout_logits.double().numpy()
    for i in range(CELLS):
        nll = 0.0
        for g, t in enumerate(thetas):
            m, p, x = means[i, g], 1 / (1 + math.exp(-dropped[i, g])), float(batch.x[i, g])
            pmf = (1 - p) * math.exp(log_nb(x, m, t)) + (p if x == 0 else 0.0)
            nll -= math.log(pmf)
            assert float(given.mean[i, g]) == pytest.approx((1 - p) * m, rel=1e-4)
            variance = (1 - p) * (m + m * m / t + m * m) - ((1 - p) * m) ** 2  # E x^2 - (E x)^2
            assert float(given.variance[i, g]) == pytest.approx(variance, rel=1e-4)
        assert float(given.nll(batch)[i]) == pytest.approx(nll, rel=1e-5)


def test_moments_of_a_zero_inflated_one_are_those_of_its_probabilities():
    """Summed over all counts that have a probability, not from a formula."""
    given = zero_inflated()
    means, thetas = parameters(given.counts)
    p, m, t = 1 / (1 + math.exp(-float(given.dropout_logits[1, 3]))), means[1, 3], thetas[3]
    pmf = np.array([(1 - p) * math.exp(log_nb(x, m, t)) for x in range(2000)])
    pmf[0] += p
    x = np.arange(2000)
    assert pmf.sum() == pytest.approx(1, abs=1e-9)
    assert float(given.mean[1, 3]) == pytest.approx((pmf * x).sum(), rel=1e-4)
    assert float(given.variance[1, 3]) == pytest.approx((pmf * x**2).sum() - (pmf * x).sum() ** 2, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_several_draws_at_once_are_each_by_itself(kind):
    together, batch = make(kind, DRAWS), batch_for(kind)
    assert together.mean.shape == together.variance.shape == together.sample().shape == (DRAWS, CELLS, GENES)
    found = together.nll(batch)
    assert found.shape == (DRAWS, CELLS)
    for i in range(DRAWS):
        if kind == "normal":
            one = Normal(together.location[i], together.sd[i])
        elif kind == "point":
            one = Point(together.location[i])
        else:
            nb = together if kind == "nb" else together.counts
            one = NegativeBinomial(nb.logits[i], nb.library, nb.log_theta)
            one = one if kind == "nb" else ZeroInflatedNegativeBinomial(one, together.dropout_logits[i])
        torch.testing.assert_close(together.mean[i], one.mean)
        torch.testing.assert_close(together.variance[i], one.variance)
        torch.testing.assert_close(found[i], one.nll(batch), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_shape_and_kind_of_cells(kind):
    torch.manual_seed(0)
    draw = make(kind).sample()
    assert draw.shape == (CELLS, GENES) and draw.isfinite().all()
    if kind in ("nb", "zinb"):
        assert torch.equal(draw, draw.round()) and (draw >= 0).all()


@pytest.mark.parametrize("kind", ["normal", "nb", "zinb"])
def test_draws_have_the_mean_and_the_variance_that_are_stated(kind):
    """Within 5 standard errors for each of 20,000 draws of 5 x 7; the error of a variance from the fourth moment."""
    torch.manual_seed(0)
    given = make(kind)
    if kind == "normal":
        draws = Normal(given.location.expand(MANY, -1, -1), given.sd).sample()
    else:
        nb = given if kind == "nb" else given.counts
        wide = NegativeBinomial(nb.logits.expand(MANY, -1, -1), nb.library, nb.log_theta)
        draws = wide.sample() if kind == "nb" else ZeroInflatedNegativeBinomial(
            wide, given.dropout_logits.expand(MANY, -1, -1)
        ).sample()  # fmt: skip
    x = draws.double()
    error = (given.variance.double() / MANY).sqrt()
    assert ((x.mean(0) - given.mean.double()).abs() < 5 * error + 1e-6).all()
    squares = (x - given.mean.double()).square()
    spread = squares.std(0) / math.sqrt(MANY)
    assert ((squares.mean(0) - given.variance.double()).abs() < 5 * spread + 1e-6).all()


def test_zeros_of_draws_are_as_frequent_as_stated():
    torch.manual_seed(0)
    given = zero_inflated()
    nb = given.counts
    wide = ZeroInflatedNegativeBinomial(
        NegativeBinomial(nb.logits.expand(MANY, -1, -1), nb.library, nb.log_theta),
        given.dropout_logits.expand(MANY, -1, -1),
    )
    found = (wide.sample() == 0).double().mean(0).numpy()
    means, thetas = parameters(nb)
    for i in range(CELLS):
        for g in range(GENES):
            p = 1 / (1 + math.exp(-float(given.dropout_logits[i, g])))
            expected = p + (1 - p) * math.exp(log_nb(0, means[i, g], thetas[g]))
            assert abs(found[i, g] - expected) < 5 * math.sqrt(expected * (1 - expected) / MANY) + 1e-9


@pytest.mark.parametrize("kind", ["normal", "nb", "zinb"])
def test_draws_follow_the_seed(kind):
    given = make(kind)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(given.sample())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_extreme_dispersions_stay_finite():
    log_theta = torch.tensor([-12.0, 0.0, 12.0])
    given = NegativeBinomial(torch.tensor([[30.0, 0.0, -30.0]]), torch.tensor([[1e5]]), log_theta)
    batch = Minibatch(torch.tensor([[1e5, 0.0, 3.0]]))
    torch.manual_seed(0)
    assert given.nll(batch).isfinite().all() and given.sample().isfinite().all() and given.variance.isfinite().all()
