"""Runs of a grid on disk: where each is kept, whether a finished one is what would be trained now, their removal.

A run's folder is named by its settings and a digest of all that decides its outcome: cells, columns, plan, seed. So
runs of other cells or options lie beside it, and are neither taken for it nor replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.errors import ModelError
from cellalign.tasks.prepare import of_preparation, prepare, resolved

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.records import ModelRecord

log = logging.getLogger("cellalign")
SHOWN = 80  # characters of the settings in a folder's name


class Runs:
    """The runs of a grid, in a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.used: list[Path] = []
        self._is_held = False

    @contextmanager
    def held(self, wait: bool) -> Iterator[None]:
        """Keep the folder to this job; who holds it may ask again.

        Raises
        ------
        UsageError
            Another job holds it.
        InputError
            It cannot be written.
        """
        from cellalign.data.claim import claimed

        if self._is_held:
            yield
            return
        with claimed(self.folder, f"the runs of {self.folder}", wait=wait):
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False

    def of(self, adata: AnnData, method: str, options: Mapping[str, Any]) -> None:
        """Say whose runs they are: of these cells, and with these options of `train` in all of them."""
        self._adata, self._method, self._options = adata, method, options
        self._of_cells: dict[str, tuple[ModelRecord, dict[str, Any]]] = {}

    def place(self, settings: Mapping[str, Any], seed: int) -> Path:
        """The folder of a run."""
        digest = hashlib.sha256(json.dumps(self._compared(settings, seed), sort_keys=True).encode()).hexdigest()
        said = json.dumps(settings, sort_keys=True)
        safe = "".join(c if c.isalnum() or c in ".-" else "_" for c in said.strip("{}").replace('"', ""))
        place = self.folder / f"{safe[:SHOWN]}-{digest[:16]}-seed{seed}"
        self.used.append(place)
        return place

    def finished(self, settings: Mapping[str, Any], seed: int, place: Path) -> Model | None:
        """The model of a run that is complete; None where it has to be trained."""
        from cellalign.model import load

        if not place.is_dir():
            return None
        try:
            kept = load(place)
        except ModelError as error:
            log.warning("%s; trained again", error)
            return None
        there, compared = _decisive(kept.record), self._compared(settings, seed)
        differing = next((name for name in compared if there.get(name) != compared[name]), None)
        if differing is not None:
            log.warning("%s is a run with another %s; trained again", place, differing)
            return None
        return kept

    def cut_off(self, place: Path, *, remove: bool = True) -> bool:
        """Whether a run has a checkpoint to go on from; a damaged one is said, and thrown away unless told not to."""
        from cellalign.engine.checkpoint import Checkpoint

        checkpoint = Checkpoint.beside(place, {})
        if not checkpoint.exists():
            return False
        try:
            checkpoint.kept()
        except ModelError as error:
            log.warning("%s; trained again", str(error).partition("; ")[0])
            if remove:
                checkpoint.remove()
            return False
        return True

    def remove(self) -> None:
        """Delete the runs that were used; whatever else is in the folder stays."""
        from cellalign.data.outputs import MODEL_FILES
        from cellalign.engine.checkpoint import Checkpoint

        for place in dict.fromkeys(self.used):
            Checkpoint.beside(place, {}).remove()
            for name in MODEL_FILES:
                with suppress(OSError):
                    (place / name).unlink()
            with suppress(OSError):  # somebody put something into it
                place.rmdir()

    def _compared(self, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """All that decides a run's outcome, as the record of its model has it."""
        from cellalign.engine.device import pick_device
        from cellalign.engine.precision import settled_plan
        from cellalign.methods.registry import get

        cls = get(self._method)
        reads = cls.reads(resolved(self._method, settings, self._options)[0])
        if reads not in self._of_cells:  # what does not depend on the settings of a run
            asked = of_preparation(self._options)
            record = prepare(self._adata, method=self._method, settings=settings, **asked).record
            self._of_cells[reads] = record, _decisive(record)
        record, of_cells = self._of_cells[reads]
        hyperparameters, plan = resolved(self._method, settings, self._options, of=record)
        plan = settled_plan(cls, hyperparameters, plan, pick_device(self._options.get("device") or "auto"))
        own = {"hyperparameters": hyperparameters.model_dump(mode="json"), "training": plan.model_dump(mode="json")}
        return of_cells | own | {"seed": seed}


def _decisive(record: ModelRecord) -> dict[str, Any]:
    """What of a model's record decides the outcome of its training, beside what follows from that."""
    from cellalign.records import CheckpointRecord

    plain = record.model_dump(mode="json", include=set(CheckpointRecord.COMPARED) - {"cells"})
    measured = CheckpointRecord.MEASURED
    return plain | {"recipe": {name: value for name, value in plain["recipe"].items() if name not in measured}}
