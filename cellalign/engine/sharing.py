"""A training's batches shared out among ranks, and what they have of them put together again.

Each step ends in one sum over ranks: gradients, losses and the signals that came, in one buffer. So all take the same
step, and leave a checkpoint or end after the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import accumulate

import torch
from torch import Tensor, nn

from cellalign.data.loader import Cells
from cellalign.engine.feeding import brought
from cellalign.engine.ranks import Ranks
from cellalign.engine.signals import Signals
from cellalign.methods.base import Player
from cellalign.nn.minibatch import Minibatch


class Sharing:
    """Of one run.

    Parameters
    ----------
    ranks : Ranks
    players : mapping of name to Player
        Whose parameters have gradients to be added up.
    signals : Signals
    device : torch.device
        Where batches are computed.
    """

    def __init__(self, ranks: Ranks, players: Mapping[str, Player], signals: Signals, device: torch.device) -> None:
        self.ranks, self.signals, self.device = ranks, signals, device
        self.parameters = list(dict.fromkeys(p for player in players.values() for p in player.parameters))
        self.learning: list[nn.Parameter] | None = None  # those that have a gradient on any rank
        self.heard: Tensor | None = None
        # for gradients of `learning`, then losses and signals: what ranks add up, and the places of the gradients in it
        self.room: tuple[Tensor, list[Tensor]] | None = None

    def batches(self, cells: Cells, rows: Sequence[Tensor], start: int = 0) -> Iterator[tuple[Minibatch, int]]:
        """The share of each batch from `start` on that is this rank's, and how many rows the batch has."""
        own = rows if self.ranks.alone else [self.ranks.own(of_one) for of_one in rows]
        read = brought(cells.batches(own, start, parts_of=rows), self.device)
        for batch, all_rows in zip(read, rows[start:], strict=True):
            yield batch, len(all_rows)

    def agreed(self, rows: list[Tensor], shuffler: torch.Generator) -> list[Tensor]:
        """An epoch's batches as the first rank has them: one that reads its cells otherwise shuffles otherwise."""
        if self.ranks.alone:
            return rows
        mark = hashlib.sha256(torch.cat(rows).numpy().data).hexdigest(), [len(part) for part in rows]
        marks = self.ranks.together(mark)
        if any(other != marks[0] for other in marks):
            rows, state = self.ranks.told(lambda: (rows, shuffler.get_state()))
            shuffler.set_state(state)
        return rows

    def put_together(self, losses: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """Leave in each parameter the gradient of a batch of n rows, and give its losses."""
        counts = self.ranks.counts(n)
        self.settle()
        assert self.learning is not None
        values = torch.stack([value.detach() for value in losses.values()])
        signals = values.new_tensor(self.signals.noted())
        rest = torch.cat([values if counts else torch.zeros_like(values), signals])
        flat, gradients = self._room(rest)
        flat[-len(rest) :] = rest
        for parameter, gradient in zip(self.learning, gradients, strict=True):
            own = parameter.grad
            if own is None or not counts:
                gradient.zero_()
            else:
                gradient.copy_(own.to_dense() if own.is_sparse else own)
        values, signals = self.ranks.add(flat)[-len(rest) :].clone().split([len(values), len(signals)])
        for parameter, gradient in zip(self.learning, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        self.heard = signals if self.heard is None else self.heard + signals
        if signals.device.type == "cpu":  # a GPU is not waited for at every step
            self.hear()
        return dict(zip(losses, values.to(torch.promote_types(values.dtype, torch.float32)), strict=True))

    def _room(self, rest: Tensor) -> tuple[Tensor, list[Tensor]]:
        """One tensor with room for all gradients and the rest behind them, and the gradients' places in it.

        It is the same in every step, for fresh memory costs more than what is written to it; and a gradient lies in it
        as its parameter does, of which the optimiser's kernel would make a copy otherwise.
        """
        assert self.learning is not None
        ends = [0, *accumulate(p.numel() for p in self.learning)]
        if self.room is None or len(self.room[0]) != ends[-1] + len(rest):
            dtype = reduce(torch.promote_types, (p.dtype for p in self.learning), rest.dtype)
            flat = rest.new_empty(ends[-1] + len(rest), dtype=dtype)
            strides = [torch.empty_like(p, device="meta").stride() for p in self.learning]
            of_each = zip(self.learning, strides, ends, strict=False)
            self.room = flat, [flat.as_strided(p.shape, stride, at) for p, stride, at in of_each]
        return self.room

    def settle(self) -> None:
        """Find out, at the first step, which parameters have a gradient anywhere."""
        if self.learning is None:
            there = torch.tensor([float(p.grad is not None) for p in self.parameters], device=self.ranks.device)
            there = self.ranks.add(there)
            self.learning = [p for p, n in zip(self.parameters, there.tolist(), strict=True) if n]

    def hear(self) -> None:
        """Learn of the signals that came to any rank until now."""
        if self.heard is not None:
            self.signals.agree(self.heard.tolist())
            self.heard = None

    def ask(self) -> None:
        """Of the signals of this moment, between two steps."""
        if not self.ranks.alone:
            self.signals.agree(self.ranks.add(torch.tensor(self.signals.noted(), device=self.ranks.device)).tolist())

    def totals(self, values: dict[str, float]) -> dict[str, float]:
        """Sums over ranks of what each has added up."""
        if self.ranks.alone:
            return values
        found = self.ranks.add(torch.tensor(list(values.values()), dtype=_widest(self.ranks), device=self.ranks.device))
        return dict(zip(values, found.tolist(), strict=True))


def _widest(ranks: Ranks) -> torch.dtype:
    return torch.float32 if ranks.device.type == "mps" else torch.float64
