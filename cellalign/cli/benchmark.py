"""cellalign benchmark: hold out each cell type in turn, predict it with every method, print one table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cellalign.cli import common as c

NAME = "benchmark"
EXAMPLES = "Example: cellalign benchmark kang.pp.h5ad --methods comp,linear --holdout-each cell_type --condition stim"


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Preprocessed .h5ad; - is standard input.")],
    methods: Annotated[str, typer.Option("--methods", metavar="NAME,NAME", help="Methods to compare.")],
    holdout_each: Annotated[
        str, typer.Option("--holdout-each", metavar="KEY", help="obs column whose groups are held out in turn.")
    ],
    condition: c.Condition = None,
    control: c.Control = None,
    label: c.Label = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="VALUE", help="Only this group (repeatable).")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each.")] = 1,
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="Metric of the printed table (cellalign methods --metrics).")
    ] = "r_change_de",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.KEY=VALUE", help="One setting of one method (repeatable)."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells.")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.csv", help="All scores; a run that was cut off goes on.")
    ] = "benchmark.csv",
    format: c.Table = c.TableFormat.table,
    device: c.Device = "auto",
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Hold out each group under each condition in turn, predict it with every method, score it.

    Rows already in the output file are kept and not computed again.
    """
    log = c.start(quiet, verbose, log_format)
    from cellalign.errors import UsageError

    if condition is None:
        raise UsageError("--condition KEY is needed: the obs column whose effect is predicted")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    settings = _by_method(c.key_values(set_), names)
    from cellalign import api
    from cellalign.benchmarking import benchmark, metric_of, summary
    from cellalign.data import files
    from cellalign.data.source import MATRICES
    from cellalign.methods import registry

    declared = metric_of(metric)
    files.check_output(output, True, [input])
    scales = {(cls := registry.get(name)).reads(api.settings_of(cls, settings=settings.get(name))[0]) for name in names}
    source = files.spool(input)
    # methods that read counts and methods that read log expression: both matrices are needed
    adata = files.read_matrix(source, MATRICES[scales.pop()]) if len(scales) == 1 else files.read(source)
    table = benchmark(
        adata,
        methods=names,
        condition=condition,
        control=control,
        holdout_each=holdout_each,
        label=label,
        groups=group,
        seeds=range(seeds),
        settings=settings,
        results=output,
        progress=log.info,
        epochs=epochs,
        device=device,
        threads=threads,
    )
    wide = summary(table, metric)
    rows = [
        [str(name), *("-" if value != value else f"{value:.3f}" for value in row)]
        for name, row in zip(wide.index, wide.values, strict=True)
    ]
    columns = ["method", *(str(name) for name in wide.columns)]
    if format is not c.TableFormat.table:  # people read both in the title
        columns += ["metric", "better"]
        rows = [[*row, metric, str(declared.better)] for row in rows]
    title = f"{declared.heading} ({declared.better.in_words}), {holdout_each} held out"
    c.print_rows(title, columns, rows, format)
    log.info("%s: %d rows", output, len(table))


def _by_method(pairs: dict[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by method of METHOD.KEY=VALUE items."""
    from cellalign.errors import UsageError

    settings: dict[str, dict[str, Any]] = {}
    for name, value in pairs.items():
        method, dot, key = name.partition(".")
        if not dot or method not in names:
            raise UsageError(f"--set {name}=... is not METHOD.KEY=VALUE with a method of --methods")
        settings.setdefault(method, {})[key] = value
    return settings
