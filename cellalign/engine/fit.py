"""The training loop: any method, one device, read from top to bottom.

Notable: the schedule is a pure function of the step; losses are checked every 50 steps, not every step, so
that a GPU never waits for the CPU; the best weights by validation loss are kept; a checkpoint with everything
needed to go on is left every minute, between two epochs, so that a resumed run ends in the same weights. A method with
several players has an optimiser for each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cellalign.data.loader import Cells, balanced, shuffled
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.optimiser import AdamW
from cellalign.engine.plan import Plan
from cellalign.engine.precision import DTYPES, settle
from cellalign.errors import TrainingError, option
from cellalign.methods.base import FitsInClosedForm, HasPlayers, Loss, Method, Player, Trains
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.products import products_in

CHECK_EVERY = 50
CHECKPOINT_SECONDS = 60


class Progress(Protocol):
    """Told once per epoch how far training is."""

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called with the epoch just finished (from 1), their number, and its row of the history."""


@dataclass
class State:
    """Everything a run needs to go on: what a checkpoint holds besides weights and optimiser."""

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


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
        Where to leave the state every minute; a run it already holds is continued.

    Raises
    ------
    TrainingError
        The loss became non-finite (the step is named), or memory ran out.
    """
    try:
        return _Run(method, cells, train, validation, plan, device, seed, progress, checkpoint).run()
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
    ) -> None:
        self.method, self.plan, self.device, self.seed = method.to(device), plan, device, seed
        self.cells, self.train, self.validation = cells.to(device), train, validation.to(device)
        self.progress, self.checkpoint = progress, checkpoint
        self.players = _players(self.method)
        self.optimisers = {name: self.optimiser(player) for name, player in self.players.items()}
        self.epochs = plan.resolve_epochs(len(train)) if self.players else 0
        self.steps_per_epoch = max(1, math.ceil(len(train) / plan.batch_size))
        self.shuffler = torch.Generator().manual_seed(seed)
        self.condition = cells.condition[train].cpu() if plan.balanced else None
        self.state = State()
        self.saved = 0.0
        self.best: dict[str, Tensor] | None = None

    def optimiser(self, player: Player) -> AdamW:
        """AdamW of a player's parameters."""
        return AdamW(player.parameters, weight_decay=self.plan.weight_decay, eps=self.plan.adam_eps)

    def run(self) -> State:
        """All epochs, or as many as early stopping lets run."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self.restore(self.checkpoint)
        started = self.saved = time.monotonic()
        offset = self.state.seconds
        asked = self.plan.precision
        precision = settle(asked, self.device) if asked == "auto" else asked
        with products_in(self.method, DTYPES[precision]):
            while self.state.epoch < self.epochs and not self.should_stop():
                row = self.epoch()
                self.state.seconds = offset + time.monotonic() - started
                self.state.history.append(row | {"seconds": round(self.state.seconds, 3)})
                self.report()
        if self.best is not None:
            self.method.load_state_dict(self.best)
        self.method.eval()
        if isinstance(self.method, FitsInClosedForm):
            # shuffled: where a file is sorted by type, a batch of neighbours tells nothing of the spread between types
            rows = shuffled(self.train, self.plan.batch_size, self.shuffler)
            with torch.no_grad():
                self.method.fit_closed_form(lambda: self.cells.batches(rows))
        return self.state

    def report(self) -> None:
        """Tell of the epoch, and leave a checkpoint where one is due: between epochs the state is whole."""
        try:
            if self.progress is not None:
                self.progress.update(self.state.epoch, self.epochs, self.state.history[-1])
        except BaseException:
            if self.checkpoint is not None:
                self.save(self.checkpoint)
            raise
        if self.checkpoint is not None and time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.save(self.checkpoint)
            self.saved = time.monotonic()

    def should_stop(self) -> bool:
        """Whether the validation loss has not improved for `patience` of the planned epochs."""
        if not (self.plan.early_stopping and len(self.validation)):
            return False
        waited = self.state.epoch - max(self.state.best_epoch, self.plan.warmup_epochs)
        return waited > max(10, self.plan.patience * self.epochs)

    def epoch(self) -> dict[str, float]:
        """One pass over the training cells, then the validation loss."""
        state = self.state
        self.method.train()
        self.method.on_epoch_start(state.epoch / self.epochs, 1 / self.epochs)
        warmup = min(1.0, (state.epoch + 1) / (self.plan.warmup_epochs + 1))
        losses: list[dict[str, Tensor]] = []
        for batch in self.cells.batches(self.rows_of_batches()):
            losses.append(self.step(batch, warmup))
            if len(losses) % CHECK_EVERY == 0:
                self.check_finite(losses[-CHECK_EVERY:])
        self.check_finite(losses[-(len(losses) % CHECK_EVERY or CHECK_EVERY) :])
        state.epoch += 1
        row: dict[str, float] = {"epoch": state.epoch, "step": state.step, "lr": self.rate()}
        row |= {f"train_{k}": float(torch.stack([loss[k] for loss in losses]).mean()) for k in losses[0]}
        if len(self.validation):
            row |= {f"validation_{k}": v for k, v in self.validate().items()}
            self.keep_best(row["validation_loss"])
        return row

    def rows_of_batches(self) -> list[Tensor]:
        """Row numbers of one epoch's batches."""
        if self.condition is None:
            return shuffled(self.train, self.plan.batch_size, self.shuffler)
        return balanced(self.train, self.condition, self.plan.batch_size, self.shuffler)

    def rate(self) -> float:
        """The learning rate of the step that was taken last."""
        return self.plan.learning_rate(max(0, self.state.step - 1), self.epochs * self.steps_per_epoch)

    def step(self, batch: Minibatch, warmup: float) -> dict[str, Tensor]:
        """One optimisation step of every player; returns the loss and its parts, still on the device."""
        rate = self.plan.learning_rate(self.state.step, self.epochs * self.steps_per_epoch)
        loss: Loss = self.method(batch, warmup)
        self.differentiate(loss)
        for name, optimiser in self.optimisers.items():
            optimiser.step(rate * self.players[name].lr)
        self.state.step += 1
        return {"loss": loss.total.detach(), **loss.parts}

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

    def check_finite(self, losses: list[dict[str, Tensor]]) -> None:
        """Stop where a loss is not finite; name the first such step and the part to blame."""
        finite = torch.stack([loss["loss"] for loss in losses]).isfinite()
        if bool(finite.all()):
            return
        first = int((~finite).nonzero()[0])
        step = self.state.step - len(losses) + first + 1
        blamed = [k for k, v in losses[first].items() if k != "loss" and not bool(v.isfinite())]
        where = f" ({', '.join(blamed)})" if blamed else ""
        slower = option("lr", float(f"{self.plan.lr / 10:g}"))
        raise TrainingError(f"training diverged: the loss{where} is not finite at step {step}; try {slower}")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss over the validation cells, weighted by batch size, under noise fixed by the seed."""
        self.method.eval()
        totals: dict[str, float] = {}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            n = max(1, math.ceil(len(self.validation) / self.plan.batch_size))
            for batch in self.cells.batches(torch.tensor_split(self.validation, n)):
                loss = self.method(batch, 1.0)
                for key, value in {"loss": loss.total, **loss.parts}.items():
                    totals[key] = totals.get(key, 0.0) + float(value) * len(batch)
        return {key: value / len(self.validation) for key, value in totals.items()}

    def keep_best(self, loss: float) -> None:
        """Remember the weights where they are the best so far; warm-up epochs do not count."""
        if self.state.epoch <= self.plan.warmup_epochs or not loss < self.state.best_loss:
            return
        self.state.best_loss, self.state.best_epoch = loss, self.state.epoch
        current = self.method.state_dict()
        if self.best is None:
            self.best = {key: value.detach().clone() for key, value in current.items()}
        else:
            for key, value in current.items():
                self.best[key].copy_(value)

    def save(self, checkpoint: Checkpoint) -> None:
        """Leave everything needed to go on at the end of this epoch."""
        tensors = {f"weights.{k}": v for k, v in self.method.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        for name, optimiser in self.optimisers.items():
            tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser.tensors().items()}
        tensors |= {"rng.torch": torch.get_rng_state(), "rng.shuffle": self.shuffler.get_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(tensors, vars(self.state))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same run."""
        tensors, state = checkpoint.load()
        self.method.load_state_dict(_under("weights.", tensors))
        self.best = _under("best.", tensors) or None
        for name, optimiser in self.optimisers.items():
            optimiser.restore(_under(f"optimiser.{name}.", tensors))
        torch.set_rng_state(tensors["rng.torch"])
        self.shuffler.set_state(tensors["rng.shuffle"])
        if "rng.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.state = State(**state)


def _players(method: Method) -> Mapping[str, Player]:
    """Those of the method, or one of all parameters; none where there is nothing to learn by gradient steps."""
    if isinstance(method, HasPlayers):
        return method.players()
    parameters = list(method.parameters())
    return {"all": Player(parameters)} if parameters and isinstance(method, Trains) else {}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, named without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
