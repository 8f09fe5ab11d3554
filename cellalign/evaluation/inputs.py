"""What panels read, and how one says that it cannot run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from cellalign.data.checks import column, numbers
from cellalign.evaluation.table import Evaluation

if TYPE_CHECKING:
    import pandas as pd

    from cellalign.model import Model


class NotApplicable(Exception):
    """A panel cannot run on these inputs; the message is the reason."""


@dataclass(frozen=True)
class Inputs:
    """What panels read: the cells, the embedding where there is one, the real cells of a counterfactual, the model."""

    adata: AnnData
    against: AnnData | None
    condition: str
    label: str | None
    control: str | None
    z: np.ndarray | None
    k: int
    alpha: float
    min_cells: int | None
    seed: int
    result: Evaluation
    model: Model | None = None
    particles: int = 100
    device: str = "auto"
    continuous: bool = False

    @property
    def notes(self) -> list[str]:
        """What the result says beside its scores; panels add to it."""
        return self.result.notes

    def latents(self) -> np.ndarray:
        """The embedding, or NotApplicable."""
        if self.z is None:
            raise NotApplicable("the input is a counterfactual, which has no embedding")
        return self.z

    def column(self, key: str) -> np.ndarray:
        """A column of the cells as strings."""
        return np.asarray(column(self.adata.obs, key, purpose="evaluation")).astype(str)

    def categories(self) -> np.ndarray:
        """The condition column as strings, or NotApplicable where it is a number."""
        if self.continuous:
            raise NotApplicable("the condition is a number; the probe panel tells how well it follows from the latents")
        return self.column(self.condition)

    def under(self, obs: pd.DataFrame, value: str) -> np.ndarray:
        """Mask [n] of the cells of a condition."""
        if self.continuous:
            return np.isclose(numbers(obs, self.condition), float(value))
        return np.asarray(column(obs, self.condition)).astype(str) == value

    def labels(self) -> np.ndarray:
        """The label column, or NotApplicable."""
        if self.label is None:
            raise NotApplicable("it needs --label")
        return self.column(self.label)
