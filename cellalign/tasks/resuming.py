"""What a training does about a run of the same name: one that is going on, was cut off, or is complete."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.errors import ModelError, UsageError, counted, option, spoken

if TYPE_CHECKING:
    from cellalign.engine.checkpoint import Checkpoint
    from cellalign.model import Model
    from cellalign.records import CheckpointRecord, ModelRecord

log = logging.getLogger("cellalign")


@dataclass(frozen=True)
class Resuming:
    """What was asked for, and of which model directory.

    Attributes
    ----------
    resume : bool
        Go on from the checkpoint, which has to be there.
    auto_resume : bool
        Go on from it if it is there.
    restart : bool
        Throw it away.
    every : float
        Seconds between two checkpoints.
    deterministic : bool
        Whether the number of threads is to change nothing, which a run is from its beginning or not at all.
    """

    model: str | os.PathLike[str] | None
    resume: bool = False
    auto_resume: bool = False
    restart: bool = False
    every: float = 60.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        asked = [name for name in ("resume", "auto_resume", "restart") if getattr(self, name)]
        if len(asked) > 1:
            raise UsageError(f"{' and '.join(option(name, True) for name in asked)} exclude each other; choose one")
        if asked and self.model is None:
            raise UsageError(f"{option(asked[0], True)} needs model_path, the model directory's path")
        if not self.every >= 0:
            raise UsageError(f"{option('checkpoint_every', self.every)} is not a number of seconds")

    @contextmanager
    def claimed(self, wait: bool) -> Iterator[None]:
        """Hold the model's name; errors as `data.claim.claimed`."""
        from cellalign.data.claim import claimed
        from cellalign.engine.checkpoint import Checkpoint
        from cellalign.engine.ranks import current

        if self.model is None or not current().first:
            yield
            return
        with claimed(Checkpoint.beside(self.model, {}).path, f"the model {self.model}", Checkpoint.HOLDS, wait=wait):
            yield

    def check_free(self) -> None:
        """Refuse the model's name while another job holds it, and make nothing: errors as `claimed` without waiting."""
        from cellalign.data.claim import check_free
        from cellalign.engine.checkpoint import Checkpoint

        if self.model is not None:
            check_free(Checkpoint.beside(self.model, {}).path, f"the model {self.model}", Checkpoint.HOLDS)

    def precision(self) -> str | None:
        """The precision of a run that is gone on with, on whatever machine it began; None where none is."""
        from cellalign.engine.ranks import current

        def kept_one() -> str | None:
            kept = self._kept if self.resume or self.auto_resume else None
            return None if kept is None else str(kept.settings.get("training", {}).get("precision", "auto"))

        return current().told(kept_one)

    def complete(self, record: ModelRecord) -> Model | None:
        """The model itself, where it is there already and all settings were these."""
        from cellalign.engine.ranks import current
        from cellalign.model import load

        def there() -> bool:
            found = self.is_complete(record)
            if found:
                self._tidy(record)
            return found

        if self.model is None or not current().told(there):
            return None
        log.info("%s", self.said_complete)
        return load(Path(self.model))

    def _tidy(self, record: ModelRecord) -> None:
        """Throw away the state of the run that gave the model, if it was ended before it did so itself."""
        checkpoint = self._checkpoint(record)
        try:
            if checkpoint.exists():
                checkpoint.check(checkpoint.kept())
        except ModelError:  # another run's, or damaged
            return
        checkpoint.remove()

    @property
    def said_complete(self) -> str:
        """What is said of a model that is there already."""
        return f"{self.model} is complete, of the same cells and settings"

    def is_complete(self, record: ModelRecord) -> bool:
        """Whether the model itself is there already, all settings were these, and `auto_resume` asks for that."""
        from cellalign.model_directory import read_record
        from cellalign.records import CheckpointRecord

        if not self.auto_resume or self.model is None or not os.path.isdir(self.model):
            return False
        try:
            kept = read_record(Path(self.model))
        except ModelError:
            return False
        settings = _settings(kept, None if kept.machine is None else kept.machine.deterministic)
        asked = None if kept.outcome is None else kept.outcome.batch_size_asked
        if asked is not None:
            settings["training"] = settings["training"] | {"batch_size": asked}
        found = CheckpointRecord(format_version=CheckpointRecord.FORMAT, settings=settings, state={})
        wanted = _settings(record, self.deterministic)
        # what a run that is gone on with may have another of makes another model all the same
        return settings.get("content") is not None and found.differing(wanted) is None and not found.changed(wanted)

    def checkpoint(self, record: ModelRecord) -> Checkpoint | None:
        """Where the run that is to give `record` leaves its state; one that is not to be gone on with is gone.

        Raises
        ------
        UsageError
            There is nothing to resume, or there is and nobody said what to do with it.
        ModelError
            The checkpoint is damaged.
        """
        from cellalign.engine.ranks import current

        if self.model is None:
            return None
        checkpoint = self._checkpoint(record)
        current().told(lambda: self._settle(checkpoint, record))  # of several ranks one looks, and removes
        return checkpoint

    def planned(self, record: ModelRecord) -> str:
        """What `checkpoint` would do about a run that is there, in words; nothing is removed, errors are the same.

        Raises
        ------
        ModelError
            The checkpoint is damaged, or of another run.
        """
        checkpoint = self._checkpoint(record)
        said = self._decided(checkpoint, record)
        if self.resume or (self.auto_resume and checkpoint.exists()):
            assert self._kept is not None
            checkpoint.check(self._kept)
        return said

    def _checkpoint(self, record: ModelRecord) -> Checkpoint:
        """Of the run that is to give `record`."""
        from cellalign.engine.checkpoint import Checkpoint

        assert self.model is not None
        settings = _settings(record, self.deterministic)
        return Checkpoint.beside(self.model, settings, self.every, _how_to_go_on(record))

    def _settle(self, checkpoint: Checkpoint, record: ModelRecord) -> None:
        """What `checkpoint` does about a run that is there."""
        self._decided(checkpoint, record)
        if self.restart:
            checkpoint.remove()

    def _decided(self, checkpoint: Checkpoint, record: ModelRecord) -> str:
        """What is to be done about a run that is there, in words; errors as `checkpoint`."""
        there = checkpoint.exists()
        if self.restart:
            return f"starts anew; {checkpoint.path} is thrown away" if there else "starts"
        if not there:
            if self.resume:
                raise UsageError(f"nothing to resume: there is no {checkpoint.file}; train without {option('resume')}")
            return "starts"
        if not (self.resume or self.auto_resume):
            self._refuse(checkpoint)
        kept, epochs = self._kept, record.training.get("epochs")
        assert kept is not None
        done = kept.state.get("epoch", 0)
        if epochs is not None and epochs < done:
            raise UsageError(f"{option('epochs', epochs)} is less than the {done} that are done; ask for more")
        for said in kept.changed(checkpoint.settings):
            log.info("going on with another %s", said)
        # of several trainings no epochs are counted
        after = f" after {done} of {counted(epochs, 'epoch')}" if done and epochs else ""
        return f"goes on with {checkpoint.path}{after}"

    def _refuse(self, checkpoint: Checkpoint) -> None:
        kept = self._kept
        assert kept is not None
        differing = kept.differing(checkpoint.settings)
        done = kept.state.get("epoch", 0)
        after = f" after {counted(done, 'epoch')}" if done else ""
        go_on = f"go on with it by {option('resume', True)}"
        what = "of these settings" if differing is None else f"with another {differing}"
        raise UsageError(
            f"{checkpoint.path} holds a run {what} that was cut off{after}; "
            f"{go_on if differing is None else 'choose another name'}, or throw it away by {option('restart', True)}"
        )

    @cached_property
    def _kept(self) -> CheckpointRecord | None:
        """What the checkpoint says, if there is one; read once, since its digest takes the whole of it."""
        from cellalign.engine.checkpoint import Checkpoint

        if self.model is None:
            return None
        checkpoint = Checkpoint.beside(self.model, {})
        return checkpoint.kept() if checkpoint.exists() else None


def _settings(record: ModelRecord, deterministic: bool | None) -> dict[str, Any]:
    """What a run that is gone on with has to have the same of."""
    from cellalign.records import CheckpointRecord

    compared = record.model_dump(mode="json", include=set(CheckpointRecord.COMPARED)) | {"deterministic": deterministic}
    parent = compared["learned_from"] or {}  # not None, which stands for what an older version did not keep
    return compared | {"learned_from": {key: parent[key] for key in ("weights", "learn") if key in parent}}


def _how_to_go_on(record: ModelRecord) -> str:
    """What goes on with a run that is cut off, for who ends it."""
    words = [word for word in sys.argv[1:] if word not in ("--restart", "--auto-resume", "--resume")]
    going_on = ["--resume"] if words[:1] == ["train"] else []  # tune goes on by itself
    command = shlex.join(["cellalign", *words, *going_on])
    return spoken(python="train again with resume=True", command=command)
