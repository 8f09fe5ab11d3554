"""tune: model selection over a small grid of settings and several seeds, without looking at labels.

Methods whose latents should each mean one thing are ranked by UDR (unsupervised disentanglement ranking, Duan et
al. 2020), as the sVAE+ paper did: of settings under which models that differ by seed alone agree. Others are ranked by
what they are trained for, by a criterion that compares what the grid varies (`tune_criteria.py`).
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.data.said import told_once
from cellalign.errors import InputError, TrainingError
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.grid import GRID, said, tried_of, warn_overruled
from cellalign.tasks.paths import cells_for, to_write
from cellalign.tasks.prepare import training_rows
from cellalign.tasks.reads import expression_for, vectors
from cellalign.tasks.spoken_as import OF_A_RUN, in_their_words, with_parameters_of
from cellalign.tasks.train import train
from cellalign.tasks.tune_criteria import CRITERIA, ranked_by, scores, tuned
from cellalign.tasks.tune_dry import say_tuning
from cellalign.tasks.tune_runs import Runs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from cellalign.model import Model

log = logging.getLogger("cellalign")
INFORMATIVE = 0.01  # nats of KL to the prior from which a latent carries information (Duan et al. 2020)
UDR_CELLS = 5000
TUNED_ON = (
    "the settings were chosen by how well these are predicted, whose scores are no independent test: %s. For a final "
    "score hold out a second group too, under all conditions (--holdout KEY=VALUE): that one takes no part"
)


@in_their_words
@with_parameters_of(train, but=OF_A_RUN)
@told_once()
def tune(
    adata: AnnData,
    *,
    method: Annotated[str, o.METHOD] = "comp",
    grid: Annotated[
        Mapping[str, Sequence[Any]],
        replace(GRID, help="Values of a setting to try (repeatable); without any, those of the preset's paper."),
    ],
    seeds: Annotated[int, Option("Runs of each combination.", low=1)] = 3,
    by: Annotated[str, Option(f"What to rank by: {', '.join(CRITERIA)}.", metavar="auto|...")] = "auto",
    settings: Annotated[
        Mapping[str, Any] | None, replace(o.SETTINGS, help="A setting of all runs (repeatable).")
    ] = None,
    runs: str | os.PathLike[str] | Runs | None = None,
    condition: Annotated[str | None, o.CONDITION] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    batch: Annotated[Sequence[str], o.BATCH] = (),
    covariate: Annotated[Sequence[str], o.COVARIATE] = (),
    label: Annotated[str | None, o.LABEL] = None,
    numeric: Annotated[Sequence[str], o.NUMERIC] = (),
    kinds: Annotated[Mapping[str, str] | None, o.KINDS] = None,
    unlabelled: Annotated[str | None, o.UNLABELLED] = None,
    expression: Annotated[o.Expression | None, o.EXPRESSION] = None,
    layer: Annotated[str | None, o.LAYER] = None,
    n_top_genes: Annotated[int | None, o.N_TOP_GENES] = None,
    rounded: Annotated[bool, o.ROUND] = False,
    holdout: Annotated[Sequence[str], o.HOLDOUT] = (),
    preset: Annotated[str | None, o.PRESET] = None,
    epochs: Annotated[int | None, o.EPOCHS] = None,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    wait: Annotated[bool, Option("Wait for another job that tunes the same model.")] = False,
    **options: Any,
) -> tuple[Model, pd.DataFrame]:
    """Train every combination of a grid under several seeds, rank them, and keep the best model.

    Parameters
    ----------
    adata : AnnData
    method : str
    grid : mapping of setting to values
        As `train`'s settings; empty, the grid that the paper of `preset` searched, if it names one.
    seeds : int
        Seeds 0 to seeds - 1 of each combination; UDR needs at least 2.
    by : {"auto", "udr", "loss", "reconstruction", "mixing", "balance", "response"}
        `loss`, that on validation cells, compares runs whose losses are sums of the same terms, and is refused where
        the grid varies a weight or the likelihood. On validation cells too: `reconstruction`, their negative
        log-likelihood without weights; `mixing`, how far the share of a cell's own condition (or batch) among its
        neighbours is from that of permuted conditions; `balance`, the mean of the ranks by these two. `response`: the
        correlation of the predicted with the real change of what `holdout` holds out under a condition; the model keeps
        which cells these were, and `evaluate` says it of their scores. What is held out otherwise (a whole group) takes
        no part: it is what a final score is of. auto takes the
        first that compares the runs of: UDR for the methods made to disentangle; response where cells are held out
        under a condition; loss; balance; reconstruction; mixing.
    settings : mapping, optional
        Settings that are the same in all runs.
    runs : path, optional
        Where runs are kept: those of the same cells and settings that are there already are not trained again, and
        those that were cut off are gone on with. Others stay beside them.
    condition, control, batch, covariate, label, numeric, kinds, unlabelled, layer, n_top_genes, rounded, holdout
    preset, epochs, device, threads
        As `train` takes them; `options` are others of its parameters.
    wait : bool
        Wait for another job that holds `runs`, rather than refuse.

    Returns
    -------
    best : Model
        Of the best combination, the model with the best score of its own.
    table : DataFrame
        One row per run: settings, seed, validation loss, udr, what else it is ranked by, score of the combination, rank
        of the combination.

    Raises
    ------
    UsageError
        An empty grid, an unknown setting or criterion, one that does not compare what the grid varies, too few seeds,
        or no validation cells to rank by.
    TrainingError
        Every run failed; single ones that fail are left out with a warning.
    """
    import numpy as np
    import pandas as pd

    from cellalign.data.given import given_cells
    from cellalign.methods.registry import get
    from cellalign.threads import limited

    options |= {
        "condition": condition,
        "control": control,
        "batch": batch,
        "covariate": covariate,
        "label": label,
        "numeric": numeric,
        "kinds": kinds,
        "unlabelled": unlabelled,
        "expression": expression,
        "layer": layer,
        "n_top_genes": n_top_genes,
        "rounded": rounded,
        "holdout": holdout,
        "preset": preset,
        "epochs": epochs,
        "device": device,
        "threads": threads,
    }
    grid, tried = tried_of(grid, method, preset)
    warn_overruled(settings or {}, grid)
    adata = given_cells(adata)
    by = ranked_by(get(method), by, adata.obs, seeds, [{**(settings or {}), **own} for own in tried], options)
    log.info("ranked by %s", by)
    kept = runs if isinstance(runs, Runs) or runs is None else Runs(runs)
    records: list[dict[str, Any]] = []
    more: list[dict[str, float]] = []
    models: list[Model] = []
    runs_of: list[tuple[int, str]] = []  # of each model its combination's number, and the run in words
    if kept is not None:
        kept.of(adata, method, options)
    with nullcontext() if kept is None else kept.held(wait):
        for (number, combination), seed in itertools.product(enumerate(tried), range(seeds)):
            run = f"{said(combination)}, seed {seed}"
            try:
                model = _run(adata, method, (dict(settings or {}) | combination), seed, kept, options)
            except TrainingError as error:
                log.warning("%s: %s; left out", run, error)
                continue
            outcome = model.record.outcome
            loss = np.nan if outcome is None or outcome.validation_loss is None else outcome.validation_loss
            log.info("%s: validation loss %.4g, %.0f s", run, loss, outcome.seconds if outcome else 0)
            records.append(combination | {"seed": seed, "validation_loss": loss})
            with limited(threads):
                more.append(scores(by, model, adata, options, seed))
            models.append(model)
            runs_of.append((number, run))
    if not models:
        raise TrainingError("every run of the grid failed")
    table = pd.DataFrame(records)
    combination_of = pd.Series([number for number, _ in runs_of])
    with limited(threads):
        table["udr"] = _udr(adata, models, combination_of, by)
    for name in more[0]:
        table[name] = [found[name] for found in more]
    own = _own(table, by)
    if own.isna().all():
        raise InputError(f"no run has a {by} to be ranked by: {adata.n_obs} cells are too few to keep some for it")
    for (_, run), value in zip(runs_of, own, strict=True):
        if value != value:
            log.warning("%s: its %s is not a number, which counts as the worst", run, by)
    # of several seeds one without a score must not leave the median to the luckier ones
    table["score"] = own.fillna(-np.inf).groupby(combination_of).transform("median").replace(-np.inf, np.nan)
    table["rank"] = table["score"].rank(method="dense", ascending=False, na_option="bottom").astype(int)
    best = models[int(own.where(table["rank"] == 1).idxmax())]
    best.record = best.record.model_copy(update={"tuned": tuned(by, best, adata, options, len(models))})
    return best, table.sort_values(["rank", "seed"], kind="stable").reset_index(drop=True)


def _run(
    adata: AnnData,
    method: str,
    settings: dict[str, Any],
    seed: int,
    runs: Runs | None,
    options: Mapping[str, Any],
) -> Model:
    """One model: read where it is finished already, gone on with where it was cut off, trained and kept otherwise."""
    own = {"method": method, "settings": settings, "seed": seed, "calibrate": "none", **options}
    if runs is None:
        return train(adata, **own)
    place = runs.place(settings, seed)
    kept = runs.finished(settings, seed, place)
    if kept is not None:
        return kept
    return train(adata, model_path=place, force=True, resume=runs.cut_off(place), **own)


def _own(table: pd.DataFrame, by: str) -> pd.Series:
    """What every run is ranked by: the larger the better."""
    if by == "balance":
        return -(table["reconstruction"].rank() + table["mixing"].rank()) / 2
    better = 1 if by in ("udr", "response") else -1
    return better * table["validation_loss" if by == "loss" else by]


def _udr(adata: AnnData, models: Sequence[Model], combination_of: pd.Series, by: str) -> np.ndarray:
    """UDR of every model among those of its combination; NaN where it is not asked for."""
    import numpy as np

    from cellalign.evaluation.metrics.identifiability import udr

    scores = np.full(len(models), np.nan)
    if by != "udr":
        return scores
    among = np.flatnonzero(training_rows(adata, models[0].record.holdout, models[0].control))
    rows = among[np.sort(np.random.default_rng(0).permutation(len(among))[:UDR_CELLS])]
    cells = adata[rows]
    for _, members in combination_of.groupby(combination_of):
        index = list(members.index)
        posteriors = [models[i].posterior(cells) for i in index]
        informative = [(0.5 * (mean**2 + sd**2 - 1) - np.log(sd)).mean(0) > INFORMATIVE for mean, sd in posteriors]
        scores[index] = udr([mean for mean, _ in posteriors], informative)
    return scores


@command_of(
    tune,
    example="cellalign tune shifts.h5ad --method svae+ --condition perturbation --grid alpha=20,100 --seeds 3",
)
def command(
    call: Call,
    input: Annotated[Reading, o.PREPROCESSED],
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    output: Annotated[str | None, Option("Write the ranking here.", ("--output", "-o"), metavar="FILE.csv")] = None,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    force: Annotated[bool, o.FORCE] = False,
    dry_run: Annotated[bool, o.DRY_RUN] = False,
) -> None:
    """Train every combination of a grid under several seeds, rank them, keep the best model.

    Runs are kept in MODEL.tuning until all are done, so that a grid that was cut off goes on from there.
    """
    from cellalign.data import files
    from cellalign.evaluation.metrics.selection import METRICS
    from cellalign.model_directory import check_model_output

    check_model_output(model, force or dry_run, [input])
    if output is not None:
        files.check_table(output, force or dry_run, [input])
        files.check_apart(model, output)
    asked = call.options
    reads = expression_for(asked["method"], asked["preset"], None, asked["settings"], asked["expression"])
    adata = cells_for(files.spool(input), reads, vectors(asked["kinds"]), asked["layer"], streaming=True)
    runs = Runs(Path(os.path.abspath(model) + ".tuning"))
    if dry_run:
        say_tuning(call, adata, runs, to_write([model, output], force=force), format)
        return
    with runs.held(asked["wait"]):
        best, table = tune(adata, runs=runs, source=None if input.from_stdin else input, **asked)
        best.save(model, force=force)
        if output is not None:
            with files.atomic_path(output, force) as fresh:
                table.to_csv(fresh, index=False)
        runs.remove()
    if runs.folder.exists():
        call.log.info("%s holds something else as well, and is kept", runs.folder)
    columns, arrows = [str(name) for name in table.columns], {metric.name: metric.heading for metric in METRICS}
    rows: list[list[Any]] = [list(row) for row in table.itertuples(index=False)]
    if format == "table":  # not astype(str), which of pandas 3 leaves what is missing a number
        rows = [
            ["-" if value != value else str(value) for value in row] for row in table.round(4).itertuples(index=False)
        ]
    call.print_rows("tuning", columns, rows, format, headings=[arrows.get(name, name) for name in columns])
    from cellalign.data.values import best_of

    call.log.info("%s: the %s", model, best_of(len(table)))
    if best.record.tuned is not None and best.record.tuned.holdout:
        call.log.info(TUNED_ON, "; ".join(best.record.tuned.groups))
