"""A trained model on disk: model.yaml, weights.safetensors, history.csv; cells.npy (which cells it has seen);
calibration.safetensors of one that has it.

Data, never code: no pickle is read.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cellalign.calibration import Groups
from cellalign.data.fields import read_fields
from cellalign.data.files import atomic_directory, check_directory, checksum, stamp
from cellalign.data.outputs import MODEL_FILES, why_no_model
from cellalign.data.placing import put_back
from cellalign.data.reading import Reading
from cellalign.engine.checkpoint import save_tensors
from cellalign.engine.room import TooLarge, within
from cellalign.errors import InputError, ModelError, UsageError, spoken
from cellalign.memory import said, total
from cellalign.methods.base import Layout, Method
from cellalign.methods.observed import keep_observed
from cellalign.methods.registry import get
from cellalign.records import FileRecord, ModelRecord, RecordError, SourceRecord, checked_text, plain_of, verify

log = logging.getLogger("cellalign")
SPEC, WEIGHTS, HISTORY, CELLS, CALIBRATION = MODEL_FILES
# bytes of model.yaml, which names every gene, and those of the weights; and of a history of a million epochs
OBSERVED = ("predicted", "real", "variance", "control", "control_variance", "cells")  # of held-out groups
LARGEST_SPEC, PER_WEIGHT, LARGEST_HISTORY = 8 << 20, 32, 1 << 28
PER_TRAINED_BYTE = 4  # a weight, its gradient, and Adam's two moments


def check_model_output(directory: str | os.PathLike[str], force: bool, inputs: Sequence[Any] = ()) -> None:
    """Refuse, before any work, a place where a model cannot be written: nothing but a model is replaced by one.

    Raises
    ------
    UsageError, InputError
        As `data.files.check_output`; or it exists and is neither an empty folder nor a model directory that holds
        nothing else.
    """
    try:
        os.path.abspath(directory).encode()
    except UnicodeEncodeError as error:  # safetensors takes no other paths
        raise UsageError(f"the name {directory} is not UTF-8, which a model's has to be; choose another") from error
    check_directory(directory, force, inputs, why_no_model)


def write_model(
    directory: str | Path,
    record: ModelRecord,
    weights: dict[str, Tensor],
    history: list[dict[str, float]],
    calibration: Groups | None = None,
    *,
    trained: np.ndarray | None = None,
    force: bool = False,
) -> ModelRecord:
    """Write the directory; it appears under its name only when complete.

    Parameters
    ----------
    trained : int64 array, optional
        Fingerprints of the cells it has seen (`data.fingerprints`), where these are known.
    calibration : Groups, optional
        What calibrates intervals, where the record says of which groups.

    Returns
    -------
    ModelRecord
        With the checksum of the weights.

    Raises
    ------
    UsageError
        It exists and `force` is not set, or is not to be replaced.
    InputError
        It cannot be written; it is as it was, and the message says so.
    """
    with atomic_directory(directory, force, why_no_model) as fresh:
        save_tensors(weights, fresh / WEIGHTS)
        record = record.model_copy(update={"weights_checksum": checksum(fresh / WEIGHTS)})
        if calibration is not None and record.calibration is not None:
            tensors = {name: torch.from_numpy(getattr(calibration, name)) for name in OBSERVED}
            save_tensors(tensors, fresh / CALIBRATION)
            known = record.calibration.model_copy(update={"checksum": checksum(fresh / CALIBRATION)})
            record = record.model_copy(update={"calibration": known})
        (fresh / SPEC).write_text(checked_text(record.plain()), encoding="utf-8")
        columns = list(dict.fromkeys(key for row in history for key in row))
        with open(fresh / HISTORY, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)
        if trained is not None:
            np.save(fresh / CELLS, trained, allow_pickle=False)
    return record


def read_record(directory: str | Path) -> ModelRecord:
    """Read model.yaml, also of an older version.

    Raises
    ------
    ModelError
        No such directory, no model in it, not readable, or of a newer version.
    """
    directory = Path(directory)
    put_back(directory)
    if directory.exists() and not directory.is_dir():
        named = spoken(python="cellalign.train(adata, model_path=...)", command="cellalign train -m DIR")
        raise ModelError(f"{directory} is a file, and a model is a directory; name one that {named} wrote")
    if not directory.is_dir():
        how = spoken(
            python=f"cellalign.train(adata, model_path={str(directory)!r})",
            command=f"cellalign train FILE -m {directory}",
        )
        raise ModelError(f"no model directory {directory}; train one with: {how}")
    if not (directory / SPEC).is_file():
        raise ModelError(f"{directory} is no model directory: it holds no {SPEC}")
    try:
        _check_size(directory)
        plain = plain_of((directory / SPEC).read_text(encoding="utf-8"))
        record = ModelRecord.read(plain)  # names what is missing, which a checksum cannot
        verify(plain)
        return record
    except OSError as error:
        raise _unreadable(directory / SPEC, error) from error
    except ValueError as error:  # RecordError among them
        kind = "cannot be read" if "newer cellalign" in str(error) else "is damaged"
        raise ModelError(f"{directory / SPEC} {kind}: {str(error).splitlines()[0]}") from error


def _check_size(directory: Path) -> None:
    """RecordError where model.yaml is far larger than the weights allow for: of every gene they hold a number."""
    size = (directory / SPEC).stat().st_size
    weights = (directory / WEIGHTS).stat().st_size if (directory / WEIGHTS).is_file() else 0
    if size > LARGEST_SPEC + PER_WEIGHT * weights:
        raise RecordError(f"it is {said(size)}, and the weights are {said(weights)}")


def read_weights(directory: str | Path, record: ModelRecord) -> dict[str, Tensor]:
    """Read the weights and check them against the checksum in model.yaml.

    Raises
    ------
    ModelError
        Missing or damaged, or not all of them are finite.
    """
    return _read_tensors(Path(directory) / WEIGHTS, record.weights_checksum)


def missing_files(directory: str | Path, record: ModelRecord) -> list[str]:
    """Files without which a model is not whole."""
    needed = [WEIGHTS] + ([CALIBRATION] if record.calibration is not None else [])
    return [name for name in needed if not (Path(directory) / name).is_file()]


def read_calibration(directory: str | Path, record: ModelRecord) -> Groups | None:
    """What calibrates intervals; None where the model knows no held-out groups.

    Raises
    ------
    ModelError
        As `read_weights`, or it is of other groups or genes.
    """
    known = record.calibration
    if known is None:
        return None
    file = Path(directory) / CALIBRATION
    found = _read_tensors(file, known.checksum)
    n, genes = len(known.groups), len(record.genes)
    shapes = {name: (n, 2) if name == "cells" else (n, genes) for name in OBSERVED}
    if len(known.targets) != n or {name: tuple(values.shape) for name, values in found.items()} != shapes:
        raise ModelError(f"{file} is of other groups or genes than {SPEC}; restore it or train again")
    return Groups(known.groups, known.targets, **{name: values.numpy() for name, values in found.items()})


def _read_tensors(file: Path, expected: str | None) -> dict[str, Tensor]:
    """Tensors of a checksum, all of them finite; errors as `read_weights`."""
    if not file.is_file():
        raise ModelError(f"{file.parent} is incomplete: {file.name} is missing; restore it or train again")
    try:
        if checksum(file) != expected:
            raise ModelError(f"{file} is damaged: its checksum is not the one in {SPEC}; restore it or train again")
        weights = load_file(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged: {error}; restore it or train again") from error
    for name, values in weights.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            n = int((~values.isfinite()).sum())
            raise ModelError(f"{file} holds {n} values of {name} that are NaN or infinite; restore it or train again")
    return weights


def _unreadable(file: Path, error: OSError) -> ModelError:
    return ModelError(f"{file} cannot be read: {error.strerror or error}; change its permissions, or train again")


def read_history(directory: str | Path) -> list[dict[str, float]]:
    """Rows of history.csv; empty where the file is gone or damaged (nothing but plots needs it)."""
    file = Path(directory) / HISTORY
    try:
        if not file.exists():
            return []
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > LARGEST_HISTORY:
            raise ValueError(f"it is {said(file.stat().st_size)}")
        with open(file, newline="", encoding="utf-8") as handle:
            return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(handle)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        log.warning("%s is not read, the model is as good without: %s", file, str(error).splitlines()[0])
        return []


def read_trained(directory: str | Path) -> np.ndarray | None:
    """Fingerprints of the cells that the model has seen; None where the file is gone or damaged, as of old models."""
    file = Path(directory) / CELLS
    try:
        found = np.load(file, allow_pickle=False) if file.is_file() else None
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is not read, the model is as good without: %s", file, str(error).splitlines()[0])
        return None
    return found if found is not None and found.dtype == np.int64 and found.ndim == 1 else None


def build(record: ModelRecord, at_most: int | None = None) -> Method:
    """A method with fresh weights from what model.yaml says of it; settings may have the names of older versions.

    Parameters
    ----------
    record : ModelRecord
    at_most : int, optional
        Bytes that its weights may take.

    Raises
    ------
    TooLarge
        They would take more, none of which has been taken.
    """
    with within(at_most):
        return _built(record)


def build_to_train(record: ModelRecord) -> Method:
    """The same, where there is memory to train it.

    Raises
    ------
    UsageError
        Its weights, their gradients and what the optimiser keeps of them are more than the memory there is.
    """
    there = total()
    try:
        return build(record, None if there is None else there // PER_TRAINED_BYTE)
    except TooLarge as error:
        sizes = ", ".join(
            f"{key}={value}" for key, value in record.hyperparameters.items() if key.endswith(("hidden", "latent_dim"))
        )
        raise UsageError(
            f"{sizes or record.method}: {len(record.genes):,} genes would take {error}, four times that "
            f"in training, of {said(there or 0)} of memory; make them smaller"
        ) from error


def _built(record: ModelRecord) -> Method:
    cls = get(record.method)
    recorded = {cls.renamed_settings.get(key, key): value for key, value in record.hyperparameters.items()}
    settings = {**cls.settings_before, **recorded}
    signed = record.recipe.expression == "any"
    fields = read_fields(record.fields)
    layout = Layout(len(record.genes), fields, record.cells.trained, record.image_shape, signed)
    method = cls(cls.Hyperparameters(**settings), layout)
    keep_observed(method)
    return method


def source_record(source: str | os.PathLike[str] | Reading | None) -> SourceRecord:
    """What model.yaml keeps of the training files."""
    if source is None:
        return SourceRecord()
    reading = Reading.of(source)
    first, *others = [_file_record(path) for path in reading.paths]
    metadata = None if reading.obs is None else _file_record(reading.obs)
    how = {name: value for name, value in reading.options().items() if name != "obs"}
    return SourceRecord(**first.model_dump(), others=others, metadata=metadata, reading=how)


def _file_record(path: str | os.PathLike[str]) -> FileRecord:
    file = Path(path).resolve()
    size, modified = stamp(file)
    return FileRecord(path=str(file), checksum=checksum(file), size=size, modified_ns=modified)


def training_files(source: SourceRecord) -> Reading:
    """The training files as they were read, if they are still what the model was trained on.

    Raises
    ------
    InputError
        One is unknown, gone or changed.
    """
    other = spoken(python="give the cells", command="name an INPUT")
    if source.path is None:
        raise InputError(f"the model knows no training file (it was trained on cells in memory or a pipe); {other}")
    for file in source.files():
        path = Path(str(file.path))
        if not path.exists():
            raise InputError(f"the training file {path} is gone; {other}")
        if stamp(path) != (file.size, file.modified_ns) and checksum(path) != file.checksum:
            raise InputError(f"the training file {path} has changed since training; {other}")
    paths = [str(file.path) for file in (source, *source.others)]
    obs = None if source.metadata is None else source.metadata.path
    known: dict[str, Any] = {
        name: value for name, value in source.reading.items() if name in Reading.__dataclass_fields__
    }
    return Reading(tuple(paths), obs=obs, **known)
