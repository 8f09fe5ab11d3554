"""What tests of networks, methods and the engine share: layouts of real fields, and mini-batches made by hand.

The condition is the column `stim` of the categories c0, c1, ...; batches are batch0 of b0, b1, ..., batch1, ...;
biological covariates cov0 of d0, d1, ...; those that are numbers number0, number1, ...; the label is `kind` of y0, ....
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from cellalign.data.fields import Categorical, Number
from cellalign.data.loader import Cells, as_matrix
from cellalign.engine.predict import predictions
from cellalign.methods.base import BATCH, CONDITION, COVARIATE, LABEL, Fields, Layout, Minibatch
from cellalign.nn.sparse import SparseRows
from cellalign.records import Counterfactual, Provenance

CONDITION_NAME = "stim"


def _categorical(name: str, role: str, letter: str, n: int, **more: Any) -> Categorical:
    return Categorical(name=name, role=role, categories=tuple(f"{letter}{i}" for i in range(n)), **more)


def layout(
    n_genes: int,
    conditions: int = 2,
    batches: Sequence[int] = (),
    covariates: Sequence[int] = (),
    labels: int = 0,
    control: int | None = None,
    cells: int = 100,
    *,
    numeric_batches: int = 0,
    numeric_covariates: int = 0,
    may_be_missing: bool = False,
) -> Layout:
    """A layout of so many conditions, categories of each batch and covariate, and labels; with 0 or 1 there is none."""
    fields: list[Any] = []
    if conditions > 1:
        reference = None if control is None else f"c{control}"
        more = {"reference": reference, "may_be_missing": may_be_missing}
        fields.append(_categorical(CONDITION_NAME, CONDITION, "c", conditions, **more))
    number = 0
    for role, name, letter, sizes, numeric in (
        (BATCH, "batch", "b", batches, numeric_batches),
        (COVARIATE, "cov", "d", covariates, numeric_covariates),
    ):
        fields += [_categorical(f"{name}{i}", role, letter, n) for i, n in enumerate(sizes)]
        fields += [Number(name=f"number{number + i}", role=role, mean=0.0, sd=1.0) for i in range(numeric)]
        number += numeric
    if labels:
        fields.append(_categorical("kind", LABEL, "y", labels, may_be_missing=True))
    return Layout(n_genes, Fields(fields), cells)


def minibatch(
    x: Tensor | SparseRows,
    layout: Layout,
    condition: Tensor | None = None,
    batches: Sequence[Tensor] = (),
    covariates: Sequence[Tensor] = (),
    label: Tensor | None = None,
) -> Minibatch:
    """Cells with these columns, one for each field of a role; a column that is not given is blank, a label unknown."""
    given = {
        CONDITION: [] if condition is None else [condition],
        BATCH: list(batches),
        COVARIATE: list(covariates),
        LABEL: [torch.full((len(x),), -1) if label is None else label] if layout.n_labels else [],
    }
    columns = []
    for field in layout.fields:
        own = given[field.role]
        columns.append(own.pop(0) if own else field.blank(len(x)))
    assert not any(given.values()), "a column without a field"
    return Minibatch(x, layout.fields, tuple(columns))


def columns(batch: Minibatch, role: Any) -> list[Tensor]:
    """The columns of a role."""
    return [column for _, column in batch.of(role)]


def changed(batch: Minibatch, role: Any, *new: Tensor) -> Minibatch:
    """The same cells with other columns of a role."""
    left = list(new)
    kept = zip(batch.fields, batch.columns, strict=True)
    other = batch.with_columns([left.pop(0) if field.role == role else column for field, column in kept])
    assert not left
    return other


def to(*codes: int) -> dict[str, Any]:
    """The intervention that sets the condition to that of a code, or to those of several."""
    names = tuple(f"c{code}" for code in codes)
    return {CONDITION_NAME: names if len(names) > 1 else names[0]}


def rewritten(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """model.yaml edited on purpose: changed, and without its checksum."""
    path = directory / "model.yaml"
    plain = yaml.safe_load(path.read_text())
    plain.pop("checksum", None)
    path.write_text(yaml.safe_dump(change(plain), sort_keys=False, allow_unicode=True))


def as_cells(batch: Minibatch) -> Cells:
    """The cells of a mini-batch as the engine takes them."""
    return Cells(as_matrix(batch.x.numpy()), batch.fields, batch.columns, len(batch))


def predicted(method: Any, batch: Minibatch, do: Mapping[str, Any], **options: Any) -> dict[str, Tensor]:
    """What the engine predicts of a mini-batch's cells, by layer."""
    (found,) = predictions(method, as_cells(batch), do, device=torch.device("cpu"), **options)
    return {name: torch.from_numpy(values) for name, values in found.items()}


def counterfactual_record(**changes: Any) -> dict[str, Any]:
    """uns["cellalign"] of control cells that a method predicted as stimulated ones."""
    said = {"method": "comp", "condition": "stim", "from_": "control", "to": "stimulated"} | changes
    record = Counterfactual(**said)
    return Provenance().with_steps(record).plain()


class StopAfter:
    """Progress that interrupts training at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.stop = epoch

    def update(self, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        if epoch == self.stop:
            raise KeyboardInterrupt


def at_every_change(values: Iterable[Any], chosen: Iterable[Any]) -> list[Any]:
    """All parameters of a test, of which those not chosen are tried in the slow suite alone."""
    chosen = list(chosen)
    return [
        each if any(each is one for one in chosen) else pytest.param(each, marks=pytest.mark.slow) for each in values
    ]
