"""Second derivatives: right where they exist, refused where they do not, never missing in silence."""

import pytest
import torch

from cellalign.nn.distributions import Normal, gaussian_nll, kl_to_standard_normal
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.once import once_differentiable
from cellalign.nn.penalties import misalignment, mmd, total_correlation
from cellalign.nn.sparse import SparseRows


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad, None


def test_a_first_derivative_is_what_it_is():
    x = torch.tensor(3.0, requires_grad=True)
    (first,) = torch.autograd.grad(Square.apply(x, None), x)
    assert first == 6 and not first.requires_grad


@pytest.mark.parametrize("weight", [1.0, torch.tensor(1.0, requires_grad=True)])
def test_a_second_one_is_refused_whatever_the_weight(weight):
    x = torch.tensor(3.0, requires_grad=True)
    (first,) = torch.autograd.grad(weight * Square.apply(x, None), x, create_graph=True)
    assert first == 6
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first**2).backward()


def test_a_gradients_penalty_on_a_gaussian_is_right():
    torch.manual_seed(0)
    z, x = torch.randn(5, 3), torch.randn(5, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    sd = torch.full((5, 1), 0.7, dtype=torch.float64)

    def penalised(nll):
        mean = z.double() @ weight
        value = nll(mean).mean()
        (slope,) = torch.autograd.grad(value, weight, create_graph=True)
        return torch.autograd.grad(value + 10 * slope.square().sum(), weight)[0]

    plain = penalised(lambda mean: ((x - mean).square() / (2 * sd**2)).sum(1))
    torch.testing.assert_close(penalised(lambda mean: gaussian_nll(x, mean, sd)), plain)
    stored = Minibatch(SparseRows.of(x.float()))
    of_stored = penalised(lambda mean: Normal(mean.float(), sd.float()).nll(stored).double())
    torch.testing.assert_close(of_stored, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "value",
    [
        lambda z: misalignment(z, z, torch.tensor(1.0), torch.arange(8) % 2),
        lambda z: mmd(z, torch.arange(8) % 2),
        lambda z: total_correlation(z, z, z.detach().abs() + 1, 1, 80),
        lambda z: kl_to_standard_normal(z, torch.ones_like(z)).mean(),
    ],
)
def test_penalties_have_no_second_derivative_and_say_so(value):
    torch.manual_seed(0)
    z = torch.randn(8, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(value(z), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


@pytest.mark.parametrize(
    "value",
    [
        lambda z: misalignment(z, z, torch.tensor(1.0), torch.zeros(0, dtype=torch.int64)),
        lambda z: mmd(z, torch.zeros(0, dtype=torch.int64)),
        lambda z: total_correlation(z, z, z, 1, 80),
    ],
)
def test_of_no_cells_a_penalty_is_nothing(value):
    z = torch.zeros(0, 3, requires_grad=True)
    found = value(z)
    found.backward()
    assert found == 0 and z.grad.shape == (0, 3)


def test_inputs_of_two_types_are_computed_with_in_the_wider():
    torch.manual_seed(0)
    z, mean, code = torch.randn(9, 3), torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    one = torch.tensor(1.0)
    found = misalignment(z, mean, one, code)
    torch.testing.assert_close(found, misalignment(z.double(), mean, one.double(), code))
