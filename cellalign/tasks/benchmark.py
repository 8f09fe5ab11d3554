"""benchmark: each group held out in turn under a condition, predicted by every method."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading, in_memory
from cellalign.data.said import told_once
from cellalign.errors import InputError, TrainingError, UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.benchmark_file import add, finished
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.made_of import MadeOf, made_of
from cellalign.tasks.paths import cells_for
from cellalign.tasks.roles import roles_used
from cellalign.tasks.train import expression_for, train

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.evaluation import Metric
    from cellalign.records import BenchmarkRow

log = logging.getLogger("cellalign")
BASELINES = ("no change", "mean shift", "split half", "attainable")


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


@told_once()
def benchmark(
    adata: AnnData,
    *,
    methods: Annotated[Sequence[str], Option("Methods to compare.", metavar="NAME,NAME", text=str, read=o.words)],
    condition: Annotated[str, o.CONDITION],
    holdout_each: Annotated[str, Option("obs column whose groups are held out in turn.", metavar="KEY")],
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

    Parameters
    ----------
    adata : AnnData
        As `preprocess` writes it.
    methods : sequence of str
    condition, control : str
        Every condition but the control is held out and predicted from the control cells.
    holdout_each : str
        obs column whose groups are held out in turn.
    label : str, optional
        Cell types, for methods that weigh them alike; default `holdout_each`.
    groups : sequence of str, optional
        Only these groups; default all with 5 cells under both conditions.
    seeds : sequence of int
    settings : mapping of method to settings, optional
    n_top_genes, rounded, epochs, device, threads
        As `train` takes them.
    results : path, optional
        A CSV of finished rows, which grows with every run, several at a time too. Rows in it of the same cells,
        settings and scores are not computed again; all others are kept, and left out of what is returned.
    options
        Others of `train`'s parameters.

    Returns
    -------
    DataFrame
        One row per method or baseline, seed, held-out group and condition, with the response panel's metrics.

    Raises
    ------
    UsageError
        A method or setting is unknown, or there is no control.
    InputError
        No group can be held out, or the data is not fit.
    """
    from cellalign.data.fields import fit_fields
    from cellalign.data.terms import term
    from cellalign.evaluation import evaluate
    from cellalign.threads import limited

    options |= {"n_top_genes": n_top_genes, "rounded": rounded}
    options |= {"epochs": epochs, "device": device, "threads": threads}
    done, adata = finished(results), in_memory(adata)
    field: Any = fit_fields(adata, condition=condition, control=control)[0]
    if field.reference is None:
        raise UsageError(f"{option('control', hint='VALUE')} is needed: the condition that predictions start from")
    for method in [*methods, *(settings or {})]:
        if method not in methods:
            raise UsageError(f"{option('settings', f'{method}...')} is of none of the {option('methods')}")
        expression_for(method, settings=(settings or {}).get(method))
    cases = _cases(adata, field, holdout_each, groups)
    options |= {"condition": condition, "control": field.reference, "label": label or holdout_each}
    asked = {
        method: roles_used(method, options) | {"method": method, "settings": dict((settings or {}).get(method, {}))}
        for method in methods
    }
    keys = {method: made_of(adata, holdout_each, own) for method, own in asked.items()}
    _say_others(done, keys, results)
    for seed, (group, to), method in itertools.product(seeds, cases, methods):
        if (method, seed, group, to, keys[method].scores) in done:
            continue
        if progress is not None:
            progress(f"{method}, seed {seed}: {holdout_each}={group} under {condition}={to} held out")
        held = f"{term(holdout_each, group)},{term(condition, to)}"
        try:
            model = train(adata, holdout=[held], seed=seed, **asked[method])
        except TrainingError as error:
            log.warning("%s, seed %d, %s: %s; left out", method, seed, group, error)
            continue
        start = {"from_": field.reference, "where": {holdout_each: group}}
        predicted = model.counterfactual(adata, to=to, **start, device=device, threads=threads)
        with limited(threads):
            scored = evaluate(
                predicted,
                against=adata,
                condition=condition,
                label=holdout_each,
                panels=["response"],
                seed=seed,
                device=device,
            )
        rows = _rows(scored.frame(), keys[method], method, seed, group, to)
        done = {row.identity: row for row in rows} | done
        if results is not None:
            add(results, rows)
    return _table(_shown(done, keys, itertools.product(seeds, cases)))


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
    baselines = list(dict.fromkeys(own.baselines for own in keys.values()))
    wanted = [(method, [own.scores]) for method, own in keys.items()] + [(name, baselines) for name in BASELINES]
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


def _rows(scores: pd.DataFrame, keys: MadeOf, method: str, seed: int, group: str, to: str) -> list[BenchmarkRow]:
    """The method's scores, and the baselines'."""
    from cellalign.records import BenchmarkRow

    found = []
    for system, own in scores[scores["group"] == group].groupby("system"):
        name, digest = (method, keys.scores) if system == "prediction" else (str(system), keys.baselines)
        values = dict(zip(own["metric"], own["value"], strict=True))
        found.append(BenchmarkRow(method=name, seed=seed, held_out=group, to=to, made_of=digest, scores=values))
    return found


def _table(rows: Collection[BenchmarkRow]) -> pd.DataFrame:
    """One row each, a column for every metric that one of them has."""
    import pandas as pd

    from cellalign.evaluation.panels.response import PredictedResponse
    from cellalign.records import BenchmarkRow

    found = {name for row in rows for name in row.scores}
    declared = [metric.name for metric in PredictedResponse.metrics if metric.name in found]
    columns = dict.fromkeys([*BenchmarkRow.COLUMNS, *declared, *sorted(found)])
    return pd.DataFrame([row.flat() for row in rows], columns=list(columns))


def metric_of(name: str) -> Metric:
    """The metric of that name among those a benchmark has.

    Raises
    ------
    UsageError
        There is none.
    """
    from cellalign.errors import nearest
    from cellalign.evaluation.metrics.metric import by_name
    from cellalign.evaluation.panels.response import PredictedResponse

    known = by_name(PredictedResponse.metrics)
    if name not in known:
        raise UsageError(
            f"unknown metric {name!r}.{nearest(name, known)} Metrics of panel {PredictedResponse.name}: "
            f"{', '.join(known)}"
        )
    return known[name]


def summary(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric: methods as rows (best mean first, whichever way is better), held-out groups as columns, their mean.

    Raises
    ------
    UsageError
        There is no such metric.
    """
    from cellalign.records import BenchmarkRow

    better = metric_of(metric).better
    values = table.reindex(columns=[*BenchmarkRow.KEYS, metric])
    wide = values.pivot_table(index="method", columns="held_out", values=metric, aggfunc="mean", dropna=False)
    wide = wide.reindex(table["method"].unique())  # no change has no change to correlate, but its row
    wide["mean"] = wide.mean(axis=1)
    return wide.sort_values("mean", key=better.loss, kind="stable")


@command_of(
    benchmark,
    example="cellalign benchmark kang.pp.h5ad --methods comp,linear --holdout-each cell_type --condition stim",
)
def command(
    call: Call,
    input: Annotated[Reading, o.PREPROCESSED],
    runs: Annotated[int, Option("Runs of each.", ("--seeds",), low=1)] = 1,
    metric: Annotated[
        str, Option("Metric of the printed table (cellalign methods --metrics).", metavar="NAME")
    ] = "r_change_de",
    output: Annotated[
        str, Option("All scores; a run that was cut off goes on.", ("--output", "-o"), metavar="FILE.csv")
    ] = "benchmark.csv",
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
) -> None:
    """Hold out each group under each condition in turn, predict it with every method, score it.

    Rows already in the output file are kept; those of the same cells and settings are not computed again.
    """
    from cellalign.data import files

    asked, declared = call.options, metric_of(metric)
    files.check_table(output, True, [input])
    finished(output)  # what is no benchmark is refused before any work
    read = {expression_for(name, settings=(asked["settings"] or {}).get(name)) for name in asked["methods"]}
    source = files.spool(input)
    # methods that read counts and methods that read log expression: both matrices are needed
    adata = cells_for(source, read.pop()) if len(read) == 1 else files.read(source)
    table = benchmark(adata, seeds=range(runs), results=output, progress=call.log.info, **asked)
    wide = summary(table, metric)
    rows = [
        [str(name), *("-" if value != value else f"{value:.3f}" for value in row)]
        for name, row in zip(wide.index, wide.values, strict=True)
    ]
    columns = ["method", *(str(name) for name in wide.columns)]
    if format != "table":  # people read both in the title
        columns += ["metric", "better"]
        rows = [[*row, metric, str(declared.better)] for row in rows]
    title = f"{declared.heading} ({declared.better.in_words}), {asked['holdout_each']} held out"
    call.print_rows(title, columns, rows, format)
    call.log.info("%s: %d rows", output, len(table))
