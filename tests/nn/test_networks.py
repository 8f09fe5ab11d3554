"""The first layer is a linear layer on expression and context side by side."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows
from cellalign.nn.networks import MLP, Block, ContextLinear


def test_equals_linear_on_both():
    torch.manual_seed(0)
    layer = ContextLinear(6, 4, 5)
    x, context = torch.randn(9, 6), torch.randn(9, 5)
    weight = torch.cat([layer.weight, layer.context])
    torch.testing.assert_close(layer(x, context), torch.cat([x, context], 1) @ weight + layer.bias)


@pytest.mark.parametrize("width", [8, 300])
@pytest.mark.parametrize("stored", [1, 4, 15])  # a cell, of 40: each side of both thresholds
def test_stored_values_give_what_the_dense_matrix_gives(width, stored):
    torch.manual_seed(0)
    layer = ContextLinear(40, width, 3)
    x = torch.rand(7, 40)
    x = x * (x >= x.sort(1).values[:, -stored, None])
    x[3] = 0
    context = F.one_hot(torch.randint(3, (7,)), 3).float()
    sparse, dense = layer(SparseRows.of(x), context), layer(x, context)
    torch.testing.assert_close(sparse, dense)
    weight = torch.randn_like(dense)
    gradients = [torch.autograd.grad((y * weight).sum(), [layer.weight, layer.bias]) for y in (sparse, dense)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights_count_the_context_in_the_fan_in():
    layer = ContextLinear(10, 50, 6)
    assert all(float(p.detach().abs().max()) <= 1 / 4 for p in layer.parameters())


def block(width=6, slope=0.2, dropout=0.0, before=None):
    norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return Block(
        nn.Linear(before, width) if before else None, norm, nn.LeakyReLU(slope, inplace=True), nn.Dropout(dropout)
    )


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("before", [None, 4])
def test_a_compiled_block_does_what_its_modules_do(slope, before):
    torch.manual_seed(0)
    compiled = block(slope=slope, before=before)
    modules = nn.Sequential(*copy.deepcopy(compiled))
    x, weight = torch.randn(9, before or 6) * 3 + 50, torch.randn(9, 6)
    outcomes = []
    for layer in (compiled, modules):
        leaf = x.clone().requires_grad_()
        for _ in range(3):  # the running statistics move
            y = layer(leaf * 1)
        outcomes.append([y, *torch.autograd.grad((y * weight).sum(), [leaf, *layer.parameters()])])
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for found, expected in zip(compiled.buffers(), modules.buffers(), strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found, expected)
    torch.testing.assert_close(compiled.eval()(x), modules.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_block_compiled_has_the_gradient_of_the_equation_in_float64():
    torch.manual_seed(0)
    compiled, x, weight = block(), torch.randn(7, 6), torch.randn(7, 6)
    norm = compiled.parts[1]
    leaves = [x.double(), norm.weight.detach().double(), norm.bias.detach().double()]

    def equation(x, scale, shift):
        spread = ((x - x.mean(0)) ** 2).mean(0)
        h = (x - x.mean(0)) / (spread + 1e-3).sqrt() * scale + shift
        return (torch.where(h > 0, h, 0.2 * h) * weight).sum()

    expected = torch.autograd.functional.jacobian(equation, tuple(leaves))
    x.requires_grad_()
    found = torch.autograd.grad((compiled(x) * weight).sum(), [x, norm.weight, norm.bias])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1e-12, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    layer, x = block(500, slope=1.0, dropout=p), torch.randn(400, 500, requires_grad=True)
    y = layer(x)
    dropped = y == 0
    assert dropped.float().mean().item() == pytest.approx(p, abs=0.005)
    # in no order: neither of rows nor of columns, nor of neighbours
    for part in (dropped.float().mean(0), dropped.float().mean(1)):
        assert float(part.std()) == pytest.approx((p * (1 - p) / (200_000 / len(part))) ** 0.5, rel=0.15, abs=1e-6)
    both = (dropped[:, 1:] & dropped[:, :-1]).float().mean().item()
    assert both == pytest.approx(p**2, abs=0.005)
    without = F.batch_norm(x, None, None, layer.parts[1].weight, layer.parts[1].bias, training=True, eps=1e-3)
    torch.testing.assert_close(y[~dropped], without[~dropped] / (1 - p), rtol=1e-4, atol=1e-4)
    again = layer(x)
    assert p < 1e-9 or not torch.equal(again == 0, dropped)
    torch.manual_seed(0)
    same = block(500, slope=1.0, dropout=p)
    torch.randn(400, 500)
    torch.testing.assert_close(same(x), y)
    assert not (layer.eval()(x) == 0).any()


def test_a_single_cell_has_no_batch_statistics():
    with pytest.raises(ValueError, match="more than 1 value"):
        block()(torch.randn(1, 6))


def test_a_block_refuses_another_width():
    with pytest.raises(ValueError, match="expected"):
        block(6)(torch.randn(4, 7))


def test_momentum_none_averages_over_batches():
    layer = block()
    layer.parts[1].momentum = None
    x = torch.randn(2, 5, 6)
    for batch in x:
        layer(batch)
    torch.testing.assert_close(layer.parts[1].running_mean, x.mean((0, 1)))


def test_widths_dropout_and_no_context():
    net = MLP(5, [8, 3], dropout=0.5).eval()
    x = torch.randn(4, 5)
    out = net(x, torch.zeros(4, 0))
    assert out.shape == (4, 3)
    torch.testing.assert_close(out, net(x, torch.zeros(4, 0)))
