"""Products in bfloat16: as near as its digits allow, float32 outside, and float32 again when the run is over."""

import pytest
import torch

from cellalign.methods.registry import get, loadable
from cellalign.nn import products
from cellalign.nn.networks import MLP, ContextLinear
from cellalign.nn.products import Linear, WithProducts, product, products_in
from cellalign.nn.sparse import SparseRows

DIGITS = 2**-8  # bfloat16 rounds by at most half of this


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    """Products of tests are small."""
    monkeypatch.setattr(products, "WORTH_ROUNDING", 0)


@pytest.fixture
def factors():
    torch.manual_seed(0)
    return torch.randn(33, 50), torch.randn(50, 21), torch.randn(21)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_rounded_product_is_that_of_its_rounded_factors(factors, transposed):
    x, weight, bias = factors
    weight = weight.T.contiguous().T if transposed else weight
    x, weight, bias = (values.clone().requires_grad_() if not transposed else values.requires_grad_() for values in
                       (x, weight, bias))  # fmt: skip
    y = product(x, weight, bias, torch.bfloat16)
    assert y.dtype == torch.float32
    exact = x.detach().bfloat16().double() @ weight.detach().bfloat16().double() + bias.detach().double()
    torch.testing.assert_close(y.double(), exact, rtol=DIGITS, atol=8 * DIGITS)
    grad = torch.randn_like(y)
    y.backward(grad)
    rounded = grad.bfloat16().double()
    scale = {"rtol": DIGITS, "atol": DIGITS * 8}
    torch.testing.assert_close(x.grad.double(), rounded @ weight.detach().bfloat16().double().T, **scale)
    torch.testing.assert_close(weight.grad.double(), x.detach().bfloat16().double().T @ rounded, **scale)
    torch.testing.assert_close(bias.grad, grad.sum(0))
    assert weight.grad.stride() == weight.stride()  # an optimiser would copy another layout at every step


def test_no_gradient_is_made_that_nobody_wants(factors):
    x, weight, _ = factors
    y = product(x, weight.requires_grad_(), None, torch.bfloat16)
    y.sum().backward()
    assert weight.grad is not None and x.grad is None


@pytest.mark.parametrize("kind", ["dense", "stored"])
def test_a_first_layer_of_either_input_rounds_alike(kind):
    torch.manual_seed(0)
    layer = ContextLinear(40, 16, 2)
    x = torch.rand(30, 40) * (torch.rand(30, 40) < 0.2)
    given = x if kind == "dense" else SparseRows.of(x)
    context = torch.eye(2)[torch.arange(30) % 2]
    exact = layer(given, context)
    exact.sum().backward()
    slope = layer.weight.grad.clone()
    layer.weight.grad = None
    with products_in(layer, torch.bfloat16):
        rounded = layer(given, context)
        rounded.sum().backward()
    torch.testing.assert_close(rounded, exact, rtol=DIGITS, atol=4 * DIGITS)
    torch.testing.assert_close(layer.weight.grad, slope, rtol=DIGITS, atol=4 * DIGITS)
    assert not torch.equal(rounded, exact)


def test_several_draws_at_once_are_exact():
    layer = Linear(5, 3)
    with products_in(layer, torch.bfloat16):
        assert torch.equal(
            layer(torch.ones(2, 4, 5)), torch.nn.functional.linear(torch.ones(2, 4, 5), layer.weight, layer.bias)
        )


def test_precision_holds_within_and_not_after_even_a_failure():
    network = MLP(6, [4, 4])
    layers = [part for part in network.modules() if isinstance(part, WithProducts)]
    assert len(layers) == 2
    with pytest.raises(ZeroDivisionError), products_in(network, torch.bfloat16):
        assert {layer.products for layer in layers} == {torch.bfloat16}
        1 / 0  # noqa: B018
    assert {layer.products for layer in layers} == {torch.float32}


def test_every_method_with_a_network_has_layers_that_round():
    networks = [name for name, cls in loadable() if "hidden" in cls.Hyperparameters.model_fields]
    assert len(networks) > 10
    from support import layout

    for name in networks:
        cls = get(name)
        module = cls(cls.Hyperparameters(), layout(30, batches=(2,), covariates=(2,), labels=2, control=0))
        assert any(isinstance(part, WithProducts) for part in module.modules()), name


def test_a_small_product_is_exact(factors, monkeypatch):
    monkeypatch.setattr(products, "WORTH_ROUNDING", 33 * 50 * 21 + 1)
    assert torch.equal(product(*factors, torch.bfloat16), product(*factors))
    monkeypatch.setattr(products, "WORTH_ROUNDING", 33 * 50 * 21)
    assert not torch.equal(product(*factors, torch.bfloat16), product(*factors))


def test_what_is_read_once_stays_rounded():
    torch.manual_seed(0)
    layer, x = Linear(50, 21), torch.randn(33, 50)
    assert torch.equal(layer.rounded(x), layer(x))  # in float32 there is nothing to round
    with products_in(layer, torch.bfloat16):
        wide, narrow = layer(x), layer.rounded(x)
        assert narrow.dtype == torch.bfloat16
        torch.testing.assert_close(narrow.float(), wide, rtol=DIGITS, atol=4 * DIGITS)
        slopes = []
        for y in (wide, narrow):
            layer.zero_grad()
            y.backward(torch.ones_like(y))
            slopes.append((layer.weight.grad.clone(), layer.bias.grad.clone()))
    for one, other in zip(*slopes, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=DIGITS, atol=DIGITS)
