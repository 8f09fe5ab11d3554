"""cellalign tune: train a small grid, rank it, keep the best model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "tune"
EXAMPLES = "Example: cellalign tune shifts.h5ad --method svae+ --condition perturbation --grid alpha=20,100 --seeds 3"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Preprocessed .h5ad; - is standard input.")],
    method: Annotated[str, typer.Option("--method", help="A name of `cellalign methods`.")] = "comp",
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=VALUE,VALUE", help="Values of a setting to try (repeatable)."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each combination.")] = 3,
    by: Annotated[
        str, typer.Option("--by", metavar="auto|udr|loss", help="auto is udr for methods made to disentangle.")
    ] = "auto",
    condition: c.Condition = None,
    control: c.Control = None,
    batch: c.Batch = None,
    covariate: c.Covariate = None,
    label: c.Label = None,
    numeric: c.Numeric = None,
    unlabelled: c.Unlabelled = None,
    model: c.ModelDir = c.DEFAULT_MODEL,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.csv", help="Write the ranking here.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="Read this layer instead of the default.")] = None,
    holdout: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,KEY=VALUE", help="Do not train on these cells (repeatable)."),
    ] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Published hyperparameters.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all runs (repeatable).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells.")] = None,
    format: c.Table = c.TableFormat.table,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Train every combination of a grid under several seeds, rank them, keep the best model.

    Finished runs are kept in MODEL.tuning until all are done, so that a run that was cut off goes on from there.
    """
    log = c.start(quiet, verbose, log_format)
    from cellalign.data import files

    files.check_output(model, force)
    if output is not None:
        files.check_output(output, force, [input])
    values = c.key_values(grid, option="--grid")
    settings = c.key_values(set_)
    from cellalign import api
    from cellalign.data.source import MATRICES
    from cellalign.evaluation.metrics.selection import METRICS
    from cellalign.methods import registry
    from cellalign.tuning import tune

    cls = registry.get(method)
    hyperparameters, _ = api.settings_of(cls, preset, None, settings)
    source = files.spool(input)
    runs = Path(model).with_name(Path(model).name + ".tuning")
    best, table = tune(
        files.read_matrix(source, layer or MATRICES[cls.reads(hyperparameters)]),
        method=method,
        grid=values,
        seeds=seeds,
        by=by,
        settings=settings,
        runs=runs,
        condition=condition,
        control=control,
        batch=batch or (),
        covariate=covariate or (),
        label=label,
        numeric=numeric or (),
        unlabelled=unlabelled,
        layer=layer,
        preset=preset,
        holdout=holdout or (),
        epochs=epochs,
        device=device,
        threads=threads,
        source=None if input == "-" else input,
    )
    best.save(model, force=force)
    if output is not None:
        with files.atomic_path(output, force) as fresh:
            table.to_csv(fresh, index=False)
    shutil.rmtree(runs)
    columns = [str(name) for name in table.columns]
    arrows = {metric.name: metric.heading for metric in METRICS}
    rows = table.round(4).astype(str).values.tolist()
    c.print_rows("tuning", columns, rows, format, headings=[arrows.get(name, name) for name in columns])
    log.info("%s: the best of %d runs", model, len(table))
