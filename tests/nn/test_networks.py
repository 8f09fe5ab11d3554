"""The first layer is a linear layer on expression and context side by side."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.nn.networks import MLP, ContextLinear, Dropout
from cellalign.nn.sparse import SparseRows


def test_equals_linear_on_both():
    torch.manual_seed(0)
    layer = ContextLinear(6, 4, 5)
    x, context = torch.randn(9, 6), torch.randn(9, 5)
    weight = torch.cat([layer.weight, layer.context])
    torch.testing.assert_close(layer(x, context), torch.cat([x, context], 1) @ weight + layer.bias)


@pytest.mark.parametrize("width", [8, 300])
@pytest.mark.parametrize("stored", [1, 9, 15])  # a cell, of 40: each side of SPARSE_BELOW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stored_values_give_what_the_dense_matrix_gives(width, stored, dtype):
    torch.manual_seed(0)
    layer = ContextLinear(40, width, 3).to(dtype)
    x = torch.rand(7, 40, dtype=dtype)
    x = x * (x >= x.sort(1).values[:, -stored, None])
    x[3] = 0
    context = F.one_hot(torch.randint(3, (7,)), 3).to(dtype)
    sparse, dense = layer(SparseRows.of(x), context), layer(x, context)
    torch.testing.assert_close(sparse, dense)
    weight = torch.randn_like(dense)
    gradients = [torch.autograd.grad((y * weight).sum(), [layer.weight, layer.bias]) for y in (sparse, dense)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights_count_the_context_in_the_fan_in():
    layer = ContextLinear(10, 50, 6)
    assert all(float(p.detach().abs().max()) <= 1 / 4 for p in layer.parameters())


@pytest.mark.parametrize("p", [1e-12, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(400, 500, requires_grad=True)
    y = layer(x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y)  # the same were dropped, for x is 1
    assert p < 1e-9 or not torch.equal(layer(x), y)
    assert layer.eval()(x) is x


def test_widths_dropout_and_no_context():
    net = MLP(5, [8, 3], dropout=0.5).eval()
    x = torch.randn(4, 5)
    out = net(x, torch.zeros(4, 0))
    assert out.shape == (4, 3)
    torch.testing.assert_close(out, net(x, torch.zeros(4, 0)))


def test_the_first_layers_units_are_those_before_dropout():
    torch.manual_seed(0)
    net, x = MLP(5, [400, 3], dropout=0.5, batch_norm=False), torch.randn(4, 5)
    first, last = net.layers(x, torch.zeros(4, 0))
    assert torch.equal(first, net.eval().layers(x, torch.zeros(4, 0))[0])
    assert not torch.equal(last, net(x, torch.zeros(4, 0)))  # which are dropped for the next


def test_batch_normalisation_of_the_first_layer_alone():
    norms = [[isinstance(m, torch.nn.BatchNorm1d) for m in block] for block in MLP(5, [4, 4], batch_norm="first").rest]
    assert isinstance(MLP(5, [4, 4], batch_norm="first").after_first[0], torch.nn.BatchNorm1d)
    assert not any(map(any, norms))


@pytest.mark.parametrize("deep", [False, True])
def test_a_bias_that_batch_normalisation_takes_away_is_not_moved_by_rounding(deep):
    network = MLP(6, (5, 4), 2, deep=deep)
    x, context = torch.randn(32, 6), torch.eye(2)[torch.arange(32) % 2]
    (network(x, context) ** 2).sum().backward()
    for name, parameter in network.named_parameters():
        idle = name in ("first.bias", "linears.0.bias" if deep else "rest.0.0.bias")
        assert (parameter.grad is None) == idle, name
    # where the statistics stand still it is a bias like any other
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    network(x, context).pow(2).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_without_batch_normalisation_every_bias_learns():
    network = MLP(6, (5, 4), batch_norm="first")
    network(torch.randn(32, 6), torch.empty(32, 0)).sum().backward()
    assert network.first.bias.grad is None and network.rest[0][0].bias.grad is not None
