"""Panel mixing: how well conditions mix among the neighbours of each cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cellalign.errors import UsageError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import mixing as mix
from cellalign.evaluation.metrics.metric import Metric, towards
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row

WITHIN = "mean within cell types"


@dataclass(frozen=True)
class Mixing(Panel):
    """kBET and local silhouette over all cells and within each cell type (CoMP section 6).

    Attributes
    ----------
    k : int
        Neighbours of each cell.
    alpha : float
        Level of the kBET test, which is also the value of perfect mixing.
    min_cells : int, optional
        Smallest cell type that is scored by itself; default 4 k.
    """

    name = "mixing"
    summary = "Whether conditions mix among each cell's neighbours, over all cells and within each cell type."
    metrics = mix.METRICS
    order = 10

    k: int = 100
    alpha: float = 0.1
    min_cells: int | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range: UsageError."""
        if self.k < 2:
            raise UsageError(f"{option('k', self.k)} is below 2: the mixing panel looks at that many neighbours")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"{option('alpha', self.alpha)} is not in [0, 1], the level of the kBET test")

    @property
    def kbet(self) -> Metric:
        """kBET at this panel's level, which is what it is best at."""
        return replace(mix.kbet, better=towards(self.alpha))

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """All cells, each condition, each cell type and their mean; NotApplicable where there is nothing to mix."""
        inputs = inputs.known(inputs.condition)
        z = inputs.latents()
        names = inputs.categories()
        if len(np.unique(names)) < 2:
            raise NotApplicable("the cells are of one condition only")
        if len(z) < 3:
            raise NotApplicable("fewer than 3 cells")
        codes = np.unique(names, return_inverse=True)[1]
        near = mix.neighbours(z, self.k)
        s = mix.local_silhouette(near, codes)
        yield self.row("all", "all", self.kbet, mix.kbet(near, codes, self.alpha), len(z))
        yield self.row("all", "all", mix.silhouette, float(s.mean()), len(z))
        for value in np.unique(names):
            of = names == value
            yield self.row("all", f"{inputs.condition}={value}", mix.silhouette, float(s[of].mean()), int(of.sum()))
        if inputs.label is None:
            inputs.notes.append(f"m-kBET and m-s need {option('label')}")
        else:
            yield from self._within(inputs.known(inputs.label))

    def _within(self, inputs: Inputs) -> Iterator[Row]:
        """Each cell type by itself, and the means over cell types: m-kBET and m-s."""
        z, label = inputs.latents(), inputs.labels()
        codes = np.unique(inputs.categories(), return_inverse=True)[1]
        scores, skipped = mix.by_label(z, codes, label, k=self.k, alpha=self.alpha, min_cells=self.min_cells)
        for name, (kbet, silhouette, n) in scores.items():
            yield self.row("all", name, self.kbet, kbet, n)
            yield self.row("all", name, mix.silhouette, silhouette, n)
        if scores:
            kbets, silhouettes, sizes = zip(*scores.values(), strict=True)
            yield self.row("all", WITHIN, self.kbet, float(np.mean(kbets)), sum(sizes))
            yield self.row("all", WITHIN, mix.silhouette, float(np.mean(silhouettes)), sum(sizes))
        if skipped:
            named = ", ".join(f"{name} ({n})" for name, n in skipped.items())
            least = 4 * self.k if self.min_cells is None else self.min_cells
            inputs.notes.append(f"m-kBET and m-s skip cell types under {least} cells or of one condition: {named}")
