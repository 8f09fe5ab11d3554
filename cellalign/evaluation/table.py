"""The result of an evaluation: rows of scores, and how they are printed and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.errors import InputError
from cellalign.evaluation.metrics.metric import NULL, Metric, Null
from cellalign.evaluation.response_table import MEAN as MEAN
from cellalign.evaluation.response_table import PANEL, tables

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cellalign.evaluation.metrics.de import Test

WHOLE = "all"  # the one group of cells without a label
FITTED, PREDICTED = "fitted", "predicted"  # the model has seen the real cells, or not
TUNED = "tuned"  # it has not, but its settings were chosen by how well these cells are predicted
UNSEEN = (PREDICTED, TUNED)
INFINITE = (float("inf"), -float("inf"))


@dataclass(frozen=True)
class Evidence:
    """What a score of a predicted response is worth.

    Attributes
    ----------
    low, high : float
        Of its 95 % interval: of a group by its cells drawn again, of a mean by the spread of the groups.
    anchored : float
        (u - b) / (r - b), u the score, b that of the mean shift or mean response, r that of halves of the real cells:
        0 for what knows nothing of the group, 1 for a repeat of the experiment, never clipped.
    status : str
        `FITTED`, `PREDICTED`, `TUNED`, or "" where that is not known or the row is of no prediction.
    measurable : bool, optional
        Whether halves of the group's real cells agree at all; None of a mean.
    leaning : float
        Of a prediction's row what the score may owe to the noise of its own control; 0 of all others.
    best : str
        Of a prediction's row the best baseline by this metric.
    difference, difference_low, difference_high : float
        From that baseline, without `leaning`, positive where the prediction is better.
    p : float
        Of the mean difference, by flipping the signs of the groups'.
    """

    low: float = float("nan")
    high: float = float("nan")
    anchored: float = float("nan")
    status: str = ""
    measurable: bool | None = None
    leaning: float = 0.0
    best: str = ""
    difference: float = float("nan")
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    p: float = float("nan")

    def record(self) -> dict[str, Any]:
        """As it is written, by column."""
        return {
            "low": self.low,
            "high": self.high,
            "anchored": self.anchored,
            "status": self.status or None,
            "measurable": self.measurable,
            "leaning": self.leaning,
            "best_baseline": self.best or None,
            "difference": self.difference,
            "difference_low": self.difference_low,
            "difference_high": self.difference_high,
            "p": self.p,
        }


@dataclass(frozen=True)
class Row:
    """One score: of which panel, of what (prediction, a baseline, ...), for which group of cells.

    Attributes
    ----------
    panel, system, group : str
    declared : Metric
        What the value is of.
    value : float
    n_cells : int
    null : Null, optional
        The value's mean and standard deviation under permuted labels, where these were scored as well.
    evidence : Evidence, optional
        Of a predicted response, how sure the value is, and what it is beside the baselines.
    measurable : bool, optional
        Of a condition of a screen, whether halves of its real cells agree at all.
    """

    panel: str
    system: str
    group: str
    declared: Metric
    value: float
    n_cells: int
    null: Null | None = None
    evidence: Evidence | None = None
    measurable: bool | None = None

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.declared.name

    @property
    def better(self) -> str:
        """Which way is better: "up", "down", "towards 0", "none"."""
        return str(self.declared.better)

    def record(self) -> dict[str, Any]:
        """As it is written: a number or text by column."""
        own = {
            "panel": self.panel,
            "system": self.system,
            "group": self.group,
            "metric": self.metric,
            "value": self.value,
            "n_cells": self.n_cells,
            "better": self.better,
            "null": float("nan") if self.null is None else self.null.mean,
            "null_sd": float("nan") if self.null is None else self.null.sd,
        }
        if self.measurable is not None:
            own["measurable"] = self.measurable
        return own if self.evidence is None else own | self.evidence.record()


@dataclass(frozen=True, eq=False)
class Response:
    """One cell type under two conditions, real and predicted: what the pictures show. G genes.

    The three kinds of cells are "control" (real, under `origin`), "predicted" and "real" (both under `to`).

    Attributes
    ----------
    group : str
        The cell type, "all" where cells have no label.
    origin, to : str
        The conditions; `origin` is empty where it is every condition but `to`.
    held_out : bool
        Whether the model was trained on none of its real cells under `to`.
    genes : str array [G]
    de : int array
        Columns of the scored DE genes, most different first.
    means : dict of arrays [G]
        Mean expression of each kind of cells.
    cells : dict of arrays [at most 2,000, at most 10]
        Cells of each kind in the first genes of `de`.
    n_cells : dict of int
        How many cells of each kind there are.
    r2_all, r2_de : float
        Squared correlation of predicted and real mean over all genes, and over `de`.
    is_log : bool
        Whether it is log expression, not any other values.
    """

    group: str
    origin: str
    to: str
    held_out: bool
    genes: np.ndarray
    de: np.ndarray
    means: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]
    n_cells: dict[str, int]
    r2_all: float
    r2_de: float
    is_log: bool = True


@dataclass(frozen=True, eq=False)
class TestedGenes:
    """One group's genes, each tested against control cells: what `--de` writes.

    Attributes
    ----------
    group, to : str
        The group, "all" where cells have no label, and the condition.
    how : str
        The test.
    genes : str array [G]
    predicted, real : Test
        Of predicted cells, and of real ones where there are enough.
    cells : dict of int
        How many there are of each kind.
    """

    __test__ = False  # no test of pytest's

    group: str
    to: str
    how: str
    genes: np.ndarray
    predicted: Test
    real: Test | None
    cells: dict[str, int]

    def frame(self) -> pd.DataFrame:
        """A row per gene, by the predicted p-value."""
        import pandas as pd

        found: dict[str, Any] = {"group": self.group, "condition": self.to, "gene": self.genes}
        for kind, test in (("predicted", self.predicted), ("real", self.real)):
            nothing = np.full(len(self.genes), np.nan)
            found[f"{kind}_log2_fold_change"] = nothing if test is None else test.change
            found[f"{kind}_p"] = nothing if test is None else test.p
            found[f"{kind}_p_bh"] = nothing if test is None else test.adjusted
        found |= {f"n_{kind}": n for kind, n in self.cells.items()} | {"test": self.how}
        return pd.DataFrame(found).sort_values("predicted_p", kind="stable")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some images of one label: before, predicted and real.

    Attributes
    ----------
    group : str
        What they show, "all" where that is not known.
    origin, to : str
        The conditions before, and predicted.
    held_out : bool
        Whether the model was trained on no real one under `to`.
    images : dict of arrays [n, H, W]
        Brightness, by `origin`, "predicted" and `to`.
    """

    group: str
    origin: str
    to: str
    held_out: bool
    images: dict[str, np.ndarray]


@dataclass
class Evaluation:
    """All scores, the panels left out with the reason, and notes such as skipped cell types.

    `responses` holds what the response panel scored, one per cell type, for pictures, and `images` some of what panel
    images scored, `tested` what panel de tested; `metrics_as_rows` names the panels that are printed with metrics as
    rows. Of a predicted response `measurable` says how many groups of how many can be told from noise, and `verdict`
    what it comes to.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    images: list[Pictures] = field(default_factory=list)
    tested: list[TestedGenes] = field(default_factory=list)
    metrics_as_rows: set[str] = field(default_factory=set)
    measurable: tuple[int, int] | None = None
    verdict: str = ""

    def frame(self) -> pd.DataFrame:
        """The scores as a table, one row each."""
        import pandas as pd

        return pd.DataFrame([row.record() for row in self.rows])

    def to_json(self) -> str:
        """Scores, left-out panels and notes; null for what is no number or infinite, which JSON has not."""
        rows = [{k: None if v != v or v in INFINITE else v for k, v in row.record().items()} for row in self.rows]
        found: dict[str, Any] = {"scores": rows, "left_out": self.left_out, "notes": self.notes}
        if self.measurable is not None:
            found |= {"measurable": dict(zip(("groups", "of"), self.measurable, strict=True)), "verdict": self.verdict}
        return json.dumps(found, indent=1) + "\n"

    def to_csv(self) -> str:
        """The scores, one row each, with a header."""
        return self.frame().to_csv(index=False)

    def value(self, metric: str, *, panel: str | None = None, system: str | None = None, group: str = "all") -> float:
        """The first score of that name, of mixing that of validation cells where they are known; KeyError without."""
        return self.row(metric, panel=panel, system=system, group=group).value

    def row(self, metric: str, *, panel: str | None = None, system: str | None = None, group: str = "all") -> Row:
        """The same with its null and its number of cells."""
        for row in self.rows:
            if row.metric == metric and row.group == group and panel in (None, row.panel):
                if system in (None, row.system):
                    return row
        raise KeyError(metric)

    def scatter(self) -> Figure:
        """Predicted against real mean expression, one panel per cell type; InputError without the response panel."""
        from cellalign.plots.response import scatter

        return scatter(self._pictured())

    def violin(self) -> Figure:
        """The most different genes before, predicted and after, one row per cell type; errors as `scatter`."""
        from cellalign.plots.response import violin

        return violin(self._pictured())

    def de(self) -> pd.DataFrame:
        """Every gene of every group: change, p-value and that by Benjamini and Hochberg, predicted and real.

        Raises
        ------
        InputError
            Panel de did not run.
        """
        import pandas as pd

        if not self.tested:
            reason = self.left_out.get("de", "it was not asked for, or no group has enough cells")
            raise InputError(f"no gene was tested: {reason}")
        return pd.concat([each.frame() for each in self.tested], ignore_index=True)

    def image_rows(self) -> Figure:
        """Images before, predicted and real, a block of rows per label; InputError without panel images."""
        from cellalign.plots.images import draw

        if not self.images:
            reason = self.left_out.get("images", "panel images was not asked for")
            raise InputError(f"there are no predicted images to draw: {reason}")
        return draw(self.images)

    def scib_table(self) -> Figure:
        """The scores of panel bio as a table, one row per embedding; InputError without that panel."""
        from cellalign.evaluation.metrics.scib import GROUPS
        from cellalign.plots.scib import draw

        scores: dict[str, dict[str, float]] = {}
        for row in self.rows:
            if row.panel == "bio":
                scores.setdefault(row.system, {})[row.metric] = row.value
        if not scores:
            reason = self.left_out.get("bio", "panel bio was not asked for")
            raise InputError(f"there are no scIB scores to draw: {reason}")
        return draw(scores, GROUPS)

    def _pictured(self) -> list[Response]:
        if not self.responses:
            reason = self.left_out.get("response", "panel response was not asked for")
            raise InputError(f"there is no predicted response to draw: {reason}")
        return self.responses

    def summary(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for people: (title, columns, rows), one per panel, several of a predicted response.

        Groups are rows, or the metrics. An arrow says which way is better: beside the metric, or beside the row where
        it differs by what is scored. A score under permuted labels stands behind the score, with its standard
        deviation.
        """
        found = []
        for panel in dict.fromkeys(row.panel for row in self.rows):
            if panel == PANEL and self.measurable is not None:
                found += tables(self.rows, self.measurable)
            else:
                found.append(_table(panel, self.rows, panel in self.metrics_as_rows))
        return found


def _table(panel: str, rows: Sequence[Row], metrics_as_rows: bool) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows of one panel."""
    rows = [row for row in rows if row.panel == panel]
    spread: dict[tuple[str, str, str | None], float] = {
        (row.system, row.group, row.declared.spread_of): row.value for row in rows if row.declared.spread_of
    }
    rows = [row for row in rows if not row.declared.spread_of]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    arrows = {m: {row.declared.better.arrow for row in rows if row.metric == m} for m in metrics}
    mixed = [m for m in metrics if len(arrows[m]) > 1]
    headings = [m if m in mixed else f"{m} {next(iter(arrows[m]))}".rstrip() for m in metrics]
    beside = {row.metric for row in rows if row.null is not None}
    headings = [each for m, name in zip(metrics, headings, strict=True) for each in (name, NULL)[: 1 + (m in beside)]]
    cells = {(row.system, row.group, row.metric): row for row in rows}
    table = []
    for system, group in dict.fromkeys((row.system, row.group) for row in rows):
        name = " / ".join(part for part in (system, group) if part != "all") or "all cells"
        found = [cells.get((system, group, metric)) for metric in metrics]
        there = [cell for cell in found if cell is not None]
        own = dict.fromkeys(cell.declared.better.arrow for cell in there if cell.metric in mixed)
        size = max(cell.n_cells for cell in there)
        numbers: list[str] = []
        for metric, cell in zip(metrics, found, strict=True):
            numbers.append("" if cell is None else _number(cell, spread))
            if metric in beside:
                numbers.append("" if cell is None or cell.null is None else str(cell.null))
        table.append([" ".join((name, *filter(None, own))), str(size), *numbers])
    columns = ["", "cells", *headings]
    if metrics_as_rows:
        columns, *table = (list(line) for line in zip(columns, *table, strict=True))
    return panel, columns, table


def _number(row: Row, spread: dict[tuple[str, str, str | None], float]) -> str:
    """A value as tables show it, with its standard deviation where it has one."""
    sd = spread.get((row.system, row.group, row.metric))
    return f"{row.value:.3f}" if sd is None else f"{row.value:.3f} ± {sd:.3f}"
