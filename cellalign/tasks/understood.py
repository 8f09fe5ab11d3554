"""What a training was asked for, as it was understood: said before it begins, or in its stead (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Sequence
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.said import tell
from cellalign.data.values import listed, number_of
from cellalign.errors import option
from cellalign.nn.minibatch import BATCH, CONDITION, COVARIATE, LABEL

if TYPE_CHECKING:
    import torch

    from cellalign.tasks.prepare import Prepared

SHOWN = 12  # values of a column
MANY = 20  # values of a number up to which it may have been meant as categories
SCALES = {"counts": "counts", "log": "log-normalised expression", "any": "values as they are"}


def understood(prepared: Prepared, device: torch.device) -> list[tuple[str, str]]:
    """What a training starts from, item by item.

    Returns
    -------
    list of (what, how it was understood)
    """
    from cellalign.methods.registry import get

    record, plan = prepared.record, prepared.plan
    cls = get(record.method)
    rows = np.sort(np.concatenate(prepared.rows))
    found = [("method", f"{cls.name}: {cls.summary}")]
    if record.preset is not None:
        found.append(("preset", record.preset))
    reads = SCALES.get(cls.reads(cls.Hyperparameters(**record.hyperparameters)), "expression")
    where = record.matrix if record.matrix == "X" else f"layer {record.matrix!r}"
    found.append(("genes", f"{len(record.genes):,}, {reads} of {where}{_made(record)}"))
    for field, column in zip(prepared.cells.fields, prepared.cells.columns, strict=True):
        found.append((f"{field.role} {field.name}", _of_field(field, column.numpy(), rows)))
    held = prepared.cells.n - len(rows)
    if record.holdout:
        found.append(("held out", f"{held:,} cells: {'; '.join(record.holdout)}"))
    train, validation = len(prepared.train_rows), len(prepared.validation_rows)
    found.append(("cells", f"{prepared.cells.n:,}; trained on {train:,}" + _validated(validation)))
    found.append(("computed on", f"{device}{_processors(device)}, products in {plan.precision}"))
    return found


def tell_before(prepared: Prepared, device: torch.device, *, seed: int) -> None:
    """Say what was understood and what it will take, at the start of a run."""
    from cellalign.tasks.estimate import estimated

    for what, how in understood(prepared, device):
        tell(logging.INFO, f"{what}: {how}")
    for line in of_numbers(prepared):
        tell(logging.INFO, line)
    tell(logging.INFO, f"estimate: {estimated(prepared, device, seed=seed).said}")


def plan_of(prepared: Prepared, device: torch.device, *, seed: int, to: Sequence[str]) -> list[tuple[str, str]]:
    """What a run would do, item by item, with a measured estimate: (what, how)."""
    from cellalign.tasks.estimate import estimated

    found = understood(prepared, device) + [("note", line) for line in of_numbers(prepared)]
    return [*found, ("estimate", estimated(prepared, device, seed=seed, always=True).said), ("writes", ", ".join(to))]


def of_numbers(prepared: Prepared) -> list[str]:
    """What is worth saying of columns whose kind may be another than was meant."""
    said = []
    for field, column in zip(prepared.cells.fields, prepared.cells.columns, strict=True):
        if field.role not in (BATCH, COVARIATE):
            continue
        asked = option(field.role, [field.name])
        if field.kind == "number":
            values = len(np.unique(column.numpy()))
            if values <= MANY:
                said.append(
                    f"{asked} enters as one number of {values} values, of which the effect is a line; as categories: "
                    f"without {option('numeric', [field.name])} and {option('kinds', hint=f'{field.name}=number')}"
                )
        elif field.kind == "categorical" and _all_numbers(field.categories) and len(field.categories) > MANY:
            said.append(
                f"{asked} holds {len(field.categories)} numbers, each taken as a category of its own; as one number: "
                f"{option('numeric', [field.name])}"
            )
    return said


def _all_numbers(categories: Sequence[str]) -> bool:
    return all(number_of(name) is not None for name in categories)


def _made(record: Any) -> str:
    """That the matrix was made of raw counts here."""
    return "" if record.recipe.n_top_genes is None else " (raw counts, normalised here)"


def _of_field(field: Any, column: np.ndarray, rows: np.ndarray) -> str:
    """The values of a column with their cells."""
    if field.kind == "number":
        values = field.mean + field.sd * column[rows] if field.role != CONDITION else column[rows]
        return f"one number for each cell, from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}"
    if field.kind != "categorical":
        return f"{field.kind}, {field.width} numbers for each cell"
    codes = column[rows]
    sizes = np.bincount(codes[codes >= 0], minlength=len(field.categories))
    reference = field.reference if field.role == CONDITION else None
    each = (
        f"{name} ({size:,}{', the control' if name == reference else ''})"
        for name, size in zip(field.categories, sizes, strict=True)
    )
    missing = int((codes < 0).sum())
    none = f"; none {missing:,}" if missing else ""
    kinds = f"{len(sizes)} values: " if len(sizes) > SHOWN or field.role == LABEL else ""
    return kinds + listed(each, SHOWN) + none


def _validated(n: int) -> str:
    return f", validated on {n:,}" if n else ", none to validate on"


def _processors(device: torch.device) -> str:
    """How many threads, or which GPU."""
    import torch

    if device.type == "cuda":
        return f" ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f", {threads} thread{'s' if threads != 1 else ''}"
