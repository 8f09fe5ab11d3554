"""cellalign embed: the latent representation of cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cellalign.cli import common as c

NAME = "embed"
EXAMPLES = "Example: cellalign embed -o kang.emb.h5ad --umap --plot umap.png"


def command(
    input: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="Cells; default the training file; - is standard input.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output .h5ad; - is standard output.")
    ] = None,
    model: c.ModelDir = c.DEFAULT_MODEL,
    umap: Annotated[bool, typer.Option("--umap", help='Add obsm["X_umap"] of the latents.')] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Draw the UMAP (.png, .pdf, .svg), before and after.")
    ] = None,
    color: Annotated[
        list[str] | None, typer.Option("--color", metavar="KEY", help="obs column to colour by (repeatable).")
    ] = None,
    missing_genes: c.Missing = c.MissingGenes.error,
    allow_unseen: Annotated[
        bool,
        typer.Option("--allow-unseen", help="Batches and covariates never trained on, or absent, count as unknown."),
    ] = False,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Write obsm["X_<method>"], the posterior means, into a copy of the input."""
    c.start(quiet, verbose, log_format)
    from cellalign import api
    from cellalign.data import files

    fitted = api.load(model)
    source = files.spool(input) if input is not None else fitted.check_source()
    output = output or f"{Path(source).stem.removesuffix('.pp')}.emb.h5ad"
    files.check_output(output, force, [source])
    if plot is not None:
        files.check_output(plot, force)
    adata = files.read_matrix(source, fitted.matrix)
    options: dict[str, Any] = {
        "missing_genes": missing_genes.value,
        "unseen": allow_unseen,
        "device": device,
        "threads": threads,
    }
    obsm = fitted.embeddings(adata, **options)
    if umap or plot is not None:
        from cellalign.plots.umap import umap as project

        obsm["X_umap"] = project(obsm[fitted.embedding_key], seed)
    if plot is not None:
        from cellalign.plots.umap import draw_before_after, unintegrated_umap

        before = unintegrated_umap(adata.X if fitted.matrix == "X" else adata.layers[fitted.matrix], seed)
        keys = color or [k for k in (fitted.condition, fitted.label or "cell_type") if k and k in adata.obs]
        with files.atomic_path(plot, force) as fresh:
            colours = {k: _column(adata, k, fitted.continuous and k == fitted.condition) for k in keys}
            draw_before_after(before, obsm["X_umap"], colours, fresh, after=fitted.name)
    c.write_embedding(fitted, adata, obsm, source, output, force, **options)


def _column(adata, key, numeric):  # type: ignore[no-untyped-def]
    """A column to colour by."""
    from cellalign.data.checks import column, numbers

    return numbers(adata.obs, key) if numeric else column(adata.obs, key, purpose="colour")
