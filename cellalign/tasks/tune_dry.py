"""`tune --dry-run`: which runs would be trained, which are there already, and how long it would take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellalign.data.said import told_once
from cellalign.errors import counted
from cellalign.tasks.dry import Asked, Expected, Row, expected, print_plan, rows_of
from cellalign.tasks.grid import said, tried_of
from cellalign.tasks.tune_criteria import ranked_by, scores
from cellalign.tasks.tune_runs import Runs

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.tasks.declaration import Call

OF_TUNE = ("method", "grid", "seeds", "by", "settings", "wait")  # options that are not `train`'s
FINISHED, CUT_OFF, TO_DO = "finished already", "cut off, which goes on", "to do"


@told_once()
def say_tuning(call: Call, adata: AnnData, runs: Runs, writes: str, format: str) -> None:
    """Print what `tune` with these options would do; nothing is written. Errors are those of `tune`.

    Parameters
    ----------
    call : Call
    adata : AnnData
    runs : Runs
        Where runs are kept.
    writes : str
        What it would write, in words.
    format : {"table", "json", "csv"}
    """
    from cellalign.data.given import given_cells
    from cellalign.engine.device import computing
    from cellalign.methods.registry import get
    from cellalign.tasks.understood import of_columns

    given = call.options
    method, seeds, own = given["method"], given["seeds"], given["settings"] or {}
    options = {name: value for name, value in given.items() if name not in OF_TUNE}
    tried, adata = tried_of(given["grid"], method, options["preset"])[1], given_cells(adata)
    settings_of_each = [{**own, **combination} for combination in tried]
    by = ranked_by(get(method), given["by"], adata.obs, seeds, settings_of_each, options)
    runs.of(adata, method, options)
    states, asked = {}, []
    for combination, settings in zip(tried, settings_of_each, strict=True):
        for seed in range(seeds):
            place = runs.place(settings, seed)
            done = runs.finished(settings, seed, place) is not None
            state = FINISHED if done else CUT_OFF if runs.cut_off(place, remove=False) else TO_DO
            states[said(combination), seed] = state
            if not done:
                asked.append(Asked(said(combination), options | _of_run(method, settings, seed)))
    with computing(options["device"], options["threads"]) as device:
        found, notes, first = expected(
            adata,
            asked,
            device,
            lambda one, model: scores(by, model, adata, options, one.options["seed"]),
            options | _of_run(method, settings_of_each[0], 0),
        )
        rows: list[Row] = [("method", f"{method}: {get(method).summary}", None)]
        rows += [(what, how, None) for what, how in of_columns(first, device)]
    rows += _of_runs(states, tried, seeds, found, people=format == "table")
    rows.append(("ranked by", by, None))
    rows += [("note", message, None) for _, message in notes]
    rows += rows_of(found)
    folder = os.path.relpath(runs.folder)
    rows.append(("writes", f"{writes}; runs are kept in {folder} until all are done", None))
    print_plan(call, "tune", rows, format)


def _of_run(method: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    return {"method": method, "settings": settings, "seed": seed}


def _of_runs(
    states: Mapping[tuple[str, int], str],
    tried: Sequence[Mapping[str, Any]],
    seeds: int,
    found: Mapping[str, Expected],
    *,
    people: bool,
) -> list[Row]:
    """Every combination with its runs; for programs each run."""
    rows: list[Row] = []
    for combination in tried:
        name = said(combination)
        own = [states[name, seed] for seed in range(seeds)]
        there = "".join(f"; {own.count(state)} {state}" for state in (FINISHED, CUT_OFF) if state in own)
        took, seconds = (f", {found[name].said}", found[name].seconds) if name in found else ("", 0.0)
        how = f"{counted(seeds - own.count(FINISHED), 'run')}{took}{there}"
        rows.append((f"setting {name}", how, round(seconds, 1) if seconds == seconds else None))
        if not people:
            rows += [("run", f"{name}, seed {seed}", state) for seed, state in enumerate(own)]
    finished = list(states.values()).count(FINISHED)
    there = f"; {finished} {'is' if finished == 1 else 'are'} {FINISHED}" if finished else ""
    product = f"{counted(len(tried), 'combination')} x {counted(seeds, 'seed')}"
    left = len(states) - finished
    return [*rows, ("trainings", f"{left:,} ({product}{there})", left)]
