"""A run that was cut off, on disk: `MODEL.partial/` beside the model directory it is to become.

Tensors in safetensors, the rest in JSON: data, never code. Each save replaces the last one only when complete, and a
digest of all of it shows damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from cellalign.errors import ModelError, option
from cellalign.records import CheckpointRecord, RecordError

STATE = "state.safetensors"
PARTS = "parts"
SAVING = "saving"  # a folder for files that are being written, by safetensors under names of its own too
EARLIER = ".tmp??????"  # these, as versions before left them where they were killed


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


def tensors_checksum(tensors: Mapping[str, Tensor]) -> str:
    """The "sha256:..." of the file that `save_tensors` would write."""
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """Where the state is kept, and the settings it belongs to: a resumed run must have the same.

    Attributes
    ----------
    path : Path
        A folder.
    settings : dict
        What decides the outcome of a run (`CheckpointRecord.COMPARED`).
    every : float
        Seconds between two saves.
    how : str
        What goes on from here, for who ends a run.
    """

    path: Path
    settings: dict[str, Any]
    every: float = 60.0
    how: str = ""

    FILES: ClassVar[tuple[str, ...]] = (STATE, f"{STATE}.tmp", EARLIER)
    HOLDS: ClassVar[tuple[str, ...]] = (*FILES, PARTS, SAVING)  # all that is in the folder, as patterns

    @classmethod
    def beside(
        cls, model: str | os.PathLike[str], settings: dict[str, Any], every: float = 60.0, how: str = ""
    ) -> Checkpoint:
        """The checkpoint of the run that is to become `model`."""
        model = Path(os.path.abspath(model))
        return cls(model.with_name(model.name + ".partial"), settings, every, how)

    def part(self, name: str) -> Checkpoint:
        """Of one of several trainings that a run consists of; it goes when the whole does."""
        return replace(self, path=self.path / PARTS / name)

    @property
    def file(self) -> Path:
        """What it is kept in."""
        return self.path / STATE

    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return self.file.exists()

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the state on disk.

        Raises
        ------
        OSError
            It cannot be written; the one before is as it was.
        """
        saving = self.path / SAVING
        fresh = saving / STATE
        record = CheckpointRecord(format_version=CheckpointRecord.FORMAT, settings=self.settings, state=state)
        content = json.dumps(record.model_dump())  # pydantic's JSON has no infinity, which a best loss begins with
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            saving.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, fresh, {"cellalign": content, "digest": _digest(tensors, content)})
            with open(fresh, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(fresh, self.file)
        finally:
            shutil.rmtree(saving, ignore_errors=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and state.

        Raises
        ------
        ModelError
            The file is damaged, or belongs to a run with other settings (the first one that differs is named).
        """
        tensors, record = self._read()
        self.check(record)
        return tensors, record.state

    def check(self, record: CheckpointRecord) -> None:
        """Refuse what a run with other settings left; the first one that differs is named: ModelError."""
        differing = record.differing(json.loads(json.dumps(self.settings)))
        if differing is not None:
            raise ModelError(
                f"the checkpoint {self.path} was left by a run with another {differing}; use the same options, "
                f"name another model, or throw the checkpoint away with {option('restart', True)}"
            )

    def kept(self) -> CheckpointRecord:
        """What it says of the run that left it; errors as `load`."""
        return self._read()[1]

    def _read(self) -> tuple[dict[str, Tensor], CheckpointRecord]:
        again = f"throw it away with {option('restart', True)} and train anew"
        try:
            with safe_open(self.file, "pt") as handle:
                metadata = handle.metadata()
                content = metadata["cellalign"]
                plain = json.loads(content)
                tensors = {key: handle.get_tensor(key) for key in handle.keys()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"the checkpoint {self.file} is damaged ({error}); {again}") from error
        try:
            record = CheckpointRecord.read({"format_version": 1, **plain} if isinstance(plain, dict) else plain)
        except RecordError as error:
            raise ModelError(f"the checkpoint {self.path} is not read: {error}; {again}") from error
        # formats before the fourth had no digest
        if (digest := metadata.get("digest")) != _digest(tensors, content) and (digest or plain["format_version"] > 3):
            raise ModelError(f"the checkpoint {self.file} is damaged (its digest is another); {again}")
        return tensors, record

    def remove(self) -> None:
        """Delete the state: the run is complete, or is started anew. What else is in the folder stays."""
        for name in self.FILES:
            for file in self.path.glob(name):
                file.unlink(missing_ok=True)
        shutil.rmtree(self.path / SAVING, ignore_errors=True)
        parts = self.path / PARTS
        for part in list(parts.iterdir()) if parts.is_dir() else []:
            self.part(part.name).remove()
        for folder in (parts, self.path):
            with suppress(OSError):  # something else is in it, or it is not there
                folder.rmdir()


def _digest(tensors: Mapping[str, Tensor], content: str) -> str:
    """Of everything that is kept, so that no changed bit goes unnoticed."""
    whole = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            whole.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
