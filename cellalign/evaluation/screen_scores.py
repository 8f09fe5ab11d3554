"""What panel screen has scored of each condition, and its value over any choice of conditions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.metrics.metric import Metric


class Score:
    """One metric of one system, of any choice of conditions."""

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Its value [B] over these conditions [B, P]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ratio(Score):
    """A sum over conditions over another; a mean where the other counts them. What is not defined counts in neither."""

    above: np.ndarray
    below: np.ndarray

    def values(self, rows: np.ndarray) -> np.ndarray:
        """NaN where there is nothing below."""
        above, below = self.above[rows].sum(-1), self.below[rows].sum(-1)
        return np.divide(above, below, out=np.full(len(rows), np.nan), where=below != 0)


@dataclass(frozen=True)
class Ranks(Score):
    """A rank correlation over conditions, of pairs of vectors [P], one of each split; their mean."""

    pairs: list[tuple[np.ndarray, np.ndarray]]

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Between -1 and 1."""
        return np.mean([scr.spearman(one[rows], other[rows]) for one, other in self.pairs], axis=0)


@dataclass(frozen=True)
class Best(Score):
    """The best of several forms of one thing, chosen anew for every choice of conditions: Ratios of arrays [P, K]."""

    above: np.ndarray
    below: np.ndarray

    def values(self, rows: np.ndarray) -> np.ndarray:
        """NaN where there is nothing below in any form."""
        times = np.zeros((len(rows), len(self.above)))
        np.add.at(times, (np.arange(len(rows))[:, None], rows), 1)
        above, below = times @ self.above, times @ self.below
        each = np.divide(above, below, out=np.full(above.shape, -np.inf), where=below != 0)
        best = each.max(1)
        return np.where(np.isfinite(best), best, np.nan)


@dataclass
class Scores:
    """What was scored, by system and metric, of each split an array [P], or [P, K] of K forms, above and one below."""

    above: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    below: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    halves: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(self, system: str, metric: Metric, above: np.ndarray, below: np.ndarray | None = None) -> None:
        """Of one split; without `below` the mean over conditions is meant."""
        below = np.isfinite(above).astype(float) if below is None else below
        self.above.setdefault((system, metric.name), []).append(above)
        self.below.setdefault((system, metric.name), []).append(below)

    def of(self, system: str, metric: Metric) -> Score:
        """Over all splits."""
        above, below = self.above[system, metric.name], self.below[system, metric.name]
        if metric is scr.EFFECT:
            return Ranks(list(zip(above, below, strict=True)))
        usable = [np.isfinite(one) & np.isfinite(other) for one, other in zip(above, below, strict=True)]
        sums = [
            np.sum([np.where(ok, values, 0.0) for ok, values in zip(usable, each, strict=True)], axis=0)
            for each in (above, below)
        ]
        return Ratio(*sums) if sums[0].ndim == 1 else Best(*sums)
