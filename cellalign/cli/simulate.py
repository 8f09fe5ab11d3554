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
    sites: Annotated[int, typer.Option("--sites", min=0, help="Sites; every donor is measured at each.")] = 0,
    site_effect: Annotated[float, typer.Option(min=0, help="Spread of log expression between sites.")] = 0.5,
    diseased: Annotated[float, typer.Option(min=0, help="Share of donors with a disease, below 1.")] = 0.0,
    disease_effect: Annotated[float, typer.Option(min=0, help="Spread of the disease's log changes.")] = 0.4,
    stimulated: Annotated[float, typer.Option(min=0, help="Share of stimulated cells, below 1.")] = 0.5,
    response_scale: Annotated[float, typer.Option(min=0, help="Multiplies every gene's response.")] = 1.0,
    doses: Annotated[bool, typer.Option("--doses", help="A dose per cell in place of two conditions.")] = False,
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
        sites=sites,
        site_effect=site_effect,
        diseased=diseased,
        disease_effect=disease_effect,
        stimulated=stimulated,
        response_scale=response_scale,
        rare=rare,
        doses=doses,
        seed=seed,
    )
    files.write(adata, output, force=force)
    log.info("%s: %d cells x %d genes", output, adata.n_obs, adata.n_vars)


@app.command(
    name="sparse-shift", epilog="Example: cellalign simulate sparse-shift --interventions 40 --heldout 8 -o shifts.h5ad"
)
def sparse_shift(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")],
    interventions: Annotated[int, typer.Option("--interventions", min=2, help="Interventions.")] = 100,
    cells: Annotated[int, typer.Option("--cells", min=1, help="Cells under each intervention.")] = 500,
    latents: Annotated[int, typer.Option("--latents", min=1, help="Latent variables.")] = 15,
    genes: Annotated[int, typer.Option("--genes", min=2, help="Genes.")] = 100,
    heldout: Annotated[int, typer.Option("--heldout", min=0, help="Interventions marked as held out.")] = 20,
    controls: Annotated[int, typer.Option("--controls", min=0, help="Cells under no intervention.")] = 0,
    library_size: Annotated[float | None, typer.Option(min=1, help="Counts per cell [100,000].")] = None,
    targets: Annotated[str, typer.Option(metavar="FEWEST,MOST", help="Latents an intervention targets.")] = "1,3",
    sparsity: Annotated[float | None, typer.Option(help="Or the share of latents it targets.")] = None,
    effect: Annotated[float, typer.Option(help="Mean size of a shift.")] = 5.0,
    heldout_sparsity: Annotated[float | None, typer.Option(help="Sparsity of held-out interventions.")] = None,
    heldout_effect: Annotated[float | None, typer.Option(help="Effect of held-out interventions.")] = None,
    variant: Annotated[str, typer.Option(metavar="text|code", help="As the paper's text, or as its code.")] = "text",
    seed: c.Seed = 0,
    force: c.Force = False,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Counts under interventions that each shift few latent variables, with latents, graph and effects."""
    log = c.start(quiet, verbose, log_format)
    from cellalign.data import files
    from cellalign.errors import UsageError

    files.check_output(output, force)
    try:
        fewest, most = (int(part) for part in targets.split(","))
    except ValueError as error:
        raise UsageError(f"--targets {targets!r} is not FEWEST,MOST, for example 1,3") from error
    from cellalign import simulate

    adata = simulate.sparse_shift(
        interventions,
        cells,
        n_latent=latents,
        n_genes=genes,
        n_heldout=heldout,
        n_controls=controls,
        library_size=library_size,
        targets=(fewest, most),
        sparsity=sparsity,
        effect=effect,
        heldout_sparsity=heldout_sparsity,
        heldout_effect=heldout_effect,
        variant=variant,
        seed=seed,
    )
    files.write(adata, output, force=force)
    log.info("%s: %d cells x %d genes, %d interventions", output, adata.n_obs, adata.n_vars, interventions)
