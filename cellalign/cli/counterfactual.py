"""cellalign counterfactual: what cells would look like under another condition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "counterfactual"
EXAMPLES = "Example: cellalign counterfactual --to stimulated --where cell_type=NK"


def command(
    input: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="Cells; default the training file; - is standard input.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="VALUE", help="Condition to predict, or KEY=VALUE of a batch.")
    ] = ...,  # type: ignore[assignment]
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")
    ] = None,
    model: c.ModelDir = c.DEFAULT_MODEL,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="VALUE", help="Condition of the source cells [the control].")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="KEY=VALUE", help="Only these source cells (repeatable).")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help='Average N posterior draws; adds layers["std"].')
    ] = 0,
    missing_genes: c.Missing = c.MissingGenes.error,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Predict the source cells' expression under condition --to: one row per source cell."""
    log = c.start(quiet, verbose, log_format)
    from cellalign import api
    from cellalign.data import files
    from cellalign.data.checks import parse_where

    fitted = api.load(model)
    source = files.spool(input) if input is not None else fitted.check_source()
    safe = re.sub(r"[^\w.+-]+", "_", to)
    output = output or f"{Path(source).stem.removesuffix('.pp')}.{safe}.h5ad"
    files.check_output(output, force, [source])
    result = fitted.counterfactual(
        files.read_matrix(source, fitted.matrix),
        to=to,
        from_=from_,
        where=parse_where(where or []),
        samples=samples,
        missing_genes=missing_genes.value,
        seed=seed,
        device=device,
        threads=threads,
    )
    files.write(result, output, force=force)
    log.info("%s: %d cells as if %s", output, result.n_obs, to)
