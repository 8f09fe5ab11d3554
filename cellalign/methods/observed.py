"""What was observed of the trained cells, kept by every model of three conditions and more: their mean expression.

The effects of several conditions at once are added up by what is known of each. A network knows the change under one
condition from the same cells as their mean does, and on real doubles less well (`benchmarks/doubles.py`); so where a
model of log expression is asked for a+b, the observed mean changes are what it adds by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cellalign.methods.capabilities import Batches, InfersCondition, Predicts, Rule
from cellalign.methods.condition_means import ConditionMeans
from cellalign.nn.minibatch import Minibatch

if TYPE_CHECKING:
    from cellalign.methods.base import Method

FEWEST = 3  # conditions: of fewer there are no two besides the control
_NAME = "observed."


def keep_observed(method: Method) -> None:
    """Let a method keep means of the trained cells, where they answer what its model can be asked for."""
    layout = method.layout
    condition = layout.condition
    if not (isinstance(method, Predicts) and method.keeps_observed) or method.reads(method.hp) == "counts":
        return
    if condition is None or condition.kind != "categorical" or layout.n_conditions < FEWEST:
        return
    method.observed = ConditionMeans(layout, layout.n_genes)
    method.register_load_state_dict_pre_hook(_as_before)


def observe(method: Method, batches: Batches, before: ConditionMeans | None = None) -> None:
    """Means of the cells that were trained and validated on; of a model that learned on, beside those of `before`."""
    if method.observed is None:
        return
    method.observed.fit(batches, lambda batch: batch.x)
    if before is not None:
        method.observed.keep(before)


def observed_changes(method: Method, batch: Minibatch, targets: Sequence[int]) -> Tensor:
    """What was observed to change from each cell's condition to several at once, [B, G].

    A cell of unknown condition counts as of the one that the method infers.
    """
    assert method.observed is not None
    condition = batch.condition
    if isinstance(method, InfersCondition) and bool((condition < 0).any()):
        condition = method.inferred_condition(batch).argmax(1)
    return method.observed.added(condition, targets)


def rules(method: Method) -> tuple[Rule, ...]:
    """By which rules a model that predicts adds up the effects of several conditions, the default first."""
    assert isinstance(method, Predicts)
    kept = method.observed
    return method.combines_in if kept is None or not kept.complete else ("observed", *method.combines_in)


def _as_before(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Models and checkpoints of before hold no means: these stay empty."""
    if not any(name.startswith(prefix + _NAME) for name in weights):
        own: Mapping[str, Any] = module.state_dict()
        weights.update({prefix + name: value for name, value in own.items() if name.startswith(_NAME)})
