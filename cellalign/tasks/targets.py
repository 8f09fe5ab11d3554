"""targets: the graph from perturbations to latents, the genes behind each latent, and its file formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.paths import cells_of, source_of

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model


def targets(
    model: Model,
    adata: AnnData | None = None,
    *,
    threshold: Annotated[float, Option("Probability from which a target counts.", metavar="P")] = 0.5,
    programs: Annotated[int | None, Option("Name every latent's N most important genes.", metavar="N")] = None,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """Which latents each perturbation targets.

    Parameters
    ----------
    model : Model
    adata : AnnData, optional
        Cells on the scale the model reads, to find `programs` with; they do not change the graph.
    threshold : float
        Probability from which a target counts as one.
    programs : int, optional
        So many most important genes are named for every latent (see `add_programs`).
    missing_genes, device, threads, seed
        Of the programs.

    Returns
    -------
    AnnData [perturbations, latents]
        X: effect on the latent in prior standard deviations, 0 where there is no edge. layers["probability"],
        layers["edge"]. obs: `targets` (their names), `n_targets`, `group` (perturbations with the same targets
        share one; 1 is the largest, 0 holds those without a target), `transferred`. var: `n_perturbations`, and
        with programs `program`; then also uns["programs"].

    Raises
    ------
    ModelError
        The model's method learns no graph.
    UsageError
        The threshold is not between 0 and 1, or programs are asked for without cells or are not positive.
    """
    from cellalign import graph

    found = graph.targets(model, threshold=threshold)
    if programs is None:
        return found
    if adata is None:
        raise UsageError(f"{option('programs', programs)} needs cells; give adata, such as the training data")
    machine = {"device": device, "threads": threads}
    return graph.add_programs(found, model, adata, programs, missing_genes=missing_genes, seed=seed, **machine)


def write_targets(graph: AnnData, path: str, *, force: bool = False) -> None:
    """Write the graph by the ending of `path`: .h5ad, .csv, .json, .graphml or .png.

    Raises
    ------
    UsageError
        Another ending, or the file exists and `force` is not set.
    """
    from cellalign.data import files
    from cellalign.tasks import graph_files

    check_ending(path)
    ending = Path(path).suffix
    if ending in ("", ".h5ad"):  # "-" is standard output
        files.write(graph, path, force=force)
        return
    with files.atomic_path(path, force) as fresh:
        if ending == ".png":
            from cellalign.plots.targets import heat_map

            heat_map(graph).savefig(fresh, format="png", dpi=150)
        else:
            graph_files.TEXT[ending](graph, fresh)


def check_ending(path: str) -> None:
    """UsageError where `write_targets` knows no format of that ending."""
    from cellalign.tasks.graph_files import TEXT

    known = [".h5ad", *TEXT, ".png"]
    if path != "-" and Path(path).suffix not in known:
        raise UsageError(f"{option('output', path)} ends in none of {', '.join(known)}")


@command_of(targets, example="cellalign targets -m svae-model --programs 10 -o targets.graphml")
def command(
    call: Call,
    output: Annotated[str, Option("Output .h5ad, .csv, .json, .graphml or .png.", ("--output", "-o"), metavar="FILE")],
    input: Annotated[
        Reading, Argument("Cells for --programs; default the training file.", metavar="INPUT")
    ] = o.TRAINING_FILES,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Write which latent processes each perturbation targets, for methods that learn such a graph."""
    from cellalign.data import files
    from cellalign.model import load

    check_ending(output)
    files.check_output(output, force, [input, model], standard_output=True)
    fitted, cells = load(model), None
    if call.options["programs"] is not None:
        source = source_of(input, fitted)
        files.check_output(output, force, [source], standard_output=True)
        cells = cells_of(source, fitted)
    found = targets(fitted, cells, **call.options)
    write_targets(found, output, force=force)
    edges = int(found.layers["edge"].sum())
    call.log.info("%s: %d perturbations x %d latents, %d edges", output, found.n_obs, found.n_vars, edges)
