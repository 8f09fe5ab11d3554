"""Transfer of a trained model to interventions it has never seen (sVAE+ section 3.4 and appendix C)."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData

from cellalign.api import FEW_CELLS
from cellalign.data.checks import column
from cellalign.engine import predict
from cellalign.engine.device import pick_device
from cellalign.errors import InputError, ModelError
from cellalign.methods.base import Dimensions
from cellalign.model import Model, dimensions_of

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
    if not hasattr(model.method, "with_conditions"):
        raise ModelError(
            f"method {model.name!r} learns no embedding per intervention, so there is nothing to transfer; "
            "`evaluate --model` scores it on new cells as it is"
        )
    key = str(model.condition)
    known = model.roles.categories[key]
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

    spec = dict(model.spec)
    genes = spec.pop("genes")
    sizes = spec["dimensions"] | {"conditions": len(known) + len(new)}
    roles = model.roles.as_dict()
    roles["categories"] = roles["categories"] | {key: [*known, *new]}
    spec |= {
        "roles": roles,
        "dimensions": sizes,
        "transferred": [*model.transferred, *new],
        "transferred_from": spec.pop("weights_checksum", None),
        "genes": genes,
    }
    spec.pop("format_version", None)
    dimensions: Dimensions = dimensions_of(sizes)
    return Model(model.method.with_conditions(dimensions, shifts), spec, model.history)  # type: ignore[operator]
