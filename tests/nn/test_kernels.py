"""What the compiled loops are made of, against numpy and scipy in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln, logsumexp

from cellalign.nn.kernels import elementary, jit, likelihood, product
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
    np.testing.assert_allclose(each(elementary.exp, x), expected, rtol=1.2e-7)
    outside = each(elementary.exp, np.array([-np.inf, -1e4, 1e4, np.inf, np.nan], np.float32))
    np.testing.assert_allclose(outside[:4], np.exp([-87.0, -87.0, 88.0, 88.0]), rtol=1e-6)
    assert np.isnan(outside[4])


def test_log_is_right_to_an_ulp(rng):
    x = np.exp(rng.uniform(-87, 87, 100_000)).astype(np.float32)
    np.testing.assert_allclose(each(elementary.log, x), np.log(x.astype(np.float64)), rtol=2.5e-7, atol=1e-7)
    assert np.isnan(each(elementary.log, np.array([np.nan, np.inf], np.float32))).all()
    near_one = (1 + rng.uniform(-0.1, 0.1, 100_000)).astype(np.float32)
    np.testing.assert_allclose(each(elementary.log, near_one), np.log(near_one.astype(np.float64)), rtol=2.5e-7)


def test_log1p_keeps_what_adding_one_rounds_away(rng):
    x = np.exp(rng.uniform(-60, 30, 100_000)).astype(np.float32)

    @numba.njit
    def log1p(value):
        one_more = np.float32(1) + value
        return elementary.log1p(value, one_more, np.float32(1) / one_more)

    np.testing.assert_allclose(each(log1p, x), np.log1p(x.astype(np.float64)), rtol=4e-7)


def test_gammas_are_scipys(rng):
    y = np.exp(rng.uniform(-40, 40, 20_000))
    found = np.array([elementary.gammas(value) for value in y])
    np.testing.assert_allclose(found[:, 0], gammaln(y), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[:, 1], digamma(y), rtol=1e-13, atol=1e-13)


def test_exp_and_log_of_float64(rng):
    x = rng.uniform(-690, 690, 100_000)
    np.testing.assert_allclose(each(elementary.exp64, x), np.exp(x), rtol=4e-16)
    assert each(elementary.exp64, np.array([-np.inf, 1e4])) == pytest.approx(np.exp([-700.0, 700.0]), rel=1e-12)
    y = np.exp(x)
    np.testing.assert_allclose(each(elementary.log64, y), x, rtol=3e-16, atol=3e-16)


def test_gammas_of_large_values_are_scipys(rng):
    y = elementary.STIRLING * np.exp(rng.uniform(0, 40, 20_000))
    found = np.array([large_gammas(value) for value in y])
    np.testing.assert_allclose(found[:, 0], gammaln(y), rtol=1e-14)
    np.testing.assert_allclose(found[:, 1], digamma(y), rtol=1e-14)


@numba.njit
def large_gammas(y):
    return elementary.large_gammas(y)


def test_exponentials_are_a_softmax_but_for_its_division(rng):
    logits, shares = rng.normal(0, 5, 3001).astype(np.float32), np.empty(3001, np.float32)
    most, total = likelihood._exponentials(logits, shares)
    normaliser = logsumexp(logits.astype(np.float64))
    assert most + np.log(total) == pytest.approx(normaliser, abs=1e-7)
    np.testing.assert_allclose(shares / total, np.exp(logits - normaliser), rtol=3e-6)  # of logits up to 20


@pytest.fixture
def threads():
    """Sets how many threads torch has."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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


@pytest.fixture
def cells(rng):
    x = torch.from_numpy(rng.poisson(0.4, (50, 30)).astype(np.float32))
    logits, dropout = (torch.from_numpy(rng.normal(size=(50, 30)).astype(np.float32)) for _ in range(2))
    return SparseRows.of(x), logits, x.sum(1, keepdim=True) + 1, torch.linspace(-2, 2, 30), dropout, 1 / 50


@pytest.mark.parametrize("n_parts", range(1, 9))
def test_any_number_of_ranges_gives_the_same_bits(cells, threads, monkeypatch, n_parts):
    whole = likelihood.count_nll(*cells)
    for n_threads in (1, 2, 3):
        threads(n_threads)
        monkeypatch.setattr(jit.RangeKernel, "parts", lambda *_: n_parts)
        for one, other in zip(whole, likelihood.count_nll(*cells), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_more_ranges_than_cells(cells, threads, monkeypatch):
    counts, logits, library, log_theta, dropout, weight = cells
    given = SparseRows.of(counts.dense()[:3]), logits[:3], library[:3], log_theta, dropout[:3], weight
    whole = likelihood.count_nll(*given)
    threads(2)
    monkeypatch.setattr(jit.RangeKernel, "parts", lambda *_: 8)
    for one, other in zip(whole, likelihood.count_nll(*given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
def test_threads_are_those_torch_has_and_stay_so(threads):
    kernel = likelihood.KERNEL
    for n_threads in (1, 2, 3, 1):
        threads(n_threads)
        expected = min(n_threads, numba.config.NUMBA_NUM_THREADS) if kernel.threaded else 1
        assert kernel.threads() == expected
        assert torch.get_num_threads() == n_threads
        assert kernel.parts(100, 30) == min(3, expected)
        assert kernel.parts(0, 30) == kernel.parts(29, 30) == 1


def test_the_threads_of_numba_are_put_back(cells, threads):
    threads(2)
    before = numba.get_num_threads()
    likelihood.count_nll(*cells)
    assert numba.get_num_threads() == before


@pytest.mark.slow
def test_where_numba_has_no_openmp_one_thread_runs_it(threads, monkeypatch):
    threads(2)
    fresh = jit.RangeKernel(likelihood.KERNEL.serial, likelihood.KERNEL.parallel, likelihood.KERNEL.arrays)
    monkeypatch.setattr(jit.numba, "threading_layer", lambda: "workqueue")
    assert (fresh.threaded, fresh.threads(), fresh.parts(1000, 1)) == (False, 1, 1)
    monkeypatch.undo()
    monkeypatch.setattr(jit.sys, "platform", "darwin")
    assert not jit.RangeKernel(fresh.serial, fresh.parallel, fresh.arrays).threaded


def test_a_parallel_form_that_cannot_be_compiled_leaves_one_thread(threads):
    threads(2)

    class Broken:
        def compile(self, _):
            raise RuntimeError("no threading layer")

    assert not jit.RangeKernel(likelihood.KERNEL.serial, Broken(), ()).threaded


def test_an_exception_of_a_range_reaches_the_caller(threads):
    @numba.njit
    def refuse(first, last, part, arrays):
        raise ValueError("this range")

    threads(1)
    with pytest.raises(ValueError, match="this range"):
        jit.RangeKernel(refuse, None, ()).run(4, 2, ())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_the_same_on_one_thread():
    script = """
import os, torch
from cellalign.nn.sparse import SparseRows
from cellalign.nn.counts import negative_binomial_nll
from cellalign.nn.kernels import elementary, likelihood
torch.set_num_threads(2)
x = torch.ones(64, 20)
given = SparseRows.of(x), torch.zeros(64, 20), torch.ones(64, 1), torch.zeros(20)
before = negative_binomial_nll(*given)
child = os.fork()
if child == 0:
    same = torch.equal(before, negative_binomial_nll(*given)) and likelihood.KERNEL.threads() == 1
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(before, negative_binomial_nll(*given))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=environment)


def test_a_likelihood_of_other_layouts(cells):
    counts, logits, library, log_theta, dropout, weight = cells
    turned = (logits.T.contiguous().T, library.double(), log_theta.double(), dropout.T.contiguous().T)
    for one, other in zip(likelihood.count_nll(*cells), likelihood.count_nll(counts, *turned, weight), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
