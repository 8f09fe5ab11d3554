"""cellalign simulate: data with the truth inside."""

from __future__ import annotations

from typing import Annotated

import typer

from cellalign.cli import common as c

app = typer.Typer(help="Simulate data with the truth inside.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def root() -> None:
    """Simulate data with the truth inside."""


@app.command(name="ifnb", epilog="Example: cellalign simulate ifnb --cells 2000 --genes 2000 -o simulated.h5ad")
def ifnb(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")],
    cells: Annotated[int, typer.Option("--cells", min=16, help="Cells.")] = 2000,
    genes: Annotated[int, typer.Option("--genes", min=50, help="Genes.")] = 2000,
    cell_types: Annotated[int, typer.Option("--cell-types", min=1, help="Cell types, at most 8.")] = 8,
    batches: Annotated[int, typer.Option("--batches", min=0, help="Technical batches.")] = 0,
    donors: Annotated[int, typer.Option("--donors", min=0, help="Donors.")] = 0,
    response_scale: Annotated[float, typer.Option(min=0, help="Multiplies every gene's response.")] = 1.0,
    rare: Annotated[float | None, typer.Option(help="Share of each of the rarer cell types.")] = None,
    seed: c.Seed = 0,
    force: c.Force = False,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Counts like peripheral blood cells with and without interferon beta, and each cell's expected expression."""
    log = c.start(quiet, verbose, log_format)
    from cellalign.data import files

    files.check_output(output, force)
    from cellalign import simulate

    adata = simulate.ifnb(
        cells,
        genes,
        n_cell_types=cell_types,
        batches=batches,
        donors=donors,
        response_scale=response_scale,
        rare=rare,
        seed=seed,
    )
    files.write(adata, output, force=force)
    log.info("%s: %d cells x %d genes", output, adata.n_obs, adata.n_vars)
