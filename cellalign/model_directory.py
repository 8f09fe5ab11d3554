"""A trained model on disk: model.yaml, weights.safetensors, history.csv. Data, never code: no pickle is read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellalign.data.files import atomic_directory, checksum
from cellalign.errors import ModelError, spoken

FORMAT_VERSION = 1
SPEC, WEIGHTS, HISTORY = "model.yaml", "weights.safetensors", "history.csv"


def write_model(
    directory: str | Path,
    spec: dict[str, Any],
    weights: dict[str, Tensor],
    history: list[dict[str, float]],
    *,
    force: bool = False,
) -> None:
    """Write the directory; it appears under its name only when complete.

    Raises
    ------
    UsageError
        It exists and `force` is not set.
    InputError
        It cannot be written.
    """
    with atomic_directory(directory, force) as fresh:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, fresh / WEIGHTS)
        head = {"format_version": FORMAT_VERSION, "weights_checksum": checksum(fresh / WEIGHTS)}
        (fresh / SPEC).write_text(yaml.safe_dump(head | spec, sort_keys=False, allow_unicode=True))
        columns = list(dict.fromkeys(key for row in history for key in row))
        with open(fresh / HISTORY, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)


def read_spec(directory: str | Path) -> dict[str, Any]:
    """Read model.yaml.

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
        spec = yaml.load((directory / SPEC).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ModelError(f"{directory / SPEC} is damaged: {str(error).splitlines()[0]}") from error
    version = spec.get("format_version") if isinstance(spec, dict) else None
    if not isinstance(version, int):
        raise ModelError(f"{directory / SPEC} is damaged: it has no format_version")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{directory} was written by a newer cellalign ({spec.get('cellalign', 'unknown')}, format {version}; "
            f"this one reads up to {FORMAT_VERSION}); upgrade cellalign"
        )
    return spec


def read_weights(directory: str | Path, spec: dict[str, Any]) -> dict[str, Tensor]:
    """Read the weights and check them against the checksum in model.yaml.

    Raises
    ------
    ModelError
        Missing or damaged.
    """
    file = Path(directory) / WEIGHTS
    if not file.is_file():
        raise ModelError(f"{directory} is incomplete: {WEIGHTS} is missing; restore it or train again")
    if checksum(file) != spec.get("weights_checksum"):
        raise ModelError(f"{file} is damaged: its checksum is not the one in {SPEC}; restore it or train again")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def read_history(directory: str | Path) -> list[dict[str, float]]:
    """Rows of history.csv; empty where the file is gone (nothing but plots needs it)."""
    file = Path(directory) / HISTORY
    if not file.is_file():
        return []
    with open(file, newline="") as handle:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(handle)]
