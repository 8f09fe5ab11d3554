"""What a comparison found, the bound it is held to, and what it is told by the command."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bound:
    """What a figure has to be: a ratio, or with a unit an absolute figure."""

    sense: str
    value: float
    unit: str = ""

    def holds(self, found: float) -> bool:
        """Whether a figure meets it."""
        return {"<": found < self.value, "<=": found <= self.value, ">=": found >= self.value}[self.sense]

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Measured:
    """A row of the table.

    Attributes
    ----------
    values : sequence of float
        A ratio for each pair of runs, or with `unit` an absolute figure.
    this, beside : str
        Figures of both sides.
    what, named : str
        What is measured and what stands beside it, where the goal does not say so already.
    bound : Bound, optional
        The row's own; else that of its goal.
    """

    values: Sequence[float]
    this: str
    beside: str
    unit: str = ""
    what: str = ""
    named: str = ""
    bound: Bound | None = None

    @property
    def figure(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        digits = 3 if max(self.values) < 2 else 2 if max(self.values) < 20 else 1
        low, middle, high = (f"{value:.{digits}f}" for value in (min(self.values), self.figure, max(self.values)))
        figure = f"{middle} {self.unit}".rstrip()
        return figure if len(self.values) == 1 else f"{figure} ({low} - {high})"


def compared(pairs: Sequence[tuple[float, float]], show: Callable[[float], str], **more: Any) -> Measured:
    """The row of pairs of runs side by side, each this one and the one beside it."""
    this, beside = (show(statistics.median(side)) for side in zip(*pairs, strict=True))
    return Measured([a / b for a, b in pairs], this, beside, **more)


def in_blocks(pairs: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """Medians of so many pairs in a row: of milliseconds a single pair says little."""
    blocks = [pairs[i : i + size] for i in range(0, len(pairs) - size + 1, size)] or [pairs]
    return [(statistics.median(a for a, _ in block), statistics.median(b for _, b in block)) for block in blocks]


@dataclass
class Run:
    """What the command was given.

    Attributes
    ----------
    data : Path, optional
        Real cells, raw counts in X.
    before : Path, optional
        A checkout of the version to compare with.
    peer : str, optional
        A Python that has scvi-tools.
    quick : bool
        Only see that it runs.
    folder : Path
        For what is written on the way.
    """

    data: Path | None = None
    before: Path | None = None
    peer: str | None = None
    quick: bool = False
    folder: Path = field(default_factory=Path)

    def rounds(self, number: int) -> int:
        """As many pairs as a figure needs, or two."""
        return min(2, number) if self.quick else number
