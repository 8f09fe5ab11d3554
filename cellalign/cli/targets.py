"""cellalign targets: the graph from perturbations to latents."""

from __future__ import annotations

from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "targets"
EXAMPLES = "Example: cellalign targets -m svae-model --programs 10 -o targets.graphml"


def command(
    input: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="Cells for --programs; default the training file.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad, .csv, .json, .graphml or .png.")
    ] = ...,  # type: ignore[assignment]
    model: c.ModelDir = c.DEFAULT_MODEL,
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="P", help="Probability from which a target counts.")
    ] = 0.5,
    programs: Annotated[
        int | None, typer.Option("--programs", metavar="N", help="Name every latent's N most important genes.")
    ] = None,
    missing_genes: c.Missing = c.MissingGenes.error,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Write which latent processes each perturbation targets, for methods that learn such a graph."""
    log = c.start(quiet, verbose, log_format)
    from cellalign import api
    from cellalign.data import files
    from cellalign.graph import add_programs, check_ending, targets, write_targets

    check_ending(output)
    files.check_output(output, force)
    fitted = api.load(model)
    graph = targets(fitted, threshold=threshold)
    if programs is not None:
        source = files.spool(input) if input is not None else fitted.check_source()
        add_programs(
            graph,
            fitted,
            files.read_matrix(source, fitted.matrix),
            programs,
            missing_genes=missing_genes.value,
            device=device,
            threads=threads,
            seed=seed,
        )
    write_targets(graph, output, force=force)
    log.info(
        "%s: %d perturbations x %d latents, %d edges",
        output,
        graph.n_obs,
        graph.n_vars,
        int(graph.layers["edge"].sum()),
    )
