"""What the compiled loops are made of, against numpy and scipy in float64."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln, logsumexp

from cellalign.nn import kernels
from cellalign.nn.kernels import likelihood, product, team
from cellalign.nn.sparse import SparseRows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def each(function, values):
    """The function of every value."""

    @numba.njit
    def loop(values, out):
        for i in range(len(values)):
            out[i] = function(values[i])

    out = np.empty_like(values)
    loop(values, out)
    return out


def test_exp_is_right_to_an_ulp_and_cut(rng):
    x = rng.uniform(-86, 87, 100_000).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(each(likelihood._exp, x), expected, rtol=1.2e-7)
    outside = each(likelihood._exp, np.array([-np.inf, -1e4, 1e4, np.inf, np.nan], np.float32))
    np.testing.assert_allclose(outside[:4], np.exp([-87.0, -87.0, 88.0, 88.0]), rtol=1e-6)
    assert np.isnan(outside[4])


def test_log_is_right_to_an_ulp(rng):
    x = np.exp(rng.uniform(-87, 87, 100_000)).astype(np.float32)
    np.testing.assert_allclose(each(likelihood._log, x), np.log(x.astype(np.float64)), rtol=2.5e-7, atol=1e-7)
    assert np.isnan(each(likelihood._log, np.array([np.nan, np.inf], np.float32))).all()
    near_one = (1 + rng.uniform(-0.1, 0.1, 100_000)).astype(np.float32)
    np.testing.assert_allclose(each(likelihood._log, near_one), np.log(near_one.astype(np.float64)), rtol=2.5e-7)


def test_log1p_keeps_what_adding_one_rounds_away(rng):
    x = np.exp(rng.uniform(-60, 30, 100_000)).astype(np.float32)

    @numba.njit
    def log1p(value):
        return likelihood._log1p(value, np.float32(1) + value)

    np.testing.assert_allclose(each(log1p, x), np.log1p(x.astype(np.float64)), rtol=4e-7)


def test_gammas_are_scipys(rng):
    y = np.exp(rng.uniform(-40, 40, 20_000))
    found = np.array([likelihood._gammas(value) for value in y])
    np.testing.assert_allclose(found[:, 0], gammaln(y), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[:, 1], digamma(y), rtol=1e-13, atol=1e-13)


def test_shares_are_a_softmax(rng):
    logits, rho = rng.normal(0, 5, 3001).astype(np.float32), np.empty(3001, np.float32)
    normaliser = logsumexp(logits.astype(np.float64))
    assert likelihood._shares(logits, rho) == pytest.approx(normaliser, abs=1e-7)
    np.testing.assert_allclose(rho, np.exp(logits - normaliser), rtol=3e-6)  # of logits up to 20


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("cached", [1, 20, 2**15])
def test_a_transposed_product_is_that_of_the_dense_matrix(rng, threads, monkeypatch, n_threads, cached):
    threads(n_threads)
    monkeypatch.setattr(product, "LEAST_COLUMNS", 1)
    monkeypatch.setattr(product, "CACHED", cached)
    x = torch.from_numpy(rng.poisson(0.3, (7, 11)).astype(np.float32))
    x[2] = 0
    grad = torch.from_numpy(rng.normal(size=(7, 10)).astype(np.float32))
    for given in (grad[:, :5], grad[:, :0], grad):
        torch.testing.assert_close(product.transposed_product(SparseRows.of(x), given), x.T @ given)
    with pytest.raises(ValueError, match="7 rows"):
        product.transposed_product(SparseRows.of(x), grad[1:])


def test_a_task_that_cannot_be_kept_is_compiled_in_every_process(monkeypatch):
    cfunc = numba.cfunc

    def nowhere(signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available")
        return cfunc(signature, **options)

    monkeypatch.setattr(kernels.numba, "cfunc", nowhere)
    assert numbered(kernels.task(number_parts), 3) == [1, 2, 3]
    monkeypatch.setattr(kernels.numba, "cfunc", cfunc)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert numbered(kernels.task(number_parts), 3) == [1, 2, 3]


def full(*_):
    raise OSError(28, "No space left on device")


NUMBERS = team.order_of("next", "done", "parts", "filled")


def number_parts(address):
    order = numba.carray(address, 1, NUMBERS)[0]
    filled = numba.carray(team.at(order.filled), order.parts, np.int64)
    part = team.next_part(address)
    while part < order.parts:
        filled[part] += part + 1
        team.done(address)
        part = team.next_part(address)


def numbered(task, parts):
    filled = torch.zeros(parts, dtype=torch.int64)
    team.carry_out(task, NUMBERS, parts, filled=filled)
    return filled.tolist()


@pytest.fixture
def threads():
    """Sets how many threads torch has."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_every_part_of_an_order_is_done_once(threads, n_threads):
    threads(n_threads)
    task = kernels.task(number_parts)
    for parts in (1, 2, 7, 100):
        assert numbered(task, parts) == list(range(1, parts + 1))
    assert team.parts_of(100, 30) == min(team.threads(), 3)
    assert team.parts_of(0, 30) == team.parts_of(29, 30) == 1


def test_a_part_left_undone_is_an_error():
    with pytest.raises(MemoryError):
        numbered(kernels.task(forget_parts), 3)


def forget_parts(address):
    while team.next_part(address) < 3:
        pass


SETTINGS = {"least_logit": -80, "tabled": 16, "least_cells": 1}


@pytest.fixture
def cells(rng):
    x = torch.from_numpy(rng.poisson(0.4, (50, 30)).astype(np.float32))
    logits, dropout = (torch.from_numpy(rng.normal(size=(50, 30)).astype(np.float32)) for _ in range(2))
    log_theta, weight = torch.linspace(-2, 2, 30), torch.linspace(0, 1, 50)
    return SparseRows.of(x), logits, x.sum(1, keepdim=True) + 1, log_theta, dropout, weight


def test_parts_and_whole_are_the_same(cells, threads, monkeypatch):
    found = {}
    for n_threads in (1, 3):
        threads(n_threads)
        assert team.parts_of(50, 1) == team.threads()
        found[n_threads] = likelihood.likelihood(*cells, **SETTINGS)
    monkeypatch.setattr(team, "_on_every_thread", lambda: None)  # as on macOS
    assert team.parts_of(50, 1) == 1
    found["no team"] = likelihood.likelihood(*cells, **SETTINGS)
    for others in (found[3], found["no team"]):
        for one, other in zip(found[1], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][0], found[3][0], rtol=0, atol=0)  # every cell is on its own


def test_a_likelihood_of_other_shapes_or_layouts(cells):
    counts, logits, library, log_theta, dropout, weight = cells
    expected = likelihood.likelihood(*cells, **SETTINGS)
    turned = (logits.T.contiguous().T, library.double(), log_theta.double(), dropout.T.contiguous().T, weight.double())
    for one, other in zip(expected, likelihood.likelihood(counts, *turned, **SETTINGS), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match="must be"):
        likelihood.likelihood(counts, logits, library, log_theta, dropout[:, 1:], weight, **SETTINGS)
