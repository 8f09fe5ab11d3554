"""benchmark: each group held out in turn under a condition, predicted by every method; or all fitted and mixed."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cellalign.data.reading import Reading
from cellalign.data.said import told_once
from cellalign.errors import TrainingError, UsageError, counted, option
from cellalign.tasks import options as o
from cellalign.tasks.benchmark_dry import say_benchmark
from cellalign.tasks.benchmark_file import add, finished, rows_noted
from cellalign.tasks.benchmark_plan import planned
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.grid import GRID, of_each
from cellalign.tasks.made_of import MadeOf
from cellalign.tasks.paths import cells_for
from cellalign.tasks.pictures import check_ending, save
from cellalign.tasks.reads import expression_for
from cellalign.tasks.spoken_as import OF_A_RUN, in_their_words, with_parameters_of
from cellalign.tasks.train import train

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.records import BenchmarkRow

log = logging.getLogger("cellalign")


def by_method(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by method of METHOD.KEY=VALUE items.

    Raises
    ------
    UsageError
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, value in o.key_values(items).items():
        method, dot, key = name.partition(".")
        if not dot:
            raise UsageError(f"{option('settings', f'{name}=...')} is not METHOD.KEY=VALUE")
        settings.setdefault(method, {})[key] = value
    return settings


@in_their_words
@with_parameters_of(train, but=OF_A_RUN)
@told_once()
def benchmark(
    adata: AnnData,
    *,
    methods: Annotated[Sequence[str], Option("Methods to compare.", metavar="NAME,NAME", text=list[str], read=o.words)],
    condition: Annotated[str, o.CONDITION],
    holdout_each: Annotated[
        str | None, Option("obs column whose groups are held out in turn; without it nothing is.", metavar="KEY")
    ] = None,
    holdout_conditions: Annotated[
        Literal["each", "all"], Option("Hold a group out under one condition at a time, or under all but the control.")
    ] = "each",
    grid: Annotated[
        Mapping[str, Sequence[Any]] | None,
        replace(
            GRID,
            help="Values of a setting to try, of all methods or of one (repeatable).",
            metavar="[METHOD.]KEY=VALUE,VALUE",
        ),
    ] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    label: Annotated[str | None, o.LABEL] = None,
    groups: Annotated[
        Sequence[str] | None, Option("Only this group (repeatable).", ("--group",), metavar="VALUE")
    ] = None,
    seeds: Sequence[int] = (0,),
    settings: Annotated[
        Mapping[str, Mapping[str, Any]] | None,
        replace(o.SETTINGS, help="One setting of one method (repeatable).", metavar="METHOD.KEY=VALUE", read=by_method),
    ] = None,
    expression: Annotated[o.Expression | None, o.EXPRESSION] = None,
    min_cells: Annotated[int | None, Option("Smallest cell type for m-kBET and m-s [400].", low=2)] = None,
    n_top_genes: Annotated[int | None, o.N_TOP_GENES] = None,
    rounded: Annotated[bool, o.ROUND] = False,
    epochs: Annotated[int | None, o.EPOCHS] = None,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    results: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Leave one group out: train without its cells under a condition, predict them, score against the real ones.

    With no group to leave out each method is trained on all cells: its mixing is scored, and the response it was
    fitted to, which is no prediction.

    Parameters
    ----------
    adata : AnnData
        As `preprocess` writes it.
    methods : sequence of str
    condition, control : str
        Every condition but the control is held out and predicted from the control cells.
    holdout_each : str, optional
        obs column whose groups are held out in turn.
    holdout_conditions : {"each", "all"}
        Whether a group is held out under one condition at a time, or under all but the control at once (figure 5f of
        the trVAE paper): what is seen of it under other conditions helps then no more.
    grid : mapping of setting to values, optional
        Every combination is trained of every method; its row is called "METHOD KEY=VALUE". A setting "METHOD.KEY" is of
        one method: others of which none is are trained once.
    label : str, optional
        Cell types, for methods that weigh them alike; default `holdout_each`. With nothing held out also those within
        which mixing and the response are scored.
    groups : sequence of str, optional
        Only these groups; default all with 5 cells under both conditions.
    seeds : sequence of int
    settings : mapping of method to settings, optional
    expression, n_top_genes, rounded, epochs, device, threads
        As `train` takes them.
    min_cells : int, optional
        Smallest cell type within which mixing is scored, where nothing is held out; default 400.
    results : path, optional
        A CSV of finished rows, which grows with every run, several at a time too. Rows in it of the same cells,
        settings and scores are not computed again; all others are kept, and left out of what is returned.
    options
        Others of `train`'s parameters.

    Returns
    -------
    DataFrame
        One row per method or baseline, seed, held-out group ("nothing") and condition, with the response panel's
        metrics; with nothing held out also those of mixing, of all cells and of validation cells, and "... permuted",
        their values under permuted conditions.

    Raises
    ------
    UsageError
        A method or setting is unknown, or there is no control.
    InputError
        No group can be held out, or the data is not fit.
    """
    from cellalign.tasks.benchmark_fitted import mixing_scores, scores_of
    from cellalign.tasks.benchmark_table import as_table
    from cellalign.threads import limited

    options |= {"expression": expression, "n_top_genes": n_top_genes, "rounded": rounded}
    options |= {"epochs": epochs, "device": device, "threads": threads, "condition": condition, "control": control}
    plan = planned(
        adata,
        methods=methods,
        holdout_each=holdout_each,
        holdout_conditions=holdout_conditions,
        grid=grid,
        label=label,
        groups=groups,
        seeds=seeds,
        settings=settings,
        min_cells=min_cells,
        results=results,
        **options,
    )
    adata, done = plan.adata, plan.done
    with rows_noted(results):
        for training in plan.trainings:
            left = plan.left(training)
            if not left:
                continue
            name, seed = training.name, training.seed
            if progress is not None:
                progress(plan.said(training))
            try:
                model = train(adata, **plan.options_of(training))
            except TrainingError as error:
                log.warning("%s, seed %d, %s: %s; left out", name, seed, training.group, error)
                continue
            with limited(threads):
                mixed = {} if holdout_each else mixing_scores(adata, model, label, seed, device, min_cells)
            for group, to in left:
                found = scores_of(adata, model, holdout_each, group, to, label, seed, plan.control, device, threads)
                found = {**found, "prediction": {**found.get("prediction", {}), **mixed}}
                rows = _rows(found, plan.keys[name], name, seed, group, to)
                done |= {row.identity: row for row in rows if row.identity not in done}
                if results is not None:
                    add(results, rows)
    return as_table(_shown(done, plan.keys, itertools.product(seeds, plan.cases)))


def _shown(
    done: Mapping[Any, BenchmarkRow], keys: Mapping[str, MadeOf], cases: Iterable[tuple[int, tuple[str, str]]]
) -> list[BenchmarkRow]:
    """Of every case the rows of the methods, then those of the baselines, once: as beside the first that has them."""
    from cellalign.evaluation.baselines import NAMES

    baselines = list(dict.fromkeys(own.baselines for own in keys.values()))
    beside = ("no change", *NAMES, "split half", "attainable")
    wanted = [(method, [own.scores]) for method, own in keys.items()] + [(name, baselines) for name in beside]
    found = []
    for seed, (group, to) in cases:
        for name, digests in wanted:
            rows = [done.get((name, seed, group, to, digest)) for digest in digests]
            found += [row for row in rows if row is not None][:1]
    return found


def _rows(
    scores: Mapping[str, dict[str, float]], keys: MadeOf, method: str, seed: int, group: str, to: str
) -> list[BenchmarkRow]:
    """The method's scores, and the baselines'."""
    from cellalign.records import BenchmarkRow

    found = []
    for system, values in scores.items():
        name, digest = (method, keys.scores) if system == "prediction" else (system, keys.baselines)
        found.append(BenchmarkRow(method=name, seed=seed, held_out=group, to=to, made_of=digest, scores=values))
    return found


@command_of(
    benchmark,
    example="cellalign benchmark kang.pp.h5ad --methods comp,linear --holdout-each cell_type --condition stim",
)
def command(
    call: Call,
    input: Annotated[Reading, o.PREPROCESSED],
    runs: Annotated[int, Option("Runs of each.", ("--seeds",), low=1)] = 1,
    metric: Annotated[
        Sequence[str],
        Option(
            "Metrics of the printed table (cellalign methods --metrics).",
            metavar="NAME,NAME",
            text=list[str],
            read=o.words,
        ),
    ] = ("r_change_de",),
    output: Annotated[
        str, Option("All scores; a run that was cut off goes on.", ("--output", "-o"), metavar="FILE.csv")
    ] = "benchmark.csv",
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    plot: Annotated[
        str | None,
        Option("Draw methods by groups, beside best baseline and ceiling (.png, .pdf, .svg).", metavar="FILE"),
    ] = None,
    report: Annotated[str | None, o.REPORT] = None,
    dry_run: Annotated[bool, o.DRY_RUN] = False,
) -> None:
    """Hold out each group under each condition in turn, predict it with every method, score it; or train on all.

    Rows already in the output file are kept; those of the same cells and settings are not computed again.
    """
    from cellalign.data import files
    from cellalign.tasks.benchmark_paired import COLUMNS, paired, picture, sentence
    from cellalign.tasks.benchmark_table import metrics_of, printed
    from cellalign.tasks.report_of import check_page, of_benchmark

    asked = call.options
    if plot is not None:
        check_ending("plot", plot)
        files.check_output(plot, True, [input])
        files.check_apart(output, plot)
    if report is not None:
        check_page(report, True, [input])
        files.check_apart(output, plot, report)
    metrics = metrics_of(metric, asked["holdout_each"])
    files.check_table(output, True, [input])
    finished(output)  # what is no benchmark is refused before any work
    given, kind = asked["settings"] or {}, asked["expression"]
    read = {
        expression_for(name, settings=given.get(name, {}) | own, expression=kind)
        for name, tried in of_each(asked["grid"], asked["methods"]).items()
        for own in tried
    }
    source = files.spool(input)
    # methods that read counts and methods that read log expression: both matrices are needed
    one = read.pop() if len(read) == 1 else None
    adata = files.read(source, streaming=True) if one is None else cells_for(source, one, streaming=True)
    if dry_run:
        say_benchmark(call, adata, range(runs), output, [plot, report], format)
        return
    table = benchmark(adata, seeds=range(runs), results=output, progress=call.log.info, **asked)
    people = format == "table"
    columns, rows = printed(table, [each.name for each in metrics], people=people)
    headings = {each.name: each.heading for each in metrics}
    first = metrics[0]
    beside = paired(table, first.name)
    if not people and len(metrics) == 1:  # people read both in the title
        columns += ["metric", "better", *(name.replace(" ", "_") for name in COLUMNS)]
        known = {row.method: row.values() for row in beside}
        rows = [[*row, first.name, str(first.better), *known.get(row[0], [None] * len(COLUMNS))] for row in rows]
    what = first.heading if len(metrics) == 1 else "several metrics, best first by the first"
    how = f" ({first.better.in_words})" if len(metrics) == 1 else ""
    held = f"{asked['holdout_each']} held out" if asked["holdout_each"] else "nothing held out: fitted, not predicted"
    error = ", ± standard error over seeds" if runs > 1 else ""
    title = f"{what}{how}, {held}{error}"
    call.print_rows(title, columns, rows, format, headings=[headings.get(name, name) for name in columns])
    if people and beside:
        lines = [[row.method, *row.cells()] for row in beside]
        call.print_rows(f"{first.name} beside the best baseline", ["method", *COLUMNS], lines, format)
        call.log.info("%s", sentence(beside, first.name))
    if plot is not None:
        save(picture(table, first.name), plot, True)
    if report is not None:
        of_benchmark(report, table, first.name, output, True)
    call.log.info("%s: %s", output, counted(len(table), "row"))
