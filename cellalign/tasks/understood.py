"""What a training was asked for, as it was understood: said before it begins, or in its stead (`--dry-run`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellalign.data.said import tell
from cellalign.errors import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData

    from cellalign.data.reading import Reading
    from cellalign.tasks.beginning import Beginning
    from cellalign.tasks.declaration import Call
    from cellalign.tasks.learn_on import Parent
    from cellalign.tasks.prepare import Prepared
    from cellalign.tasks.resuming import Resuming

DEFAULT_METHOD = "comp"
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

    record = prepared.record
    cls = get(record.method)
    found = [("method", f"{cls.name}: {cls.summary}")]
    if record.preset is not None:
        found.append(("preset", record.preset))
    *columns, computed = of_columns(prepared, device)
    found += columns
    held = prepared.cells.n - sum(map(len, prepared.rows))
    if record.holdout:
        found.append(("held out", f"{held:,} cells: {'; '.join(record.holdout)}"))
    train, validation = len(prepared.train_rows), len(prepared.validation_rows)
    found.append(("cells", f"{prepared.cells.n:,}; trained on {train:,}" + _validated(validation)))
    return [*found, computed]


def of_columns(prepared: Prepared, device: torch.device) -> list[tuple[str, str]]:
    """Of `understood` the genes, the columns, and last what it is computed on."""
    import numpy as np

    from cellalign.methods.registry import get

    record = prepared.record
    cls, rows = get(record.method), np.sort(np.concatenate(prepared.rows))
    reads = SCALES.get(cls.reads(cls.Hyperparameters(**record.hyperparameters)), "expression")
    where = record.matrix if record.matrix == "X" else f"layer {record.matrix!r}"
    found = [("genes", f"{len(record.genes):,}, {reads} of {where}{_made(record)}")]
    for field, column in zip(prepared.cells.fields, prepared.cells.columns, strict=True):
        found.append((f"{field.role} {field.name!r}", _of_field(field, column.numpy(), rows)))
    found.append(("computed on", f"{device}{_processors(device)}, products in {prepared.plan.precision}"))
    return found


def tell_before(adata: AnnData, prepared: Prepared, device: torch.device, *, seed: int) -> None:
    """Say what was understood, what will mislead and what it will take, at the start of a run."""
    from cellalign.tasks.check import warnings_of
    from cellalign.tasks.estimate import estimated

    for what, how in understood(prepared, device):
        tell(logging.INFO, f"{what}: {how}")
    for line in of_numbers(prepared):
        tell(logging.INFO, line)
    for line in warnings_of(adata, prepared, seed):
        tell(logging.WARNING, line)
    tell(logging.INFO, f"estimate: {estimated(prepared, device, seed=seed).said}")


def say_plan(
    call: Call,
    adata: AnnData,
    parent: Parent | None,
    source: Reading | None,
    resuming: Resuming,
    writes: Sequence[str | None],
) -> None:
    """Print what a training would do and take, by a measured estimate; nothing is written, errors are as `train`'s."""
    from cellalign.engine.device import computing
    from cellalign.engine.ranks import check_shares, current
    from cellalign.methods.registry import get
    from cellalign.tasks.beginning import begin
    from cellalign.tasks.check import warnings_of
    from cellalign.tasks.estimate import estimated
    from cellalign.tasks.paths import to_write

    asked = call.options
    threads = 1 if asked["deterministic"] else asked["threads"]
    method = asked["method"] or (DEFAULT_METHOD if parent is None else parent.model.name)
    check_shares(get(method))
    given = asked | {"source": source, "threads": threads}
    begun = begin(adata, parent, method, resuming, given, alone=current().alone)
    prepared = begun.prepared
    complete = resuming.is_complete(prepared.record)
    run = f"nothing is trained: {resuming.said_complete}" if complete else resuming.planned(prepared.record)
    for level, message in prepared.notes:
        call.log.log(level, "%s", message)
    with computing(asked["device"], threads) as device:
        rows = understood(prepared, device)
        rows += [("note", line) for line in of_numbers(prepared)]
        rows += [("warning", line) for line in warnings_of(adata, prepared, asked["seed"])]
        rows += [("run", run), *_of_refits(begun, resuming, complete)]
        if not complete:
            rows.append(("estimate", estimated(prepared, device, seed=asked["seed"], always=True).said))
    rows.append(("writes", to_write(writes, force=asked["force"])))
    call.print_rows(
        "train would do this (nothing was written)", ["what", "how"], rows, "table", headings=["", ""], prose=True
    )


def _of_refits(begun: Beginning, resuming: Resuming, complete: bool) -> list[tuple[str, str]]:
    """The refits by which intervals are calibrated, where there are to be some."""
    from cellalign.model import load

    planned = begun.to_calibrate(load(str(resuming.model))) if complete else begun.planned
    if planned is None:
        return []
    n = len(planned.folds)
    return [("calibrates", f"by {n} refits, each as long as the training, without groups of {planned.key!r}")]


def of_numbers(prepared: Prepared) -> list[str]:
    """What is worth saying of columns whose kind may be another than was meant."""
    import numpy as np

    said = []
    for field, column in zip(prepared.cells.fields, prepared.cells.columns, strict=True):
        if field.role not in ("batch", "covariate"):
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
    from cellalign.data.values import number_of

    return all(number_of(name) is not None for name in categories)


def _made(record: Any) -> str:
    """That the matrix was made of raw counts here."""
    return "" if record.recipe.n_top_genes is None else " (raw counts, normalised here)"


def _of_field(field: Any, column: np.ndarray, rows: np.ndarray) -> str:
    """The values of a column with their cells."""
    import numpy as np

    from cellalign.data.values import listed

    if field.kind == "number":
        values = field.mean + field.sd * column[rows]
        low = np.nanmin(values) if field.low is None else field.low
        high = np.nanmax(values) if field.high is None else field.high
        return f"one number for each cell, from {low:.4g} to {high:.4g}"
    if field.kind != "categorical":
        return f"{field.kind}, {field.width} numbers for each cell"
    codes = column[rows]
    sizes = np.bincount(codes[codes >= 0], minlength=len(field.categories))
    reference = field.reference if field.role == "condition" else None
    each = (
        f"{name} ({size:,}{', the control' if name == reference else ''})"
        for name, size in zip(field.categories, sizes, strict=True)
    )
    missing = int((codes < 0).sum())
    none = f"; none {missing:,}" if missing else ""
    kinds = f"{len(sizes)} values: " if len(sizes) > SHOWN or field.role == "label" else ""
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
