"""cellalign evaluate: how well conditions mix, cell types stay, and predictions hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "evaluate"
EXAMPLES = "Example: cellalign evaluate kang.stimulated.h5ad --against kang.pp.h5ad --condition stim --label cell_type"
PICTURES = (".png", ".pdf", ".svg")


def command(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Embedded cells, or a counterfactual; - is stdin.")],
    condition: c.Condition = None,
    control: c.Control = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="KEY", help="Batches of panel bio [the condition]; it runs then.")
    ] = None,
    label: c.Label = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE", help="Real cells to compare a counterfactual with.")
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option("--embedding", metavar="KEY", help="obsm key; found by itself (repeatable: panel bio compares)."),
    ] = None,
    panel: Annotated[
        str | None, typer.Option("--panel", metavar="NAME,NAME", help="Only these panels [all that can run, but bio].")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="DIR", help="For the panels identifiability and likelihood."),
    ] = None,
    particles: Annotated[int, typer.Option("--particles", min=1, help="Posterior draws of the likelihood.")] = 100,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="KEY=VALUE", help="Only these cells (repeatable).")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=2, help="Neighbours of the mixing panel.")] = 100,
    alpha: Annotated[float, typer.Option("--alpha", min=0, max=1, help="Level of the kBET test.")] = 0.1,
    min_cells: Annotated[
        int | None, typer.Option("--min-cells", min=2, help="Smallest cell type for m-kBET and m-s [4 k].")
    ] = None,
    format: Annotated[
        c.TableFormat, typer.Option("--format", help="For people, or for programs.")
    ] = c.TableFormat.table,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here (.csv or .json).")
    ] = None,
    scatter: Annotated[
        str | None,
        typer.Option(
            "--scatter",
            metavar="FILE",
            help="Draw every gene's predicted against its real mean (.png, .pdf, .svg), per --label.",
        ),
    ] = None,
    violin: Annotated[
        str | None,
        typer.Option(
            "--violin",
            metavar="FILE",
            help="Draw the 10 most different genes: control, predicted, real cells (.png, .pdf, .svg), per --label.",
        ),
    ] = None,
    scib_table: Annotated[
        str | None,
        typer.Option(
            "--scib-table", metavar="FILE", help="Draw the scores of panel bio (.png, .pdf, .svg); it runs then."
        ),
    ] = None,
    force: c.Force = False,
    device: c.Device = "auto",
    threads: c.Threads = None,
    seed: c.Seed = 0,
    quiet: c.Quiet = False,
    verbose: c.Verbose = False,
    log_format: c.Format = c.LogFormat.text,
) -> None:
    """Score an embedding, or a counterfactual against real cells, beside baselines and a ceiling."""
    log = c.start(quiet, verbose, log_format)
    chosen = panel.split(",") if panel else None
    asked = {"--scatter": scatter, "--violin": violin, "--scib-table": scib_table}
    pictures = {option: path for option, path in asked.items() if path is not None}
    _check_pictures(pictures, against, chosen, label)
    from cellalign.data import files
    from cellalign.data.checks import parse_where, select
    from cellalign.data.source import MATRICES
    from cellalign.errors import UsageError
    from cellalign.evaluation import evaluate
    from cellalign.records import Provenance

    if output is not None:
        files.check_output(output, force, [input])
    for path in pictures.values():
        files.check_output(path, force)
    from cellalign import api
    from cellalign.engine.device import pick_device

    pick_device(device, threads)
    fitted = api.load(model) if model is not None else None
    cells = files.read(input)
    prediction = Provenance.of(cells.uns).counterfactual
    predicted = prediction is not None
    for option in pictures:
        if predicted and option == "--scib-table":
            raise UsageError(f"{option} draws scores of an embedding; {input} is from cellalign counterfactual")
        if not predicted and option != "--scib-table":
            raise UsageError(f"{option} draws a prediction; {input} is not from cellalign counterfactual")
    if where:
        cells = cells[select(cells.obs, parse_where(where))].copy()
    real = None
    if against is not None:
        counted = prediction is not None and prediction.expression == "counts"
        real = files.read_matrix(against, MATRICES["counts" if counted else "log"])
    result = evaluate(
        cells,
        condition=condition,
        batch=batch,
        control=control,
        label=label,
        against=real,
        embedding=embedding,
        panels=chosen,
        also=["bio"] if scib_table is not None else [],
        k=k,
        alpha=alpha,
        min_cells=min_cells,
        model=fitted,
        particles=particles,
        device=device,
        seed=seed,
    )
    c.print_evaluation(result, format)
    for note in result.notes:
        log.info("%s", note)
    for name, reason in result.left_out.items():
        log.info("panel %s left out: %s", name, reason)
    if output is not None:
        text = result.to_json() if output.endswith(".json") else result.to_csv()
        with files.atomic_path(output, force) as fresh:
            fresh.write_text(text)
    for option, path in pictures.items():
        figure = {"--scatter": result.scatter, "--violin": result.violin, "--scib-table": result.scib_table}[option]()
        with files.atomic_path(path, force) as fresh:
            figure.savefig(fresh)


def _check_pictures(
    pictures: Mapping[str, str], against: str | None, panels: Sequence[str] | None, label: str | None
) -> None:
    """Refuse pictures, by option, that cannot be drawn, before any work: UsageError."""
    from cellalign.errors import UsageError

    for option, path in pictures.items():
        if Path(path).suffix.lower() not in PICTURES:
            raise UsageError(f"{option} {path} ends in none of {', '.join(PICTURES)}")
        drawn = "bio" if option == "--scib-table" else "response"
        if drawn == "bio" and label is None:
            raise UsageError(f"{option} needs --label KEY, the cell types that scores of panel bio are about")
        if drawn == "response" and against is None:
            raise UsageError(f"{option} needs --against FILE, the real cells to draw the prediction with")
        if panels is not None and drawn not in [name.strip() for name in panels]:
            raise UsageError(f"{option} draws panel {drawn}, which --panel leaves out; add it there")
        same = [other for other in pictures if Path(pictures[other]).absolute() == Path(path).absolute()]
        if len(same) > 1:
            raise UsageError(f"{same[0]} and {same[1]} name the same file; choose two")
