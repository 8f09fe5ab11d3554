"""A run that was cut off, on disk: `MODEL.partial/` beside the model directory it is to become.

Tensors in safetensors, the rest in JSON: data, never code. Each save replaces the last one only when complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cellalign.errors import InputError, ModelError, option
from cellalign.records import CheckpointRecord, RecordError


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors.

    Raises
    ------
    OSError
        As the system does, which safetensors hides in a message.
    """
    with open(path, "wb"):  # with the permissions that every new file gets here; safetensors makes its own private
        mode = path.stat().st_mode
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata)
    except SafetensorError as error:
        found = re.search(r"(?:os error |code: )(\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    os.chmod(path, stat.S_IMODE(mode))


@dataclass(frozen=True)
class Checkpoint:
    """Where the state is kept, and the settings it belongs to: a resumed run must have the same."""

    path: Path
    settings: dict[str, Any]

    @classmethod
    def beside(cls, model: str | os.PathLike[str], settings: dict[str, Any]) -> Checkpoint:
        """The checkpoint of the run that is to become `model`."""
        model = Path(model)
        return cls(model.with_name(model.name + ".partial"), settings)

    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.path / "state.safetensors").exists()

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the state on disk."""
        target, fresh = self.path / "state.safetensors", self.path / "state.safetensors.tmp"
        record = CheckpointRecord(format_version=CheckpointRecord.FORMAT, settings=self.settings, state=state)
        content = json.dumps(record.model_dump())  # pydantic's JSON has no infinity, which a best loss begins with
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, fresh, {"cellalign": content})
            os.replace(fresh, target)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise InputError(f"cannot write the checkpoint {target}: {error.strerror or error}") from error

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and state.

        Raises
        ------
        ModelError
            The file is damaged, or belongs to a run with other settings (the first one that differs is named).
        """
        with self._opened() as handle:
            record = self._record(handle)
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}
        differing = record.differing(json.loads(json.dumps(self.settings)))
        if differing is not None:
            raise ModelError(
                f"the checkpoint {self.path} was left by a run with another {differing}; "
                f"use the same options, or train without {option('resume')}"
            )
        return tensors, record.state

    def kept(self) -> dict[str, Any]:
        """The settings of the run that left it; errors as `load`."""
        with self._opened() as handle:
            return self._record(handle).settings

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        file = self.path / "state.safetensors"
        try:
            with safe_open(file, "pt") as handle:
                yield handle
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the checkpoint {file} is damaged ({error}); delete {self.path} and train anew"
            ) from error

    def _record(self, handle: Any) -> CheckpointRecord:
        content = json.loads(handle.metadata()["cellalign"])
        try:
            return CheckpointRecord.read({"format_version": 1, **content} if isinstance(content, dict) else content)
        except RecordError as error:
            how = f"train without {option('resume')}"
            raise ModelError(f"the checkpoint {self.path} is not read: {error}; {how}") from error

    def remove(self) -> None:
        """Delete the state: the run is complete, or is started anew."""
        shutil.rmtree(self.path, ignore_errors=True)
