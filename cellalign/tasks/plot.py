"""plot: pictures of what other commands wrote, in PNG, PDF or SVG; in Python `cellalign.pl`, which gives figures.

Named and asked for as scanpy's: `cellalign.pl.umap(adata, color=["cell_type", "ISG15"])` is
`cellalign plot umap cells.h5ad --color cell_type --color ISG15 -o umap.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, ModelError, UsageError, option, spoken
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.pictures import check_ending, save

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellalign.model import Model

PICTURE = Option("The picture (.png, .pdf, .svg).", ("--output", "-o"), metavar="FILE")
PREDICTED = Argument("Predicted cells, as counterfactual writes them.", metavar="INPUT")
AGAINST = Option("Real cells to compare with.", metavar="FILE")
GRAPH = Argument("Graph of targets (.h5ad, .json, .csv), or the model that learned it.", metavar="INPUT")
MODEL = replace(o.MODEL, help="The model, as other commands take it [cellalign-model].", panel=None)


def umap(
    adata: AnnData,
    *,
    color: Annotated[
        Sequence[str], Option("obs column or gene to colour by (repeatable).", metavar="NAME", text=list[str] | None)
    ] = (),
    basis: Annotated[str, Option("obsm key of the coordinates, with or without X_.", metavar="KEY")] = "umap",
) -> Figure:
    """Draw cells by their UMAP, once for each colouring.

    Parameters
    ----------
    adata : AnnData
        With obsm["X_umap"], as `embed(adata, model, umap=True)` leaves it.
    color : sequence of str
        obs columns, or genes whose expression is in X; a column of that name counts first.
    basis : str
        Other coordinates in obsm, of which the first two are drawn.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        There are no such coordinates, or neither a column nor a gene of that name.
    """
    import numpy as np

    from cellalign.plots.cells import draw
    from cellalign.tasks.colours import check_colours, colour_of

    names = [color] if isinstance(color, str) else list(color)
    key = next((each for each in (basis, f"X_{basis}") if each in adata.obsm), None)
    if key is None:
        how = spoken(python="cellalign.embed(adata, model, umap=True)", command="cellalign embed --umap")
        there = ", ".join(map(str, adata.obsm)) or "nothing"
        raise InputError(f"no X_{basis.removeprefix('X_')} in obsm ({there} is there); {how} makes X_umap")
    xy = adata.obsm[key]
    if len(xy.shape) != 2 or xy.shape[1] < 2:
        raise InputError(f"obsm {key!r} has fewer than two columns")
    check_colours(adata, names)
    xy = np.asarray(xy, dtype=float)[:, :2]
    return draw(xy, {name: colour_of(adata, name) for name in names}, axes_are=key.removeprefix("X_").upper())


def curves(model: Model) -> Figure:
    """Draw the losses of a model over its epochs.

    Raises
    ------
    ModelError
        It has none: it was computed in closed form, is a stack, or its history.csv is gone.
    """
    from cellalign.plots.curves import draw

    if not model.history:
        raise ModelError(
            f"the model has no epochs to draw: {model.name} is in closed form or a stack, or history.csv is gone"
        )
    outcome = model.record.outcome
    return draw(model.history, best=None if outcome is None else outcome.best_epoch)


def scatter(
    adata: AnnData,
    *,
    against: AnnData,
    condition: Annotated[str | None, o.CONDITION] = None,
    label: Annotated[str | None, o.LABEL] = None,
    control: Annotated[str | None, o.CONTROL] = None,
) -> Figure:
    """Draw every gene's predicted against its real mean, a panel per cell type; errors as `evaluate`."""
    return _response(adata, against, condition, label, control).scatter()


def violin(
    adata: AnnData,
    *,
    against: AnnData,
    condition: Annotated[str | None, o.CONDITION] = None,
    label: Annotated[str | None, o.LABEL] = None,
    control: Annotated[str | None, o.CONTROL] = None,
) -> Figure:
    """Draw the most different genes before, as predicted and after, a row per cell type; errors as `evaluate`."""
    return _response(adata, against, condition, label, control).violin()


def graph(graph: AnnData) -> Figure:
    """Draw which latents each perturbation targets, as a graph: what `targets` returns.

    Raises
    ------
    InputError
        It has no edge.
    """
    import numpy as np

    from cellalign.plots.graph import draw

    if not np.asarray(graph.layers["edge"]).any():
        raise InputError("no perturbation has a target: there is no edge to draw")
    return draw(graph)


def heatmap(graph: AnnData) -> Figure:
    """Draw the same as a heat map: perturbations as rows, latents as columns."""
    from cellalign.plots.targets import heat_map

    return heat_map(graph)


def _response(adata: AnnData, against: AnnData, condition: Any, label: Any, control: Any) -> Any:
    from cellalign.evaluation import evaluate

    more = {"condition": condition, "label": label, "control": control}
    return evaluate(adata, against=against, panels=["response"], **more)


@command_of(umap, group="plot", example="cellalign plot umap kang.emb.h5ad --color cell_type --color ISG15 -o umap.png")
def umap_command(
    call: Call,
    input: Annotated[Reading, Argument("Cells with a UMAP; - is standard input.", metavar="INPUT")],
    output: Annotated[str, PICTURE] = "umap.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw cells by their UMAP, coloured by obs columns or genes, as scanpy's pl.umap does."""
    from cellalign.data import files

    _check(output, force, [input])
    save(umap(files.read(input), **call.options), output, force)


@command_of(curves, group="plot", example="cellalign plot curves cellalign-model -o curves.svg")
def curves_command(
    call: Call,
    input: Annotated[str | None, Argument("Directory of the model.", metavar="DIR")] = None,
    model: Annotated[str | None, MODEL] = None,
    output: Annotated[str, PICTURE] = "curves.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw the losses of a training, epoch by epoch."""
    from cellalign.model import load

    source = _one_of(input, model)
    _check(output, force, [source])
    save(curves(load(source)), output, force)


@command_of(
    scatter, group="plot", example="cellalign plot scatter kang.stimulated.h5ad --against kang.pp.h5ad -o s.pdf"
)
def scatter_command(
    call: Call,
    input: Annotated[Reading, PREDICTED],
    against: Annotated[str, AGAINST],
    output: Annotated[str, PICTURE] = "scatter.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw every gene's predicted against its real mean (as evaluate --scatter does, without the scores)."""
    _of_prediction(call, scatter, input, against, output, force)


@command_of(violin, group="plot", example="cellalign plot violin kang.stimulated.h5ad --against kang.pp.h5ad -o v.pdf")
def violin_command(
    call: Call,
    input: Annotated[Reading, PREDICTED],
    against: Annotated[str, AGAINST],
    output: Annotated[str, PICTURE] = "violin.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw the most different genes before, as predicted and after (as evaluate --violin does, without the scores)."""
    _of_prediction(call, violin, input, against, output, force)


@command_of(graph, group="plot", example="cellalign plot graph targets.h5ad -o graph.svg")
def graph_command(
    call: Call,
    input: Annotated[str | None, GRAPH] = None,
    model: Annotated[str | None, MODEL] = None,
    output: Annotated[str, PICTURE] = "graph.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw which latents each perturbation targets, as a graph."""
    source = _one_of(input, model)
    _check(output, force, [source])
    save(graph(_graph_of(source, model=input is None)), output, force)


@command_of(heatmap, group="plot", example="cellalign plot heatmap targets.h5ad -o heatmap.pdf")
def heatmap_command(
    call: Call,
    input: Annotated[str | None, GRAPH] = None,
    model: Annotated[str | None, MODEL] = None,
    output: Annotated[str, PICTURE] = "heatmap.png",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Draw which latents each perturbation targets, as a heat map."""
    source = _one_of(input, model)
    _check(output, force, [source])
    save(heatmap(_graph_of(source, model=input is None)), output, force)


def _one_of(input: str | None, model: str | None) -> str:
    """What is drawn, by its place or by --model; the usual model where neither is given.

    Raises
    ------
    UsageError
        Both are given.
    """
    if input is not None and model is not None:
        raise UsageError(f"{input} and {option('model', model)} are both given, and one is drawn; leave one out")
    return input or model or o.DEFAULT_MODEL


def _of_prediction(call: Call, draw: Any, input: Reading, against: str, output: str, force: bool) -> None:
    from cellalign.data import files
    from cellalign.evaluation.predictions import expression_of
    from cellalign.records import Provenance
    from cellalign.tasks.paths import cells_for

    _check(output, force, [input, against])
    cells = files.read(input)
    made = Provenance.of(cells.uns).counterfactual
    layer = made.matrix if made is not None and made.expression == "any" and made.matrix != "X" else None
    real = cells_for(files.spool(input.like(against)), expression_of(cells, None), layer=layer)
    save(draw(cells, against=real, **call.options), output, force)


def _graph_of(path: str, *, model: bool = False) -> AnnData:
    """A graph that `targets` wrote, or that of a model, which it may have to be."""
    from cellalign import graph as of_model
    from cellalign.model import load
    from cellalign.tasks.report_inputs import Given

    if model:
        return of_model.targets(load(path))
    given = Given("this picture", "what cellalign targets wrote (.h5ad, .json or .csv), or a model directory")
    given.add(path)
    if given.models:
        return of_model.targets(given.models[0][1])
    if not given.graphs:
        raise InputError(f"{path} is no graph of targets; cellalign targets -o FILE writes one")
    return given.graphs[0][1]


def _check(output: str, force: bool, inputs: Sequence[Any]) -> None:
    """Refuse a picture that could not be written, before any work: UsageError."""
    from cellalign.data import files

    check_ending("output", output)
    files.check_output(output, force, inputs)
