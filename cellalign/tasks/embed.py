"""embed: the latent representation of cells, their UMAP, and its picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, counted, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.paths import beside, cells_of, read_several_times, source_of
from cellalign.tasks.pictures import check_ending, save
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellalign.model import Model
    from cellalign.records.provenance import Step

log = logging.getLogger("cellalign")


@in_their_words
def embed(
    adata: AnnData,
    model: Model,
    *,
    umap: Annotated[bool, Option('Add obsm["X_umap"] of the latents.')] = False,
    draw: Annotated[
        bool, Option("Write a draw of each cell's posterior, as X_<method>_draw, in place of its mean.")
    ] = False,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    unseen: Annotated[
        bool, Option("Batches and covariates never trained on, or absent, count as unknown.", ("--allow-unseen",))
    ] = False,
    batch_size: int = 4096,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """Add the latents to `adata.obsm[model.embedding_key]`, or a draw of them to `model.draw_key`, and return it.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        Cells on the scale the model was trained on; genes are matched by name. Changed in place.
    model : Model
    umap : bool
        Also add obsm["X_umap"], float32 [n_cells, 2].
    draw : bool
        Write one draw of every cell's posterior, and not its mean. What CoMP and VFAE promise, that the latents tell
        nothing of the condition, is promised of draws; their means may still tell it to a forest.
    missing_genes : {"error", "zero"}
        What to do about genes the model needs and the cells lack.
    unseen : bool
        Conditions, batches and covariates never trained on, and absent columns, are unknown to the encoder.
    batch_size : int
        Cells embedded at once.
    seed : int
        Of the draw and of the UMAP.

    Returns
    -------
    AnnData
        These cells, or of a view of a file a copy in memory, with obsm["X_<method>"] (of draws "X_<method>_draw"),
        float32 [n_cells, n_latent], what else the method embeds, its provenance in uns["cellalign"], where conditions
        may be missing those inferred in obs, and of the training cells obs["<method>_split"]: trained, validation or
        held out, so that `evaluate` scores mixing on validation cells.

    Raises
    ------
    InputError
        Genes are missing, a condition or batch was never trained on, or the matrix is not fit.
    ModelError
        A draw of a method whose posterior has no spread.
    """
    from cellalign.engine.ranks import current
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    machine: dict[str, Any] = {"device": device, "threads": threads}
    read: dict[str, Any] = {"missing_genes": missing_genes, "unseen": unseen}
    if adata.isbacked and adata.is_view:  # nothing can be put into one
        adata = adata.to_memory()
    found = model.embeddings(adata, **read, draw=draw, seed=seed, batch_size=batch_size, **machine)
    adata.obsm.update(found)
    split, column = model.split(adata), f"{model.embedding_key.removeprefix('X_')}_split"
    if split is not None:
        adata.obs[column] = split
    record = model.embedding_record(None if split is None else column, seed if draw else None)
    steps: list[Step] = [record]
    if umap and current().first:
        adata.obsm["X_umap"] = _umap(found[record.key], seed, threads)
        steps.append(model.umap_record(record.seed))
    adata.uns[KEY] = Provenance.to_extend(adata.uns).with_steps(*steps).plain()
    for name, values in model.inferred_condition(adata, **read, **machine).items():
        adata.obs[name] = values
    return adata


def plot_umap(adata: AnnData, model: Model, *, color: Sequence[str] | None = None, seed: int = 0) -> Figure:
    """Draw the UMAP of embedded cells beside that of their expression, once per obs column.

    Parameters
    ----------
    adata : AnnData
        As `embed` leaves it; its obsm["X_umap"] is drawn, or computed where it is not there. One that `embed` made
        of another model's latents is not drawn: that of these is computed.
    model : Model
    color : sequence of str, optional
        obs columns, or genes, to colour by; default the model's condition and label (or cell_type) where they are
        there.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        No such column, or the cells are not embedded by this model.
    """
    from cellalign.data.columns import column, numbers
    from cellalign.errors import InputError
    from cellalign.plots.umap import before_after, unintegrated_umap
    from cellalign.records import Provenance
    from cellalign.tasks.colours import expression
    from cellalign.threads import limited

    provenance = Provenance.of(adata.uns)
    there = [step for key, step in provenance.embedding.items() if key in (model.embedding_key, model.draw_key)]
    key = max(there, key=lambda step: step.step).key if there else model.embedding_key
    if key not in adata.obsm:
        raise InputError(f"the cells have no embedding {key!r}; run: cellalign.embed(adata, model)")
    if model.made(provenance.embedding.get(key)) is False:
        how = "embed the cells again: cellalign.embed(adata, model)"
        raise InputError(f"the cells' embedding {key!r} is of another model than the one given; {how}")
    drawn = adata.obsm.get("X_umap")
    written = provenance.umap
    if written is not None and (written.key != key or model.made(written) is False):
        log.info("obsm 'X_umap' is of another model's embedding (%s): another one is computed", written.key)
        drawn = _umap(adata.obsm[key], seed)
    elif drawn is None:
        drawn = adata.obsm["X_umap"] = _umap(adata.obsm[key], seed)
    usual = (model.condition, model.label or "cell_type")
    keys = color or [key for key in usual if key and key in adata.obs]
    number = model.condition if model.continuous else None
    genes = {str(name) for name in adata.var_names} - set(map(str, adata.obs.columns))
    colours: dict[str, Any] = {
        k: expression(adata, k) if k in genes else column(adata.obs, k, purpose="colour", missing=True)
        for k in keys
        if k != number
    }
    if number in keys:
        colours = {k: colours[k] if k in colours else numbers(adata.obs, k, missing=True) for k in keys}
    x = model.expression_of(adata, "zero")
    with limited():
        before = unintegrated_umap(x, seed)
    return before_after(before, drawn, colours, after=model.name)


def write_embedding(
    adata: AnnData, model: Model, source: str | Path | Reading, output: str, *, force: bool = False
) -> None:
    """Write what `embed` added to the cells of a file into a copy of that file."""
    from cellalign.data.files import write_with
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    found = [key for key in adata.obsm if key not in model.obsm]  # what the model reads is in the file already
    inferred = (f"{model.condition}_inferred", f"{model.condition}_probability")
    obs = {name: adata.obs[name].array for name in inferred if model.condition_may_be_missing}
    written = Provenance.of(adata.uns).latest_embedding
    split = None if written is None else written.split
    if split is not None:
        obs[split] = adata.obs[split].array
    obsm = {key: adata.obsm[key] for key in found}
    write_with(source, output, obsm=obsm, uns={KEY: adata.uns[KEY]}, obs=obs, force=force)
    log.info("%s: obsm %s of %s", output, ", ".join(found), counted(adata.n_obs, "cell"))


@command_of(embed, example="cellalign embed -o kang.emb.h5ad --umap --plot umap.png")
def command(
    call: Call,
    input: Annotated[Reading, o.CELLS] = o.TRAINING_FILES,
    output: Annotated[str | None, o.OUTPUT] = None,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    plot: Annotated[str | None, Option("Draw the UMAP (.png, .pdf, .svg), before and after.", metavar="FILE")] = None,
    color: Annotated[Sequence[str], Option("obs column or gene to colour by (repeatable).", metavar="KEY")] = (),
    devices: Annotated[int | None, o.DEVICES] = None,
    nodes: Annotated[int | None, o.NODES] = None,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Write obsm["X_<method>"], the posterior means, or with --draw a draw of each, into a copy of the input."""
    from cellalign.data import files
    from cellalign.engine.ranks import current
    from cellalign.model import load

    if color and plot is None:
        raise UsageError(f"{option('color', list(color))} needs {option('plot', hint='FILE')}, the picture to colour")
    fitted = load(model)
    source = source_of(input, fitted)
    output = output or beside(source, "emb")
    if current().first:
        files.check_cells_output(output, force, [source, model])
    if plot is not None and current().first:
        check_ending("plot", plot)
        files.check_output(plot, force, [source, model])
        files.check_apart(output, plot)
    cells = cells_of(source, fitted, streaming=True, often=read_several_times)
    _check_asked(cells, fitted, color)
    adata = embed(
        cells,
        fitted,
        **call.options | {"umap": call.options["umap"] or plot is not None},
    )
    if not current().first:  # which writes what all have computed
        return
    if plot is not None:
        figure = plot_umap(adata, fitted, color=color or None, seed=call.options["seed"])
        save(figure, plot, force, dpi=150)
    write_embedding(adata, fitted, source, output, force=force)


def _check_asked(adata: AnnData, model: Model, color: Sequence[str]) -> None:
    """Refuse colours that are not there, before the latents are computed, but for columns that `embed` adds."""
    from cellalign.tasks.colours import check_colours

    name = model.embedding_key.removeprefix("X_")
    added = (f"{name}_split", f"{model.condition}_inferred", f"{model.condition}_probability")
    check_colours(adata, [each for each in color if each not in added])


def _umap(z: Any, seed: int, threads: int | None = None) -> Any:
    """UMAP of latents."""
    from cellalign.plots.umap import umap
    from cellalign.threads import limited

    with limited(threads):
        return umap(z, seed)
