"""Which real cells the model of a prediction has seen, and how that is said."""

from __future__ import annotations

import numpy as np

from cellalign.data import fingerprints
from cellalign.data.columns import having
from cellalign.errors import option
from cellalign.evaluation.inputs import Inputs
from cellalign.evaluation.predictions import only_some
from cellalign.evaluation.scales import real_values
from cellalign.evaluation.table import FITTED, PREDICTED, TUNED

SEEN = 0.05  # share of a group's real cells above which it was trained on
SAID = {  # of the groups that are named in between
    FITTED: "fitted, not predicted (the model was trained on {})",
    TUNED: "predicted, but no independent test (the settings were chosen by how well {} are predicted)",
}
OTHERS = (
    "what is predicted is said to be held out in training, but the model was trained on the real cells that it is "
    "compared with: these are others"
)
NOT_KNOWN = "the prediction does not say which cells its model has seen: whether it is fitted is not known"


def trained_on(inputs: Inputs) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mask [n] of the real cells that the model was trained on, and their fingerprints; None where it is not known."""
    trained = fingerprints.read(inputs.adata.uns, inputs.adata.var_names)
    if trained is None:
        return None, None
    prints = inputs.of_real("prints", lambda: fingerprints.of_matrix(real_values(inputs)))
    return fingerprints.among(prints, trained), prints


def status_of(
    inputs: Inputs, predicted: np.ndarray, real: np.ndarray, seen: np.ndarray | None, prints: np.ndarray | None
) -> str:
    """Whether a group's real cells were trained on: `FITTED`, `PREDICTED`, or "" where that is not known.

    `TUNED` where they were not, but the model's settings were chosen by how well they, or some of them, are predicted.
    """
    said = "held_out" in inputs.adata.obs and bool(predicted.any())
    held = said and bool(np.asarray(inputs.adata.obs["held_out"], dtype=bool)[predicted].all())
    if seen is not None:
        fitted = bool(seen[real].mean() > SEEN)
        if fitted and held and not any(note.startswith(OTHERS) for note in inputs.notes):
            asked = {inputs.label, inputs.within}
            key = next((key for key, *_ in only_some(inputs) if key not in asked), None)
            mend = f"; {option('within', key)} compares like with like" if key is not None and inputs.label else ""
            inputs.notes.append(OTHERS + mend)
    elif not said:
        return ""
    else:
        fitted = not held
    return FITTED if fitted else TUNED if _chose(inputs, predicted, real, prints) else PREDICTED


def _chose(inputs: Inputs, predicted: np.ndarray, real: np.ndarray, prints: np.ndarray | None) -> bool:
    """Whether settings were chosen by a group's cells: by the columns' values, and, of known cells, by their looks."""
    assert inputs.against is not None
    record = inputs.predictions[0]
    if not record.tuned_on:
        return False
    if prints is not None and not np.isin(prints[real], record.tuned_cells).any():
        return False  # other cells, whatever they are called
    for obs, rows in ((inputs.against.obs, real), (inputs.adata.obs, predicted)):
        of = [terms for terms in record.tuned_on if set(terms) <= set(obs.columns)]
        if of and rows.any():
            own = obs.loc[rows]
            each = [[having(own, key, value, control=inputs.reference) for key, value in t.items()] for t in of]
            return bool(np.any([np.all(masks, axis=0) for masks in each], axis=0).mean() > SEEN)
    return prints is not None
