"""Panel probe: what can be read from the latents, which should be nothing of the condition and all of the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cellalign.data.columns import numbers
from cellalign.errors import option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import probe as probing
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row


@dataclass(frozen=True)
class Probe(Panel):
    """How well the condition (should be the floor) and the label (should be high) follow from the latents."""

    name = "probe"
    summary = "Whether classifiers read the condition (they should not) and the label (they should) from the latents."
    metrics = probing.METRICS
    order = 30

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """One row per probe of the condition, and per probe of the label; NotApplicable where there is neither."""
        inputs.latents()
        if inputs.condition is None and inputs.label is None:
            raise NotApplicable(f"it needs {option('condition')} or {option('label')}")
        if inputs.condition is not None:
            has = inputs.known(inputs.condition)
            z = has.latents()
            if inputs.continuous:
                declared = by_name(probing.OF_NUMBER)
                scores = probing.regressions(z, numbers(has.adata.obs, inputs.condition), inputs.seed)
            else:
                declared = by_name(probing.OF_CONDITION)
                scores = probing.probes(z, has.column(inputs.condition), inputs.seed)
            for name, value in scores.items():
                yield self.row(inputs.condition, "all", declared[name], value, len(z))
        if inputs.label is not None:
            declared = by_name(probing.OF_LABEL)
            has = inputs.known(inputs.label)
            z = has.latents()
            for name, value in probing.probes(z, has.column(inputs.label), inputs.seed).items():
                yield self.row(inputs.label, "all", declared[name], value, len(z))
