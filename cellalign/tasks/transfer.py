"""transfer: a model that also knows new interventions (sVAE+ section 3.4 and appendix C)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

from cellalign.data.reading import Reading
from cellalign.errors import InputError, ModelError, spoken
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.paths import cells_of

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model

log = logging.getLogger("cellalign")


def transfer(
    adata: AnnData,
    model: Model,
    *,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
) -> Model:
    """Fit the embeddings of new interventions; encoder, decoder and dispersion stay as they are.

    With those fixed and the new masks at 1, the evidence lower bound depends on the new mu_a through
    -1/2 the sum of the squared distances of E q(z_n) from mu_a alone, so its maximum is the mean of the posterior means
    of a's cells: it is computed, not approached by gradient steps.

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
    import numpy as np

    from cellalign.data.columns import column
    from cellalign.data.design import FEW
    from cellalign.data.fields import field_records, together
    from cellalign.data.fingerprints import of_trained
    from cellalign.data.given import given_cells
    from cellalign.data.values import Known, joined, listed
    from cellalign.engine import predict
    from cellalign.engine.device import computing
    from cellalign.methods.base import CONDITION, Extends, Fields
    from cellalign.methods.registry import lacks
    from cellalign.model import Model

    if not isinstance(model.method, Extends):
        how = spoken(python="cellalign.evaluate(adata, model=model)", command="`evaluate --model`")
        raise ModelError(f"{lacks(model.name, Extends)}; {how} scores it on new cells as it is")
    key = str(model.condition)
    known, field = model.conditions, model.fields.one(CONDITION)
    values = column(adata.obs, key, purpose="condition", missing=True, named=known)
    absent = int((values.codes < 0).sum())
    if absent:
        log.info("%d cells have no %r and are left out", absent, key)
    called = [joined(str(name), model.control) for name in values.categories]
    unknown = field.known.codes(list(values.categories)) < 0
    new = together([name for name, is_new in zip(values.categories, unknown, strict=True) if is_new], model.control)
    if not new:
        raise InputError(f"not a single new intervention in {key!r}: the model knows all {len(called)} of them")
    places = np.append(Known(new, model.control).codes(called), -1)
    places[:-1][~unknown] = -1
    rows = np.flatnonzero(places[values.codes] >= 0)
    names = np.array([*new, ""], dtype=object)[places[values.codes]]
    cells = model.cells(given_cells(adata)[rows], missing_genes=missing_genes, with_condition=False)
    with computing(device, threads) as torch_device:
        z = predict.embed(model.method, cells, device=torch_device)
    shifts = np.stack([z[names[rows] == name].mean(0) for name in new])
    few = [name for name in new if (names == name).sum() < FEW]
    if few:
        log.warning("%d new interventions have fewer than %d cells: %s", len(few), FEW, listed(few, 10))

    wider = [
        field.model_copy(update={"categories": (*known, *new)}) if field.role == CONDITION else field
        for field in model.fields
    ]
    record = model.record.model_copy(
        update={
            "fields": field_records(wider),
            "transferred": [*model.transferred, *new],
            "transferred_from": model.weights_checksum,
            "weights_checksum": None,
            "calibration": None,
        }
    )
    with computing(device, threads):  # fresh weights are drawn before they are filled in
        method = model.method.with_conditions(Fields(wider), shifts)
    seen = None if model.trained is None else of_trained(cells.matrix, len(cells), np.arange(len(cells)), model.trained)
    return Model(method, record, model.history, seen)


@command_of(transfer, example="cellalign transfer new.h5ad -m svae-model -o svae-model-new")
def command(
    call: Call,
    input: Annotated[Reading, Argument("Cells under new interventions; - is standard input.", metavar="INPUT")],
    output: Annotated[str, Option("The new model directory.", ("--output", "-o"), metavar="DIR")],
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Fit the embeddings of new interventions; encoder, decoder and dispersion stay as they are."""
    from cellalign.data import files
    from cellalign.model import load
    from cellalign.model_directory import check_model_output

    check_model_output(output, force, [input, model])
    fitted = load(model)
    wider = transfer(cells_of(files.spool(input), fitted, streaming=True), fitted, **call.options)
    wider.save(output, force=force)
    new = len(wider.transferred) - len(fitted.transferred)
    call.log.info("%s: %d new interventions beside %d", output, new, len(fitted.conditions))
