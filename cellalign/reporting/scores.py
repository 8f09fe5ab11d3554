"""Scores of an evaluation, made here or read from what `evaluate -o` wrote: the same rows either way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellalign.data.values import apart

if TYPE_CHECKING:
    import pandas as pd

    from cellalign.evaluation import Evaluation

COLUMNS = ("panel", "system", "group", "metric", "value")  # by which a table of scores is known
MINUS = "\u2212"  # as wide as a plus
NUMBERS = (
    "low",
    "high",
    "anchored",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "null",
    "null_sd",
    "value",
)


@dataclass(frozen=True)
class Scores:
    """Rows of scores, and what was said beside them.

    Attributes
    ----------
    name : str
        What was scored, or the file.
    rows : list of dict
        As `Row.record`.
    left_out : dict of str to str
    notes : list of str
    verdict : str
        Empty where no response was scored, or where the file does not keep it.
    measurable : (groups, of), optional
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    verdict: str = ""
    measurable: tuple[int, int] | None = None

    @classmethod
    def of(cls, result: Evaluation, name: str) -> Scores:
        """Those of an evaluation."""
        rows = [row.record() for row in result.rows]
        return cls(name, _numbers(rows), dict(result.left_out), list(result.notes), result.verdict, result.measurable)

    @classmethod
    def of_json(cls, content: Mapping[str, Any], name: str) -> Scores:
        """Those that `evaluate -o FILE.json` wrote."""
        known = content.get("measurable")
        measurable = (int(known["groups"]), int(known["of"])) if known else None
        said = dict(content.get("left_out") or {}), list(content.get("notes") or [])
        return cls(name, _numbers(content["scores"]), *said, str(content.get("verdict") or ""), measurable)

    @classmethod
    def of_table(cls, table: pd.DataFrame, name: str) -> Scores:
        """Those that `evaluate -o FILE.csv` wrote, which keeps neither notes nor the verdict."""
        return cls(name, _numbers(table.astype(object).where(table.notna(), None).to_dict("records")))

    def panel(self, name: str) -> list[Mapping[str, Any]]:
        """Rows of one panel."""
        return [row for row in self.rows if row["panel"] == name]

    def panels(self) -> list[str]:
        """Names of the panels that ran."""
        return list(dict.fromkeys(str(row["panel"]) for row in self.rows))

    def same_as(self, other: Scores) -> bool:
        """Whether the other has the same values of the same things."""
        ours, theirs = ({_key(row): float(row["value"]) for row in each.rows} for each in (self, other))
        return ours.keys() == theirs.keys() and all(_close(ours[key], theirs[key]) for key in ours)


def value_of(rows: Iterable[Mapping[str, Any]], **wanted: str) -> Mapping[str, Any] | None:
    """The first row that has these values; None where there is none."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def number(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """A number as it is shown; nothing of what is not there."""
    if value is None or not math.isfinite(float(value)):
        return ""
    return f"{float(value):{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def between(low: Any, high: Any, *, sign: bool = False) -> str:
    """An interval; nothing where it is not known."""
    ends = number(low, sign=sign), number(high, sign=sign)
    return " to ".join(ends) if all(ends) else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return apart(names[:most]).join(names[:most]) + more


def _numbers(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose numbers are floats, NaN where they are missing, and whose names are text."""
    found = []
    for row in rows:
        own = dict(row)
        for name in NUMBERS:
            own[name] = float("nan") if own.get(name) is None else float(own[name])
        for name in ("panel", "system", "group", "metric"):
            own[name] = str(own[name])
        measurable = own.get("measurable")
        own["measurable"] = {"True": True, "False": False}.get(str(measurable))
        own["status"] = str(own.get("status") or "")
        own["best_baseline"] = str(own.get("best_baseline") or "")
        own["n_cells"] = int(own.get("n_cells") or 0)
        found.append(own)
    return found


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("panel", "system", "group", "metric"))


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
