"""Squared errors of cells as they are stored: those of dense cells, in either precision, in any number of parts."""

import pytest
import torch

from cellalign.nn.distributions import Normal, Point
from cellalign.nn.kernels import ops, residuals
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.sparse import SparseRows


@pytest.fixture
def cells():
    torch.manual_seed(0)
    x = torch.rand(70, 33) * (torch.rand(70, 33) < 0.2)
    x[3] = 0
    x[4] = 1.5
    return x, torch.randn(70, 33), torch.rand(70, 1) + 0.3


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(residuals, "LEAST_CELLS", 8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["normal", "point"])
def test_stored_cells_cost_what_dense_ones_do(cells, dtype, kind):
    x, mean, sd = cells
    given = mean.clone().to(dtype).requires_grad_()
    plain = given.detach().double().requires_grad_()
    width, exact_width = sd.clone().requires_grad_(), sd.double().requires_grad_()
    stored = Minibatch(SparseRows.of(x))
    squared = (x.double() - plain).square().sum(1)
    if kind == "normal":
        cost = Normal(given, width).nll(stored)
        exact = squared / (2 * exact_width[:, 0] ** 2) + 33 * (exact_width[:, 0].log() + 0.9189385332046727)
    else:
        cost, exact = Point(given).nll(stored), squared / 2
    assert cost.dtype == torch.float32 and "x" not in stored.__dict__  # nothing was made dense
    torch.testing.assert_close(cost.double(), exact, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(0.1, 2, 70)
    (cost * weights).sum().backward()
    (exact * weights).sum().backward()
    assert given.grad.dtype == dtype
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 1e-9}
    torch.testing.assert_close(given.grad.double(), plain.grad, **near)
    if kind == "normal":
        torch.testing.assert_close(width.grad.double(), exact_width.grad, rtol=1e-4, atol=1e-4)


def test_a_mean_is_float32_whatever_a_product_left(cells):
    _, mean, sd = cells
    for distribution in (Normal(mean.bfloat16(), sd), Point(mean.bfloat16())):
        assert distribution.mean.dtype == torch.float32


def test_a_mean_of_another_shape_is_refused(cells):
    x, mean, _ = cells
    with pytest.raises(ValueError, match="mean must be"):
        ops.squared_error(SparseRows.of(x), mean[:-1])


def test_one_cell_and_none(cells):
    x, mean, _ = cells
    for n in (0, 1):
        mean_of = mean[:n].clone().requires_grad_()
        cost = ops.squared_error(SparseRows.of(x[:n]), mean_of)
        cost.sum().backward()
        torch.testing.assert_close(cost, (x[:n] - mean[:n]).square().sum(1))
        torch.testing.assert_close(mean_of.grad, 2 * (mean[:n] - x[:n]))


def test_nan_shows(cells):
    x, mean, sd = cells
    mean[2, 5] = torch.nan
    cost = Normal(mean, sd).nll(Minibatch(SparseRows.of(x)))
    assert cost.isnan().nonzero().tolist() == [[2]]
