"""What panels read, and how one says that it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column, having, numbers
from cellalign.data.values import at_number
from cellalign.errors import option
from cellalign.evaluation.group_names import as_groups
from cellalign.evaluation.table import Evaluation
from cellalign.records import Provenance

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.records import Counterfactual


class NotApplicable(Exception):
    """A panel cannot run on these inputs; the message is the reason."""


class OfAnotherKind(NotApplicable):
    """The panel is of inputs of another kind, whatever cells they hold; another reason comes first."""


@dataclass(frozen=True)
class Inputs:
    """What all panels share; what one alone is given are its own options.

    Attributes
    ----------
    adata : AnnData
        The cells.
    against : AnnData or None
        Real cells to compare a counterfactual with.
    condition, label, control, batch : str or None
        obs columns, and the reference value of the condition.
    embeddings : dict of str to array [n, p]
        By obsm key; empty for a counterfactual.
    result : Evaluation
        Where panels leave notes and what pictures show.
    seed : int
    model : Model or None
    device : str
    continuous : bool
        Whether the condition is a number.
    values_in : str, optional
        The matrix of the cells, "X" or a layer, that is no expression but any real values, taken as they are.
    predictions : sequence of Counterfactual
        What the cells predict; several where the file holds several conditions.
    within : str, optional
        obs column of the real cells (donor, plate, ...): controls are of the same as what they are compared with.
    validation : bool array [n] or None
        Which cells the model of the embedding was validated on, not trained; None where that is not known.
    model_validation : bool array [n] or None
        The same of `model`, which may be another: a model knows its own cells as long as all of them are there.
    kept : dict
        What `of_real` has made, by name, and of which real cells.
    """

    adata: AnnData
    against: AnnData | None
    condition: str | None
    label: str | None
    control: str | None
    embeddings: dict[str, np.ndarray]
    seed: int
    result: Evaluation
    model: Model | None = None
    device: str = "auto"
    continuous: bool = False
    batch: str | None = None
    values_in: str | None = None
    predictions: Sequence[Counterfactual] = ()
    validation: np.ndarray | None = None
    model_validation: np.ndarray | None = None
    within: str | None = None
    kept: dict[str, tuple[AnnData | None, Any]] = field(default_factory=dict, repr=False)

    @property
    def reference(self) -> str | None:
        """The control: the one that is given, or the source of a counterfactual."""
        record = Provenance.of(self.adata.uns).counterfactual
        return self.control or (None if record is None else record.from_ or None)

    def of_real(self, name: str, make: Callable[[], Any]) -> Any:
        """What all predictions share of the real cells, made when it is first asked for."""
        found = self.kept.get(name)
        if found is None or found[0] is not self.against:
            found = self.kept[name] = (self.against, make())
        return found[1]

    @property
    def notes(self) -> list[str]:
        """What the result says beside its scores; panels add to it."""
        return self.result.notes

    def all_latents(self) -> dict[str, np.ndarray]:
        """Every embedding by its obsm key, or NotApplicable where there is none."""
        if not self.embeddings:
            raise OfAnotherKind("the input is a counterfactual, which has no embedding")
        return self.embeddings

    def latents(self) -> np.ndarray:
        """The embedding, or NotApplicable where there is none or several."""
        found = list(self.all_latents().values())
        if len(found) > 1:
            raise NotApplicable(f"it scores one embedding, and {len(found)} were given")
        return found[0]

    def of_prediction(self, record: Counterfactual) -> Inputs:
        """The same of the cells that one prediction is of, and without the observed ones that stand beside them.

        All of them where there is one prediction, and none is found under its name.
        """
        under = self.under(self.adata.obs, record.to)
        if len(self.predictions) < 2 and (under.all() or not under.any()):
            return self
        rows = np.flatnonzero(under)
        return replace(self, adata=self.adata[rows], predictions=(record,))

    def known(self, *keys: str | None) -> Inputs:
        """The same without the cells that have no value in these columns, where there are such; that is noted.

        NotApplicable where no cell is left.
        """
        kept = np.ones(self.adata.n_obs, dtype=bool)
        for key in keys:
            if key is None:
                continue
            if self.continuous and key == self.condition:
                has = np.isfinite(numbers(self.adata.obs, key, missing=True))
            else:
                has = column(self.adata.obs, key, purpose="evaluation", missing=True).codes >= 0
            note = f"{int((~has).sum())} cells have no {key!r} and are left out of what needs it"
            if not has.all() and note not in self.notes:
                self.notes.append(note)
            kept &= has
        if kept.all():
            return self
        if not kept.any():
            raise NotApplicable(f"no cell has {' and '.join(repr(key) for key in keys if key is not None)}")
        return self.some(kept)

    def some(self, kept: np.ndarray) -> Inputs:
        """The same of some of the cells: a mask [n]."""
        embeddings = {key: z[kept] for key, z in self.embeddings.items()}
        masks = {name: getattr(self, name) for name in ("validation", "model_validation")}
        masks = {name: None if mask is None else mask[kept] for name, mask in masks.items()}
        return replace(self, adata=self.adata[kept], embeddings=embeddings, **masks)

    def column(self, key: str) -> np.ndarray:
        """A column of the cells as strings."""
        return np.asarray(column(self.adata.obs, key, purpose="evaluation")).astype(str)

    def categories(self) -> np.ndarray:
        """The condition column as strings, or NotApplicable where there is none or it is a number."""
        if self.condition is None:
            raise NotApplicable(f"it needs {option('condition')}")
        if self.continuous:
            raise NotApplicable("the condition is a number; the probe panel tells how well it follows from the latents")
        return self.column(self.condition)

    def under(self, obs: pd.DataFrame, value: str) -> np.ndarray:
        """Mask [n] of the cells of a condition, or NotApplicable where there is no condition."""
        if self.condition is None:
            raise NotApplicable(f"it needs {option('condition')}")
        if self.continuous:
            return at_number(numbers(obs, self.condition, missing=True), float(value))
        return having(obs, self.condition, value, control=self.reference)

    def batches(self) -> np.ndarray:
        """The batch column, by default the condition's, or NotApplicable where that is a number."""
        if self.batch is not None:
            return self.column(self.batch)
        if self.continuous:
            raise NotApplicable(f"it needs {option('batch')}, for the condition is a number")
        return self.categories()

    def labels(self) -> np.ndarray:
        """The label column, its values called as groups are, or NotApplicable."""
        if self.label is None:
            raise NotApplicable(f"it needs {option('label')}")
        return as_groups(self.column(self.label))
