"""A trained model on disk: model.yaml, weights.safetensors, history.csv. Data, never code: no pickle is read."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cellalign.data.fields import read_fields
from cellalign.data.files import atomic_directory, checksum
from cellalign.engine.checkpoint import save_tensors
from cellalign.errors import ModelError, spoken
from cellalign.methods.base import Layout, Method
from cellalign.methods.registry import get
from cellalign.records import ModelRecord, RecordError, SourceRecord

log = logging.getLogger("cellalign")
SPEC, WEIGHTS, HISTORY = "model.yaml", "weights.safetensors", "history.csv"


def write_model(
    directory: str | Path,
    record: ModelRecord,
    weights: dict[str, Tensor],
    history: list[dict[str, float]],
    *,
    force: bool = False,
) -> ModelRecord:
    """Write the directory; it appears under its name only when complete.

    Returns
    -------
    ModelRecord
        With the checksum of the weights.

    Raises
    ------
    UsageError
        It exists and `force` is not set.
    InputError
        It cannot be written.
    """
    with atomic_directory(directory, force) as fresh:
        save_tensors(weights, fresh / WEIGHTS)
        record = record.model_copy(update={"weights_checksum": checksum(fresh / WEIGHTS)})
        (fresh / SPEC).write_text(yaml.safe_dump(record.plain(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        columns = list(dict.fromkeys(key for row in history for key in row))
        with open(fresh / HISTORY, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)
    return record


def read_record(directory: str | Path) -> ModelRecord:
    """Read model.yaml, also of an older version.

    Raises
    ------
    ModelError
        No such directory, no model in it, not readable, or of a newer version.
    """
    directory = Path(directory)
    if not directory.is_dir():
        how = spoken(
            python=f"cellalign.train(adata, model_path={str(directory)!r})",
            command=f"cellalign train FILE -m {directory}",
        )
        raise ModelError(f"no model directory {directory}; train one with: {how}")
    if not (directory / SPEC).is_file():
        raise ModelError(f"{directory} is no model directory: it holds no {SPEC}")
    try:
        plain = yaml.load(
            (directory / SPEC).read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except OSError as error:
        raise _unreadable(directory / SPEC, error) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError(f"{directory / SPEC} is damaged: {str(error).splitlines()[0]}") from error
    try:
        return ModelRecord.read(plain)
    except RecordError as error:
        kind = "cannot be read" if "newer cellalign" in str(error) else "is damaged"
        raise ModelError(f"{directory / SPEC} {kind}: {error}") from error


def read_weights(directory: str | Path, record: ModelRecord) -> dict[str, Tensor]:
    """Read the weights and check them against the checksum in model.yaml.

    Raises
    ------
    ModelError
        Missing or damaged.
    """
    file = Path(directory) / WEIGHTS
    if not file.is_file():
        raise ModelError(f"{directory} is incomplete: {WEIGHTS} is missing; restore it or train again")
    try:
        if checksum(file) != record.weights_checksum:
            raise ModelError(f"{file} is damaged: its checksum is not the one in {SPEC}; restore it or train again")
        return load_file(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged: {error}; restore it or train again") from error


def _unreadable(file: Path, error: OSError) -> ModelError:
    return ModelError(f"{file} cannot be read: {error.strerror or error}; change its permissions, or train again")


def read_history(directory: str | Path) -> list[dict[str, float]]:
    """Rows of history.csv; empty where the file is gone or damaged (nothing but plots needs it)."""
    file = Path(directory) / HISTORY
    if not file.is_file():
        return []
    try:
        with open(file, newline="", encoding="utf-8") as handle:
            return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(handle)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        log.warning("%s is not read, the model is as good without: %s", file, error)
        return []


def build(record: ModelRecord) -> Method:
    """A method with fresh weights from what model.yaml says of it; settings may have the names of older versions."""
    cls = get(record.method)
    settings = {cls.renamed_settings.get(key, key): value for key, value in record.hyperparameters.items()}
    layout = Layout(len(record.genes), read_fields(record.fields), record.cells.trained)
    return cls(cls.Hyperparameters(**settings), layout)


def source_record(path: str | os.PathLike[str] | None) -> SourceRecord:
    """What model.yaml keeps of the training file."""
    if path is None:
        return SourceRecord()
    file = Path(path).resolve()
    stat = file.stat()
    return SourceRecord(path=str(file), checksum=checksum(file), size=stat.st_size, modified_ns=stat.st_mtime_ns)
