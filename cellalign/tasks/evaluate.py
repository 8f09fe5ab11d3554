"""evaluate: how well conditions mix, cell types stay, and predictions hold; and the pictures of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellalign.evaluation import Evaluation
    from cellalign.model import Model
    from cellalign.records import Provenance

ENDINGS = (".png", ".pdf", ".svg")


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
            text=str | None,
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
        its values that the real cells of the condition have; in panel screen in their proportions.
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


@dataclass(frozen=True)
class Picture:
    """A picture of a panel's scores, and the parameter that asks for it.

    Attributes
    ----------
    panel : str
        The panel that is drawn.
    needs, what, hint : str
        The parameter without which that panel has nothing to draw, what it is, and how the help calls its value.
    draw : callable
        From the evaluation to the figure.
    """

    panel: str
    needs: str
    what: str
    hint: str
    draw: Callable[[Evaluation], Figure]


REAL = ("response", "against", "the real cells to draw the prediction with", "FILE")
TYPES = ("bio", "label", "the cell types that scores of panel bio are about", "KEY")
PICTURES = {
    "scatter": Picture(*REAL, draw=lambda result: result.scatter()),
    "violin": Picture(*REAL, draw=lambda result: result.violin()),
    "images": Picture("images", *REAL[1:], draw=lambda result: result.image_rows()),
    "scib_table": Picture(*TYPES, draw=lambda result: result.scib_table()),
}


def check_pictures(
    pictures: Mapping[str, str], *, against: bool, label: bool, panels: Sequence[str] | None = None
) -> None:
    """Refuse pictures that cannot be drawn, before any work.

    Parameters
    ----------
    pictures : mapping of a name of `PICTURES` to path
    against, label : bool
        Whether `evaluate` is given these.
    panels : sequence of str, optional
        The panels asked for.

    Raises
    ------
    UsageError
        Another ending, a panel that does not run or lacks something, or two pictures in one file.
    """
    given = {"against": against, "label": label}
    for name, path in pictures.items():
        picture = PICTURES[name]
        if Path(path).suffix.lower() not in ENDINGS:
            raise UsageError(f"{option(name, path)} ends in none of {', '.join(ENDINGS)}")
        if not given[picture.needs]:
            raise UsageError(f"{option(name)} needs {option(picture.needs, hint=picture.hint)}, {picture.what}")
        if panels is not None and picture.panel not in panels:
            left = option("panels")
            raise UsageError(f"{option(name)} draws panel {picture.panel}, which {left} leaves out; add it there")
        same = [other for other in pictures if Path(pictures[other]).absolute() == Path(path).absolute()]
        if len(same) > 1:
            raise UsageError(f"{option(same[0])} and {option(same[1])} name the same file; choose two")


def _check_kind(pictures: Mapping[str, str], provenance: Provenance, source: str, against: str | None) -> None:
    """Refuse pictures of a prediction where the cells are not one, and of an embedding they do not have: UsageError."""
    predicted = provenance.counterfactual is not None
    foreign = not predicted and not provenance.embedding and against is not None
    for name in pictures:
        of_prediction = PICTURES[name].needs == "against"
        if not of_prediction and predicted and not provenance.embedding:
            raise UsageError(f"{option(name)} draws scores of an embedding; {source} is from cellalign counterfactual")
        if of_prediction and not (predicted or foreign):
            raise UsageError(f"{option(name)} draws a prediction; {source} is not from cellalign counterfactual")


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
    from cellalign.data.columns import select
    from cellalign.data.streamed import StreamedCells
    from cellalign.evaluation.export import beside, for_cell_eval
    from cellalign.evaluation.predictions import expression_of
    from cellalign.evaluation.run import check_installed
    from cellalign.model import load
    from cellalign.records import Provenance
    from cellalign.tasks.paths import cells_for
    from cellalign.tasks.report_of import How, check_page, of_evaluation

    asked = call.options
    named = {"scatter": scatter, "violin": violin, "images": images, "scib_table": scib_table}
    pictures = {name: path for name, path in named.items() if path is not None}
    check_pictures(pictures, against=against is not None, label=asked["label"] is not None, panels=asked["panels"])
    extra_panels = ["bio"] if scib_table is not None else []
    check_installed([*(asked["panels"] or ()), *extra_panels])
    if against is not None and any(Path(against).absolute() == path.absolute() for path in files.all_paths([input])):
        raise UsageError(f"{option('against', against)} is the input itself; a prediction is compared with real cells")
    read: list[str | Reading] = [input, *(path for path in (against, model) if path is not None)]
    if asked["replicate"] is not None and de is None:
        raise UsageError(f"{option('replicate', asked['replicate'])} is of {option('de', hint='FILE')}; add it")
    if de is not None and against is None:
        raise UsageError(f"{option('de', de)} needs {option('against', hint='FILE')}, the real cells and their control")
    if de is not None and asked["panels"] is not None and "de" not in asked["panels"]:
        raise UsageError(f"{option('de', de)} is of panel de, which {option('panels')} leaves out; add it there")
    for table in (output, de):
        if table is not None:
            files.check_table(table, force, read)
    for path in pictures.values():
        files.check_output(path, force, read)
    exported = [] if export_vcc is None else [export_vcc, beside(export_vcc)]
    if exported and against is None:
        raise UsageError(f"{option('export_vcc')} needs {option('against', hint='FILE')}, the real cells")
    for path in exported:
        if Path(path).suffix not in (".h5ad", ".zarr"):
            raise UsageError(f"{option('export_vcc', export_vcc)} ends in neither .h5ad nor .zarr")
        files.check_cells_output(path, force, read)
    if report is not None:
        check_page(report, force, read)
    files.check_apart(output, de, report, *pictures.values(), *exported)
    fitted = load(model) if model is not None else None
    by_rows = report is None and not exported  # which take all of the cells
    # a prediction has its metadata: a table of them belongs to the real cells
    if against is not None:
        cells = files.read(replace(input, obs=None, obs_key=None), streaming=by_rows)
    else:  # of an embedding the matrices are hardly looked at
        cells = files.read(files.spool(input) if input.stream else input, streaming=True)
    provenance = Provenance.of(cells.uns)
    on_disk = isinstance(cells, StreamedCells) and (against is not None or provenance.counterfactual is None)
    cells = cells.to_memory() if isinstance(cells, StreamedCells) and not on_disk else cells
    _check_kind(pictures, provenance, ", ".join(input.paths), against)
    if where:
        cells = cells[select(cells.obs, where)]
        cells = cells if on_disk else cells.copy()
    real = None
    if against is not None:
        reading = replace(input.like(against), obs=input.obs, obs_key=input.obs_key)
        made = provenance.counterfactual
        layer = made.matrix if made is not None and made.expression == "any" and made.matrix != "X" else None
        scale = expression_of(cells, asked["expression"])
        real = cells_for(files.spool(reading), scale, layer=layer, streaming=by_rows)
    more: dict[str, Any] = {"extra_panels": extra_panels, "differential": de is not None}
    result = evaluate(cells, against=real, model=fitted, **more, **asked)
    call.print_evaluation(result, format)
    if output is not None:
        text = result.to_json() if output.endswith(".json") else result.to_csv()
        with files.atomic_path(output, force) as fresh:
            fresh.write_text(text, encoding="utf-8")
    if de is not None:
        with files.atomic_path(de, force) as fresh:
            result.de().to_csv(fresh, index=False)
    for name, path in pictures.items():
        figure = PICTURES[name].draw(result)
        with files.atomic_path(path, force) as fresh:
            figure.savefig(fresh)
    if report is not None:
        how = How(asked["condition"], asked["control"], asked["label"], seed=asked["seed"], device=asked["device"])
        of_evaluation(report, result, cells, (input, against, model), how, fitted, force)
    if exported:
        assert real is not None
        both = for_cell_eval(cells, real, condition=asked["condition"], control=asked["control"])
        for path, some in zip(exported, both, strict=True):
            files.write(some, path, force=force)
            call.log.info("%s: %d cells for cell-eval2", path, some.n_obs)
