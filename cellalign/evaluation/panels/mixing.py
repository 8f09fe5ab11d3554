"""Panel mixing: how well conditions mix among the neighbours of each cell, beside what permuted conditions give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellalign.errors import UsageError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import mixing as mix
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row

ALL, VALIDATION = "all", "validation cells"
WITHIN = "mean within cell types"
K_OF_FEW = 30  # neighbours of validation cells, which are a tenth of all; cell types of twice as many are scored


@dataclass(frozen=True)
class Mixing(Panel):
    """kBET, local silhouette and own share over all cells and within each cell type (CoMP section 6).

    Where it is known which cells the model was not trained on, these are scored first, among themselves: a model that
    remembers its cells mixes these alone.

    Attributes
    ----------
    k : int
        Neighbours of each cell; of validation cells at most 30.
    alpha : float
        Level of the kBET test.
    min_cells : int, optional
        Smallest cell type that is scored by itself; default 4 k. Of validation cells it is 2 k.
    global_silhouette : bool
        Take s of a cell type from the neighbours over all cells that are of that type, as the CoMP paper writes it
        (eq. 58 to 60), not from neighbours within the type.
    """

    name = "mixing"
    summary = "Whether conditions mix among each cell's neighbours as permuted ones do, over all cells and cell types."
    metrics = mix.METRICS
    order = 10
    version = 2

    k: int = 100
    alpha: float = 0.1
    min_cells: int | None = None
    global_silhouette: bool = False

    def __post_init__(self) -> None:
        """Refuse options out of range: UsageError."""
        if self.k < 2:
            raise UsageError(f"{option('k', self.k)} is below 2: the mixing panel looks at that many neighbours")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"{option('alpha', self.alpha)} is not in [0, 1], the level of the kBET test")

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Validation cells where they are known, then all; NotApplicable where there is nothing to mix.

        Of each all cells, each condition, each cell type and their mean.
        """
        inputs = inputs.known(inputs.condition)
        inputs.latents()
        if len(np.unique(inputs.categories())) < 2:
            raise NotApplicable("the cells are of one condition only")
        if inputs.adata.n_obs < 3:
            raise NotApplicable("fewer than 3 cells")
        if inputs.label is None:
            inputs.notes.append(f"m-kBET and m-s need {option('label')}")
        few = self._few(inputs)
        if few is not None:
            yield from self._scores(few, VALIDATION, k=min(self.k, K_OF_FEW), least=2 * min(self.k, K_OF_FEW))
        yield from self._scores(inputs, ALL, k=self.k, least=4 * self.k if self.min_cells is None else self.min_cells)

    def _few(self, inputs: Inputs) -> Inputs | None:
        """The validation cells, where they are enough to be scored; what is scored is noted."""
        if inputs.validation is None:
            return None
        n, of = int(inputs.validation.sum()), inputs.adata.n_obs
        k = min(self.k, K_OF_FEW)
        if n == of:
            return None
        few = inputs.some(inputs.validation)
        if n < 2 * k or len(np.unique(few.categories())) < 2:
            inputs.notes.append(f"mixing is scored on cells that were trained on: {n} validation cells are too few")
            return None
        inputs.notes.append(
            f"mixing of {VALIDATION} is that of {n} cells not trained on, among themselves (k = {k}); of all cells "
            f"{of - n} of {of} may have been trained on, and a model that remembers them mixes these alone"
        )
        return few

    def _scores(self, inputs: Inputs, system: str, *, k: int, least: int) -> Iterator[Row]:
        """All of some cells."""
        z, names = inputs.latents(), inputs.categories()
        codes = np.unique(names, return_inverse=True)[1]
        if len(z) < 4 * k:
            inputs.notes.append(
                f"mixing: {k} neighbours are a large part of {len(z)} cells, so that kBET and s tell little; a smaller "
                f"{option('k')} tells more"
            )
        near = mix.neighbours(z, max(k, mix.NEAREST))
        options: dict[str, Any] = {"seed": inputs.seed}
        scored = mix.mixed(near, codes, k=k, alpha=self.alpha, **options)
        yield from self._rows(system, "all", scored)
        for code, value in enumerate(np.unique(names)):
            name, n = mix.of_condition(code), int((codes == code).sum())
            group = f"{inputs.condition}={value}"
            yield self.row(system, group, mix.silhouette, scored.values[name], n, scored.null(name))
        if inputs.label is not None:
            yield from self._within(inputs, near.nearest(k), system, k=k, least=least)

    def _within(self, inputs: Inputs, near: mix.Neighbours, system: str, *, k: int, least: int) -> Iterator[Row]:
        """Each cell type by itself, and the means over cell types: m-kBET and m-s."""
        known = inputs.known(inputs.label)
        z, label = known.latents(), known.labels()
        codes = np.unique(known.categories(), return_inverse=True)[1]
        options: dict[str, Any] = {"seed": inputs.seed}
        scores, skipped = mix.by_label(z, codes, label, k=k, alpha=self.alpha, min_cells=least, **options)
        if self.global_silhouette and scores:
            if len(z) < len(near.index):
                near = mix.neighbours(z, k)
            s = mix.global_silhouette(near, codes, label, list(scores), **options)
            scores = {name: one.replaced(s[name]) for name, one in scores.items()}
        for name, one in scores.items():
            yield from self._rows(system, name, one)
        if scores:
            yield from self._rows(system, WITHIN, mix.Mixed.mean(list(scores.values())))
        if skipped:
            named = ", ".join(f"{name} ({n})" for name, n in skipped.items())
            of = "" if system == ALL else f" of {system}"
            inputs.notes.append(f"m-kBET and m-s{of} skip cell types under {least} cells or of one condition: {named}")

    def _rows(self, system: str, group: str, scored: mix.Mixed) -> Sequence[Row]:
        return [
            self.row(system, group, declared, scored.values[declared.name], scored.n, scored.null(declared.name))
            for declared in self.metrics
        ]
