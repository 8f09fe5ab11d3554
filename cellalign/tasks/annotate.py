"""annotate: cell types of new cells from labelled ones, through a model's embedding of both (inVAE section 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.paths import beside, cells_of, read_several_times
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.records import Annotation

CLASSIFIERS = ("auto", "linear", "knn")


@in_their_words
def annotate(
    adata: AnnData,
    model: Model,
    *,
    reference: AnnData,
    label: Annotated[str | None, Option("obs column to predict [the model's label].", metavar="KEY")] = None,
    classifier: Annotated[
        Literal["auto", "linear", "knn"], Option("auto is the model's own where it has one, else linear.")
    ] = "auto",
    k: Annotated[int, Option("Neighbours that vote, of knn.", low=1)] = 15,
    unknown: Annotated[float, Option("Share of known cells to flag as unlike any.", metavar="SHARE")] = 0.01,
    unlabelled: Annotated[str | None, o.UNLABELLED] = None,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> pd.DataFrame:
    """Predict the label of cells by a classifier on the model's embedding of labelled cells.

    No encoder sees a label, neither of the reference nor of the cells, also where the model was trained with it as a
    covariate. Batches and covariates never trained on, and absent columns of theirs, count as unknown. A method that
    learned to do without them (nf-ivae, invae) is given none, of the reference nor of the cells, so that both are
    embedded alike.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        Cells on the scale the model was trained on; genes are matched by name.
    model : Model
    reference : AnnData
        Labelled cells, such as the training data. Those without a label or held out from training are left out.
    label : str, optional
        obs column of the reference; default the label the model was trained with.
    classifier : {"auto", "linear", "knn"}
        Multinomial logistic regression, or votes of the k nearest reference cells weighing 1 / distance; "auto" is
        the model's own classifier of this label where it has one, else "linear".
    k : int
        Neighbours that vote.
    unknown : float
        Share of reference cells of a label that would be flagged unknown, in [0, 1).
    unlabelled : str, optional
        The label's value that means there is none; default what the model was trained with.
    missing_genes : {"error", "zero"}
    seed : int
        Of the reference cells drawn to settle what is unknown, where there are many.

    Returns
    -------
    DataFrame, by the cells' names
        <label>_predicted (categorical, all labels that could be predicted), <label>_probability (float32) of it, and
        <label>_unknown (bool): unlike any reference cell, whatever the prediction. A new type that the embedding
        maps among known ones is not found by it.

    Raises
    ------
    UsageError
        No label, an unknown classifier, or a value out of range.
    InputError
        The reference has no such column or one label only, or the cells or the reference do not fit the model.
    """
    import pandas as pd

    from cellalign.annotation import blind, labelled, no_label, under_names
    from cellalign.evaluation.metrics import annotation as metrics
    from cellalign.threads import limited

    key = _checked(label, model, classifier, unknown)
    names, labels, rows = labelled(reference, key, model, unlabelled or no_label(model, key))
    options: dict[str, Any] = {"device": device, "threads": threads, "unseen": True}
    z = model.embed(blind(model.as_read(adata, missing_genes), key, model), **options)
    own = model.label_probability(z, device=device) if classifier == "auto" and key == model.label else None
    try:
        known = model.embed(blind(model.as_read(reference, missing_genes), key, model, rows), **options)
    except InputError as error:
        raise InputError(f"reference: {error}") from error
    with limited(threads):
        known, z = metrics.whiten(known, labels, z)
        if own is not None:
            probability, names = under_names(own, model.labels, names)
        elif classifier == "knn":
            distance, nearest_rows = metrics.neighbours(known, z, k)
            probability = metrics.votes(distance, labels[nearest_rows], len(names))
        else:
            probability = metrics.linear(known, labels, z, len(names))
        predicted = probability.argmax(1)
        flagged = metrics.is_unknown(known, labels, z, predicted, unknown, seed=seed)
    columns = {
        f"{key}_predicted": pd.Categorical.from_codes(predicted, names),
        f"{key}_probability": probability.max(1),
        f"{key}_unknown": flagged,
    }
    return pd.DataFrame(columns, index=adata.obs_names)


def annotation_record(model: Model, label: str, **settings: Any) -> Annotation:
    """Provenance of an annotation."""
    from cellalign.records import Annotation

    version, weights = model.record.cellalign, model.weights_checksum
    return Annotation(method=model.name, label=label, version=version, weights=weights, **settings)


@command_of(annotate, example="cellalign annotate new.h5ad --label cell_type -o new.annotated.h5ad")
def command(
    call: Call,
    input: Annotated[Reading, Argument("Files of cells to annotate; - is standard input.", metavar="INPUT")],
    output: Annotated[str | None, o.OUTPUT] = None,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    reference: Annotated[str | None, Option("Labelled cells [the training file].", metavar="FILE")] = None,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    devices: Annotated[int | None, o.DEVICES] = None,
    nodes: Annotated[int | None, o.NODES] = None,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Add <label>_predicted, <label>_probability and <label>_unknown to a copy of the input.

    Where the input has the label too, the prediction is scored.
    """
    from cellalign.annotation import no_label, score
    from cellalign.data import files
    from cellalign.engine.ranks import current
    from cellalign.model import load
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    fitted, asked = load(model), call.options
    known = _training_files(fitted) if reference is None else input.like(reference)
    source = files.spool(input)
    output = output or beside(input, "annotated")
    if current().first:
        files.check_cells_output(output, force, [source, known, model])
    adata, labelled = (cells_of(each, fitted, streaming=True, often=read_several_times) for each in (source, known))
    table = annotate(adata, fitted, reference=labelled, **asked)
    if not current().first:
        return
    key = str(asked["label"] or fitted.label)
    result = score(adata.obs, table, key, unlabelled=asked["unlabelled"] or no_label(fitted, key))
    settings = {name: asked[name] for name in ("classifier", "k", "unknown")}
    record = annotation_record(fitted, key, reference=", ".join(known.paths), **settings)
    files.write_with(
        source,
        output,
        # what the file's own record says of its embedding or counterfactual stays true
        uns={KEY: Provenance.to_extend(adata.uns).with_steps(record).plain()},
        obs={name: table[name].array for name in table},
        force=force,
    )
    if output != "-":  # standard output is the file
        call.print_evaluation(result, format)
    call.log.info("%s: %s of %d cells, %d unknown", output, key, len(table), table[f"{key}_unknown"].sum())


def _checked(label: str | None, model: Model, classifier: str, unknown: float) -> str:
    """The label, after checking the options."""
    if classifier not in CLASSIFIERS:
        from cellalign.errors import nearest

        hint = nearest(classifier, CLASSIFIERS)
        raise UsageError(f"unknown classifier {classifier!r}.{hint} Classifiers: {', '.join(CLASSIFIERS)}")
    if not 0 <= unknown < 1:
        raise UsageError(f"{option('unknown', unknown)} is not in [0, 1)")
    key = label or model.label
    if key is None:
        raise UsageError(f"{option('label', hint='KEY')} is needed: the model was trained without one")
    return key


def _training_files(fitted: Model) -> Reading:
    """The labelled cells where the user names none."""
    try:
        return fitted.check_source()
    except InputError as error:
        raise InputError(f"{error} of labelled cells with {option('reference', hint='FILE')}") from error
