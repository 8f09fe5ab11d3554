"""preprocess: raw counts to what every method reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cellalign.data.reading import Reading, in_memory
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of

if TYPE_CHECKING:
    from anndata import AnnData


def preprocess(
    adata: AnnData,
    *,
    n_top_genes: Annotated[int, Option("Highly variable genes to keep; 0 keeps all.", low=0)] = 2000,
    target_sum: Annotated[float | None, Option("Counts per cell after normalisation [median].")] = None,
    batch: Annotated[str | None, Option("Judge variability within this column.", metavar="KEY")] = None,
    min_genes: Annotated[int, Option("Drop cells with fewer genes.", low=0)] = 1,
    min_cells: Annotated[int, Option("Drop genes in fewer cells.", low=0)] = 1,
) -> AnnData:
    """Normalise, log-transform and select highly variable genes (scanpy's "seurat" flavour).

    Parameters
    ----------
    adata : AnnData
        Raw counts in layers["counts"], X or raw.
    n_top_genes : int
        Genes to keep; 0 keeps all.
    target_sum : float, optional
        Counts per cell after normalisation; default their median.
    batch : str, optional
        obs column within which variability is judged.
    min_genes, min_cells : int
        Cells with fewer genes, and genes in fewer cells, are dropped.

    Returns
    -------
    AnnData
        New: layers["counts"] and X both CSR float32; obs "n_counts" and "n_genes"; the input is not changed.

    Raises
    ------
    UsageError
        A number is out of range.
    InputError
        No counts, an unfit matrix, or nothing left after filtering.
    """
    from cellalign.data.preprocess import preprocess
    from cellalign.engine.threads import threads_kept

    with threads_kept():
        return preprocess(
            in_memory(adata),
            n_top_genes=n_top_genes,
            target_sum=target_sum,
            batch=batch,
            min_genes=min_genes,
            min_cells=min_cells,
        )


@command_of(preprocess, example="cellalign preprocess kang.h5ad -o kang.pp.h5ad")
def command(
    call: Call,
    input: Annotated[Reading, Argument("Files with raw counts; - is standard input.", metavar="INPUT")],
    output: Annotated[str, o.OUTPUT],
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Keep counts in layers["counts"], put normalised log1p expression in X, select highly variable genes."""
    from cellalign.data import files

    files.check_cells_output(output, force, [input])
    result = preprocess(files.read(input), **call.options)
    files.write(result, output, force=force)
    call.log.info("%s: %d cells x %d genes", output, result.n_obs, result.n_vars)
