"""Networks: a multilayer perceptron whose first layer reads sparse cells and categorical codes.

A one-hot vector appended to the input is the same as adding one learned row per code to the first layer's
output. `CategoricalLinear` does the latter: no B x (G + K) copy of the input is ever made. Its weights lie with
genes first, so that of a sparse cell only the rows of its expressed genes are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn.batch import SparseRows

# where the product with the stored values alone is faster than the dense one (measured: benchmarks/README.md)
SPARSE_BELOW, SPARSE_WIDTH = 0.25, 256


class CategoricalLinear(nn.Module):
    """Linear layer on [x, onehot(code_1), ..., onehot(code_m)].

    Parameters
    ----------
    n_in, n_out : int
        Width of the continuous input and of the output.
    cardinalities : sequence of int
        Number of categories of each code.
    """

    def __init__(self, n_in: int, n_out: int, cardinalities: Sequence[int] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.codes = nn.ParameterList([nn.Parameter(torch.empty(k, n_out)) for k in cardinalities])
        # one-hot inputs count towards the fan-in, as if they had been appended to x
        bound = 1 / math.sqrt(n_in + sum(cardinalities))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor | SparseRows, codes: Tensor) -> Tensor:
        """x [B, n_in], codes int64 [B, m] -> [B, n_out]."""
        if isinstance(x, SparseRows) and (x.density > SPARSE_BELOW or self.weight.shape[1] < SPARSE_WIDTH):
            x = x.dense()
        if isinstance(x, SparseRows):
            y = self.bias + F.embedding_bag(
                x.column, self.weight, x.start, per_sample_weights=x.value, mode="sum", include_last_offset=True
            )
        else:
            y = torch.addmm(self.bias, x, self.weight)
        for i, rows in enumerate(self.codes):
            # a product, not rows[codes]: the gradient of indexing adds up in an order that differs between runs
            y = torch.addmm(y, F.one_hot(codes[:, i], len(rows)).to(y.dtype), rows)
        return y


class Fast(nn.Module):
    """A parameter ten times the tensor that is optimised, for values with a long way to go.

    Adam moves every tensor by about the learning rate a step. That suits weights, of which many act together; a
    dispersion of 1,000 (log 7), a shift of 5 or a logit from 5 to -5 would take thousands of steps.
    """

    SPEED = 10.0

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.slow = nn.Parameter(start / self.SPEED)

    def forward(self) -> Tensor:
        """The value."""
        return self.SPEED * self.slow

    @torch.no_grad()
    def set(self, value: Tensor, rows: slice = slice(None)) -> None:
        """Replace the value, or some rows of it."""
        self.slow[rows] = torch.as_tensor(value, dtype=self.slow.dtype, device=self.slow.device) / self.SPEED


class MLP(nn.Module):
    """Hidden layers of linear, batch norm, leaky ReLU and dropout; codes enter at the first one."""

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        cardinalities: Sequence[int] = (),
        *,
        batch_norm: bool = True,
        dropout: float = 0.0,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.first = CategoricalLinear(n_in, hidden[0], cardinalities)
        blocks = []
        for width, before in zip(hidden, [None, *hidden], strict=False):
            layers: list[nn.Module] = [] if before is None else [nn.Linear(before, width)]
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.LeakyReLU(negative_slope, inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
            blocks.append(nn.Sequential(*layers))
        self.after_first, self.rest = blocks[0], nn.Sequential(*blocks[1:])
        self.n_out = hidden[-1]

    def first_hidden(self, x: Tensor | SparseRows, codes: Tensor) -> Tensor:
        """Units of the first hidden layer, x [B, n_in], codes int64 [B, m] -> [B, hidden[0]]."""
        return self.after_first(self.first(x, codes))

    def forward(self, x: Tensor | SparseRows, codes: Tensor) -> Tensor:
        """Units of the last hidden layer, x [B, n_in], codes int64 [B, m] -> [B, hidden[-1]]."""
        return self.rest(self.first_hidden(x, codes))
