"""Products of activations with weights, and in which precision they are computed: the one place that knows.

In bfloat16 both factors of a product are rounded, sums within it run in float32, and what comes out is rounded once
more and is float32 again, gradients alike. So weights, statistics, latents, likelihoods, losses and penalties are
computed in float32, whatever a method does with them; no layer has to know. The precision is an attribute of each layer
that `products_in` sets: no state of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn.once import once_differentiable

# multiplications from which rounding the factors costs less than it saves (measured: benchmarks/README.md)
WORTH_ROUNDING = 5_000_000


class WithProducts:
    """A layer whose products follow `products_in`.

    Attributes
    ----------
    products : torch.dtype
        float32 or bfloat16.
    """

    products: torch.dtype = torch.float32


class WithBias:
    """A layer whose bias stays as it is while batch normalisation behind it takes every constant away again.

    The gradient of such a bias is rounding alone. Adam would make whole steps of it, and the running means, with which
    cells are embedded, would follow a random walk, another one on every machine.

    Attributes
    ----------
    centred_by : tuple of Module
        The normalisation, in a tuple so that it is no part of the layer.
    """

    bias: Any  # a Parameter, which torch declares in its own layers
    centred_by: tuple[nn.Module, ...] = ()

    def learned_bias(self) -> Tensor:
        """The bias, without a gradient where it changes nothing."""
        bias: Tensor = self.bias
        return bias.detach() if any(norm.training for norm in self.centred_by) else bias


@contextmanager
def products_in(module: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """Have all layers of a module compute their products in this precision; in float32 again after it."""
    layers = [part for part in module.modules() if isinstance(part, WithProducts)]
    try:
        for layer in layers:
            layer.products = precision
        yield
    finally:
        for layer in layers:
            layer.products = torch.float32


def rounds(multiplications: int, precision: torch.dtype) -> bool:
    """Whether the factors of a product of so many multiplications are rounded."""
    return precision != torch.float32 and multiplications >= WORTH_ROUNDING


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, precision: torch.dtype = torch.float32) -> Tensor:
    """x weight + bias, x [B, n], weight [n, m], bias [m] -> [B, m] in float32; small products are never rounded."""
    if not rounds(len(x) * weight.numel(), precision):
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    return _Rounded.apply(x, weight, bias, True)


class _Rounded(torch.autograd.Function):
    """The product in bfloat16, forwards and backwards; factors are rounded once, and kept so for the way back.

    `wide`, what comes out is float32 and the bias is added in it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        if not wide:
            return x @ weight if bias is None else torch.addmm(bias.bfloat16(), x, weight)
        y = (x @ weight).float()
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted, rounded = ctx.needs_input_grad, grad.bfloat16()
        by_x = (rounded @ weight.T).float() if wanted[0] else None
        by_weight = _transposed(x, rounded, weight) if wanted[1] else None
        return by_x, by_weight, grad.sum(0).float() if wanted[2] else None, None


def _transposed(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """x^T grad laid out as the weight is, whose other layout an optimiser would copy at every step."""
    if weight.is_contiguous():
        return (x.T @ grad).float()
    return (grad.T @ x).float().T


class WideLinear(WithBias, nn.Linear):
    """torch's linear layer, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., n] -> [..., m]."""
        return F.linear(x, self.weight, self.learned_bias())


class Linear(WithProducts, WideLinear):
    """torch's linear layer, its product in the precision asked for."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., n] -> [..., m], float32."""
        return self.product(x, wide=True)

    def rounded(self, x: Tensor) -> Tensor:
        """The same as the product leaves it, in bfloat16 where that is its precision: for who reads it once."""
        return self.product(x, wide=False)

    def product(self, x: Tensor, wide: bool) -> Tensor:
        """As `product`, of whatever shape x is; several draws at once are never rounded."""
        if x.dim() != 2 or not rounds(len(x) * self.weight.numel(), self.products):
            return super().forward(x)
        return _Rounded.apply(x, self.weight.T, self.learned_bias(), wide)


def rounded(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of x, in bfloat16 where its product leaves it so; of a layer of another kind as it comes."""
    watched = layer._forward_hooks or layer._forward_pre_hooks
    return layer.rounded(x) if isinstance(layer, Linear) and not watched else layer(x)
