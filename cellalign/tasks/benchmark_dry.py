"""`benchmark --dry-run`: what would be trained, what of it is done already, and how long it would take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellalign.data.said import told_once
from cellalign.errors import counted
from cellalign.tasks.benchmark_plan import BenchmarkPlan, of_these, planned
from cellalign.tasks.dry import Asked, Expected, Row, expected, print_plan, rows_of
from cellalign.tasks.paths import to_write

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.tasks.declaration import Call


@told_once()
def say_benchmark(
    call: Call, adata: AnnData, seeds: Sequence[int], results: str, others: Sequence[str | None], format: str
) -> None:
    """Print what a benchmark of these options would do; nothing is written. Errors are the benchmark's.

    Parameters
    ----------
    call : Call
    adata : AnnData
    seeds : sequence of int
    results : str
        The table that it would add to.
    others : sequence of str or None
        What else it would write.
    format : {"table", "json", "csv"}
    """
    from cellalign.engine.device import computing
    from cellalign.tasks.prepare import without
    from cellalign.tasks.understood import of_columns

    plan = planned(adata, seeds=seeds, results=results, **call.options)
    with computing(call.options["device"], call.options["threads"]) as device:
        asked = [Asked(one.name, plan.options_of(one), len(left)) for one in plan.trainings if (left := plan.left(one))]
        otherwise = next(iter(plan.asked.values()))
        found, notes, first = expected(
            plan.adata, asked, device, lambda one, model: _score(call, plan, one, model), otherwise
        )
        rows: list[Row] = [_of_name(plan, name, found.get(name)) for name in plan.asked]
        # of each training other cells are held out: their numbers are those of the file
        whole = first if plan.holdout_each is None else without(first, plan.adata, ())
        rows += [(what, how, None) for what, how in of_columns(whole, device)]
    rows += _of_trainings(plan, seeds, people=format == "table")
    rows += [("note", message, None) for _, message in notes]
    rows += rows_of(found)
    rows += _of_rows(plan, results)
    rows.append(("writes", _written(results, others), None))
    print_plan(call, "benchmark", rows, format)


def _score(call: Call, plan: BenchmarkPlan, one: Asked, model: Model) -> None:
    """What a benchmark does with a model."""
    from cellalign.tasks.benchmark_fitted import mixing_scores, scores_of

    label, device, threads = (call.options[name] for name in ("label", "device", "threads"))
    training = next(each for each in plan.trainings if each.name == one.name and plan.left(each))
    group, to = plan.left(training)[0]
    if plan.holdout_each is None:
        mixing_scores(plan.adata, model, label, training.seed, device, call.options["min_cells"])
    seed = training.seed
    scores_of(plan.adata, model, plan.holdout_each, group, to, label, seed, plan.control, device, threads)


def _of_name(plan: BenchmarkPlan, name: str, found: Expected | None) -> Row:
    """A method, or one combination of a grid of it."""
    whole = [one for one in plan.trainings if one.name == name]
    left = sum(bool(plan.left(one)) for one in whole)
    done = "" if left == len(whole) else f"; {len(whole) - left} of {len(whole)} done already"
    took = "" if found is None else f", {found.said}"
    seconds = None if found is None or found.seconds != found.seconds else round(found.seconds, 1)
    return f"method {name}", f"{counted(left, 'training')}{took}{done}", seconds


def _of_trainings(plan: BenchmarkPlan, seeds: Sequence[int], *, people: bool) -> list[Row]:
    """What is held out, and how many trainings that makes; for programs each of them."""
    groups, conditions = (list(dict.fromkeys(case[i] for case in plan.cases)) for i in (0, 1))
    sets = len({one.cases for one in plan.trainings})
    left = sum(bool(plan.left(one)) for one in plan.trainings)
    product = f"{counted(len(plan.asked), 'method' if len(plan.asked) == plan.methods else 'method and setting')}"
    if plan.holdout_each is None:
        rows: list[Row] = [("held out", "nothing: the response is fitted, not predicted", 0)]
    else:
        how = f" ({'all at once' if plan.together else 'one at a time'})" if len(conditions) > 1 else ""
        under = f"{plan.condition}={_listed(conditions)}{how}"
        rows = [("held out", f"{plan.holdout_each}: {_listed(groups)}, under {under}", sets)]
        product += f" x {sets} held out"
    rows.append(("seeds", _listed(seeds), len(seeds)))
    done = len(plan.trainings) - left
    there = f"; {done:,} {'is' if done == 1 else 'are'} done already" if done else ""
    rows.append(("trainings", f"{left:,} ({product} x {counted(len(seeds), 'seed')}{there})", left))
    if not people:
        for one in plan.trainings:
            n = len(plan.left(one))
            state = "to do" if n == len(one.cases) else "done" if not n else f"{n} of {len(one.cases)} to do"
            rows.append(("training", plan.said(one), state))
    return rows


def _of_rows(plan: BenchmarkPlan, results: str) -> list[Row]:
    """Which rows of the table are there already, of this benchmark and of others."""
    if not plan.done:
        return []
    mine = of_these(plan.done, plan.keys)
    rows: list[Row] = []
    by_name = Counter(row.method for row in mine)
    for name in plan.asked:
        kept = [row for row in mine if row.method == name]
        if kept:
            which = [f"{row.held_out} as {row.to}, seed {row.seed}" for row in kept]
            rows.append(
                (f"kept of {name}", f"{counted(len(kept), 'row')}, not computed again: {_listed(which)}", len(kept))
            )
    baselines = sum(n for name, n in by_name.items() if name not in plan.asked)
    if baselines:
        rows.append(("kept of baselines", f"{counted(baselines, 'row')} beside these", baselines))
    others = len(plan.done) - len(mine)
    if others:
        said = f"{counted(others, 'row')} of other cells, settings or scores: kept in {results}, left out of the table"
        rows.append(("kept of others", said, others))
    return rows


def _written(results: str, others: Sequence[str | None]) -> str:
    added = f"{results} (there already: rows are added)" if os.path.exists(results) else results
    more = to_write(others, force=True)
    return f"{added}, {more}" if more else added


def _listed(names: Sequence[Any]) -> str:
    from cellalign.data.values import listed
    from cellalign.tasks.understood import SHOWN

    return listed(map(str, names), SHOWN)
