"""Networks: a multilayer perceptron whose first layer reads sparse cells and their context.

The context of a cell (its condition and batches, one-hot, or the value of a continuous condition) enters as a product
of its own: no B x (G + K) copy of the input is ever made. The weights lie with genes first, so that of a sparse cell
only the rows of its expressed genes are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn import share
from cellalign.nn.kernels.ops import transposed_product
from cellalign.nn.normalisation import BatchNorm1d
from cellalign.nn.once import once_differentiable
from cellalign.nn.products import Linear, WithBias, WithProducts, product, rounds
from cellalign.nn.sparse import SparseRows

# density below which the stored values alone are faster (measured: benchmarks/README.md)
SPARSE_BELOW = 0.25


class ContextLinear(WithProducts, WithBias, nn.Module):
    """Linear layer on [x, context].

    Parameters
    ----------
    n_in, n_out : int
        Width of the expression and of the output.
    n_context : int
        Width of the context.
    """

    def __init__(self, n_in: int, n_out: int, n_context: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.context = nn.Parameter(torch.empty(n_context, n_out)) if n_context else None
        # the context counts towards the fan-in, as if it had been appended to x
        bound = 1 / math.sqrt(n_in + n_context)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor | SparseRows, context: Tensor) -> Tensor:
        """x [B, n_in], context [B, n_context] -> [B, n_out]."""
        # embedding_bag is young on MPS
        if isinstance(x, SparseRows) and (x.density > SPARSE_BELOW or x.value.device.type == "mps"):
            x = x.dense()
        if isinstance(x, SparseRows):
            y = self.learned_bias() + _SparseProduct.apply(self.weight, x.start, x.column, x.value, self.products)
        else:
            y = product(x, self.weight, self.learned_bias(), self.products)
        # one-hot codes in a product, not an index, whose gradient adds up in an order that differs between runs
        return y if self.context is None else torch.addmm(y, context, self.context)


class _SparseProduct(torch.autograd.Function):
    """Sparse rows [B, n] times weight [n, m], with a gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, start: Tensor, column: Tensor, value: Tensor, precision: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(start, column, value)
        ctx.n = len(weight)
        if not rounds(len(value) * weight.shape[1], precision):
            return SparseRows(start, column, value, ctx.n).times(weight)
        return SparseRows(start, column, value.to(precision), ctx.n).times(weight.to(precision)).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        start, column, value = ctx.saved_tensors
        return transposed_product(SparseRows(start, column, value, ctx.n), grad), None, None, None, None


class ScaledParameter(nn.Module):
    """A parameter `factor` times the tensor that is optimised, for values with a long way to go.

    Adam moves every tensor by about the learning rate a step. That suits weights, of which many act together; a
    dispersion of 1,000 (log 7), a shift of 5 or a logit from 5 to -5 would take thousands of steps.
    """

    def __init__(self, start: Tensor, factor: float = 10.0) -> None:
        super().__init__()
        self.factor = factor
        self.raw = nn.Parameter(start / factor)
        self.register_load_state_dict_pre_hook(_rename_raw)

    def forward(self) -> Tensor:
        """The value."""
        return self.factor * self.raw

    @torch.no_grad()
    def restart(self, start: Tensor, factor: float) -> None:
        """Begin elsewhere, with another factor."""
        self.factor = factor
        self.set(start)

    @torch.no_grad()
    def set(self, value: Tensor, rows: slice = slice(None)) -> None:
        """Replace the value, or some rows of it."""
        self.raw[rows] = torch.as_tensor(value, dtype=self.raw.dtype, device=self.raw.device) / self.factor


def _rename_raw(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Models of format 1 call it `slow`."""
    if f"{prefix}slow" in weights:
        weights[f"{prefix}raw"] = weights.pop(f"{prefix}slow")


class Dropout(nn.Dropout):
    """Dropout in half the time on a CPU, where torch's Bernoulli numbers take four times as long as its integers."""

    def forward(self, x: Tensor) -> Tensor:
        """x, each value zero with probability p and else x / (1 - p); x itself outside training."""
        if not self.training or (x.device.type != "cpu" and share.current() is None):
            return super().forward(x)
        if x.device.type != "cpu":
            return x * share.drawn(len(x), lambda n: F.dropout(x.new_ones(n, *x.shape[1:]), self.p))
        # random_ draws from 0 to 2^31 - 1, the largest int32
        drawn = share.drawn(len(x), lambda n: x.new_empty(n, *x.shape[1:], dtype=torch.int32).random_())
        kept = drawn < min(round((1 - self.p) * 2**31), 2**31 - 1)
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class MLP(nn.Module):
    """Hidden layers of linear, batch norm, leaky ReLU and dropout.

    The context enters at the first one, with `deep` at every one.

    Parameters
    ----------
    batch_norm : bool or "first"
        After every layer, after none, or after the first alone.
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        n_context: int = 0,
        *,
        batch_norm: bool | Literal["first"] = True,
        dropout: float = 0.0,
        negative_slope: float = 0.01,
        deep: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.deep = deep and n_context > 0
        self.first = ContextLinear(n_in, hidden[0], n_context)
        blocks, linears = [], []
        for width, before in zip(hidden, [None, *hidden], strict=False):
            layers: list[nn.Module] = []
            linear: ContextLinear | Linear = self.first
            if before is not None and self.deep:
                linear = ContextLinear(before, width, n_context)
                linears.append(linear)
            elif before is not None:
                linear = Linear(before, width)
                layers.append(linear)
            if batch_norm is True or (batch_norm == "first" and before is None):
                layers.append(BatchNorm1d(width, eps, momentum).after(linear))
            layers.append(nn.LeakyReLU(negative_slope, inplace=True))
            if dropout and before is not None:
                layers.append(Dropout(dropout))
            blocks.append(nn.Sequential(*layers))
        self.drop_first = Dropout(dropout) if dropout else nn.Identity()
        self.after_first, self.rest = blocks[0], nn.Sequential(*blocks[1:])
        self.linears = nn.ModuleList(linears)
        self.n_out = hidden[-1]

    def layers(self, x: Tensor | SparseRows, context: Tensor) -> tuple[Tensor, Tensor]:
        """Units of the first hidden layer and of the last, x [B, n_in], context [B, n_context] -> [B, width] each.

        The first layer's are those before dropout, of which trVAE's code takes the MMD.
        """
        first = self.after_first(self.first(x, context))
        h = self.drop_first(first)
        if not self.deep:
            return first, self.rest(h)
        for linear, block in zip(self.linears, self.rest, strict=True):
            h = block(linear(h, context))
        return first, h

    def given_context(self) -> list[str]:
        """The layers that the context enters, as their parameters' names begin."""
        deep = [f"linears.{i}." for i, _ in enumerate(self.linears)]
        return [] if self.first.context is None else ["first.", *deep]

    def forward(self, x: Tensor | SparseRows, context: Tensor) -> Tensor:
        """Units of the last hidden layer."""
        return self.layers(x, context)[1]


class Classifier(nn.Module):
    """Logits of categories from expression: one hidden layer with dropout."""

    def __init__(self, n_in: int, n_categories: int, hidden: int = 128) -> None:
        super().__init__()
        self.body = MLP(n_in, [hidden], dropout=0.2)
        self.out = nn.Linear(hidden, n_categories)

    def forward(self, x: Tensor | SparseRows) -> Tensor:
        """x [B, n_in] -> [B, n_categories]."""
        return self.out(self.body(x, self.out.weight.new_empty(len(x), 0)))
