"""The first layer is a linear layer on expression and context side by side."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows
from cellalign.nn.networks import MLP, ContextLinear


def test_equals_linear_on_both():
    torch.manual_seed(0)
    layer = ContextLinear(6, 4, 5)
    x, context = torch.randn(9, 6), torch.randn(9, 5)
    weight = torch.cat([layer.weight, layer.context])
    torch.testing.assert_close(layer(x, context), torch.cat([x, context], 1) @ weight + layer.bias)


@pytest.mark.parametrize("width", [8, 300])
def test_stored_values_give_what_the_dense_matrix_gives(width):
    torch.manual_seed(0)
    layer = ContextLinear(40, width, 3)
    x = torch.poisson(torch.full((7, 40), 0.1))
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


def test_widths_dropout_and_no_context():
    net = MLP(5, [8, 3], dropout=0.5).eval()
    x = torch.randn(4, 5)
    out = net(x, torch.zeros(4, 0))
    assert out.shape == (4, 3)
    torch.testing.assert_close(out, net(x, torch.zeros(4, 0)))
