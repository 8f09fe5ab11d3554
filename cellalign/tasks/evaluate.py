"""evaluate: how well conditions mix, cell types stay, and predictions hold; and the pictures of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.evaluate_outputs import Outputs, check_kind
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.evaluation import Evaluation
    from cellalign.model import Model


@in_their_words
def evaluate(
    adata: AnnData,
    *,
    condition: Annotated[str | None, o.CONDITION] = None,
    batch: Annotated[str | None, Option("Batches of panel bio [the condition]; it runs then.", metavar="KEY")] = None,
    label: Annotated[str | None, o.LABEL] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    against: AnnData | None = None,
    embedding: Annotated[
        str | Sequence[str] | None,
        Option("obsm key; found by itself (repeatable: panel bio compares).", metavar="KEY", text=list[str] | None),
    ] = None,
    panels: Annotated[
        Sequence[Any] | None,
        Option(
            "Only these panels [all that can run, but bio].",
            ("--panel",),
            metavar="NAME,NAME",
            text=list[str] | None,
            read=o.words,
        ),
    ] = None,
    extra_panels: Sequence[str] = (),
    expression: Annotated[
        o.Expression | None, Option("any: another tool's prediction is of any real values.", metavar="any")
    ] = None,
    k: Annotated[int, Option("Neighbours of the mixing panel.", low=2)] = 100,
    alpha: Annotated[float, Option("Level of the kBET test.", low=0, high=1)] = 0.1,
    min_cells: Annotated[int | None, Option("Smallest cell type for m-kBET and m-s [4 k].", low=2)] = None,
    global_silhouette: Annotated[
        bool, Option("s of cell types among neighbours over all cells (CoMP eq. 58 to 60), not within types.")
    ] = False,
    more_genes: Annotated[bool, Option("Score responses over 10 and 100 DE genes too.")] = False,
    replicate: Annotated[
        str | None, Option("obs column of donors or replicates, by which --de compares.", metavar="KEY")
    ] = None,
    within: Annotated[
        str | None, Option("Compare with controls of the same donor, plate, ... (an obs column).", metavar="KEY")
    ] = None,
    each_condition: Annotated[bool, Option("List every condition of a screen.")] = False,
    model: Model | None = None,
    particles: Annotated[int, Option("Posterior draws of the likelihood.", low=1)] = 100,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
    **options: Any,
) -> Evaluation:
    """Score embedded cells, or a counterfactual against real cells.

    Parameters
    ----------
    adata : AnnData
        Cells with an embedding in obsm, or what `counterfactual` returned.
    condition, label, control : str
        obs columns, and the reference value of the condition.
    batch : str, optional
        obs column of the batches that panel bio scores; default the condition. With it no condition is needed,
        and panels that need one are left out.
    against : AnnData, optional
        Real cells on the same scale as a counterfactual's X. With them, cells without a record of cellalign are taken
        as another tool's prediction of the conditions they hold.
    embedding : str or sequence of str, optional
        obsm key; default the one cellalign wrote. Several are compared by panel bio, and by no other.
    panels : sequence of str or Panel, optional
        By name, or with options of its own: `evaluation.panels.mixing.Mixing(k=50)`. Default: all that can run; but
        bio, which compiles for half a minute, only where `batch`, several embeddings or `extra_panels` ask for it.
    extra_panels : sequence of str
        Panels to run, where they can, beside the default ones.
    expression : "any", optional
        What another tool predicted is neither counts nor log expression but any real values, compared as they are; of
        cellalign's own predictions that is recorded.
    k, alpha : int, float
        Neighbours and test level of the mixing panel; of validation cells, which are scored where they are known,
        at most 30 neighbours.
    min_cells : int, optional
        Smallest cell type for m-kBET and m-s; default 4 k.
    global_silhouette : bool
        Take s of a cell type from the neighbours over all cells that are of that type (CoMP eq. 58 to 60).
    more_genes : bool
        Score a response over the 10 and the 100 most different genes too, beside the 50.
    replicate : str, optional
        obs column of donors or replicates: panel de compares these by pseudobulk, not cells. It runs then, or with
        `differential=True`; `Evaluation.de` is its table.
    within : str, optional
        obs column of the real cells, such as the donor, plate or batch: a change starts from control cells of those of
        its values that the real cells of the condition have; in panel screen in their proportions, and cells are tested
        for DE within each of them (predicted ones where their obs has the column, or they are of known real cells).
    each_condition : bool
        Score every condition of panel screen by itself too.
    model : Model, optional
        For the panels identifiability (its graph) and likelihood; it also embeds cells without an embedding.
    particles : int
        Posterior draws per cell of the importance-weighted likelihood (the sVAE+ paper takes 5,000).
    options
        Others of the panels' classes.

    Returns
    -------
    Evaluation
        Its `scatter` and `violin` draw what the response panel scored, `image_rows` what images did, `scib_table` what
        bio did.

    Raises
    ------
    UsageError
        Unknown panel, or neither condition nor batch.
    InputError
        A panel asked for by name cannot run, or the inputs do not fit.
    """
    from cellalign import evaluation
    from cellalign.engine.device import computing

    with computing(device, threads):
        return evaluation.evaluate(
            adata,
            condition=condition,
            batch=batch,
            label=label,
            control=control,
            against=against,
            embedding=embedding,
            panels=panels,
            extra_panels=extra_panels,
            expression=expression,
            model=model,
            device=device,
            seed=seed,
            k=k,
            alpha=alpha,
            min_cells=min_cells,
            global_silhouette=global_silhouette,
            more_genes=more_genes,
            replicate=replicate,
            within=within,
            each_condition=each_condition,
            particles=particles,
            **options,
        )


def _picture(help: str) -> Option:
    return Option(help, metavar="FILE")


@command_of(
    evaluate,
    example="cellalign evaluate kang.stimulated.h5ad --against kang.pp.h5ad --condition stim --label cell_type",
)
def command(
    call: Call,
    input: Annotated[Reading, Argument("Embedded cells, or a counterfactual; - is stdin.", metavar="INPUT")],
    against: Annotated[str | None, Option("Real cells to compare a counterfactual with.", metavar="FILE")] = None,
    model: Annotated[
        str | None, Option("For the panels identifiability and likelihood.", ("--model", "-m"), metavar="DIR")
    ] = None,
    where: Annotated[Sequence[str] | None, o.WHERE] = None,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    output: Annotated[str | None, Option("Write it here (.csv or .json).", ("--output", "-o"), metavar="FILE")] = None,
    scatter: Annotated[
        str | None, _picture("Draw every gene's predicted against its real mean (.png, .pdf, .svg), per --label.")
    ] = None,
    violin: Annotated[
        str | None,
        _picture("Draw the 10 most different genes: control, predicted, real cells (.png, .pdf, .svg), per --label."),
    ] = None,
    images: Annotated[
        str | None, _picture("Draw images before, predicted and real (.png, .pdf, .svg), per --label.")
    ] = None,
    scib_table: Annotated[
        str | None, _picture("Draw the scores of panel bio (.png, .pdf, .svg); it runs then.")
    ] = None,
    de: Annotated[
        str | None, Option("Test every gene of drawn cells against control, predicted and real (.csv).", metavar="FILE")
    ] = None,
    export_vcc: Annotated[
        str | None,
        Option("Write the prediction, and the real cells as FILE's .real, for cell-eval2 (.h5ad).", metavar="FILE"),
    ] = None,
    report: Annotated[str | None, o.REPORT] = None,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Score an embedding, or a counterfactual against real cells, beside baselines and what is attainable."""
    from cellalign.data import files
    from cellalign.evaluation.run import check_installed
    from cellalign.model import load
    from cellalign.tasks.report_of import How, of_evaluation

    asked = call.options
    pictures = {"scatter": scatter, "violin": violin, "images": images, "scib_table": scib_table}
    outputs = Outputs(output, de, {k: v for k, v in pictures.items() if v is not None}, export_vcc, report, force)
    extra_panels = ["bio"] if scib_table is not None else []
    outputs.check_asked(asked, against)
    check_installed([*(asked["panels"] or ()), *extra_panels])
    if against is not None and any(Path(against).absolute() == path.absolute() for path in files.all_paths([input])):
        raise UsageError(f"{option('against', against)} is the input itself; a prediction is compared with real cells")
    outputs.check([input, *(path for path in (against, model) if path is not None)])
    fitted = load(model) if model is not None else None
    cells, real = _cells_of(input, against, outputs, where, asked["expression"])
    more: dict[str, Any] = {"extra_panels": extra_panels, "differential": de is not None}
    result = evaluate(cells, against=real, model=fitted, **more, **asked)
    call.print_evaluation(result, format)
    outputs.write(result)
    if report is not None:
        how = How(asked["condition"], asked["control"], asked["label"], seed=asked["seed"], device=asked["device"])
        of_evaluation(report, result, cells, (input, against, model), how, fitted, force)
    if real is not None:
        outputs.export(cells, real, asked)


def _cells_of(
    input: Reading, against: str | None, outputs: Outputs, where: Sequence[str] | None, expression: str | None
) -> tuple[AnnData, AnnData | None]:
    """The cells to score, and the real ones, with their matrices on disk where that will do."""
    from cellalign.data import files
    from cellalign.data.columns import select
    from cellalign.data.streamed import StreamedCells
    from cellalign.evaluation.predictions import expression_of
    from cellalign.records import Provenance
    from cellalign.tasks.paths import cells_for

    by_rows = outputs.report is None and not outputs.exported  # which take all of the cells
    # a prediction has its metadata: a table of them belongs to the real cells
    if against is not None:
        cells = files.read(replace(input, obs=None, obs_key=None), streaming=by_rows)
    else:  # of an embedding the matrices are hardly looked at
        cells = files.read(files.spool(input) if input.stream else input, streaming=True)
    provenance = Provenance.of(cells.uns)
    on_disk = isinstance(cells, StreamedCells) and (against is not None or provenance.counterfactual is None)
    cells = cells.to_memory() if isinstance(cells, StreamedCells) and not on_disk else cells
    check_kind(outputs.pictures, provenance, ", ".join(input.paths), against)
    if where:
        cells = cells[select(cells.obs, where)]
        cells = cells if on_disk else cells.copy()
    if against is None:
        return cells, None
    reading = replace(input.like(against), obs=input.obs, obs_key=input.obs_key)
    made = provenance.counterfactual
    layer = made.matrix if made is not None and made.expression == "any" and made.matrix != "X" else None
    scale = expression_of(cells, expression)
    return cells, cells_for(files.spool(reading), scale, layer=layer, streaming=by_rows)
