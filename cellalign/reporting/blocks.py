"""What a page is made of: sections of text, tables, charts and maps of cells; nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["plain", "good", "bad", "care"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Command:
    """A command line, to be copied."""

    text: str
    kind: Literal["command"] = "command"


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes
    ----------
    columns : sequence of str
    rows : sequence of sequence of str
    caption : str
    words : sequence of int
        Columns that are text, which stands on the left; numbers stand on the right.
    folded : str
        Where it is not empty the table is shown when this line is opened.
    bars : bool
        Numbers from 0 to 1 have a bar behind them.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: Sequence[int] = (0,)
    folded: str = ""
    bars: bool = False
    kind: Literal["table"] = "table"

    def bar(self, column: int, text: str) -> float | None:
        """How long the bar behind a cell is, in parts of a hundred; None where there is none."""
        if not self.bars or column in self.words:
            return None
        try:
            return 100 * min(1.0, max(0.0, float(text)))
        except ValueError:
            return None


@dataclass(frozen=True)
class Chart:
    """A picture that the browser draws, or one of several that the reader chooses among.

    Attributes
    ----------
    figures : mapping of str to dict
        Plotly's `data` and `layout` by the name of the choice.
    caption : str
        What is seen.
    choose : str
        What the reader chooses among, where there are several.
    shared : dict
        Lists of text that traces refer to by index: a trace's `text` of {"of": NAME, "at": packed integers}.
    """

    figures: Mapping[str, Mapping[str, Any]]
    caption: str
    choose: str = "Group"
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True)
class CellMap:
    """Cells as points, in one or two pictures side by side, coloured by a column that the reader chooses.

    Attributes
    ----------
    maps : mapping of str to array [n, 2]
        Coordinates by title.
    columns : mapping of str to Categorical [n] or numbers [n]
    caption : str
    """

    maps: Mapping[str, Any]
    columns: Mapping[str, Any]
    caption: str
    kind: Literal["cells"] = "cells"


Block = Text | Command | Table | Chart | CellMap


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading.

    Attributes
    ----------
    name : str
        Of its link.
    title : str
    lead : str
        The sentence that says what is seen.
    blocks : sequence of Block
    """

    name: str
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Finding:
    """A sentence of the top of the page.

    Attributes
    ----------
    text : str
        As the evaluation made it.
    mark : str
        What of it is to be seen first: "predicted", "fitted", ...
    tone : str
    of : str
        What it is of, where there are several.
    explained : str
        How to read it.
    """

    text: str
    mark: str = ""
    tone: Tone = "plain"
    of: str = ""
    explained: str = ""

    @property
    def parts(self) -> list[str]:
        """Its clauses, the first of which is the answer."""
        return [part.strip() for part in self.text.split(";") if part.strip()]


@dataclass(frozen=True)
class Absent:
    """A section that the inputs do not allow, and why."""

    title: str
    why: str
