"""Smaller batches where those that were asked for do not fit into a GPU's memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from cellalign.engine.keeping import set_streams
from cellalign.engine.state import State
from cellalign.errors import option

if TYPE_CHECKING:
    from cellalign.engine.fit import _Run

log = logging.getLogger("cellalign")
FEWEST = 16  # cells in a batch, below which it is not halved


def with_smaller_batches(run: _Run) -> State:
    """Carry a run out; where memory runs out in its first epoch, anew with batches of half as many cells.

    As if they had been asked for: from the same weights and random numbers, with the plan's steps for them.
    """
    while True:
        try:
            return run.run()
        except torch.OutOfMemoryError:
            # one of several ranks cannot decide by itself; later a checkpoint is worth more than a new start
            if not run.ranks.alone or run.state.epoch or run.plan.batch_size < 2 * FEWEST:
                raise
        _halve(run)  # here the exception no longer holds what filled the memory


def _halve(run: _Run) -> None:
    halvings = run.state.halvings + 1
    run.begin(run.plan.model_copy(update={"batch_size": run.plan.batch_size // 2}))
    run.state.halvings, run.best = halvings, None
    run.method.load_state_dict(run.untrained)
    for parameter in run.method.parameters():
        parameter.grad = None
    set_streams(run.streams, run.device)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    smaller = option("batch_size", run.plan.batch_size)
    log.warning("out of memory on %s: training begins anew with %s", run.device, smaller)
