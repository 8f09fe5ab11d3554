"""targets: the graph from perturbations to latents, the genes behind each latent, and its file formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, counted, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.paths import cells_of, source_of
from cellalign.tasks.pictures import ENDINGS

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model

OF_CELLS = ("programs", "gene_sets", "interactions")  # what of the options is computed from cells
STORES = (".h5ad", ".zarr")
SHOWN = 30  # rows of a printed table


def targets(
    model: Model,
    adata: AnnData | None = None,
    *,
    threshold: Annotated[float, Option("Probability from which a target counts.", metavar="P")] = 0.5,
    programs: Annotated[int | None, Option("Name every latent's N most important genes.", metavar="N")] = None,
    gene_sets: Annotated[
        Mapping[str, Sequence[str]] | str | os.PathLike[str] | None,
        Option("Test which gene sets every latent moves (GMT).", metavar="FILE.gmt", text=str | None),
    ] = None,
    top_genes: Annotated[
        int | None, Option("Genes that a latent moves, for --gene-sets [50, of few genes half].", metavar="N")
    ] = None,
    interactions: Annotated[bool, Option("Compare perturbations a+b with a and b alone.")] = False,
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
        Cells on the scale the model reads, for `programs`, `gene_sets` and `interactions`; the graph is without them.
    threshold : float
        Probability from which a target counts as one.
    programs : int, optional
        So many most important genes are named for every latent (see `graph.add_programs`).
    gene_sets : path of a GMT file, or mapping of name to genes, optional
        Which of them are enriched among the genes that each latent moves (see `enrichment.add_enrichment`).
    top_genes : int, optional
        How many genes a latent is taken to move; by default 50, of fewer than 100 genes half of them.
    interactions : bool
        Observed beside additive change of every a+b among the cells (see `interactions.add_interactions`).
    missing_genes, device, threads, seed
        Of what is computed from cells.

    Returns
    -------
    AnnData [perturbations, latents]
        X: effect on the latent in prior standard deviations, 0 where there is no edge. layers["probability"],
        layers["edge"]. obs: `targets` (their names), `n_targets`, `group` (perturbations with the same targets
        share one; 1 is the largest, 0 holds those without a target), `transferred`. var: `n_perturbations`, and
        with programs `program`; then also uns["programs"], uns["enrichment"], uns["interactions"] and
        uns["interactions_latents"].

    Raises
    ------
    ModelError
        The model's method learns no graph.
    UsageError
        The threshold is not between 0 and 1, a number is out of range, or what needs cells is asked for without.
    InputError
        The GMT file holds no sets of the model's genes, or the cells no a+b with a and b alone.
    """
    from cellalign import graph

    if top_genes is not None and gene_sets is None:
        raise UsageError(f"{option('top_genes', top_genes)} is of {option('gene_sets', hint='FILE.gmt')}; add it")
    found = graph.targets(model, threshold=threshold)
    given = {"programs": programs, "gene_sets": gene_sets, "interactions": interactions}
    asked = _of_cells(given)
    if not asked:
        return found
    if adata is None:
        shown = option(asked[0]) if asked[0] == "gene_sets" else option(asked[0], given[asked[0]])
        raise UsageError(f"{shown} needs cells; give adata, such as the training data")
    of_cells: dict[str, Any] = {"missing_genes": missing_genes, "seed": seed, "device": device, "threads": threads}
    if gene_sets is not None:
        from cellalign.data.gene_sets import read_gmt
        from cellalign.enrichment import add_enrichment

        sets = gene_sets if isinstance(gene_sets, Mapping) else read_gmt(gene_sets)
        add_enrichment(found, model, adata, sets, top_genes, **of_cells)
    if interactions:
        from cellalign.interactions import add_interactions

        add_interactions(found, model, adata, **of_cells)
    if programs is not None:
        graph.add_programs(found, model, adata, programs, **of_cells)
    return found


def _of_cells(options: Mapping[str, Any]) -> list[str]:
    """Those that are asked for of what is computed from cells; 0 programs are asked for too, and refused."""
    return [name for name in OF_CELLS if options[name] is not None and options[name] is not False]


def write_targets(graph: AnnData, path: str, *, force: bool = False) -> None:
    """Write the graph by the ending of `path`: .h5ad, .csv, .json, .graphml, or a heat map as .png, .pdf or .svg.

    Raises
    ------
    UsageError
        Another ending, or the file exists and `force` is not set.
    """
    from cellalign.data import files
    from cellalign.tasks import graph_files

    check_ending(path)
    ending = Path(path).suffix
    if ending in ("", *STORES):  # "-" is standard output
        files.write(graph, path, force=force)
        return
    with files.atomic_path(path, force) as fresh:
        if ending in ENDINGS:
            from cellalign.plots.targets import heat_map

            heat_map(graph).savefig(fresh, format=ending[1:], dpi=150)
        else:
            graph_files.TEXT[ending](graph, fresh)


def check_ending(path: str) -> None:
    """UsageError where `write_targets` knows no format of that ending."""
    from cellalign.tasks.graph_files import TEXT

    known = [*STORES, *TEXT, *ENDINGS]
    if path != "-" and Path(path).suffix not in known:
        raise UsageError(f"{option('output', path)} ends in none of {', '.join(known)}")


@command_of(targets, example="cellalign targets -m svae-model --programs 10 -o targets.graphml")
def command(
    call: Call,
    output: Annotated[
        str,
        Option("Output .h5ad, .zarr, .csv, .json, .graphml, .png, .pdf or .svg.", ("--output", "-o"), metavar="FILE"),
    ],
    input: Annotated[
        Reading,
        Argument("Cells for --programs, --gene-sets, --interactions; default the training file.", metavar="INPUT"),
    ] = o.TRAINING_FILES,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Write which latent processes each perturbation targets, for methods that learn such a graph.

    --gene-sets and --interactions also print what they find, --format json or csv without them the edges; all of it is
    in an .h5ad (uns) or .json.
    """
    from cellalign.data import files
    from cellalign.model import load

    check_ending(output)
    asked = call.options
    if asked["gene_sets"] is not None:
        from cellalign.data.gene_sets import read_gmt

        files.check_output(output, force, [asked["gene_sets"]], standard_output=True)
        asked = asked | {"gene_sets": read_gmt(asked["gene_sets"])}
    check: Callable[..., None] = partial(files.check_output, standard_output=True)
    if Path(output).suffix in STORES:
        check = files.check_cells_output
    check(output, force, [input, model])
    fitted, cells = load(model), None
    if _of_cells(asked):
        source = source_of(input, fitted)
        check(output, force, [source])
        cells = cells_of(source, fitted, streaming=True)
    found = targets(fitted, cells, **asked)
    write_targets(found, output, force=force)
    sizes = (*found.shape, int(found.layers["edge"].sum()))
    call.log.info("%s: %s x %s, %s", output, *map(counted, sizes, ("perturbation", "latent", "edge")))
    if output != "-":
        _print_tables(call, found, format)
        if format != "table" and not {"enrichment", "interactions"} & set(found.uns):
            _print_edges(call, found, format)


def _print_tables(call: Call, found: AnnData, format: str) -> None:
    """What gene sets and interactions say: people see the significant ones, programs all."""
    if "enrichment" in found.uns:
        from cellalign.enrichment import SIGNIFICANT

        table = found.uns["enrichment"]
        shown = table[table["q"] <= SIGNIFICANT]
        if not len(shown):
            least = table.loc[table["q"].idxmin()]
            said = "no gene set is enriched at q %g: the smallest is %.2g (%s, %s)"
            call.log.info(said, SIGNIFICANT, least["q"], least["latent"], least["gene_set"])
        if len(shown) > SHOWN:
            call.log.info("%d gene sets are enriched; the %d of smallest q follow", len(shown), SHOWN)
        columns = [name for name in table if name != "genes"]
        _print(
            call,
            "gene sets",
            shown.nsmallest(SHOWN, "q", keep="first")[columns] if format == "table" else table,
            format,
        )
    if "interactions" in found.uns:
        _print(call, "interactions", found.uns["interactions"], format)


def _print_edges(call: Call, found: AnnData, format: str) -> None:
    """The graph itself, for whoever reads it by a program: a row for each edge."""
    from cellalign.tasks.graph_files import edges

    _print(call, "targets", edges(found), format)


def _print(call: Call, title: str, table: Any, format: str) -> None:
    """A table of values; whoever reads it by a program gets every digit."""
    if format == "table" and not len(table):
        return
    rows = [list(row) for row in table.itertuples(index=False)]
    if format == "table":
        rows = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    call.print_rows(title, list(table.columns), rows, format)
