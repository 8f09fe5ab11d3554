"""Where a run is: what a checkpoint holds besides weights, optimisers and random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class State:
    """Everything a run needs to go on.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimisation steps that are done.
    batch : int
        Batches done of the epoch after them.
    best_loss, best_epoch
        Lowest validation loss, and the epoch after which it was found.
    seconds : float
        Spent in training, over all parts of a run that was cut off.
    history : list of dict
        A row for every epoch.
    first : dict of str to float
        Loss of the untrained networks and its parts: the first step's.
    lr_factor : float
        What the plan's learning rate is multiplied by, less than 1 after a divergence.
    halvings : int
        How often the plan's batches were halved because memory ran out.
    setbacks : list of str
        Each divergence that the run went back from, in words.
    order : list of int
        How an epoch's cells are shuffled, as `Cells.order` says it of where they lay when the run began.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)
    lr_factor: float = 1.0
    halvings: int = 0
    setbacks: list[str] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def go_back(self) -> bool:
        """Be as after the best epoch, or as before the first where none was better than untrained networks: which."""
        found = self.best_epoch > 0 and self.best_loss < self.first.get("loss", math.nan)
        if not found:
            self.best_epoch, self.best_loss = 0, math.inf
        self.epoch, self.batch = self.best_epoch, 0
        self.history = self.history[: self.epoch]
        self.step = int(self.history[-1]["step"]) if self.history else 0
        return found

    def said(self, epochs: int) -> str:
        """Where it is, in words."""
        part = f" and {self.batch} batches" if self.batch else ""
        return f"{self.epoch}{part} of {epochs} epochs"
