"""Panel likelihood: how probable the model finds the cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column
from cellalign.errors import UsageError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.metrics import likelihood as metrics
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row

if TYPE_CHECKING:
    from cellalign.model import Model


@dataclass(frozen=True)
class Likelihood(Panel):
    """Negative ELBO and importance-weighted negative log-likelihood per cell, in nats.

    Of interventions the mean over each one's cells first, then over interventions, controls being one of them.

    Attributes
    ----------
    particles : int
        Posterior draws per cell of the importance-weighted likelihood (the sVAE+ paper takes 5,000).
    """

    name = "likelihood"
    summary = "How probable the model finds validation cells, and those of trained and transferred interventions."
    metrics = metrics.METRICS
    order = 70

    particles: int = 100

    def __post_init__(self) -> None:
        """Refuse options out of range: UsageError."""
        if self.particles < 1:
            raise UsageError(
                f"{option('particles', self.particles)} is below 1: the likelihood takes that many draws per cell"
            )

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Validation cells, and the cells by intervention; NotApplicable where the model has no likelihood."""
        model = inputs.model
        if model is None:
            raise OfAnotherKind(f"it needs {option('model', hint='DIR')}")
        if not model.has_likelihood:
            raise NotApplicable(f"method {model.name!r} has no likelihood")
        groups, intervention = _groups(inputs, model)
        options: dict[str, Any] = {"seed": inputs.seed, "device": inputs.device}
        validation = inputs.model_validation
        if validation is not None and validation.any():
            value = float(model.nelbo(inputs.adata[np.flatnonzero(validation)], **options).mean())
            yield self.row("validation cells", "all", metrics.NELBO, value, int(validation.sum()))
        for name, mask in groups.items():
            if not mask.any():
                continue
            cells, n, of = inputs.adata[np.flatnonzero(mask)], int(mask.sum()), intervention[mask]
            yield self.row(name, "all", metrics.NELBO, mean_of_means(model.nelbo(cells, **options), of), n)
            nll = model.nll(cells, particles=self.particles, **options)
            yield self.row(name, "all", metrics.NLL, mean_of_means(nll, of), n)
        if not any(mask.any() for mask in groups.values()):
            raise NotApplicable("the model knows none of the interventions")


def mean_of_means(values: np.ndarray, group: np.ndarray) -> float:
    """Mean over groups of their means: each intervention counts alike, as in the sVAE+ paper's interventional NLL."""
    number = np.unique(group, return_inverse=True)[1]
    return float((np.bincount(number, values) / np.bincount(number)).mean())


def _groups(inputs: Inputs, model: Model) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Masks [n] of the cells that are scored together, and the code [n] of each cell's intervention.

    By intervention where the model has names of them, else all in one.
    """
    from cellalign.methods.base import CONDITION
    from cellalign.model_description import sees_condition

    by_name = not model.continuous and not model.condition_may_be_missing
    if model.condition is None or not sees_condition(model.method) or not by_name:
        n = inputs.adata.n_obs
        return {"all": np.ones(n, dtype=bool)}, np.zeros(n, dtype=int)
    obs, conditions = inputs.adata.obs, model.conditions
    values = column(obs, model.condition, purpose="condition", missing=True, named=conditions)
    codes = np.append(model.fields.one(CONDITION).known.codes(list(values.categories)), -1)[values.codes]
    known = codes >= 0
    transferred = known & np.isin(np.array([*conditions, ""])[codes], model.transferred)
    if not known.all():
        inputs.notes.append(
            f"likelihood leaves out {int((~known).sum())} cells of no intervention, or of one the model does not know; "
            "transfer it to them first"
        )
    return {"trained interventions": known & ~transferred, "transferred interventions": transferred}, codes
