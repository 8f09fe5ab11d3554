"""cellalign transfer: a model that also knows new interventions."""

from __future__ import annotations

from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "transfer"
EXAMPLES = "Example: cellalign transfer new.h5ad -m svae-model -o svae-model-new"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Cells under new interventions; - is standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="The new model directory.")],
    model: c.ModelDir = c.DEFAULT_MODEL,
    missing_genes: c.Missing = c.MissingGenes.error,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Fit the embeddings of new interventions; encoder, decoder and dispersion stay as they are."""
    log = c.start(quiet, verbose, log_format)
    from cellalign import api
    from cellalign.data import files
    from cellalign.transfer_learning import transfer

    files.check_output(output, force)
    fitted = api.load(model)
    source = files.spool(input)
    wider = transfer(
        files.read_matrix(source, fitted.matrix),
        fitted,
        missing_genes=missing_genes.value,
        device=device,
        threads=threads,
    )
    wider.save(output, force=force)
    new = len(wider.transferred) - len(fitted.transferred)
    log.info("%s: %d new interventions beside %d", output, new, len(fitted.conditions))
