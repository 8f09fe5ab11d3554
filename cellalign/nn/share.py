"""The whole batch, where several processes compute one and each has some of its rows: its share.

What a method's files say of a batch (its mean, its mixtures, its noise) is said through the functions here, which know
nothing of processes: the engine lends a `Share` for the time of a step, with what gathers and adds up.

Notable: losses are computed in shares, so that what the processes have adds up to the loss of the batch, and so do
their gradients of weights. The gradient of a row's activations is complete where the row is: what depends on all rows
is computed of all of them by each process, and passes back to its own rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from cellalign.nn.once import once_differentiable


@dataclass(frozen=True)
class Share:
    """Which rows of a batch are computed here, and how to hear of the others.

    Attributes
    ----------
    sizes : tuple of int
        Rows of each process, in the order of the batch; none has none.
    place : int
        Which of these processes this one is.
    stack : callable
        A tensor [...] of each process as one [processes, ...], without a gradient.
    """

    sizes: tuple[int, ...]
    place: int
    stack: Callable[[Tensor], Tensor]

    @property
    def size(self) -> int:
        """Rows here."""
        return self.sizes[self.place]

    @property
    def total(self) -> int:
        """Rows of the batch."""
        return sum(self.sizes)

    @property
    def rows(self) -> slice:
        """Which these are."""
        end = list(accumulate(self.sizes))[self.place]
        return slice(end - self.size, end)

    @property
    def leads(self) -> bool:
        """Whether what is no sum over rows counts here; elsewhere it counts as nothing."""
        return self.place == 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows [b, ...] of all processes, [B, ...]."""
        most = max(self.sizes)
        padded = rows if len(rows) == most else torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        found = self.stack(padded.detach().contiguous())
        if min(self.sizes) == most:
            return found.flatten(0, 1)
        return torch.cat([part[:size] for part, size in zip(found, self.sizes, strict=True)])


_share: Share | None = None


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Within, batches are shares of larger ones; None changes nothing."""
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def current() -> Share | None:
    """The share that is computed; None where a batch is whole."""
    return _share


def everyone(rows: Tensor) -> Tensor:
    """All rows [B, ...] of the batch of which [b, ...] are here; a number [] is everyone's already."""
    if _share is None or rows.dim() == 0:
        return rows
    return _Everyone.apply(rows, _share) if rows.requires_grad else _share.gather(rows)


class _Everyone(torch.autograd.Function):
    """Each process computes the same of all rows, so that what comes back to its own is all there is."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, share: Share) -> Tensor:
        ctx.rows = share.rows
        return share.gather(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.rows], None


def own(rows: Tensor) -> Tensor:
    """Those of the batch's rows [B, ...] that are here."""
    return rows if _share is None else rows[_share.rows]


def mean(rows: Tensor) -> Tensor:
    """The mean over the batch of a value of each cell [b]; of a share, what it adds to it."""
    return rows.mean() if _share is None else rows.sum() / _share.total


def counted(rows: Tensor) -> Tensor:
    """The sum over the whole batch of a value of each cell [b], which has no gradient."""
    return rows.sum() if _share is None else _share.stack(rows.detach().sum()).sum(0)


def whole(value: Tensor) -> Tensor:
    """A value [] that was computed of everyone's rows: it counts once, its gradient at the rows of each."""
    return value if _share is None or _share.leads else value - value.detach()


def once(value: Tensor) -> Tensor:
    """A value [] that was computed of weights alone, as each process does: it counts once, and so does its gradient."""
    return value if _share is None or _share.leads else value.detach() * 0


def randn_like(values: Tensor) -> Tensor:
    """Normal noise of the shape of values [n, ...]."""
    if _share is None:
        return torch.randn_like(values)
    return drawn(len(values), lambda n: torch.randn(n, *values.shape[1:], dtype=values.dtype, device=values.device))


def rand_like(values: Tensor) -> Tensor:
    """Uniform noise, alike."""
    if _share is None:
        return torch.rand_like(values)
    return drawn(len(values), lambda n: torch.rand(n, *values.shape[1:], dtype=values.dtype, device=values.device))


def drawn(n: int, draw: Callable[[int], Tensor]) -> Tensor:
    """`draw(n)`, noise [n, ...] of the n rows that are here: what they get where one process draws that of all.

    So every process draws the noise of the whole batch. The rows may be several copies of the batch, one after another.
    """
    if _share is None:
        return draw(n)
    copies, rest = divmod(n, _share.size)
    assert rest == 0, "noise of something else than the batch's cells"
    return draw(copies * _share.total).unflatten(0, (copies, _share.total))[:, _share.rows].flatten(0, 1)
