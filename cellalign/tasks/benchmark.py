"""benchmark: each group held out in turn under a condition, predicted by every method; or all fitted and mixed."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cellalign.data.reading import Reading, in_memory
from cellalign.data.said import told_once
from cellalign.errors import InputError, TrainingError, UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.benchmark_file import add, finished
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.grid import GRID, combinations, said
from cellalign.tasks.made_of import MadeOf, made_of
from cellalign.tasks.paths import cells_for
from cellalign.tasks.reads import expression_for
from cellalign.tasks.roles import roles_used
from cellalign.tasks.spoken_as import OF_A_RUN, in_their_words, with_parameters_of
from cellalign.tasks.train import train

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.model import Model
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
    methods: Annotated[Sequence[str], Option("Methods to compare.", metavar="NAME,NAME", text=str, read=o.words)],
    condition: Annotated[str, o.CONDITION],
    holdout_each: Annotated[
        str | None, Option("obs column whose groups are held out in turn; without it nothing is.", metavar="KEY")
    ] = None,
    holdout_conditions: Annotated[
        Literal["each", "all"], Option("Hold a group out under one condition at a time, or under all but the control.")
    ] = "each",
    grid: Annotated[
        Mapping[str, Sequence[Any]] | None,
        replace(GRID, help="Values of a setting to try of all methods (repeatable)."),
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
        Every combination is trained of every method; its row is called "METHOD KEY=VALUE".
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
    from cellalign.data.fields import fit_fields
    from cellalign.tasks.benchmark_fitted import NOTHING, mixing_scores
    from cellalign.tasks.benchmark_table import as_table
    from cellalign.threads import limited

    options |= {"expression": expression, "n_top_genes": n_top_genes, "rounded": rounded}
    options |= {"epochs": epochs, "device": device, "threads": threads}
    done, adata = finished(results), in_memory(adata)
    field: Any = fit_fields(adata, condition=condition, control=control)[0]
    if field.reference is None:
        raise UsageError(f"{option('control', hint='VALUE')} is needed: the condition that predictions start from")
    for method in settings or {}:
        if method not in methods:
            raise UsageError(f"{option('settings', f'{method}...')} is of none of the {option('methods')}")
    for method in methods:
        expression_for(method, settings=(settings or {}).get(method), expression=expression)
    for name, given in (("groups", groups), ("holdout_conditions", holdout_conditions != "each")):
        if holdout_each is None and given:
            raise UsageError(f"{option(name)} needs {option('holdout_each', hint='KEY')}, the column they are of")
    together = holdout_conditions == "all"
    options |= {"condition": condition, "control": field.reference, "label": label or holdout_each}
    asked = _asked(methods, settings or {}, grid, options)
    if holdout_each is None:
        cases = [(NOTHING, to) for to in field.categories if to != field.reference]
    else:
        cases = _cases(adata, field, holdout_each, groups)
    more = {"min_cells": min_cells, "holdout_conditions": holdout_conditions}
    keys = {name: made_of(adata, holdout_each, own | more) for name, own in asked.items()}
    _say_others(done, keys, results)
    last: tuple[Any, ...] = ()  # a model that is of all conditions is trained once for them
    for name, seed, (group, to) in _runs(list(asked), seeds, cases, at_once=holdout_each is None or together):
        if (name, seed, group, to, keys[name].scores) in done:
            continue
        if progress is not None:
            under = "all conditions" if together else f"{condition}={to}"
            where = "" if holdout_each is None else f": {holdout_each}={group} under {under} held out"
            progress(f"{name}, seed {seed}{where}")
        held = [] if holdout_each is None else _held(adata, field, holdout_each, group, None if together else to)
        try:
            if (holdout_each is not None and not together) or last[:3] != (name, seed, group):
                model = train(adata, holdout=held, seed=seed, **(asked[name] | {"calibrate": "none"}))
                with limited(threads):
                    mixed = {} if holdout_each else mixing_scores(adata, model, label, seed, device, min_cells)
                last = (name, seed, group, model, mixed)
        except TrainingError as error:
            log.warning("%s, seed %d, %s: %s; left out", name, seed, group, error)
            continue
        scores = _scores(adata, last[3], holdout_each, group, to, label, seed, field.reference, device, threads)
        scores = {**scores, "prediction": {**scores.get("prediction", {}), **last[4]}}
        rows = _rows(scores, keys[name], name, seed, group, to)
        done = {row.identity: row for row in rows} | done
        if results is not None:
            add(results, rows)
    return as_table(_shown(done, keys, itertools.product(seeds, cases)))


def _asked(
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    grid: Mapping[str, Sequence[Any]] | None,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What `train` is asked for by the name of its row: each method, or each combination of the grid of it.

    Raises
    ------
    UsageError
        A method or setting is unknown.
    """
    asked = {}
    for method in methods:
        for combination in combinations(grid) if grid is not None else ({},):
            own = dict(settings.get(method, {})) | combination
            expression_for(method, settings=own)
            name = f"{method} {said(combination)}".rstrip()
            asked[name] = roles_used(method, dict(options)) | {"method": method, "settings": own}
    return asked


def _runs(
    names: Sequence[str], seeds: Sequence[int], cases: Sequence[tuple[str, str]], *, at_once: bool
) -> Iterator[tuple[str, int, tuple[str, str]]]:
    """In which order: methods beside each other, but of one that is trained once all conditions of a group."""
    if at_once:
        for seed, group, name in itertools.product(seeds, dict.fromkeys(group for group, _ in cases), names):
            yield from ((name, seed, case) for case in cases if case[0] == group)
    else:
        yield from ((name, seed, case) for seed, case, name in itertools.product(seeds, cases, names))


def _held(adata: AnnData, field: Any, holdout_each: str, group: str, to: str | None) -> list[str]:
    """A group under a condition, or under all but the control that it has cells of, as `train` takes it."""
    from cellalign.data.split import held_out
    from cellalign.data.terms import term

    conditions = [name for name in field.categories if name != field.reference] if to is None else [to]
    items = [f"{term(holdout_each, group)},{term(field.name, name)}" for name in conditions]
    there = [held_out(adata.obs, [item], must_exist=False, control=field.reference, quiet=True) for item in items]
    return [item for item, cells in zip(items, there, strict=True) if cells.any()]


def _scores(
    adata: AnnData,
    model: Model,
    holdout_each: str | None,
    group: str,
    to: str,
    label: str | None,
    seed: int,
    control: str,
    device: str,
    threads: int | None,
) -> Mapping[str, dict[str, float]]:
    """Scores by system: "prediction", of the method, and the baselines."""
    from cellalign.evaluation import evaluate
    from cellalign.methods.base import Predicts
    from cellalign.tasks.benchmark_fitted import response_scores
    from cellalign.threads import limited

    found: Mapping[str, dict[str, float]] = {}
    kinds = holdout_each or label
    # with nothing held out a method that cannot predict is still mixed; else it is refused as it always was
    if holdout_each is not None or isinstance(model.method, Predicts):
        start: dict[str, Any] = {"from_": control} | ({"where": {holdout_each: group}} if holdout_each else {})
        predicted = model.counterfactual(adata, to=to, **start, device=device, threads=threads)
        asked: dict[str, Any] = {"condition": model.condition, "label": kinds}
        asked |= {"panels": ["response"], "more_genes": True}
        with limited(threads):
            scored = evaluate(predicted, against=adata, seed=seed, device=device, **asked)
        found = response_scores(scored, kinds, group if holdout_each else None)
    return found


def _say_others(
    done: Mapping[Any, BenchmarkRow], keys: Mapping[str, MadeOf], results: str | os.PathLike[str] | None
) -> None:
    """Say which rows of the file are not of this run."""
    old = sum(row.made_of is None for row in done.values())
    ours = {digest for own in keys.values() for digest in (own.scores, own.baselines)}
    other = sum(row.made_of not in ours for row in done.values()) - old
    kept = "they are kept there, and left out here"
    if old:
        unsaid = "do not say of which cells and settings they are"
        log.warning("%s: %d rows of an earlier version %s: %s", results, old, unsaid, kept)
    if other:
        log.info("%s: %d rows are of other cells, settings or scores: %s", results, other, kept)


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


def _cases(adata: AnnData, field: Any, holdout_each: str, groups: Sequence[str] | None) -> list[tuple[str, str]]:
    """Groups and conditions that can be held out: 5 cells under it and under control, and another group as well."""
    import numpy as np

    from cellalign.data.columns import column
    from cellalign.data.values import known, listed
    from cellalign.errors import nearest
    from cellalign.evaluation.panels.response import MIN_CELLS_PER_GROUP

    values = column(adata.obs, holdout_each, purpose="group", missing=True)
    there = known(tuple(values.categories))
    absent = int((values.codes < 0).sum())
    if absent:
        log.info("%d cells have no %r and are in no group: trained on, and never held out", absent, holdout_each)
    wanted = list(range(len(there.names)))
    if groups:
        wanted = [there.find(group) for group in groups]
        for group, code in zip(groups, wanted, strict=True):
            if code < 0:
                near = nearest(group, there.names)
                raise InputError(f"{holdout_each} has no {group!r}.{near} There: {listed(there.names)}")
    under = field.encode(adata)
    table = np.zeros((len(there.names), len(field.categories)), dtype=np.int64)
    np.add.at(table, (values.codes[values.codes >= 0], under[values.codes >= 0]), 1)
    control = field.categories.index(field.reference)
    cases = [
        (there.names[group], to)
        for group in dict.fromkeys(wanted)
        for code, to in enumerate(field.categories)
        if code != control and min(table[group, code], table[group, control]) >= MIN_CELLS_PER_GROUP
    ]
    if not cases or len(there.names) < 2:
        raise InputError(
            f"no group of {holdout_each!r} has {MIN_CELLS_PER_GROUP} cells under the control and another condition"
        )
    return cases


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
        str, Option("Metrics of the printed table (cellalign methods --metrics).", metavar="NAME,NAME")
    ] = "r_change_de",
    output: Annotated[
        str, Option("All scores; a run that was cut off goes on.", ("--output", "-o"), metavar="FILE.csv")
    ] = "benchmark.csv",
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    plot: Annotated[
        str | None,
        Option("Draw methods by groups, beside best baseline and ceiling (.png, .pdf, .svg).", metavar="FILE"),
    ] = None,
    report: Annotated[str | None, o.REPORT] = None,
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
        if not plot.lower().endswith((".png", ".pdf", ".svg")):
            raise UsageError(f"{option('plot', plot)} ends in none of .png, .pdf, .svg")
        files.check_output(plot, True, [input])
        files.check_apart(output, plot)
    if report is not None:
        check_page(report, True, [input])
        files.check_apart(output, plot, report)
    metrics = metrics_of(metric, asked["holdout_each"])
    files.check_table(output, True, [input])
    finished(output)  # what is no benchmark is refused before any work
    combined = list(combinations(asked["grid"])) if asked["grid"] else [{}]
    given, kind = asked["settings"] or {}, asked["expression"]
    read = {
        expression_for(name, settings=given.get(name, {}) | own, expression=kind)
        for name in asked["methods"]
        for own in combined
    }
    source = files.spool(input)
    # methods that read counts and methods that read log expression: both matrices are needed
    adata = cells_for(source, read.pop()) if len(read) == 1 else files.read(source)
    table = benchmark(adata, seeds=range(runs), results=output, progress=call.log.info, **asked)
    people = format == "table"
    columns, rows = printed(table, [each.name for each in metrics], people=people)
    headings = {each.name: each.heading for each in metrics}
    first = metrics[0]
    beside = paired(table, first.name)
    if not people and len(metrics) == 1:  # people read both in the title
        columns += ["metric", "better", *(name.replace(" ", "_") for name in COLUMNS)]
        known = {row.method: row.cells() for row in beside}
        rows = [[*row, first.name, str(first.better), *known.get(row[0], ["-"] * len(COLUMNS))] for row in rows]
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
        with files.atomic_path(plot, True) as fresh:
            picture(table, first.name).savefig(fresh)
    if report is not None:
        of_benchmark(report, table, first.name, output, True)
    call.log.info("%s: %d rows", output, len(table))
