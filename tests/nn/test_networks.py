"""The categorical first layer is a linear layer on one-hot codes."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows
from cellalign.nn.networks import MLP, CategoricalLinear


def test_equals_linear_on_one_hot():
    torch.manual_seed(0)
    layer = CategoricalLinear(6, 4, [3, 2])
    x, codes = torch.randn(9, 6), torch.stack([torch.randint(3, (9,)), torch.randint(2, (9,))], 1)
    whole = torch.cat([x, F.one_hot(codes[:, 0], 3), F.one_hot(codes[:, 1], 2)], 1)
    weight = torch.cat([layer.weight, *layer.codes])
    torch.testing.assert_close(layer(x, codes), whole @ weight + layer.bias)


@pytest.mark.parametrize("width", [8, 300])
def test_stored_values_give_what_the_dense_matrix_gives(width):
    torch.manual_seed(0)
    layer = CategoricalLinear(40, width, [3])
    x = torch.poisson(torch.full((7, 40), 0.1))
    x[3] = 0
    codes = torch.randint(3, (7, 1))
    sparse, dense = layer(SparseRows.of(x), codes), layer(x, codes)
    torch.testing.assert_close(sparse, dense)
    weight = torch.randn_like(dense)
    gradients = [torch.autograd.grad((y * weight).sum(), [layer.weight, layer.bias]) for y in (sparse, dense)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights_count_the_codes_in_the_fan_in():
    layer = CategoricalLinear(10, 50, [6])
    assert all(float(p.detach().abs().max()) <= 1 / 4 for p in layer.parameters())


def test_widths_dropout_and_no_codes():
    net = MLP(5, [8, 3], dropout=0.5).eval()
    x = torch.randn(4, 5)
    out = net(x, torch.zeros(4, 0, dtype=torch.int64))
    assert out.shape == (4, 3)
    torch.testing.assert_close(out, net(x, torch.zeros(4, 0, dtype=torch.int64)))
