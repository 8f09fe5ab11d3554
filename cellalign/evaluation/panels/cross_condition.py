"""Panel cross-condition: whether a cell type looks the same under every condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import probe as probing
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import MEAN, Row


@dataclass(frozen=True)
class CrossCondition(Panel):
    """Cell-type accuracy of a classifier trained under one condition and tested under another (CoMP table 1)."""

    name = "cross-condition"
    former_names = ("transfer",)
    summary = "Whether a classifier of labels trained under one condition holds under another."
    metrics = probing.CROSS_CONDITION
    order = 40

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every ordered pair of conditions, and their mean; NotApplicable where no pair shares two labels."""
        inputs = inputs.known(inputs.condition, inputs.label)
        z, label, names = inputs.latents(), inputs.labels(), inputs.categories()
        scores = probing.cross_condition(z, names, label, inputs.seed)
        if not scores:
            raise NotApplicable("no two conditions share two cell types")
        for pair, value in scores.items():
            tested = int((names == pair.split(" -> ")[1]).sum())
            yield self.row("all", pair, probing.ACCURACY, value, tested)
        yield self.row("all", MEAN, probing.ACCURACY, float(np.mean(list(scores.values()))), len(z))
