"""One row of a benchmark's table: what was predicted by which method, and its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from cellalign.records.base import RecordError, VersionedRecord


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Tables of format 1 had no version; their methods were scored on decoded means."""
    return old | {"of_decoded_means": True}


def _from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Nothing said which cells and settings a row is of."""
    return old | {"made_of": None}


class BenchmarkRow(VersionedRecord):
    """A method's, or a baseline's, scores on one held-out group under one condition.

    Attributes
    ----------
    method : str
        A method, or a baseline such as "mean shift".
    seed : int
    held_out, to : str
        The group that was left out, and the condition it was predicted under.
    made_of : str, optional
        A digest of all else that the scores depend on: the cells, the settings, how they are scored. None of a row
        that an earlier version wrote.
    scores : dict of str to float
        By metric of the response panel.
    of_decoded_means : bool
        Whether decoded means were scored, as before residual transfer was the default.
    """

    FORMAT: ClassVar[int] = 3
    MIGRATIONS: ClassVar = {1: _from_1, 2: _from_2}
    KEYS: ClassVar[tuple[str, ...]] = ("method", "seed", "held_out", "to")
    COLUMNS: ClassVar[tuple[str, ...]] = ("format_version", *KEYS, "made_of")
    TEXT: ClassVar[tuple[str, ...]] = ("method", "held_out", "to")

    format_version: int = FORMAT
    method: str
    seed: int
    held_out: str
    to: str
    made_of: str | None = None
    scores: dict[str, float]
    of_decoded_means: bool = False

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What tells rows of the same cells and settings apart."""
        return self.method, self.seed, self.held_out, self.to

    @property
    def identity(self) -> tuple[str, int, str, str, str | None]:
        """What tells any two rows apart."""
        return *self.key, self.made_of

    def flat(self) -> dict[str, Any]:
        """As a row of CSV: a column per key and metric."""
        own = {key: getattr(self, key) for key in self.COLUMNS}
        return {key: value for key, value in own.items() if value is not None} | self.scores

    @classmethod
    def of_flat(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `flat`; rows without a version are of format 1. Scores that are missing are left out.

        Raises
        ------
        RecordError
            A column is missing or of the wrong kind.
        """
        known = {key: row[key] for key in cls.KEYS if key in row}
        known |= {key: str(known[key]) for key in cls.TEXT if key in known}
        made_of = row.get("made_of")
        known["made_of"] = made_of if isinstance(made_of, str) and made_of else None
        others = {k: v for k, v in row.items() if k not in cls.COLUMNS}
        try:
            scores = {k: float(v) for k, v in others.items() if v is not None}
            version = row.get("format_version")
            version = 1 if version is None or math.isnan(float(version)) else int(version)
        except (TypeError, ValueError) as error:
            raise RecordError(str(error)) from error
        scores = {k: v for k, v in scores.items() if not math.isnan(v)}
        return cls.read({"format_version": version, **known, "scores": scores})
