"""cellalign annotate: the cell types of new cells."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellalign.cli import common as c

if TYPE_CHECKING:
    from cellalign.model import Model

NAME = "annotate"
EXAMPLES = "Example: cellalign annotate new.h5ad --label cell_type -o new.annotated.h5ad"


class Classifier(StrEnum):
    """What predicts the label from the latents."""

    auto = "auto"
    linear = "linear"
    knn = "knn"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Cells to annotate; - is standard input.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")
    ] = None,
    model: c.ModelDir = c.DEFAULT_MODEL,
    label: Annotated[
        str | None, typer.Option("--label", metavar="KEY", help="obs column to predict [the model's label].")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="FILE", help="Labelled cells [the training file].")
    ] = None,
    unlabelled: c.Unlabelled = None,
    classifier: Annotated[
        Classifier, typer.Option("--classifier", help="auto is the model's own where it has one, else linear.")
    ] = Classifier.auto,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote, of knn.")] = 15,
    unknown: Annotated[
        float, typer.Option("--unknown", metavar="SHARE", help="Share of known cells to flag as unlike any.")
    ] = 0.01,
    missing_genes: c.Missing = c.MissingGenes.error,
    format: c.Table = c.TableFormat.table,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Add <label>_predicted, <label>_probability and <label>_unknown to a copy of the input.

    Where the input has the label too, the prediction is scored.
    """
    log = c.start(quiet, verbose, log_format)
    from cellalign import annotation, api
    from cellalign.data import files
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    fitted = api.load(model)
    known = reference or _training_file(fitted)
    source = files.spool(input)
    output = output or f"{_stem(input)}.annotated.h5ad"
    files.check_output(output, force, [source, known])
    adata = files.read_matrix(source, fitted.matrix)
    settings: dict[str, Any] = {"classifier": classifier.value, "k": k, "unknown": unknown}
    table = annotation.annotate(
        adata,
        fitted,
        label=label,
        reference=files.read_matrix(known, fitted.matrix),
        unlabelled=unlabelled,
        missing_genes=missing_genes.value,
        device=device,
        threads=threads,
        seed=seed,
        **settings,
    )
    key = str(label or fitted.label)
    result = annotation.score(adata.obs, table, key, unlabelled=unlabelled or annotation.no_label(fitted, key))
    record = annotation.annotation_record(fitted, key, reference=str(known), **settings)
    files.write_with(
        source,
        output,
        # what the file's own record says of its embedding or counterfactual stays true
        uns={KEY: Provenance.of(adata.uns).with_steps(record).plain()},
        obs={name: table[name].array for name in table},
        force=force,
    )
    if output != "-":  # standard output is the file
        c.print_evaluation(result, format)
    for note in result.notes:
        log.info("%s", note)
    log.info("%s: %s of %d cells, %d unknown", output, key, len(table), table[f"{key}_unknown"].sum())


def _training_file(fitted: Model) -> Path:
    """The labelled cells where the user names none."""
    from cellalign.errors import InputError

    try:
        return fitted.check_source()
    except InputError as error:
        raise InputError(f"{error} of labelled cells with --reference FILE") from error


def _stem(path: str) -> str:
    return "stdin" if path == "-" else Path(path).stem.removesuffix(".pp")
