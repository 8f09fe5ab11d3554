"""What `info` says of a model, out of its record alone, and the record without this machine's folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellalign.data.folders import is_absolute, name_of, without_folders
from cellalign.data.values import best_of, listed
from cellalign.errors import counted
from cellalign.memory import said as bytes_said
from cellalign.records import ModelRecord

SHOWN = 12


def of_record(record: ModelRecord, directory: Path | None = None) -> Iterator[tuple[str, str]]:
    """A model in words."""
    from cellalign.engine.plan import Plan
    from cellalign.methods.registry import available

    known = available().get(record.method)
    yield "method", f"{record.method}: {known.summary} ({known.reference})" if known else record.method
    if record.preset:
        yield "preset", record.preset
    yield "trained", _trained(record)
    yield (
        "cells",
        f"{record.cells.all:,}; trained on {record.cells.trained:,}, validated on {record.cells.validation:,}",
    )
    if record.holdout:
        yield "held out", "; ".join(record.holdout)
    if record.tuned is not None:
        of = f": {'; '.join(record.tuned.groups)}" if record.tuned.holdout else ""
        yield "settings chosen", f"by tune, the {best_of(record.tuned.runs)} by {record.tuned.by}{of}"
    yield "genes", f"{len(record.genes):,}: {listed(record.genes[:5], 5)}, ..."
    yield "reads", _reads(record)
    for field in record.fields:
        yield f"{field.role} {field.name}", _field(field.model_dump())
    changed = [f"{key}={value}" for key, value in _unusual(record, Plan)]
    yield "settings", listed(changed, 40) or "the method's own"
    for i, finding in enumerate(record.outcome.findings if record.outcome else (), 1):
        yield f"finding {i}", finding
    if record.calibration is not None:
        groups = record.calibration.groups
        yield "intervals", f"calibrated on {len(groups)} groups held out: {listed(groups, SHOWN)}"
    if record.transferred:
        yield "transferred", listed(record.transferred, SHOWN)
    if record.learned_from is not None:
        yield "learned from", ", ".join(f"{k} {v}" for k, v in record.learned_from.model_dump().items() if v)
    yield "source", _source(record)
    if record.command:
        yield "command", record.command
    yield "made by", f"cellalign {record.cellalign}; " + ", ".join(f"{k} {v}" for k, v in record.versions.items())
    if directory is not None:
        from cellalign.model_directory import missing_files

        for name in missing_files(directory, record):
            yield "incomplete", f"{name} is missing; restore it or train again"
        yield "directory", listed(sorted(f"{f.name} ({bytes_said(f.stat().st_size)})" for f in directory.iterdir()))


def record_without_folders(plain: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A plain record of a model in which absolute paths are names of files, and the paths that were cut."""
    cut: list[str] = []

    def file(path: Any) -> Any:
        if isinstance(path, str) and is_absolute(path):
            cut.append(path)
            return name_of(path)
        return path

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        return [walk(inner) for inner in value] if isinstance(value, list) else file(value)

    rest = {key: value for key, value in plain.items() if key not in ("genes", "other_names", "fields")}
    given = {key: rest.pop(key) for key in ("command", "command_hint") if key in rest}
    lines = {key: without_folders(text, cut) if isinstance(text, str) else text for key, text in given.items()}
    changed = {key: walk(value) for key, value in rest.items()}
    return {key: (lines | changed).get(key, value) for key, value in plain.items()}, list(dict.fromkeys(cut))


def _trained(record: ModelRecord) -> str:
    found = record.outcome
    if found is None:
        return "not finished"
    took = found.took + (", with calibration" if found.seconds_calibrating else "")
    if not found.epochs:
        return f"in closed form, {took}, seed {record.seed}"
    best = (
        ""
        if found.best_epoch is None
        else f", the best {found.best_epoch} (validation loss {found.validation_loss:.4g})"
    )
    back = f"; went back {len(found.setbacks)} times" if found.setbacks else ""
    return f"{counted(found.epochs, 'epoch')}{best}, {took}, seed {record.seed}{back}"


def _reads(record: ModelRecord) -> str:
    recipe = record.recipe
    where = record.matrix if record.matrix == "X" else f"layer {record.matrix!r}"
    if recipe.expression == "any":
        return f"values of {where} as they are"
    total = "" if recipe.target_sum is None else f", normalised to {recipe.target_sum:,.4g} a cell"
    made = (
        "" if recipe.n_top_genes is None else f"; raw counts are prepared so (top genes: {recipe.n_top_genes or 'all'})"
    )
    return f"{where}{total}{made}"


def _field(field: dict[str, Any]) -> str:
    values = field.get("categories")
    if not values:
        low, high = field.get("low"), field.get("high")
        return f"a {field['kind']}" + (f" from {low:.4g} to {high:.4g}" if low is not None and high is not None else "")
    control = f"; control: {field['reference']}" if field.get("reference") else ""
    return f"{counted(len(values), 'value')}: {listed(values, SHOWN)}{control}"


def _unusual(record: ModelRecord, plan: Any) -> Iterator[tuple[str, Any]]:
    """Settings that differ from the method's own."""
    from cellalign.errors import UsageError
    from cellalign.methods.registry import get

    try:
        cls = get(record.method)
    except UsageError:  # of a package that is not there
        yield from record.hyperparameters.items()
        return
    for model, held in ((cls.Hyperparameters, record.hyperparameters), (plan, record.training)):
        for key, value in held.items():
            usual = cls.plan_defaults.get(key, getattr(model.model_fields.get(key), "default", None))
            same = (
                list(usual) == list(value)
                if isinstance(value, (list, tuple)) and isinstance(usual, tuple)
                else usual == value
            )
            if not same and not (key == "precision" and usual == "auto"):
                yield key, value


def _source(record: ModelRecord) -> str:
    """The training file, and whether it is still there."""
    if record.source.path is None:
        return "cells in memory or a pipe"
    paths = [str(file.path) for file in record.source.files()]
    if not is_absolute(paths[0]):
        return f"{', '.join(paths)} (its folder was cut)"
    there = all(Path(path).exists() for path in paths)
    return f"{', '.join(paths)}{'' if there else ' (no longer there)'}"
