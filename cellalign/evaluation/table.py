"""The result of an evaluation: rows of scores, and how they are printed and written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean"


@dataclass(frozen=True)
class Row:
    """One score: of which panel, of what (prediction, a baseline, ...), for which group of cells."""

    panel: str
    system: str
    group: str
    metric: str
    value: float
    n_cells: int


@dataclass
class Evaluation:
    """All scores, the panels left out with the reason, and notes such as skipped cell types."""

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The scores as a table, one row each."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_json(self) -> str:
        """Scores, left-out panels and notes."""
        rows = [{k: None if v != v else v for k, v in asdict(row).items()} for row in self.rows]
        return json.dumps({"scores": rows, "left_out": self.left_out, "notes": self.notes}, indent=1) + "\n"

    def to_csv(self) -> str:
        """The scores, one row each, with a header."""
        return self.frame().to_csv(index=False)

    def value(self, metric: str, *, panel: str | None = None, system: str | None = None, group: str = "all") -> float:
        """The one score of that name; KeyError where there is none."""
        for row in self.rows:
            if row.metric == metric and row.group == group and panel in (None, row.panel):
                if system in (None, row.system):
                    return row.value
        raise KeyError(metric)

    def summary(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for people: (title, columns, rows), one per panel; groups as rows where a panel has them."""
        tables = []
        for panel in dict.fromkeys(row.panel for row in self.rows):
            rows = [row for row in self.rows if row.panel == panel]
            metrics = list(dict.fromkeys(row.metric for row in rows))
            keys = list(dict.fromkeys((row.system, row.group) for row in rows))
            cells = {(row.system, row.group, row.metric): row for row in rows}
            table = []
            for system, group in keys:
                name = " / ".join(part for part in (system, group) if part != "all") or "all cells"
                found = [cells.get((system, group, metric)) for metric in metrics]
                size = max(cell.n_cells for cell in found if cell is not None)
                table.append([name, str(size), *("" if cell is None else f"{cell.value:.3f}" for cell in found)])
            tables.append((panel, ["", "cells", *metrics], table))
        return tables
