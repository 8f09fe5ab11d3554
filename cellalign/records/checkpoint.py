"""What a checkpoint says of the run it belongs to, and where that run was."""

from __future__ import annotations

from typing import Any, ClassVar

from cellalign.records.base import RecordError, VersionedRecord


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    raise RecordError("it was left by an older cellalign, whose runs this one cannot go on with")


def _from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Products had one precision."""
    training = {"precision": "float32", **old["settings"]["training"]}
    return old | {"settings": {**old["settings"], "training": training}}


class CheckpointRecord(VersionedRecord):
    """The settings that a resumed run must share, and the state of the loop.

    Attributes
    ----------
    settings : dict
        The parts of the model's record that decide what training does.
    state : dict
        Epoch, step, best loss and history, as the engine keeps them.
    """

    FORMAT: ClassVar[int] = 3
    MIGRATIONS: ClassVar = {1: _from_1, 2: _from_2}
    COMPARED: ClassVar[tuple[str, ...]] = (
        "method",
        "hyperparameters",
        "training",
        "fields",
        "holdout",
        "seed",
        "cells",
        "genes",
    )

    settings: dict[str, Any]
    state: dict[str, Any]

    def differing(self, settings: dict[str, Any]) -> str | None:
        """The first setting that is not as here, of the plan with both values; None where all are."""
        for key, value in settings.items():
            kept = self.settings.get(key)
            if kept == value:
                continue
            if isinstance(kept, dict) and isinstance(value, dict):
                inner = next(name for name in {**kept, **value} if kept.get(name) != value.get(name))
                return f"{inner} ({kept.get(inner)}, now {value.get(inner)})"
            return key
        return None
