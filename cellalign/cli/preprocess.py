"""cellalign preprocess: raw counts to what every method reads."""

from __future__ import annotations

from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "preprocess"
EXAMPLES = "Example: cellalign preprocess kang.h5ad -o kang.pp.h5ad"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help=".h5ad with raw counts; - is standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")],
    n_top_genes: Annotated[int, typer.Option(min=0, help="Highly variable genes to keep; 0 keeps all.")] = 2000,
    target_sum: Annotated[float | None, typer.Option(help="Counts per cell after normalisation [median].")] = None,
    batch: Annotated[str | None, typer.Option(metavar="KEY", help="Judge variability within this column.")] = None,
    min_genes: Annotated[int, typer.Option(min=0, help="Drop cells with fewer genes.")] = 1,
    min_cells: Annotated[int, typer.Option(min=0, help="Drop genes in fewer cells.")] = 1,
    force: c.Force = False,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Keep counts in layers["counts"], put normalised log1p expression in X, select highly variable genes."""
    log = c.start(quiet, verbose, log_format)
    from cellalign.data import files
    from cellalign.data.preprocess import preprocess

    files.check_output(output, force, [input])
    result = preprocess(
        files.read(input),
        n_top_genes=n_top_genes,
        target_sum=target_sum,
        batch=batch,
        min_genes=min_genes,
        min_cells=min_cells,
    )
    files.write(result, output, force=force)
    log.info("%s: %d cells x %d genes", output, result.n_obs, result.n_vars)
