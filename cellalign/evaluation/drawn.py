"""Scores of one group with its cells drawn again: how far they lie from what other cells of it would have given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation import intervals as iv
from cellalign.evaluation.compared import CellType, Split
from cellalign.evaluation.metrics.response import correlations


@dataclass(frozen=True)
class Drawn:
    """Means of a group's cells, drawn again; G genes.

    Attributes
    ----------
    split : int array [draws]
        Which halving each is of.
    real, control, predicted : arrays [draws, G]
        Mean expression.
    true_change, predicted_change : arrays [draws, G]
        From halves of the control of their own.
    """

    split: np.ndarray
    real: np.ndarray
    control: np.ndarray
    predicted: np.ndarray
    true_change: np.ndarray
    predicted_change: np.ndarray


def drawn_again(cells: CellType, splits: Sequence[Split], seed: int) -> Drawn:
    """Draw real and control cells anew, each half of the control by itself; a predicted cell comes up with its source.

    Cells whose sources are not known are taken as they are: a copy of each would else pass for more cells.
    """
    rng = np.random.default_rng(seed)
    part = iv.parts_of(rng, len(cells.real))
    size = np.bincount(part)
    real = iv.means(iv.resample(rng, len(size), iv.DRAWS), iv.sums(cells.real, part, len(size)), size)
    found = [_of_split(cells, split, rng, iv.DRAWS // len(splits)) for split in splits]
    start, other, weight, predicted, change = (np.concatenate(each) for each in zip(*found, strict=True))
    return Drawn(
        np.repeat(np.arange(len(splits)), iv.DRAWS // len(splits)),
        real,
        weight * start + (1 - weight) * other,
        predicted,
        real - other,
        change,
    )


def _of_split(cells: CellType, split: Split, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, ...]:
    """Means [draws, G] of both halves of the control, the first's share, the predicted cells, and their change."""
    halves = [_Half.of(cells, rows, rng, draws) for rows in (split.start, split.other)]
    start, other = (half.control for half in halves)
    share = np.full((draws, 1), len(split.start) / len(cells.control))
    same = np.broadcast_to(cells.predicted.mean(0), start.shape)
    if cells.start is not None:
        return start, other, share, same, np.broadcast_to(cells.predicted.mean(0) - cells.start.mean(0), start.shape)
    first, second = halves
    n = first.n + second.n
    predicted = (first.predicted + second.predicted) / n[:, None] if (n > 0).all() else same
    if not first.n.any():  # the sources are not known
        return start, other, share, same, same - start
    return start, other, share, predicted, first.change / np.where(first.n > 0, first.n, np.nan)[:, None]


@dataclass(frozen=True)
class _Half:
    """Half of the control drawn again: its mean, and of cells predicted from it number, sum, and sum of changes."""

    control: np.ndarray
    n: np.ndarray
    predicted: np.ndarray
    change: np.ndarray

    @classmethod
    def of(cls, cells: CellType, rows: np.ndarray, rng: np.random.Generator, draws: int) -> _Half:
        part = iv.parts_of(rng, len(rows))
        size = np.bincount(part)
        weights = iv.resample(rng, len(size), draws)
        place = np.full(len(cells.control) + 1, -1)  # the last is of sources that are not known
        place[rows] = part
        of = place[cells.source]
        mine = np.flatnonzero(of >= 0)
        predicted, n = cells.predicted[mine], len(size)
        control = weights @ iv.sums(cells.control[rows], part, n)
        change = weights @ iv.sums(predicted - cells.control[cells.source[mine]], of[mine], n)
        often = np.bincount(cells.source[mine], minlength=len(cells.control))[rows]
        # of every control cell one prediction: what they sum up to is known
        summed = control + change if (often == 1).all() else weights @ iv.sums(predicted, of[mine], n)
        count = weights @ np.bincount(of[mine], minlength=n).astype(np.float32)
        return cls(control / (weights @ size.astype(np.float32))[:, None], count, summed, change)


def level_scores(predicted: np.ndarray, real: np.ndarray, genes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of means [draws, G], as `metrics.response` has them of one; `genes` by the ending of the name."""
    found = {f"r_{name}": correlations(predicted[..., g], real[..., g]) for name, g in genes.items()}
    squared = (predicted - real) ** 2
    return found | {f"mse_{name}": squared[..., genes[name]].mean(-1) for name in ("all", "de")}


def change_scores(predicted: np.ndarray, real: np.ndarray, genes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of changes [draws, G]; parameters as of `level_scores`."""
    found = {f"r_change_{name}": correlations(predicted[..., g], real[..., g]) for name, g in genes.items()}
    de = genes["de"]
    right = np.sign(predicted[..., de]) == np.sign(real[..., de])
    squared = (predicted - real) ** 2
    found |= {f"mse_change_{name}": squared[..., genes[name]].mean(-1) for name in ("all", "de")}
    return found | {"direction_de": right.mean(-1)}
