"""Transfer of a trained model to interventions it has never seen (sVAE+ section 3.4 and appendix C)."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData

from cellalign.api import FEW_CELLS
from cellalign.data.checks import column
from cellalign.data.fields import field_records
from cellalign.engine import predict
from cellalign.engine.device import pick_device
from cellalign.errors import InputError, ModelError
from cellalign.methods.base import CONDITION, Extends, Fields
from cellalign.methods.registry import lacks
from cellalign.model import Model

log = logging.getLogger("cellalign")


def transfer(
    adata: AnnData,
    model: Model,
    *,
    missing_genes: str = "error",
    device: str = "auto",
    threads: int | None = None,
) -> Model:
    """Fit the embeddings of new interventions; encoder, decoder and dispersion stay as they are.

    With those fixed and the new masks at 1, the evidence lower bound depends on the new mu_a through
    -1/2 sum_n |E q(z_n) - mu_a|^2 alone, so its maximum is the mean of the posterior means of a's cells: it is
    computed, not approached by gradient steps.

    Parameters
    ----------
    adata : AnnData
        Cells under new interventions, in the model's condition column; cells of known ones are left alone.

    Returns
    -------
    Model
        Knows the old interventions as before, and the new ones.

    Raises
    ------
    ModelError
        The method has no embedding per intervention.
    InputError
        Not a single new intervention, or the matrix is not fit.
    """
    if not isinstance(model.method, Extends):
        raise ModelError(f"{lacks(model.name, Extends)}; `evaluate --model` scores it on new cells as it is")
    key = str(model.condition)
    known = model.conditions
    names = np.asarray(column(adata.obs, key, purpose="condition")).astype(str)
    new = [name for name in dict.fromkeys(column(adata.obs, key).categories) if name not in known]
    if not new:
        raise InputError(f"not a single new intervention in {key!r}: the model knows all {len(set(names))} of them")
    rows = np.flatnonzero(np.isin(names, new))
    cells = model.cells(adata[rows], missing_genes=missing_genes, with_condition=False)
    z = predict.embed(model.method, cells, device=pick_device(device, threads))
    shifts = np.stack([z[names[rows] == name].mean(0) for name in new])
    few = [name for name in new if (names == name).sum() < FEW_CELLS]
    if few:
        log.warning("%d new interventions have fewer than %d cells: %s", len(few), FEW_CELLS, ", ".join(few[:10]))

    wider = [
        field.model_copy(update={"categories": (*known, *new)}) if field.role == CONDITION else field
        for field in model.fields
    ]
    record = model.record.model_copy(
        update={
            "fields": field_records(wider),
            "transferred": [*model.transferred, *new],
            "transferred_from": model.record.weights_checksum,
            "weights_checksum": None,
        }
    )
    return Model(model.method.with_conditions(Fields(wider), shifts), record, model.history)
