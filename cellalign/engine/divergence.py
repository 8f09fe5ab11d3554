"""When a training has diverged, and what may have made it.

A loss that is not finite, or stays far above that of the untrained networks, is divergence; so is a model that after
hundreds of steps explains new cells no better than they do, or hardly better than the means of the genes would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.engine.state import State
from cellalign.errors import TrainingError, option
from cellalign.methods.base import Method, Reconstructs

FAR_ABOVE = 4.0  # times the first loss, above which a healthy run does not rise (benchmarks/README.md)
JUDGED_FROM = 300  # steps, before which a model need not have learned anything
MOMENTS_OF = 10_000  # cells
OUTLYING = 20.0  # times what is usual


@dataclass(eq=False)
class Diverged(Exception):
    """A run has diverged.

    Attributes
    ----------
    what : str
        Of the loss, as it follows "the loss".
    step : int
        From 1.
    part : str, optional
        The part of the loss to blame.
    batch : int, optional
        The batch's number in its epoch, from 0.
    """

    what: str
    step: int
    part: str | None = None
    batch: int | None = None

    def __str__(self) -> str:
        blamed = f" ({self.part})" if self.part else ""
        return f"the loss{blamed} {self.what} at step {self.step}"


def judge(losses: Sequence[dict[str, Tensor]], first_loss: float, step: int, batch: int) -> None:
    """Look at the losses of the steps taken last.

    Parameters
    ----------
    losses : sequence of dict of Tensor []
        The loss and its parts, one per step.
    first_loss : float
        The untrained networks'.
    step, batch : int
        Steps taken until now, and batches of the epoch.

    Raises
    ------
    Diverged
        One is not finite, or half of them are far above `first_loss`.
    """
    total = torch.stack([loss["loss"] for loss in losses]).float().cpu()
    finite = total.isfinite()
    if not bool(finite.all()):
        worst, what = int((~finite).nonzero()[0]), "is not finite"
    else:
        if not bool(total.median() > _limit(first_loss)):
            return
        worst = int(total.argmax())
        what = f"is {float(total[worst]):.3g}, where it began with {first_loss:.3g},"
    parts = {name: float(value) for name, value in losses[worst].items() if name != "loss"}
    blamed = [name for name, value in parts.items() if not math.isfinite(value)]
    if not blamed and parts:
        blamed = [max(parts, key=lambda name: abs(parts[name]))]
    behind = len(losses) - worst - 1
    raise Diverged(what, step - behind, ", ".join(blamed) or None, batch - behind - 1)


def judge_validation(rows: Sequence[dict[str, float]], first_loss: float, step: int) -> None:
    """Look at the validation losses of the last two epochs.

    Raises
    ------
    Diverged
        The last is not finite, or, from step `JUDGED_FROM` on, both are far above `first_loss`. Before, and one alone,
        may come of batch normalisation: its running means lag behind, and what it brings together in training
        (conditions, by CoMP's penalty) lies apart without it.
    """
    losses = [row["validation_loss"] for row in rows]
    if not math.isfinite(losses[-1]):
        raise Diverged("on the validation cells is not finite", step)
    if step >= JUDGED_FROM and len(losses) > 1 and min(losses) > _limit(first_loss):
        raise Diverged(f"on the validation cells is {losses[-1]:.3g}, where it began with {first_loss:.3g},", step)


def _limit(first_loss: float) -> float:
    return first_loss + (FAR_ABOVE - 1) * max(1.0, abs(first_loss))


@torch.no_grad()
def judge_outcome(method: Method, cells: Cells, train: Tensor, validation: Tensor, state: State, size: int) -> None:
    """Look at what a run of many steps has come to.

    Parameters
    ----------
    train, validation : int64 tensors
        Row numbers.
    size : int
        Cells in a batch.

    Raises
    ------
    Diverged
        Validation cells are explained no better than untrained networks explain cells, or less than half as much
        better as by the means of the genes.
    """
    first = state.first
    if state.best_loss > max(first["loss"], 0.0):
        untrained = f"where untrained networks have {first['loss']:.3g},"
        raise Diverged(f"on the validation cells was never below {state.best_loss:.3g}, {untrained}", state.step)
    found = state.history[state.best_epoch - 1].get("validation_reconstruction")
    if found is None or "reconstruction" not in first or not isinstance(method, Reconstructs):
        return
    mean, variance = _moments(cells, train[:MOMENTS_OF], size)
    losses = [method.nll_of_alike(batch, mean, variance) for batch in cells.batches(validation.split(size))]
    alike = float(torch.cat(losses).mean())
    if found - alike > (first["reconstruction"] - alike) / 2 > 0:
        said = f"is {found:.3g}, where the means of the genes give {alike:.3g},"
        raise Diverged(said, state.step, "reconstruction of the validation cells")


def _moments(cells: Cells, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means and variances of the genes, [G] each."""
    sums = squares = torch.zeros((), device=cells.device)
    for batch in cells.batches(rows.split(size)):
        sums, squares = sums + batch.x.sum(0), squares + batch.x.square().sum(0)
    mean = sums / len(rows)
    return mean, (squares / len(rows) - mean.square()).clamp(min=0)


def failure(
    found: Diverged, rates: Sequence[float], cells: Cells, rows: Sequence[Tensor], kept: int | None
) -> TrainingError:
    """What a run that diverged again and again ends with.

    Parameters
    ----------
    rates : sequence of float
        Learning rates that were tried.
    rows : sequence of int64 tensor
        The cells of the batch at which it diverged last, after those of the batches before.
    kept : int, optional
        The epoch after which a checkpoint is left.
    """
    tried = f"learning rate{'s' if len(rates) > 1 else ''} {', '.join(f'{rate:g}' for rate in rates)}"
    where = f" (a batch of {len(rows[-1])} cells)" if rows else ""
    # what spoils the weights shows in the loss of the next batch
    causes = (_outlier(cells, each) for each in reversed(rows))
    cause = next((each for each in causes if each is not None), None)
    if cause is None and found.step == 1:
        cause = "these cells' values are beyond what the method computes with: look at them"
    elif cause is None:
        slower = option("lr", float(f"{rates[-1] / 10:.6g}"))
        weight = f", or a smaller weight of the {found.part}" if found.part in ("kl", "penalty") else ""
        cause = f"likely the learning rate is too high for these cells: try {slower}{weight}"
    goes_on = "" if kept is None else f"; {option('resume', True)} with it goes on from epoch {kept}"
    return TrainingError(f"training diverged with {tried}: {found}{where}; {cause}{goes_on}")


def _outlier(cells: Cells, rows: Tensor) -> str | None:
    """The value in a batch that is far from what is usual there, if there is one."""
    x = cells.batch(rows.to(cells.device)).x.float().abs()
    largest = x.amax(1)
    worst = int(largest.argmax())
    usual, found = float(largest.median()), float(largest[worst])
    if math.isfinite(found) and found <= OUTLYING * max(usual, 1e-6):
        return None
    gene = int(x[worst].argmax())
    return (
        f"likely the cause is cell {int(rows[worst])} (counted from 0), which holds {found:.4g} of gene {gene} where "
        f"{usual:.3g} is usual: look at it, or leave it out"
    )
