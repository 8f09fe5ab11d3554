"""cellalign targets: the graph from perturbations to latents."""

from __future__ import annotations

from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "targets"
EXAMPLES = "Example: cellalign targets -o targets.h5ad"


def command(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad.")],
    model: c.ModelDir = c.DEFAULT_MODEL,
    force: c.Force = False,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Write which latent processes each perturbation targets, for methods that learn such a graph."""
    log = c.start(quiet, verbose, log_format)
    from cellalign import api
    from cellalign.data import files

    files.check_output(output, force)
    graph = api.targets(api.load(model))
    files.write(graph, output, force=force)
    log.info("%s: %d perturbations x %d latents", output, graph.n_obs, graph.n_vars)
