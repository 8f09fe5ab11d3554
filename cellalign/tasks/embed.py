"""embed: the latent representation of cells, their UMAP, and its picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.paths import beside, cells_of, source_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellalign.model import Model
    from cellalign.records.provenance import Step

log = logging.getLogger("cellalign")


def embed(
    adata: AnnData,
    model: Model,
    *,
    umap: Annotated[bool, Option('Add obsm["X_umap"] of the latents.')] = False,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    unseen: Annotated[
        bool, Option("Batches and covariates never trained on, or absent, count as unknown.", ("--allow-unseen",))
    ] = False,
    batch_size: int = 4096,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """Add the latents to `adata.obsm[model.embedding_key]` and return it.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        Cells on the scale the model was trained on; genes are matched by name. Changed in place.
    model : Model
    umap : bool
        Also add obsm["X_umap"], float32 [n_cells, 2].
    missing_genes : {"error", "zero"}
        What to do about genes the model needs and the cells lack.
    unseen : bool
        Conditions, batches and covariates never trained on, and absent columns, are unknown to the encoder.
    batch_size : int
        Cells embedded at once.
    seed : int
        Of the UMAP.

    Returns
    -------
    AnnData
        With obsm["X_<method>"], float32 [n_cells, n_latent], what else the method embeds, its provenance in
        uns["cellalign"], where conditions may be missing those inferred in obs, and of the training cells
        obs["<method>_split"]: trained, validation or held out, so that `evaluate` scores mixing on validation cells.

    Raises
    ------
    InputError
        Genes are missing, a condition or batch was never trained on, or the matrix is not fit.
    """
    from cellalign.records import Provenance
    from cellalign.records.provenance import KEY

    machine: dict[str, Any] = {"device": device, "threads": threads}
    found = model.embeddings(adata, missing_genes=missing_genes, unseen=unseen, batch_size=batch_size, **machine)
    adata.obsm.update(found)
    split, column = model.split(adata), f"{model.embedding_key.removeprefix('X_')}_split"
    if split is not None:
        adata.obs[column] = split
    steps: list[Step] = [model.embedding_record(None if split is None else column)]
    if umap:
        adata.obsm["X_umap"] = _umap(found[model.embedding_key], seed, threads)
        steps.append(model.umap_record())
    adata.uns[KEY] = Provenance.to_extend(adata.uns).with_steps(*steps).plain()
    for name, values in model.inferred_condition(adata, missing_genes=missing_genes, unseen=unseen, **machine).items():
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
        obs columns to colour by; default the model's condition and label (or cell_type) where they are there.

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
    from cellalign.threads import limited

    if model.embedding_key not in adata.obsm:
        raise InputError(f"the cells have no embedding {model.embedding_key!r}; run: cellalign.embed(adata, model)")
    provenance = Provenance.of(adata.uns)
    if model.made(provenance.embedding.get(model.embedding_key)) is False:
        how = "embed the cells again: cellalign.embed(adata, model)"
        raise InputError(f"the cells' embedding {model.embedding_key!r} is of another model than the one given; {how}")
    drawn = adata.obsm.get("X_umap")
    written = provenance.umap
    if written is not None and (written.key != model.embedding_key or model.made(written) is False):
        log.info("obsm 'X_umap' is of another model's embedding (%s): another one is computed", written.key)
        drawn = _umap(adata.obsm[model.embedding_key], seed)
    elif drawn is None:
        drawn = adata.obsm["X_umap"] = _umap(adata.obsm[model.embedding_key], seed)
    usual = (model.condition, model.label or "cell_type")
    keys = color or [key for key in usual if key and key in adata.obs]
    number = model.condition if model.continuous else None
    colours: dict[str, Any] = {k: column(adata.obs, k, purpose="colour", missing=True) for k in keys if k != number}
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
    split = Provenance.of(adata.uns).embedding[model.embedding_key].split
    if split is not None:
        obs[split] = adata.obs[split].array
    obsm = {key: adata.obsm[key] for key in found}
    write_with(source, output, obsm=obsm, uns={KEY: adata.uns[KEY]}, obs=obs, force=force)
    log.info("%s: obsm %s of %d cells", output, ", ".join(found), adata.n_obs)


@command_of(embed, example="cellalign embed -o kang.emb.h5ad --umap --plot umap.png")
def command(
    call: Call,
    input: Annotated[Reading, o.CELLS] = o.TRAINING_FILES,
    output: Annotated[str | None, o.OUTPUT] = None,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    plot: Annotated[str | None, Option("Draw the UMAP (.png, .pdf, .svg), before and after.", metavar="FILE")] = None,
    color: Annotated[Sequence[str], Option("obs column to colour by (repeatable).", metavar="KEY")] = (),
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Write obsm["X_<method>"], the posterior means, into a copy of the input."""
    from cellalign.data import files
    from cellalign.model import load

    fitted = load(model)
    source = source_of(input, fitted)
    output = output or beside(source, "emb")
    files.check_cells_output(output, force, [source, model])
    if plot is not None:
        _check_picture(plot)
        files.check_output(plot, force, [source, model])
        files.check_apart(output, plot)
    adata = embed(
        cells_of(source, fitted),
        fitted,
        **call.options | {"umap": call.options["umap"] or plot is not None},
    )
    if plot is not None:
        figure = plot_umap(adata, fitted, color=color or None, seed=call.options["seed"])
        with files.atomic_path(plot, force) as fresh:
            figure.savefig(fresh, dpi=150)
    write_embedding(adata, fitted, source, output, force=force)


def _check_picture(path: str) -> None:
    """Refuse an ending that no picture has: UsageError."""
    from matplotlib.backend_bases import FigureCanvasBase

    if Path(path).suffix.lower()[1:] not in FigureCanvasBase.filetypes:
        raise UsageError(f"{option('plot', path)} ends in none of .png, .pdf, .svg")


def _umap(z: Any, seed: int, threads: int | None = None) -> Any:
    """UMAP of latents."""
    from cellalign.plots.umap import umap
    from cellalign.threads import limited

    with limited(threads):
        return umap(z, seed)
