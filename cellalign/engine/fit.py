"""The training loop: any method, on one device or a share of each batch on several, read from top to bottom.

Notable: the schedule is a pure function of the step; losses are looked at every 50 steps, not every step, so that a GPU
never waits for the CPU; the best weights by validation loss are kept; a checkpoint with everything needed to go on is
left every minute and when a signal comes, between any two steps, so that a resumed run ends in the same weights; a run
that diverges goes on from its best state with a tenth of the learning rate. A method with several players has an
optimiser for each.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from cellalign.data.loader import Cells, balanced, shuffled
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.copies import fill_copy
from cellalign.engine.divergence import JUDGED_FROM, Diverged, failure, judge, judge_outcome, judge_validation
from cellalign.engine.feeding import brought, placed
from cellalign.engine.keeping import keep, keep_before_all_leave, lost_ranks_noted, streams, take_up
from cellalign.engine.learning_on import LearningOn
from cellalign.engine.optimiser import AdamW
from cellalign.engine.plan import Plan
from cellalign.engine.players import optimiser_of, players_of
from cellalign.engine.precision import DTYPES, settle
from cellalign.engine.ranks import check_shares, current
from cellalign.engine.sharing import Sharing
from cellalign.engine.signals import Signals
from cellalign.engine.smaller import with_smaller_batches
from cellalign.engine.stacking import fit_stack
from cellalign.engine.state import State
from cellalign.errors import TrainingError, option
from cellalign.methods.base import FitsInClosedForm, HasPlayers, Loss, Method, Player
from cellalign.methods.capabilities import Passes, Stacks
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.products import products_in
from cellalign.nn.share import sharing

log = logging.getLogger("cellalign")
CHECK_EVERY = 50
FIRST_CHECKPOINT = 15.0  # seconds after the first step at the latest
SETBACKS, SLOWER = 3, 0.1  # how often a run that diverges goes back, and by what its learning rate is multiplied


class Progress(Protocol):
    """Told once per epoch how far training is."""

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called with the epoch just finished (from 1), their number, and its row of the history."""


def fit(
    method: Method,
    cells: Cells,
    train: Tensor,
    validation: Tensor,
    plan: Plan,
    *,
    device: torch.device,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    learning_on: LearningOn | None = None,
    more_follows: bool = False,
    part_of: str = "",
) -> State:
    """Train `method` in place; it ends with the best weights (or the last, without validation).

    Parameters
    ----------
    method : Method
    cells : Cells
    train, validation : int64 tensors
        Row numbers; validation may be empty.
    plan : Plan
    checkpoint : Checkpoint, optional
        Where to leave the state; a run it already holds is continued. Signals then wait for it to be left.
    learning_on : LearningOn, optional
        Of a method that is trained already, what learns and how fast; by default everything.
    more_follows : bool
        Leave the end in the checkpoint too: what the run consists of goes on, and may be cut off.
    part_of : str
        What a stack's fit is a part of, to be told apart in what is said of its own parts.

    Raises
    ------
    TrainingError
        It diverged again and again (step, batch and likely cause are named), or memory ran out: on a GPU in the first
        epoch not before batches were halved, again and again, and training begun anew with them, as if it had been
        asked for them.
    """
    try:
        check_shares(type(method))
        if isinstance(method, Stacks):
            given = (method, cells, train, validation, plan, device, seed)
            return fit_stack(*given, fit=fit, checkpoint=checkpoint, progress=progress, part_of=part_of)
        run = _Run(
            method, cells, train, validation, plan, device, seed, progress, checkpoint, learning_on, more_follows
        )
        return with_smaller_batches(run)
    except torch.OutOfMemoryError as error:
        smaller = option("batch_size", max(2, plan.batch_size // 2))
        raise TrainingError(f"out of memory on {device}; try {smaller}") from error
    except MemoryError as error:
        raise TrainingError(f"out of memory; try a smaller {option('batch_size')} or fewer genes") from error


class _Run:
    """One run of the loop; its methods are the loop's parts."""

    def __init__(
        self,
        method: Method,
        cells: Cells,
        train: Tensor,
        validation: Tensor,
        plan: Plan,
        device: torch.device,
        seed: int,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
        learning_on: LearningOn | None = None,
        more_follows: bool = False,
    ) -> None:
        self.method, self.device, self.seed = method.to(device), device, seed
        self.cells, self.train = placed(cells, device), train
        self.validation = validation.to(self.cells.device)
        self.progress, self.checkpoint = progress, checkpoint
        self.learning_on, self.more_follows = learning_on, more_follows
        self.players = players_of(self.method) if learning_on is None else learning_on.players(self.method)
        self.streams = streams(device)
        self.begin(plan)
        self.ranks = current()
        if self.epochs > 1:
            fill_copy(self.cells, self.ranks)
        self.cells.keep(self.validation)
        self.condition = cells.condition[train].cpu() if plan.balanced else None
        self.untrained = {key: value.detach().clone() for key, value in self.method.state_dict().items()}
        self.best: dict[str, Tensor] | None = None
        self.signals = Signals(alone=self.ranks.alone)
        self.sharing = Sharing(self.ranks, self.players, self.signals, device)
        self.due = math.inf

    def begin(self, plan: Plan) -> None:
        """Be before the first step of a plan."""
        self.plan, self.state = plan, State(order=self.cells.order)
        self.optimisers = {name: self.optimiser(player) for name, player in self.players.items()}
        self.epochs = plan.resolve_epochs(len(self.train)) if self.players else 0
        self.warmup_epochs = plan.resolve_warmup(self.epochs)
        self.steps_per_epoch = max(1, math.ceil(len(self.train) / plan.batch_size))
        self.shuffler = torch.Generator().manual_seed(self.seed)
        self.losses: list[dict[str, Tensor]] = []  # of the epoch that is begun
        self.rows: list[Tensor] = []
        self.epoch_rng = self.shuffler.get_state()

    def optimiser(self, player: Player) -> AdamW:
        """AdamW of a player's parameters."""
        return optimiser_of(self.method, player, self.plan, self.learning_on, self.device)

    def train_mode(self) -> None:
        """Let the method's layers do what they do in training."""
        self.method.train()
        if self.learning_on is not None:
            self.learning_on.keep_statistics(self.method)

    def run(self) -> State:
        """All epochs, or as many as early stopping lets run."""
        if self.checkpoint is not None and not self.state.halvings:
            take_up(self, self.checkpoint)
        self.ranks.equalise(self.method)
        self.started = time.monotonic() - self.state.seconds
        asked = self.plan.precision
        precision = settle(asked, self.device) if asked == "auto" else asked
        with products_in(self.method, DTYPES[precision]):
            if self.checkpoint is None:
                self.train_on()
            else:
                with self.signals, lost_ranks_noted(self.checkpoint):
                    self.train_on()
                    if self.more_follows and self.players:
                        self.save()
        if self.best is not None:
            self.method.load_state_dict(self.best)
        self.method.eval().requires_grad_(True)
        if isinstance(self.method, FitsInClosedForm):
            with torch.no_grad():
                self.method.fit_closed_form(self.passes())
            self.seconds()
        return self.state

    def passes(self) -> Passes:
        """All training cells for a closed form, once more whenever they are asked for, always in one order.

        Shuffled: where a file is sorted by type, a batch of neighbours tells nothing of the spread between types.
        """
        usual = torch.Generator()
        usual.set_state(self.shuffler.get_state())
        size, places = self.plan.batch_size, None
        rows = shuffled(self.train, size, self.shuffler, *self.state.order)
        if self.state.order:
            in_memory = torch.cat(shuffled(self.train, size, usual))
            places = torch.cat(rows).argsort()[torch.searchsorted(self.train.sort().values, in_memory)].to(self.device)
        return Passes(lambda: brought(self.cells.batches(rows), self.device), places)

    def train_on(self) -> None:
        """Epoch after epoch from where the state is; back and on from there where it diverges."""
        while True:
            try:
                while self.state.epoch < self.epochs and not self.should_stop():
                    row = self.epoch()
                    self.state.history.append(row | {"seconds": round(self.seconds(), 3)})
                    self.report()
                self.judge_outcome()
                return
            except Diverged as found:
                self.go_back(found)

    def seconds(self) -> float:
        """Spent in training until now."""
        self.state.seconds = time.monotonic() - self.started
        return self.state.seconds

    def report(self) -> None:
        """Tell of the epoch; what is raised there ends the run, and leaves a checkpoint."""
        try:
            if self.progress is not None:
                self.progress.update(self.state.epoch, self.epochs, self.state.history[-1])
        except BaseException as error:
            if self.checkpoint is not None and self.save():
                error.add_note(self.said_of_checkpoint())
            raise
        self.sharing.ask()
        self.between_steps()

    def between_steps(self) -> None:
        """Leave a checkpoint where one is due or a signal came: between two steps the state is whole."""
        if self.checkpoint is None:
            return
        if self.state.batch % CHECK_EVERY == 0:
            self.sharing.hear()
        now = time.monotonic()
        if self.due == math.inf:  # the first step is done
            self.due = now + min(FIRST_CHECKPOINT, self.checkpoint.every)
        if now < self.due and not self.signals.waiting:
            return
        self.signals.keep = False
        kept = self.save(all_leave=self.signals.ending is not None)
        try:
            self.signals.deliver()
        except BaseException as error:
            if kept:
                error.add_note(self.said_of_checkpoint())
            raise
        self.due = time.monotonic() + self.checkpoint.every

    def said_of_checkpoint(self) -> str:
        """What is kept, and what goes on from there."""
        assert self.checkpoint is not None
        return f"{self.state.said(self.epochs)} are kept; go on with: {self.checkpoint.how}"

    def go_back(self, found: Diverged) -> None:
        """Be as after the best epoch, or untrained, with a smaller learning rate and fresh moments.

        Raises
        ------
        TrainingError
            It diverged before, and smaller rates did not help.
        """
        state = self.state
        tried = [self.plan.lr * SLOWER**i for i in range(len(state.setbacks) + 1)]
        last = -1 if found.batch is None else found.batch
        rows = self.rows[max(0, last + 1 - CHECK_EVERY) : last + 1]
        if not state.go_back():
            self.best = None
        self.method.load_state_dict(self.untrained if self.best is None else self.best)
        self.optimisers = {name: self.optimiser(player) for name, player in self.players.items()}
        self.losses, self.epoch_rng = [], self.shuffler.get_state()
        if len(state.setbacks) == SETBACKS or found.step == 1:  # before which no rate has changed anything
            state.setbacks, state.lr_factor = [], 1.0  # who goes on from here says with which learning rate
            kept = self.best is not None and self.checkpoint is not None and self.save(all_leave=True)
            raise failure(found, tried, self.cells, rows, state.epoch if kept else None)
        state.setbacks.append(str(found))
        state.lr_factor *= SLOWER
        where = f"epoch {state.epoch}" if state.epoch else "the start"
        log.warning(
            "diverged: %s; back to %s, with %s from there",
            found,
            where,
            option("lr", float(f"{self.plan.lr * state.lr_factor:.6g}")),
        )

    def should_stop(self) -> bool:
        """Whether the validation loss has not improved for `patience` of the planned epochs."""
        if not (self.plan.early_stopping and len(self.validation)):
            return False
        waited = self.state.epoch - max(self.state.best_epoch, self.warmup_epochs)
        return waited > max(10, self.plan.patience * self.epochs)

    def epoch(self) -> dict[str, float]:
        """One pass over the training cells, or what is left of one, then the validation loss."""
        state = self.state
        if state.batch == 0:
            self.epoch_rng = self.shuffler.get_state()
            self.train_mode()
            self.method.on_epoch_start(state.epoch / self.epochs, 1 / self.epochs)
            self.rows = self.rows_of_batches()
        warmup = min(1.0, (state.epoch + 1) / (self.warmup_epochs + 1))
        for batch, n in self.sharing.batches(self.cells, self.rows, state.batch):
            self.losses.append(self.step(batch, warmup, n))
            state.batch += 1
            if state.batch % CHECK_EVERY == 0:
                self.judge(self.losses[-CHECK_EVERY:])
            self.between_steps()
        self.judge(self.losses[-(state.batch % CHECK_EVERY or CHECK_EVERY) :])
        row: dict[str, float] = {"epoch": state.epoch + 1, "step": state.step, "lr": self.rate()}
        row |= {f"train_{k}": float(torch.stack([loss[k] for loss in self.losses]).mean()) for k in self.losses[0]}
        validation = self.validation_losses()
        row |= {f"validation_{k}": v for k, v in validation.items()}
        state.epoch, state.batch, self.losses = state.epoch + 1, 0, []
        if validation:
            judge_validation([*state.history[-1:], row], state.first["loss"], state.step)
            self.keep_best(validation["loss"])
        return row

    def rows_of_batches(self) -> list[Tensor]:
        """Row numbers of one epoch's batches."""
        if self.condition is None:
            rows = shuffled(self.train, self.plan.batch_size, self.shuffler, *self.state.order)
        else:
            rows = balanced(self.train, self.condition, self.plan.batch_size, self.shuffler, *self.state.order)
        return self.sharing.agreed(rows, self.shuffler)

    def rate(self) -> float:
        """The learning rate of the step that was taken last."""
        return self.rate_at(max(0, self.state.step - 1))

    def rate_at(self, step: int) -> float:
        """The plan's learning rate of a step, or less after a divergence."""
        return self.plan.learning_rate(step, self.epochs * self.steps_per_epoch) * self.state.lr_factor

    def step(self, batch: Minibatch, warmup: float, n: int = 0) -> dict[str, Tensor]:
        """One optimisation step of every player; returns the loss and its parts, still on the device.

        Of several ranks the batch is this one's share of n cells.
        """
        rate = self.rate_at(self.state.step)
        with sharing(self.ranks.share_of(n)):
            loss: Loss = self.method(batch, warmup)
            self.differentiate(loss)
        losses = {"loss": loss.total.detach(), **loss.parts}
        if not self.ranks.alone:
            losses = self.sharing.put_together(losses, n)
        for name, optimiser in self.optimisers.items():
            optimiser.step(rate * self.players[name].lr)
        self.state.step += 1
        return losses

    def differentiate(self, loss: Loss) -> None:
        """Leave in each parameter the gradient of what its player minimises."""
        for player in self.players.values():
            for parameter in player.parameters:  # as zero_grad does, in a third of the time
                parameter.grad = None
        if not isinstance(self.method, HasPlayers):
            loss.total.backward()
            return
        left = [name for name in self.players if name in loss.by_player]
        for name in left:
            parameters = list(self.players[name].parameters)
            kept = name != left[-1]
            found = torch.autograd.grad(loss.by_player[name], parameters, retain_graph=kept, allow_unused=True)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient

    def judge(self, losses: Sequence[dict[str, Tensor]]) -> None:
        """Look at the losses of the steps taken last: Diverged where they show it."""
        if not math.isfinite(self.state.first.get("loss", math.nan)):
            self.state.first = {name: float(value) for name, value in self.losses[0].items()}
        judge(losses, self.state.first["loss"], self.state.step, self.state.batch)

    def judge_outcome(self) -> None:
        """Diverged where a run of many steps has learned next to nothing."""
        state = self.state
        if state.step >= JUDGED_FROM and state.best_epoch and self.learning_on is None:
            judge_outcome(self.method, self.cells, self.train, self.validation, state, self.plan.batch_size)

    def validation_losses(self) -> dict[str, float]:
        """The losses of the validation cells; a signal does not wait for all of them."""
        while len(self.validation):
            found = self.validate()
            if found is not None:
                return found
            self.between_steps()
        return {}

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Mean loss over the validation cells, weighted by batch size, under noise fixed by the seed.

        None where a signal came first: within, random numbers are not the run's.
        """
        self.method.eval()
        totals: dict[str, float] = {}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            n = max(1, math.ceil(len(self.validation) / self.plan.batch_size))
            for batch, size in self.sharing.batches(self.cells, torch.tensor_split(self.validation, n)):
                if self.signals.waiting:
                    return None
                with sharing(self.ranks.share_of(size)):
                    loss = self.method(batch, 1.0)
                weight = size if self.ranks.counts(size) else 0
                for key, value in {"loss": loss.total, **loss.parts}.items():
                    totals[key] = totals.get(key, 0.0) + float(value) * weight
        return {key: value / len(self.validation) for key, value in self.sharing.totals(totals).items()}

    def save(self, *, all_leave: bool = False) -> bool:
        """Leave the state on disk: whether it was. `all_leave` where every rank ends behind it."""
        assert self.checkpoint is not None
        return (keep_before_all_leave if all_leave else keep)(self, self.checkpoint)

    def keep_best(self, loss: float) -> None:
        """Remember the weights where they are the best so far; warm-up epochs do not count."""
        if self.state.epoch <= self.warmup_epochs or not loss < self.state.best_loss:
            return
        self.state.best_loss, self.state.best_epoch = loss, self.state.epoch
        current = self.method.state_dict()
        if self.best is None:
            self.best = {key: value.detach().clone() for key, value in current.items()}
        else:
            for key, value in current.items():
                self.best[key].copy_(value)
