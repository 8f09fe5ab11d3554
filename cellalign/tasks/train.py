"""train: fit a method to cells; from the command line, write the model directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import counted, noted
from cellalign.tasks import options as o
from cellalign.tasks.beginning import begin
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.learn_on import Learn, Parent
from cellalign.tasks.prepare import Prepared, read_often_looked_at
from cellalign.tasks.reads import expression_for, vectors
from cellalign.tasks.resuming import Resuming
from cellalign.tasks.spoken_as import in_their_words
from cellalign.tasks.trained import trained
from cellalign.tasks.understood import DEFAULT_METHOD, say_plan, tell_before

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from cellalign.engine.fit import Progress
    from cellalign.model import Model

log = logging.getLogger("cellalign")
LEARNING_ON, INTERVALS = "On a model that is there", "Intervals"  # groups of the help


@in_their_words
def train(
    adata: AnnData,
    *,
    method: Annotated[str | None, replace(o.METHOD, help="A name of `cellalign methods` [comp].")] = None,
    from_: Annotated[
        Model | str | Path | None,
        Option(
            "Learn the new batches and conditions of these cells from this model on.",
            metavar="MODEL",
            text=str | None,
            panel=LEARNING_ON,
        ),
    ] = None,
    learn: Annotated[
        Learn | None,
        Option("With --from: the weights of what is new, or slowly all others too [new].", panel=LEARNING_ON),
    ] = None,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    condition: Annotated[str | None, o.CONDITION] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    batch: Annotated[Sequence[str], o.BATCH] = (),
    covariate: Annotated[Sequence[str], o.COVARIATE] = (),
    label: Annotated[str | None, o.LABEL] = None,
    numeric: Annotated[Sequence[str], o.NUMERIC] = (),
    unlabelled: Annotated[str | None, o.UNLABELLED] = None,
    kinds: Annotated[Mapping[str, str] | None, o.KINDS] = None,
    continuous: Annotated[bool, Option("The condition is a number: a dose, a time.", panel=o.ROLES)] = False,
    allow_missing_condition: Annotated[
        bool, Option("Infer the condition of cells that have none.", panel=o.ROLES)
    ] = False,
    expression: Annotated[o.Expression | None, o.EXPRESSION] = None,
    layer: Annotated[str | None, o.LAYER] = None,
    n_top_genes: Annotated[int | None, o.N_TOP_GENES] = None,
    rounded: Annotated[bool, o.ROUND] = False,
    preset: Annotated[str | None, o.PRESET] = None,
    config: Annotated[
        Mapping[str, Any] | None,
        Option("Settings from a file.", metavar="FILE.yaml", panel=o.TUNING, text=str | None, read=o.settings_file),
    ] = None,
    settings: Annotated[Mapping[str, Any] | None, o.SETTINGS] = None,
    epochs: Annotated[int | None, o.EPOCHS] = None,
    batch_size: Annotated[int | None, Option("Cells per step.", panel=o.TUNING)] = None,
    lr: Annotated[float | None, Option("Peak learning rate.", panel=o.TUNING)] = None,
    latent_dim: Annotated[int | None, Option("Latent dimensions.", panel=o.TUNING)] = None,
    holdout: Annotated[Sequence[str], o.HOLDOUT] = (),
    validation: Annotated[float | None, Option("Share of cells to validate on [0.1].", panel=o.TUNING)] = None,
    early_stopping: Annotated[
        bool | None,
        Option("Stop when validation loss stops falling.", ("--early-stopping/--no-early-stopping",), panel=o.TUNING),
    ] = None,
    seed: Annotated[int, o.SEED] = 0,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
    precision: Annotated[o.Precision | None, o.PRECISION] = None,
    deterministic: Annotated[bool, o.DETERMINISTIC] = False,
    devices: Annotated[int | None, o.DEVICES] = None,
    nodes: Annotated[int | None, o.NODES] = None,
    progress: Progress | bool | None = None,
    before: Callable[[Prepared, torch.device], None] | None = None,
    order: Sequence[int] | None = None,
    genes_by_all: bool = False,
    source: str | os.PathLike[str] | Reading | None = None,
    model_path: str | os.PathLike[str] | None = None,
    resume: Annotated[bool, Option("Go on from the checkpoint of a run that was cut off.", panel=o.RUNS)] = False,
    auto_resume: Annotated[
        bool, Option("Go on if there is a checkpoint, else start: for jobs tried again.", panel=o.RUNS)
    ] = False,
    restart: Annotated[bool, Option("Throw a checkpoint away and start.", panel=o.RUNS)] = False,
    checkpoint_every: Annotated[
        float, Option("Seconds between two checkpoints.", metavar="SECONDS", low=0, panel=o.RUNS)
    ] = 60,
    wait: Annotated[bool, Option("Wait for another job that trains the same model.", panel=o.RUNS)] = False,
    force: Annotated[bool, o.FORCE] = False,
    calibrate: Annotated[
        str | None,
        Option(
            "Refit without groups of this column, to calibrate intervals [--label of local, lemur, linear; else none].",
            metavar="KEY",
            panel=INTERVALS,
        ),
    ] = None,
    calibrate_folds: Annotated[
        int | None,
        Option("Refits of --calibrate [5; in closed form one for each group].", metavar="N", low=2, panel=INTERVALS),
    ] = None,
) -> Model:
    """Train a method on cells.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        As `preprocess` writes it: normalised log1p expression in X for Gaussian likelihoods, counts in
        layers["counts"] for count likelihoods. Raw counts are preprocessed first, as `preprocess` does by default, by
        the cells that are not held out; the model keeps how, and does the same to the raw counts of new cells.
    method : str, optional
        A name of `cellalign methods`; by default that of `from_`, else comp.
    from_ : Model or path, optional
        A model to begin with. It is given weights for the batches and conditions that it does not know; columns, genes,
        scale and settings are its own, the plan too (at ten times the learning rate) but for what is asked for.
    learn : {"new", "all"}, optional
        With `from_`: "new" learns the new weights alone, and what the model makes of cells it knows stays as it was;
        "all" learns all others too, at a hundredth of the rate.
    missing_genes : {"error", "zero"}
        With `from_`: what to do about genes that the model needs and the cells lack.
    condition, control, batch, covariate, label : str
        obs columns by role, and the reference value of the condition. Covariates and labels may be missing.
    numeric : sequence of str
        Those of the batches and covariates that are numbers.
    unlabelled : str, optional
        The label's value that means there is none.
    kinds : mapping of column to kind, optional
        Of batches and covariates that are not categories: "number" (as `numeric`), "vector" (several numbers from
        obsm), "multi-label" (several categories at once, joined by +).
    continuous : bool
        The condition is a number (a dose, a time).
    allow_missing_condition : bool
        Cells whose condition is missing are trained on with the condition the model infers.
    expression : "any", optional
        Take the values as they are, whatever their sign and size, as long as they are finite: a standardised table,
        one-hot codes, CLR protein, gene activities, bulk log TPM, z-scores. Of methods with a Gaussian likelihood or a
        squared error; nothing is normalised, no output is cut at zero, and the model keeps it.
    layer : str, optional
        Read this layer (or "X") instead of the method's default matrix.
    n_top_genes : int, optional
        Highly variable genes to keep of raw counts, 0 for all; by default 2,000 for methods of log expression. Count
        methods read all genes there are unless it is given.
    rounded : bool
        Estimated counts (SoupX, RSEM, alevin, ...) are rounded, for methods that read counts.
    preset, config, settings
        Published hyperparameters by name, then a mapping, then single settings; later ones win. The named
        arguments (`epochs`, `batch_size`, ...) win over all.
    precision : {"auto", "float32", "bfloat16"}, optional
        Of the products in training; auto is bfloat16 on CPUs that have instructions for it. All else is float32, and
        so is every embedding and prediction.
    deterministic : bool
        The same bytes whatever the number of threads: one computes, which takes longer where there are several.
    devices, nodes : int, optional
        Processes on each machine, and machines, that train together: each takes its part of every batch, and the model
        is that of one process. In Python the script is started once for each, by torchrun or srun, and each calls
        this; the command starts them itself. Without the options there are as many as torchrun started; `devices=1`
        trains alone whoever started it. The first alone writes.
    holdout : sequence of "key=value,key=value"
        Cells that meet all of an item's terms are not trained on; nor do they choose the genes of raw counts, or the
        total these are scaled to.
    progress : Progress or bool, optional
        Told once per epoch how far training is; True is a bar, as there is one in a notebook without being asked for.
    before : callable, optional
        Called with what training starts from and the device, before it begins.
    order : sequence of int, optional
        How each epoch's cells are shuffled, as a model's record has it (`record.machine.order`): the same wherever they
        lie. By default as is best where they lie: in blocks of neighbours on disk, all alike in memory.
    genes_by_all : bool
        Held-out cells choose genes and total too: models of before did so, and are trained again so (`reproduce`).
    source : path or Reading, optional
        The files the data came from, recorded in the model.
    model_path : path, optional
        Where the model is saved when it is trained. While training runs a checkpoint lies beside it, which is
        removed once the directory is complete.
    resume : bool
        Go on from that checkpoint: learning rate, number of epochs and early stopping may be others. Without it a
        checkpoint that is there is an error.
    auto_resume : bool
        Go on from a checkpoint of these settings if there is one, give the model if it is complete, else start.
    restart : bool
        Throw the checkpoint away and start.
    checkpoint_every : float
        Seconds between two checkpoints; the first comes within 15 seconds of the first step.
    wait : bool
        Wait for the end of another job that trains the same model, rather than refuse.
    force : bool
        Replace a model that is there already.
    calibrate : str, optional
        obs column of groups that are left out one part after the other, by refits, to learn how far predictions are
        off: for `counterfactual(interval=...)`. Their cells under any condition but the control are left out; with the
        condition itself, of which combinations a+b are predicted from a and b, these. local, lemur and linear, given a
        label, do it by themselves for up to 50,000 cells; "none" keeps them from it.
    calibrate_folds : int, optional
        How many refits, each as long as the training; by default 5, in closed form one for each group; more where all
        groups of a condition would be left out at once.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        `from_` cannot be read, or its method has no weights for each condition or batch.
    UsageError
        Unknown method, preset or setting, a value out of range or that `from_` decides, `model_path` exists and
        `force` is not set, a checkpoint is there and nothing was said of it, or another job trains the same model.
    InputError
        The data is not fit for the method, or the model cannot be saved.
    TrainingError
        Training diverged or memory ran out.
    """
    asked = dict(locals())  # of which `begin` reads those by which a training is prepared
    from cellalign.data.given import given_cells
    from cellalign.data.outputs import holds_model
    from cellalign.data.said import tell
    from cellalign.engine.device import computing
    from cellalign.engine.keeping import kept_noted
    from cellalign.engine.ranks import check_shares, connected
    from cellalign.methods.registry import get
    from cellalign.model_directory import check_model_output
    from cellalign.tasks.calibrate import calibrate_later

    parent = Parent.of(from_, learn, method, missing_genes)
    method = method or (DEFAULT_METHOD if parent is None else parent.model.name)
    asked["threads"] = threads = 1 if deterministic else threads
    resuming = Resuming(model_path, resume, auto_resume, restart, checkpoint_every, deterministic)
    with connected(devices, nodes, device) as ranks, resuming.claimed(wait):
        if model_path is not None and ranks.first and not (auto_resume and holds_model(model_path)):
            check_model_output(model_path, force)
        check_shares(get(method))
        adata = given_cells(adata)
        begun = begin(adata, parent, method, resuming, asked, alone=ranks.alone)
        prepared = begun.prepared
        if (finished := resuming.complete(prepared.record)) is not None:
            if (planned := begun.to_calibrate(finished)) is not None:
                with computing(device, threads, deterministic=deterministic) as torch_device:
                    calibrate_later(finished, Path(str(model_path)), prepared, planned, device=torch_device, seed=seed)
            return finished
        if model_path is not None and ranks.first:
            check_model_output(model_path, force)
        checkpoint = resuming.checkpoint(prepared.record)
        for level, message in prepared.notes:
            tell(level, message)
        with kept_noted(checkpoint):
            model = trained(
                begun,
                checkpoint=checkpoint,
                before=before,
                progress=progress,
                device=device,
                threads=threads,
                deterministic=deterministic,
                seed=seed,
                world=ranks.world,
            )
            if model_path is not None and checkpoint is not None and ranks.first:
                model.save(Path(model_path), force=force)
                checkpoint.remove()  # not before: a run that is killed here has the one or the other
        return model


@command_of(train, example="cellalign train kang.pp.h5ad --method comp --condition stim")
def command(
    call: Call,
    input: Annotated[Reading, o.PREPROCESSED],
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    output: Annotated[
        str | None, Option("Also write the embedded cells here.", ("--output", "-o"), metavar="FILE", panel=o.OUTPUTS)
    ] = None,
    report: Annotated[str | None, o.REPORT] = None,
    dry_run: Annotated[bool, o.DRY_RUN] = False,
) -> None:
    """Train a method on cells and write the model directory."""
    from cellalign.data import files
    from cellalign.data.outputs import holds_model
    from cellalign.engine.ranks import current
    from cellalign.model_directory import check_model_output
    from cellalign.tasks.paths import cells_of
    from cellalign.tasks.report_of import check_page

    asked = call.options
    parent = asked["from_"]
    inputs = [input] if parent is None else [input, parent]
    forced = asked["force"] or dry_run
    writes = current().first  # of several ranks; they try whether they can
    if writes and not (asked["auto_resume"] and holds_model(model)):  # which may be complete: it is not replaced then
        check_model_output(model, forced, inputs)
    if writes and output is not None:
        files.check_cells_output(output, forced, inputs)
    if writes and report is not None:
        check_page(report, forced, inputs)
    files.check_apart(model, output, report)
    begins_with = Parent.of(parent, asked["learn"], asked["method"], asked["missing_genes"])
    method, kind = asked["method"] or DEFAULT_METHOD, asked["expression"]
    reads = None if begins_with else expression_for(method, asked["preset"], asked["config"], asked["settings"], kind)
    resuming = Resuming(
        model, asked["resume"], asked["auto_resume"], asked["restart"], deterministic=asked["deterministic"]
    )
    if dry_run:
        resuming.check_free()
    with nullcontext() if dry_run else resuming.claimed(asked["wait"]):  # before the cells are read
        source = files.spool(input)
        if begins_with is not None:
            adata = cells_of(source, begins_with.model, streaming=True)
        else:
            adata = _cells(source, str(reads), method, asked)
        named = None if input.from_stdin else input
        if dry_run:
            say_plan(call, adata, begins_with, named, resuming, [model, output, report])
            return
        before = partial(tell_before, adata, seed=asked["seed"])
        with call.training_progress() as progress:
            shown = progress if current().first else None
            fitted = train(adata, progress=shown, before=before, source=named, model_path=model, **asked)
    _say_fitted(call, fitted, model)
    _write_more(asked, fitted, adata, source, model, output, report)


def _cells(source: Reading, reads: str, method: str, asked: Mapping[str, Any]) -> AnnData:
    """Cells of a file to train on.

    Counts are looked at already where they are searched for, and so are read as in training from here on.
    """
    from cellalign.methods.registry import get
    from cellalign.tasks.paths import cells_for

    as_they_are = reads == "counts" and not asked["n_top_genes"]
    often = partial(read_often_looked_at, cls=get(method)) if as_they_are else None
    return cells_for(source, reads, vectors(asked["kinds"]), asked["layer"], streaming=True, often=often)


def _say_fitted(call: Call, fitted: Model, model: str) -> None:
    outcome = fitted.record.outcome
    assert outcome is not None
    precision = f", products in {fitted.record.training['precision']}" if outcome.epochs else ""
    said = precision + _speed(fitted)
    done = counted(outcome.epochs, "epoch") if outcome.epochs else "fitted in closed form"
    refits = 0 if fitted.record.calibration is None else fitted.record.calibration.folds
    done += f" and calibrated by {counted(refits, 'refit')}" if refits else ""
    call.log.info("%s: %s, %s in %s%s", model, fitted.name, done, outcome.took, said)


def _write_more(
    asked: Mapping[str, Any],
    fitted: Model,
    adata: AnnData,
    source: Reading,
    model: str,
    output: str | None,
    report: str | None,
) -> None:
    """The embedded cells and the page of a model that is complete, where they are asked for."""
    from cellalign.engine.ranks import current
    from cellalign.tasks.embed import embed, write_embedding
    from cellalign.tasks.report_of import How, of_training

    machine = {"device": asked["device"], "threads": asked["threads"]}
    if output is not None:
        with noted(f"the model {model} is complete, {output} is not written: `cellalign embed -m {model}` does it"):
            embed(adata, fitted, **machine)
            if current().first:
                write_embedding(adata, fitted, source, output, force=asked["force"])
    if report is not None:
        with noted(f"the model {model} is complete, {report} is not written: `cellalign report {model}` does it"):
            if output is None:
                embed(adata, fitted, **machine)
            if current().first:
                how = How(seed=asked["seed"], **machine)
                of_training(report, fitted, adata, model, source, how, asked["force"])


def _speed(fitted: Model) -> str:
    """How many cells a second were trained on, and which share of the time was spent waiting for their rows."""
    outcome, cells = fitted.record.outcome, fitted.record.cells
    if outcome is None or not outcome.epochs or fitted.waiting is None:
        return ""
    rate = cells.trained * outcome.epochs / max(outcome.seconds, 0.01)
    return f", {rate:,.0f} cells/s, {100 * fitted.waiting:.1f} % of the time waiting for cells"
