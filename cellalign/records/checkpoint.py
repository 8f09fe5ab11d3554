"""What a checkpoint says of the run it belongs to, and where that run was."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from cellalign.records.base import RecordError, VersionedRecord

log = logging.getLogger("cellalign")


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    raise RecordError("it was left by an older cellalign, whose runs this one cannot go on with")


def _from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Products had one precision."""
    training = {"precision": "float32", **old["settings"]["training"]}
    return old | {"settings": {**old["settings"], "training": training}}


def _from_3(old: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints were left between epochs alone; what the state has besides has defaults."""
    return old


class CheckpointRecord(VersionedRecord):
    """The settings that a resumed run must share, and the state of the loop.

    Attributes
    ----------
    settings : dict
        The parts of the model's record that decide what training does.
    state : dict
        Epoch, step, best loss and history, as the engine keeps them.
    """

    FORMAT: ClassVar[int] = 4
    MIGRATIONS: ClassVar = {1: _from_1, 2: _from_2, 3: _from_3}
    COMPARED: ClassVar[tuple[str, ...]] = (
        "method",
        "hyperparameters",
        "training",
        "matrix",
        "recipe",
        "fields",
        "holdout",
        "seed",
        "learned_from",
        "cells",
        "genes",
        "content",  # last: of other cells most of the above say more
    )
    MEASURED: ClassVar[frozenset[str]] = frozenset({"target_sum", "base"})  # of a recipe: on the content, to a last bit
    CALLED: ClassVar[dict[str, str]] = {
        "fields": "set of columns or their values",
        "learned_from": "model to learn on from",
        "cells": "number of cells",
        "genes": "list of genes",
        "content": "input (the cells have changed: values of the matrix, or of a column)",
    }

    # of the plan, what a run that is gone on with may have another of
    FREE: ClassVar[frozenset[str]] = frozenset({"lr", "epochs", "early_stopping", "patience"})

    settings: dict[str, Any]
    state: dict[str, Any]

    def changed(self, settings: dict[str, Any]) -> list[str]:
        """What differs and may differ, in words."""
        kept, now = (each.get("training", {}) for each in (self.settings, settings))
        differing = [name for name in sorted(self.FREE) if name in kept and kept[name] != now.get(name)]
        return [f"{name} ({kept[name]}, now {now.get(name)})" for name in differing]

    def differing(self, settings: dict[str, Any]) -> str | None:
        """The first setting that is not as here and must be, where it can be said with both values; None where all are.

        What an older version did not keep is not compared.
        """
        for key in sorted(settings, key=lambda key: self.COMPARED.index(key) if key in self.COMPARED else -1):
            kept, value = self.settings.get(key), settings[key]
            if kept is None:
                log.debug("the checkpoint is of a version that did not keep its %s, which is not compared", key)
                continue
            if key == "recipe":
                kept, value = ({k: v for k, v in one.items() if k not in self.MEASURED} for one in (kept, value))
            if key == "training":
                kept, value = ({k: v for k, v in one.items() if k not in self.FREE} for one in (kept, value))
            if kept != value:
                return self._said(key, kept, value)
        return None

    def _said(self, key: str, kept: Any, value: Any) -> str:
        """A setting that differs, in words."""
        called = self.CALLED.get(key)
        if isinstance(kept, dict) and isinstance(value, dict):
            inner = next(name for name in {**kept, **value} if kept.get(name) != value.get(name))
            return f"{called or inner} ({kept.get(inner)}, now {value.get(inner)})"
        if key in ("matrix", "deterministic"):
            return f"{key} ({kept}, now {value})"
        return called or key
