"""cellalign train: fit a method, write the model directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cellalign.cli import common as c

NAME = "train"
EXAMPLES = "Example: cellalign train kang.pp.h5ad --method comp --condition stim"
TUNING = "Hyperparameters"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Preprocessed .h5ad; - is standard input.")],
    method: Annotated[str, typer.Option("--method", help="A name of `cellalign methods`.")] = "comp",
    condition: c.Condition = None,
    control: c.Control = None,
    batch: c.Batch = None,
    covariate: c.Covariate = None,
    label: c.Label = None,
    numeric: c.Numeric = None,
    unlabelled: c.Unlabelled = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="The condition is a number: a dose, a time.")
    ] = False,
    allow_missing_condition: Annotated[
        bool, typer.Option("--allow-missing-condition", help="Infer the condition of cells that have none.")
    ] = False,
    model: c.ModelDir = c.DEFAULT_MODEL,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the embedded cells here.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="Read this layer instead of the default.")] = None,
    holdout: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,KEY=VALUE", help="Do not train on these cells (repeatable)."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Published hyperparameters.", rich_help_panel=TUNING)
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE.yaml", help="Settings from a file.", rich_help_panel=TUNING)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting (repeatable).", rich_help_panel=TUNING),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells.", rich_help_panel=TUNING)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells per step.", rich_help_panel=TUNING)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=TUNING)] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Latent dimensions.", rich_help_panel=TUNING)] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share of cells to validate on [0.1].", rich_help_panel=TUNING)
    ] = None,
    early_stopping: Annotated[
        bool | None,
        typer.Option("--early-stopping/--no-early-stopping", help="Stop when validation loss stops falling."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")] = False,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Train a method on cells and write the model directory."""
    log = c.start(quiet, verbose, log_format)
    from cellalign.data import files

    files.check_output(model, force)
    if output is not None:
        files.check_output(output, force, [input])
    settings, configured = c.key_values(set_), _config(config)
    from cellalign import api
    from cellalign.data.source import MATRICES
    from cellalign.methods import registry

    cls = registry.get(method)
    hyperparameters, _ = api.settings_of(cls, preset, configured, settings)
    source = files.spool(input)
    adata = files.read_matrix(source, layer or MATRICES[cls.reads(hyperparameters)])
    with c.TrainingProgress(log, log_format) as progress:
        fitted = api.train(
            adata,
            method=method,
            condition=condition,
            control=control,
            batch=batch or (),
            covariate=covariate or (),
            label=label,
            numeric=numeric or (),
            unlabelled=unlabelled,
            continuous=continuous,
            allow_missing_condition=allow_missing_condition,
            layer=layer,
            preset=preset,
            config=configured,
            settings=settings,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            latent_dim=latent_dim,
            holdout=holdout or (),
            validation=validation,
            early_stopping=early_stopping,
            seed=seed,
            device=device,
            threads=threads,
            progress=progress,
            source=None if input == "-" else input,
            model_path=model,
            resume=resume,
        )
    fitted.save(model, force=force)
    api.discard_checkpoint(model)
    outcome = fitted.record.outcome
    assert outcome is not None
    log.info("%s: %s, %d epochs in %.0f s", model, method, outcome.epochs, outcome.seconds)
    if output is not None:
        obsm = fitted.embeddings(adata, device=device, threads=threads)
        c.write_embedding(fitted, adata, obsm, source, output, force, device=device, threads=threads)


def _config(path: str | None) -> dict[str, Any]:
    """The settings of a YAML file."""
    if path is None:
        return {}
    import yaml

    from cellalign.errors import InputError, UsageError

    try:
        with open(path) as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not readable as YAML") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} must hold KEY: VALUE lines")
    return {str(key): c.number(value) for key, value in content.items()}
