"""report: one page of what was found, from whatever the other commands wrote."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError, nearest, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.reporting import Page
    from cellalign.tasks.report_inputs import Given
    from cellalign.tasks.report_parts import How

log = logging.getLogger("cellalign")
PathLike = str | os.PathLike[str]


def report(
    *inputs: Any,
    against: Any = None,
    condition: Annotated[str | None, o.CONDITION] = None,
    label: Annotated[str | None, Option("obs column of cell types; found by itself.", metavar="KEY")] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    color: Annotated[
        Sequence[str], Option("obs column or gene to colour cells by first (repeatable).", metavar="NAME")
    ] = (),
    title: Annotated[str | None, Option("Heading of the page [made of the inputs].", metavar="TEXT")] = None,
    max_cells: Annotated[int, Option("Cells that are drawn, at random of all.", low=4)] = 20_000,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> Page:
    """One page of what was found, that needs no network: `page.html()`, or shown by a notebook as it is.

    Parameters
    ----------
    inputs : paths or objects
        What there is, in any number and order; what each is says its content. A model (or its directory); cells with an
        embedding; predicted cells (another tool's with `against` and `condition`); an Evaluation (or what `evaluate -o`
        wrote, .json or .csv); the table of `benchmark`; the graph of `targets` (.h5ad, .json or .csv). Real cells among
        them are what predictions are compared with.
    against : AnnData or path, optional
        Those real cells.
    condition, label, control : str, optional
        obs columns, and the reference value; by default what the files say.
    color : sequence of str
        obs columns or genes that cells are coloured by first; others can be chosen on the page.
    title : str, optional
    max_cells : int
        Cells that are drawn; scores are of all.
    seed : int
        Of the cells that are drawn, of UMAPs, and of the evaluation.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        An input is of no kind that is shown, or does not fit the others.
    UsageError
        Nothing is given, or jinja2 is not installed.
    """
    from cellalign.engine.device import computing
    from cellalign.reporting import build, check_installed
    from cellalign.tasks.report_inputs import Given
    from cellalign.tasks.report_parts import How

    if not inputs:
        raise UsageError("a report is of something; give a model, cells, or scores")
    check_installed()
    given = Given()
    for each in _each_once(inputs, against):
        given.add(each)
    how = How(condition, control, label, tuple(color), max_cells, seed, device, threads)
    with computing(device, threads):
        parts = _parts(given, against, how, title)
    return build(parts)


def _each_once(inputs: Sequence[Any], against: Any) -> Iterator[Any]:
    """What is given, without what was named before, or is named as the real cells: that is said."""

    def key(given: Any) -> Any:
        return os.path.realpath(given) if isinstance(given, (str, os.PathLike)) else id(given)

    seen = set() if against is None else {key(against)}
    for each in inputs:
        if key(each) not in seen:
            seen.add(key(each))
            yield each
            continue
        name = each if isinstance(each, (str, os.PathLike)) else f"an object of the class {type(each).__name__}"
        log.warning("%s is given twice, and shown once", name)


def _parts(given: Given, against: Any, how: How, title: str | None) -> Any:
    """What the page is of; what is computed for it is computed here."""
    from cellalign.tasks import report_parts as make

    parts = make.empty(title)
    parts.models = [make.trained(model, name) for name, model in given.models]
    parts.scored = list(given.scores)
    if against is not None:  # cells without a record are another tool's prediction of them
        given.predicted, given.real = [*given.predicted, *given.real], []
    real = _real(given, against)
    _check_asked([a for _, a in (*given.predicted, *given.embedded, *([real] if real else []))], how)
    _say_unused(given, how)
    if against is not None and not given.predicted:
        parts.without["response"] = f"there is no prediction to compare with {option('against', hint='FILE')}"
        log.warning("%s is not used: there is no prediction to compare with it", option("against"))
    for name, adata in given.predicted:
        model = _maker(given, adata)
        if real is None:
            parts.without["response"] = (
                f"{name} is compared with no real cells; name them by {option('against', hint='FILE')}"
            )
            continue
        with _of(name):
            parts.predicted.append(make.predicted(adata, _as_needed(real[1], adata), name, real[0], how, model))
    scored = {panel for each in given.scores for panel in each.panels()}
    genes = make.genes_of(parts.predicted)
    for name, adata in given.embedded:
        score = not (scored & {"mixing", "bio"})
        with _of(name):
            parts.embedded.append(make.embedded(adata, name, how, _maker(given, adata), score=score, genes=genes))
    for name, table in given.benchmarks:
        parts.benchmarks.append(make.benchmarked(table, name))
    from cellalign.reporting.parts import Targeted

    parts.graphs = [Targeted(name, graph) for name, graph in given.graphs]
    parts.files = [make.file_of(path, kind) for path, kind in given.kinds.items()]
    if real is not None and isinstance(against, (str, os.PathLike)):
        parts.files.append(make.file_of(against, "real cells"))
    return parts


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Say of what is wrong within of which input it is: there may be many."""
    try:
        yield
    except (InputError, UsageError) as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def _check_asked(cells: Sequence[AnnData], how: How) -> None:
    """Refuse a column that no cells have, or a control that is no value there: it would be left out in silence."""
    if not cells:
        return
    for role, key in (("condition", how.condition), ("label", how.label)):
        if key is not None and not any(key in each.obs for each in cells):
            there = list(map(str, cells[0].obs))
            from cellalign.data.values import listed

            raise InputError(f"no {role} column {key!r} in obs.{nearest(key, there)} Columns: {listed(there)}")
    if how.control is None:
        return
    columns = [each.obs[key] for each in cells for key in each.obs if how.condition in (None, key)]
    if not any((column.astype(str) == how.control).any() for column in columns):
        where = "any column of obs" if how.condition is None else repr(how.condition)
        raise InputError(f"control {how.control!r} is no value of {where}; name the value that stands for no change")


def _say_unused(given: Given, how: How) -> None:
    """Warn of columns that were asked for where there are no cells to look them up in."""
    asked: list[tuple[str, Any]] = []
    if not given.embedded:
        asked = [("color", name) for name in how.color]
    if not (given.embedded or given.predicted):
        asked += [(name, getattr(how, name)) for name in ("condition", "label", "control") if getattr(how, name)]
    if asked:
        named = ", ".join(option(name, value) for name, value in asked)
        kind = "embedded" if any(name == "color" for name, _ in asked) else "predicted"
        are = "is" if len(asked) == 1 else "are"
        log.warning("%s %s not used: there are no %s cells among the inputs", named, are, kind)


def _real(given: Given, against: Any) -> tuple[str, AnnData] | None:
    """The real cells: those named, or cells among the inputs that nothing was done to."""
    from anndata import AnnData

    if isinstance(against, AnnData):
        return "the real cells", against
    if against is not None:
        from cellalign.data.files import read

        return Path(against).name, read(Reading((str(against),)))
    if given.real and not given.predicted:
        name = given.real[0][0]
        raise UsageError(
            f"{name} holds cells that nothing was done to; embed them, or give a prediction to compare with them"
        )
    if len(given.real) > 1:
        names = ", ".join(name for name, _ in given.real)
        raise UsageError(f"{names} are all real cells; name those to compare with by {option('against', hint='FILE')}")
    return given.real[0] if given.real else None


def _as_needed(real: AnnData, prediction: AnnData) -> AnnData:
    """Real cells with the matrix that a prediction is compared with in X."""
    from cellalign.records import Provenance

    made = Provenance.of(prediction.uns).counterfactual
    if made is None or made.expression != "any" or made.matrix == "X" or made.matrix not in real.layers:
        return real
    own = real.copy()
    own.X = own.layers[made.matrix]
    return own


def _maker(given: Given, adata: AnnData) -> Model | None:
    """The model among the inputs that made what the cells hold; None where it is not there."""
    from cellalign.records import Provenance

    step: Any = Provenance.of(adata.uns).latest
    return next((model for _, model in given.models if model.made(step)), None)


@command_of(
    report, example="cellalign report cellalign-model kang.emb.h5ad kang.stimulated.h5ad --against kang.pp.h5ad"
)
def command(
    call: Call,
    inputs: Annotated[
        Sequence[str],
        Argument(
            "Model directory, embedded or predicted cells, tables of evaluate, benchmark, targets.", metavar="INPUT..."
        ),
    ],
    against: Annotated[str | None, Option("Real cells to compare a prediction with.", metavar="FILE")] = None,
    output: Annotated[str, Option("The page (.html).", ("--output", "-o"), metavar="FILE.html")] = "report.html",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """One page of what was found and how far to believe it, for any browser, phone or printer; no network is needed.

    Give whatever there is, in any order: what each is says its content, and sections are those that it allows.
    """
    from cellalign.tasks.report_parts import check_page, command_line, write

    read = [*inputs, *([against] if against is not None else [])]
    check_page(output, force, read)
    page = report(*inputs, against=against, **call.options)
    write(with_command(page, command_line()), output, force)


def with_command(page: Page, line: str) -> Page:
    """The page with the command that made it among what somebody needs to make it again."""
    from cellalign.data.folders import without_folders
    from cellalign.reporting.blocks import Command

    *others, made = page.sections
    return replace(
        page, sections=[*others, replace(made, blocks=_with(made.blocks, Command(f"$ {without_folders(line)}")))]
    )


def _with(blocks: Sequence[Any], command: Any) -> list[Any]:
    """Blocks with another command after those that are there."""
    n = sum(block.kind == "command" for block in blocks)
    return [*blocks[:n], command, *blocks[n:]]
