"""Blocks of rows of the matrix of all pairs of cells, and values whose gradient is computed along with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellalign.nn.once import once_differentiable

# Pairs in a block: few enough to stay in the cache from one operation to the next. Rows: enough for a matrix product.
PAIRS, LEAST_ROWS = 2**17, 128
# A group of so many cells has blocks to itself; smaller ones share them and need a mask.
OWN_BLOCK = 96
# Stands for the log of nothing: finite, since a mask of 0 and 1 times infinity is NaN.
NOTHING = -1e38

# Of what the gradient is asked for, and the inputs: the value and, if it is of any, the gradients, one of each input.
Gradients = tuple[Tensor | None, ...]
Pass = Callable[..., tuple[Tensor, Gradients]]


class Block(NamedTuple):
    """Rows, and as columns all cells of the groups that they are of."""

    rows: slice
    columns: slice
    one_group: bool

    @property
    def size(self) -> int:
        """Rows."""
        return self.rows.stop - self.rows.start

    @property
    def width(self) -> int:
        """Columns."""
        return self.columns.stop - self.columns.start


class Groups:
    """Cells sorted by their group, so that a group is a range of columns and takes no mask.

    Parameters
    ----------
    code : Tensor [B], int64
        Any numbers.
    """

    def __init__(self, code: Tensor) -> None:
        self.code, self.order = code.sort(stable=True)
        self.counts = torch.unique_consecutive(self.code, return_counts=True)[1]

    @cached_property
    def place(self) -> Tensor:
        """Where each cell has come to, [B]: the inverse of the order."""
        return torch.empty_like(self.order).index_copy_(0, self.order, torch.arange(len(self.order)))

    @cached_property
    def size(self) -> Tensor:
        """Of each sorted cell's group, [B], int64."""
        return self.counts.repeat_interleave(self.counts)

    def blocks(self, portion: float = 1) -> list[Block]:
        """All rows, in turn; about so many times PAIRS in each."""
        most = max(LEAST_ROWS, int(portion * PAIRS) // max(1, len(self.code)))
        blocks: list[Block] = []
        waiting: list[slice] = []  # small groups, for a block that they share
        stop = 0
        for n in self.counts.tolist():
            group = slice(stop, stop := stop + n)
            if waiting and (n >= OWN_BLOCK or stop - waiting[0].start > most):
                blocks.append(_shared(waiting))
                waiting = []
            if n < OWN_BLOCK:
                waiting.append(group)
            else:
                blocks += _cut(group, most)
        return [*blocks, _shared(waiting)] if waiting else blocks

    def strangers(self, block: Block, like: Tensor) -> Tensor:
        """1 where a column is not of the row's group, else 0: [rows, columns]."""
        return (self.code[block.rows, None] != self.code[block.columns]).to(like.dtype)


def _shared(groups: list[slice]) -> Block:
    """One block of groups that follow one another."""
    together = slice(groups[0].start, groups[-1].stop)
    return Block(together, together, len(groups) == 1)


def _cut(group: slice, most: int) -> list[Block]:
    """Blocks of one group, equal in size and of about so many rows."""
    n = group.stop - group.start
    parts = max(1, round(n / most))
    edges = [group.start + n * k // parts for k in range(parts + 1)]
    return [Block(slice(first, stop), group, True) for first, stop in pairwise(edges)]


class Scratch:
    """Memory for blocks, used anew by each."""

    def __init__(self, blocks: list[Block], columns: int, like: Tensor) -> None:
        self.most = max((block.size for block in blocks), default=0) * columns
        self.like = like
        self.parts: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, columns: int) -> Tensor:
        """[rows, columns], whatever was last written there."""
        if name not in self.parts:
            self.parts[name] = self.like.new_empty(self.most)
        return self.parts[name][: rows * columns].view(rows, columns)


def exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Turn scores [R, n] in bits, in place, into 2^(score - the row's greatest): that greatest, and the sums, [R, 1].

    Powers of two since torch's exp is three times as slow as its exp2, and ten times where results are denormal. Of a
    row without scores, or of NOTHING, the exponentials are 0 and what is returned is finite.
    """
    if scores.shape[1] == 0:
        return scores.new_full((len(scores), 1), NOTHING / 10), scores.new_ones(len(scores), 1)
    most = scores.amax(1, keepdim=True).clamp_(min=NOTHING / 10)
    return most, scores.sub_(most).exp2_().sum(1, keepdim=True).clamp_(min=1)


def by_blocks_here(z: Tensor) -> bool:
    """Whether a penalty of these cells is computed by blocks: on a CPU, and not while it is traced for a compiler."""
    return z.device.type == "cpu" and not torch.compiler.is_compiling()


def in_one_pass(compute: Pass, *inputs: Tensor) -> Tensor:
    """The value of `compute`, differentiable once; where nobody can ask for a gradient none is computed.

    Inputs are computed with in one type, the widest of theirs. Of no cells it is 0.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in inputs))
    inputs = tuple(tensor.to(dtype) for tensor in inputs)
    if len(inputs[0]) == 0:
        return sum((tensor.sum() for tensor in inputs), inputs[0].new_zeros(())) * 0
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _OnePass.apply(compute, *inputs)
    return compute((False,) * len(inputs), *inputs)[0]


class _OnePass(torch.autograd.Function):
    """What has computed its gradient by the time that it has its value."""

    @staticmethod
    def forward(ctx: Any, compute: Pass, *inputs: Tensor) -> Tensor:
        value, gradients = compute(ctx.needs_input_grad[1:], *inputs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return None, *(gradient if gradient is None else grad * gradient for gradient in ctx.saved_tensors)
