"""Panel cross-condition: whether a cell type looks the same under every condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        """Every ordered pair of conditions, or of many each that was trained under, and the mean.

        NotApplicable where no pair shares two labels.
        """
        inputs = inputs.known(inputs.condition, inputs.label)
        z, label, names = inputs.latents(), inputs.labels(), inputs.categories()
        found = probing.cross_condition(z, names, label, inputs.seed)
        if not found.scores:
            raise NotApplicable("no two conditions share two cell types")
        if found.n_trained < found.n_conditions:
            n = found.n_conditions
            inputs.notes.append(
                f"cross-condition: {n} conditions are {n * (n - 1):,} pairs; a classifier was trained under "
                f"{found.n_trained} of them, drawn at random, and tested under all others"
            )
            n_tested = found.n_by_trained()
            for trained, value in found.by_trained().items():
                yield self.row("all", f"{trained} -> others", probing.ACCURACY, value, n_tested[trained])
        else:
            for pair, value in found.scores.items():
                yield self.row("all", " -> ".join(pair), probing.ACCURACY, value, found.n_tested[pair])
        yield self.row("all", MEAN, probing.ACCURACY, found.mean, found.n_cells)
