"""A run's state, left in a checkpoint and taken up again: on one process or several, whichever go on with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.ranks import RankLost, current
from cellalign.engine.state import State

if TYPE_CHECKING:
    from cellalign.engine.fit import _Run

log = logging.getLogger("cellalign")


def keep(run: _Run, checkpoint: Checkpoint) -> bool:
    """Leave everything needed to go on; a checkpoint that cannot be written ends no run: whether it was.

    One of several ranks does, whose state is that of all.
    """
    run.seconds()
    if not run.ranks.first:
        return True
    tensors = {f"weights.{k}": v for k, v in run.method.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (run.best or {}).items()}
    for name, optimiser in run.optimisers.items():
        tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser.tensors().items()}
    for part in run.losses[0] if run.losses else ():
        tensors[f"losses.{part}"] = torch.stack([loss[part] for loss in run.losses])
    between = run.state.batch == 0
    tensors |= streams(run.device)
    tensors |= {"rng.shuffle": run.shuffler.get_state() if between else run.epoch_rng}
    return _saved(checkpoint, tensors, run.state)


def keep_before_all_leave(run: _Run, checkpoint: Checkpoint) -> bool:
    """`keep` where every rank ends behind it: none is gone before the first has written.

    What started them (srun --kill-on-bad-exit, torchrun) kills the others when one ends. To be called where all ranks
    have decided alike; a checkpoint that is merely due is so by each one's own clock.
    """
    kept = keep(run, checkpoint)
    with suppress(RankLost):  # this one ends anyway
        run.ranks.wait()
    return kept


def _saved(checkpoint: Checkpoint, tensors: dict[str, Tensor], state: State) -> bool:
    """Whether it could be written; that it could not is said."""
    try:
        checkpoint.save(tensors, vars(state))
    except OSError as error:
        log.warning("cannot write the checkpoint %s: %s", checkpoint.file, error.strerror or error)
        return False
    return True


def take_up(run: _Run, checkpoint: Checkpoint) -> None:
    """Go on from a checkpoint of the same run, if there is one; of several ranks the first reads it."""
    found = run.ranks.told(lambda: checkpoint.load() if checkpoint.exists() else None)
    if found is None:
        return
    tensors, state = found
    if state.get("halvings"):
        run.begin(run.plan.model_copy(update={"batch_size": run.plan.batch_size >> state["halvings"]}))
    run.state = State(**state)
    run.shuffler.set_state(tensors["rng.shuffle"])
    run.best = _under("best.", tensors) or None
    weights = _under("weights.", tensors)
    run.method.load_state_dict(weights)
    if run.state.batch:  # amid an epoch: what its start did besides changing weights
        run.epoch_rng = run.shuffler.get_state()
        run.train_mode()
        run.method.on_epoch_start(run.state.epoch / run.epochs, 1 / run.epochs)
        run.method.load_state_dict(weights)
        run.rows = run.rows_of_batches()
        losses = {part: values.to(run.device) for part, values in _under("losses.", tensors).items()}
        run.losses = [{part: losses[part][i] for part in losses} for i in range(run.state.batch)]
    for name, optimiser in run.optimisers.items():
        optimiser.restore(_under(f"optimiser.{name}.", tensors))
    set_streams(tensors, run.device)


def streams(device: torch.device) -> dict[str, Tensor]:
    """The random streams that a run draws from."""
    found = {"rng.torch": torch.get_rng_state()}
    return found | ({"rng.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_streams(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Draw from here on."""
    torch.set_rng_state(tensors["rng.torch"])
    if "rng.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


def begin_parts(checkpoint: Checkpoint, order: list[int]) -> None:
    """Say in the checkpoint that a run of several trainings has begun, each of which keeps its own state in a part.

    Raises
    ------
    ModelError
        Another run left it, or it is damaged.
    """

    def begin() -> None:
        if checkpoint.exists():
            checkpoint.check(checkpoint.kept())
        else:
            _saved(checkpoint, {}, State(order=order))

    current().told(begin)


@contextmanager
def kept_noted(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Where a run ends within, say what goes on from here, if its training did not: between two, or at its end."""
    try:
        yield
    except BaseException as error:
        ended = not isinstance(error, Exception)  # from outside, not by what would come again
        if ended and checkpoint is not None and checkpoint.exists() and not hasattr(error, "__notes__"):
            error.add_note(f"what was trained until now is kept; go on with: {checkpoint.how}")
        raise


@contextmanager
def lost_ranks_noted(checkpoint: Checkpoint) -> Iterator[None]:
    """Where another rank ends within, say what goes on from here."""
    try:
        yield
    except RankLost as error:
        if checkpoint.exists():
            error.add_note(f"the checkpoint is kept; go on with: {checkpoint.how}")
        raise


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, named without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
