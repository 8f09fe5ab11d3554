"""preprocess: counts, or normalised expression, to what every method reads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading, in_memory
from cellalign.errors import InputError, UsageError, option, spoken
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model


def _loaded(directory: str) -> Model:
    """The model of the option."""
    from cellalign.model import load

    return load(directory)


@in_their_words
def preprocess(
    adata: AnnData,
    *,
    n_top_genes: Annotated[int, Option("Highly variable genes to keep; 0 keeps all.", low=0)] = 2000,
    target_sum: Annotated[float | None, Option("Counts per cell after normalisation [median].")] = None,
    batch: Annotated[str | None, Option("Judge variability within this column.", metavar="KEY")] = None,
    min_genes: Annotated[int, Option("Drop cells with fewer genes.", low=0)] = 1,
    min_cells: Annotated[int, Option("Drop genes in fewer cells.", low=0)] = 1,
    layer: Annotated[str | None, Option("The counts are in this layer, or X.", metavar="NAME")] = None,
    raw: Annotated[bool, Option("The counts are in raw.")] = False,
    rounded: Annotated[bool, o.ROUND] = False,
    holdout: Annotated[Sequence[str], o.HOLDOUT_OF_GENES] = (),
    like: Annotated[
        Model | None,
        Option("Do what was done to this model's training file.", metavar="DIR", text=str | None, read=_loaded),
    ] = None,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    threads: Annotated[int | None, o.THREADS] = None,
) -> AnnData:
    """Normalise, log-transform and select highly variable genes (scanpy's "seurat" flavour).

    Parameters
    ----------
    adata : AnnData
        Raw counts in layers["counts"], X, raw or a layer of another such name; where there are none, expression that
        was normalised, of which genes are selected.
    n_top_genes : int
        Genes to keep; 0 keeps all.
    target_sum : float, optional
        Counts per cell after normalisation, over all genes of the input; default their median.
    batch : str, optional
        obs column within which variability is judged.
    min_genes, min_cells : int
        Cells with fewer genes are dropped, then genes in fewer of the cells that are left.
    layer : str, optional
        The counts are in this layer, or "X".
    raw : bool
        The counts are in raw.
    rounded : bool
        Estimated counts (SoupX, RSEM, alevin, ...) are rounded to integers.
    holdout : sequence of "key=value,key=value"
        Cells that meet all of an item's terms choose neither genes nor total, and are brought to those of the others:
        the cells that `train` will hold out, which must not tell what they are held out to test.
    like : Model, optional
        Do what was done to its training data instead: its genes in its order, its total, no cell dropped. The model
        does the same to raw counts by itself; this is for the same as a file.
    missing_genes : {"error", "zero"}
        What to do about genes that model needs and the cells lack.
    threads : int, optional
        CPU threads.

    Returns
    -------
    AnnData
        New: layers["counts"] (where there are counts) and X both CSR float32; obs "n_counts" and "n_genes", unless the
        input has columns of these names; the input is not changed.

    Raises
    ------
    UsageError
        A number is out of range.
    InputError
        No counts and no normalised expression, an unfit matrix, nothing left after filtering, or an item of `holdout`
        that names no cell.
    """
    if like is not None:
        settled = {"n_top_genes": n_top_genes, "target_sum": target_sum, "batch": batch, "holdout": tuple(holdout)}
        _refuse_beside_like(settled | {"min_genes": min_genes, "min_cells": min_cells})
        return like.preprocess(adata, missing_genes, layer=layer, raw=raw, rounded=rounded)
    from cellalign.data.preprocess import preprocess
    from cellalign.threads import limited

    with limited(threads):
        return preprocess(
            in_memory(adata),
            n_top_genes=n_top_genes,
            target_sum=target_sum,
            batch=batch,
            min_genes=min_genes,
            min_cells=min_cells,
            layer=layer,
            raw=raw,
            rounded=rounded,
            holdout=holdout,
        )


def _refuse_beside_like(given: dict[str, Any]) -> None:
    """Refuse what the model settles: UsageError."""
    declared = inspect.signature(preprocess).parameters
    for name, value in given.items():
        if value != declared[name].default:
            raise UsageError(f"{option(name, value)} cannot stand beside {option('like')}: the model settles it")


@command_of(preprocess, example="cellalign preprocess kang.h5ad -o kang.pp.h5ad")
def command(
    call: Call,
    input: Annotated[Reading, Argument("Files with raw counts; - is standard input.", metavar="INPUT")],
    output: Annotated[str, o.OUTPUT],
    force: Annotated[bool, o.FORCE] = False,
    dry_run: Annotated[bool, o.DRY_RUN] = False,
    cluster: Annotated[
        str | None,
        Option(
            "Workers of a dask cluster read and write the files, which all of them have to see: tcp://HOST:PORT, the "
            'scheduler\'s file, or "local" for processes of its own.',
            metavar="ADDRESS",
            panel=o.COMPUTING,
        ),
    ] = None,
) -> None:
    """Keep counts in layers["counts"], put normalised log1p expression in X, select highly variable genes."""
    from cellalign.data import files

    files.check_cells_output(output, force or dry_run, [input])
    if cluster is not None:
        input = _on_disk(input)
    with _workers(cluster, input, None if dry_run else output, call.options["threads"]):
        _preprocess_files(call, input, output, force, dry_run, on_disk=cluster is not None)


def _on_disk(input: Reading) -> Reading:
    """The files, left on disk, as workers read them: UsageError where that cannot be."""
    if input.from_stdin:
        raise UsageError(f"{option('cluster')} reads files, not standard input; name the file")
    if input.stream is False:
        asked = spoken(python="stream=False", command="--in-memory")
        raise UsageError(f"{asked} cannot stand beside {option('cluster')}, whose workers read from disk")
    return replace(input, stream=True)


def _workers(
    cluster: str | None, input: Reading, output: str | None, threads: int | None
) -> AbstractContextManager[None]:
    """The workers of a cluster, if one is named."""
    if cluster is None:
        return nullcontext()
    from pathlib import Path

    from cellalign.data.cluster import connected
    from cellalign.data.reading import all_paths

    writes = Path(output) if output is not None and output.endswith(".zarr") else None
    return connected(cluster, [path for path in all_paths([input]) if str(path) != input.obs], writes, threads)


def _preprocess_files(call: Call, input: Reading, output: str, force: bool, dry_run: bool, *, on_disk: bool) -> None:
    """Read, preprocess and write, or say what would be."""
    from cellalign.data import files
    from cellalign.data.streamed import StreamedCells
    from cellalign.tasks.paths import cells_of, to_write

    like = call.options["like"]
    own = call.options["layer"] is not None or call.options["raw"]
    if like is None or own:
        adata = files.read(files.spool(input) if input.stream else input, streaming=True)
    else:
        adata = cells_of(files.spool(input), like, streaming=True)
    if on_disk and not isinstance(adata, StreamedCells):
        raise InputError(f"{option('cluster')} reads files by rows, and {input.paths[0]} is a pipe; name a file")
    result = preprocess(adata, **call.options)
    if dry_run:
        was, is_ = (f"{cells.n_obs:,} cells x {cells.n_vars:,} genes" for cells in (adata, result))
        rows = [("reads", was), ("keeps", is_), ("layers", ", ".join(map(str, result.layers)) or "none")]
        rows.append(("writes", to_write([output], force=force)))
        title = "preprocess would do this (nothing was written)"
        call.print_rows(title, ["what", "how"], rows, "table", headings=["", ""], prose=True)
        return
    files.write(result, output, force=force)
    call.log.info("%s: %d cells x %d genes", output, result.n_obs, result.n_vars)
