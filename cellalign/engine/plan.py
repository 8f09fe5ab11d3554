"""The training plan: every knob of the optimisation, its default and its allowed range."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "float32", "bfloat16"]
# those that are of steps; `validation` keeps cells back from a closed form too, but from no stack of such
OF_STEPS: tuple[str, ...] = (
    "epochs",
    "epoch_rule",
    "batch_size",
    "balanced",
    "lr",
    "weight_decay",
    "adam_eps",
    "schedule",
)
OF_STEPS += ("warmup_epochs", "warmup_share", "early_stopping", "patience", "precision")
STEPS, FEWER = 1000, 360  # on 2,000 cells; so many are left out by "fewer-steps", on any number


class Plan(BaseModel):
    """How a method is trained. A method may state other defaults in its `plan_defaults`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(None, ge=1, le=1_000_000, description="passes over the cells; null goes by their number")
    epoch_rule: Literal["steps", "fewer-steps", "half-steps", "double-steps", "cells"] = Field(
        "steps",
        description="epochs by default: for 1,000, 640, 500 or 2,000 steps; or 400, of many cells fewer (scvi-tools)",
    )
    batch_size: int = Field(512, ge=2, le=1_000_000, description="cells per optimisation step")
    balanced: bool = Field(False, description="as many cells of every condition in each batch")
    lr: float = Field(1e-3, gt=0, le=1, description="learning rate (the peak, with one-cycle)")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decoupled weight decay of AdamW")
    adam_eps: float = Field(1e-8, gt=0, le=1, description="epsilon of AdamW")
    schedule: Literal["one-cycle", "cosine", "constant"] = Field("one-cycle", description="learning-rate schedule")
    warmup_epochs: int | None = Field(
        None, ge=0, description="epochs over which the KL term rises to its weight; null goes by warmup_share"
    )
    warmup_share: float = Field(0.0, ge=0, lt=1, description="the same, as a share of the epochs")
    validation: float = Field(0.1, ge=0, lt=1, description="share of cells kept for validation")
    early_stopping: bool = Field(True, description="stop when validation loss no longer falls")
    precision: Precision = Field(
        "auto", description="of products (weights and losses are float32); auto is bfloat16 on CPUs that have it"
    )
    patience: float = Field(0.4, gt=0, le=1, description="share of the epochs without a better validation loss")

    def resolve_epochs(self, n_cells: int) -> int:
        """Epochs to run: those asked for, or what `epoch_rule` gives.

        "steps": enough for 1,000 steps on 2,000 cells, growing as sqrt(cells); "fewer-steps": 360 fewer on any
        number of cells: two thirds of them mix worse where cells are many (benchmarks/README.md). "half-steps",
        "double-steps": half, twice as many. "cells": min(400, 400 * 20,000 / cells).
        """
        if self.epochs is not None:
            return self.epochs
        if self.epoch_rule == "cells":
            return max(1, min(400, round(20_000 / n_cells * 400)))
        steps = STEPS * max(1.0, math.sqrt(n_cells / 2000))
        by_rule = {"fewer-steps": steps - FEWER, "half-steps": steps / 2, "double-steps": 2 * steps}
        steps = by_rule.get(self.epoch_rule, steps)
        return max(10, math.ceil(steps / max(1, math.ceil(n_cells / self.batch_size))))

    def resolve_warmup(self, epochs: int) -> int:
        """Epochs of so many over which the KL term rises."""
        return int(self.warmup_share * epochs) if self.warmup_epochs is None else self.warmup_epochs

    def learning_rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step: a pure function, so that a resumed run needs no scheduler state."""
        if self.schedule == "constant":
            return self.lr
        done = step / max(1, n_steps - 1)
        if self.schedule == "cosine":
            return self.lr * (1e-4 + (1 - 1e-4) * _cosine(done))
        rise = 0.3  # one-cycle (Smith & Topin 2018): up over 30 % of the steps, then down to nearly zero
        if done < rise:
            return self.lr * (1 / 25 + (1 - 1 / 25) * (1 - _cosine(done / rise)))
        return self.lr * (1e-5 + (1 - 1e-5) * _cosine((done - rise) / (1 - rise)))


def _cosine(done: float) -> float:
    """Half a cosine from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * done))
