"""counterfactual: what cells would look like under another condition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cellalign.data.reading import Reading
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.paths import NAMED, beside, cells_of, looked_at, source_of, to_write
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model


def _one_or_several(given: list[str]) -> str | list[str]:
    """What --to was given: a text, or several."""
    return given[0] if len(given) == 1 else list(given)


@in_their_words
def counterfactual(
    adata: AnnData,
    model: Model,
    *,
    to: Annotated[
        str | float | Mapping[str, Any] | Sequence[str | float | Mapping[str, Any]],
        Option(
            "Condition to predict, A+B of two at once, KEY=VALUE of a batch, or all (repeatable).",
            metavar="VALUE",
            text=list[str],
            read=_one_or_several,
        ),
    ],
    from_: Annotated[
        str | None, Option("Condition of the source cells [the control; of a number any].", metavar="VALUE")
    ] = None,
    where: Annotated[
        Mapping[str, str | Sequence[str]] | Sequence[str] | None,
        replace(o.WHERE, help="Only these source cells: of a column any of its values, of several all (repeatable)."),
    ] = None,
    decoded: Annotated[
        bool, Option("Write the decoded mean, without what the model does not explain of a cell.")
    ] = False,
    draws: Annotated[int, Option("Write N cells of each, drawn from the prediction.", metavar="N")] = 0,
    samples: Annotated[
        int, Option('Average N posterior draws; adds layers["sd"] and layers["sd_of_mean"].', metavar="N")
    ] = 0,
    combine: Annotated[
        str,
        Option(
            "How effects of A+B are added up: the observed mean changes, or the model's own, in expression or latents.",
            metavar="auto|observed|expression|latent",
        ),
    ] = "auto",
    per_condition: Annotated[
        int, Option("Predict N cells of each condition, of source cells drawn at random.", metavar="N", low=0)
    ] = 0,
    within: Annotated[
        str | None, Option("From source cells of the donors, plates, ... a condition was observed in.", metavar="KEY")
    ] = None,
    with_control: Annotated[bool, Option("Write the observed control cells too.")] = False,
    missing_genes: Annotated[o.MissingGenes, o.MISSING_GENES] = "error",
    interval: Annotated[
        float | None, Option("Add layers lower and upper: where a group's mean is, for this share of genes [no].")
    ] = None,
    interval_over: Annotated[
        Literal["all", "de"], Option("The share of all genes, or of the 50 that turn out to differ most.")
    ] = "all",
    interval_cells: Annotated[
        int | None, Option("Cells of the observed mean [in proportion, as in training].", metavar="N", low=1)
    ] = None,
    seed: Annotated[int, o.SEED] = 0,
    device: Annotated[str, o.DEVICE] = "auto",
    threads: Annotated[int | None, o.THREADS] = None,
) -> AnnData:
    """What cells would look like under another condition: one row per source cell, and of several per condition too.

    Parameters
    ----------
    adata : AnnData
        Cells with the model's genes, or raw counts, to which is done what was done to the training cells.
    model : Model
        A trained one whose method predicts.
    to : str, float, mapping, or a sequence of these
        The condition to predict; "a+b" of two known ones; a number where the condition is one; "key=value" of a batch;
        of several each cell is predicted under each; "all" are all but the control.
    from_ : str, optional
        Condition of the source cells; by default the control.
    where : mapping of column to value or values, or sequence of "key=value,value", optional
        Only these source cells.
    decoded : bool
        X is the decoded mean, and not the observed cell plus the predicted change.
    draws, samples : int
        Cells drawn from the prediction of each, in place of the mean; posterior draws that are averaged, with
        layers["sd"] and layers["sd_of_mean"].
    combine : {"auto", "expression", "latent"}
        How the effects of "a+b" are added up.
    per_condition : int
        Cells of each condition, from source cells drawn at random; 0 predicts all.
    within : str, optional
        obs column of donors, plates, ...: source cells are those of its values in which a condition was observed.
    with_control : bool
        Keep the observed control cells beside the predicted ones.
    missing_genes : {"error", "zero"}
        What to do about genes that the model needs and the cells lack.
    interval : float, optional
        Add layers["lower"] and layers["upper"]: where the mean of an observed group will lie, for this share of genes.
    interval_over : {"all", "de"}
        The share of all genes, or of the 50 that turn out to differ most.
    interval_cells : int, optional
        Cells of the observed mean.
    seed, device, threads
        As of `train`.

    Returns
    -------
    AnnData
        A row per source cell (and condition, of several): X as predicted, obs with the condition replaced and the
        original beside it, layers["source"] as observed, uns["cellalign"] what was done; more in `prediction.predict`.

    Raises
    ------
    InputError
        Unknown condition, or no source cell is left.
    UsageError
        `to` equals `from_`, or options that do not go together.
    ModelError
        The method does not predict, or the model is not calibrated where `interval` asks for it.
    """
    return model.counterfactual(
        adata,
        to=to,
        from_=from_,
        where=where,
        decoded=decoded,
        draws=draws,
        samples=samples,
        combine=combine,
        per_condition=per_condition,
        within=within,
        with_control=with_control,
        missing_genes=missing_genes,
        interval=interval,
        interval_over=interval_over,
        interval_cells=interval_cells,
        seed=seed,
        device=device,
        threads=threads,
    )


@command_of(counterfactual, example="cellalign counterfactual --to stimulated --where cell_type=NK")
def command(
    call: Call,
    input: Annotated[Reading, o.CELLS] = o.TRAINING_FILES,
    output: Annotated[str | None, o.OUTPUT] = None,
    model: Annotated[str, o.MODEL] = o.DEFAULT_MODEL,
    draw: Annotated[bool, Option("Write one cell of each, drawn from the prediction, for use as a cell.")] = False,
    devices: Annotated[int | None, o.DEVICES] = None,
    nodes: Annotated[int | None, o.NODES] = None,
    force: Annotated[bool, o.FORCE] = False,
    dry_run: Annotated[bool, o.DRY_RUN] = False,
) -> None:
    """Predict the source cells' expression under condition --to: one row per source cell, and per --to of several.

    By default a cell keeps what the model does not explain of it: the observed cell plus the predicted change.
    """
    from cellalign.data import files
    from cellalign.engine.ranks import current
    from cellalign.model import load

    fitted, to = load(model), call.options["to"]
    asked = call.options | ({"draws": max(1, call.options["draws"])} if draw else {})
    source = source_of(input, fitted)
    output = output or beside(source, re.sub(r"[^\w.+-]+", "_", _named(to)))
    if current().first:
        files.check_cells_output(output, force or dry_run, [source, model])
    predicted = fitted.predict(cells_of(source, fitted, streaming=True, often=looked_at), **asked)
    if dry_run:
        _say_plan(call, predicted, to, to_write([output], force=force))
        return
    bare, copies = predicted.bare(writes=current().first), predicted.copies
    files.write_batches(bare, predicted.own_batches(), output, team=current(), copies=copies, force=force)
    if not current().first:
        return
    targets = predicted.record.targets
    one = targets[0].to if targets else predicted.record.to or _named(to)
    said = f"{len(targets)} conditions" if len(targets) > 1 else one
    observed = _observed(predicted)
    beside_them = f", beside {observed} observed control cells" if observed else ""
    written = predicted.record.written
    call.log.info("%s: %d cells as if %s (%s)%s", output, bare.n_obs - observed, said, written, beside_them)


def _observed(predicted: Any) -> int:
    """How many of the rows are observed control cells."""
    return len(predicted.control) if predicted.record.with_control else 0


def _say_plan(call: Call, predicted: Any, to: str | list[str], output: str) -> None:
    """Print what would be predicted; nothing is written."""
    from cellalign.memory import said

    bare, record = predicted.bare(), predicted.record
    named = [target.to for target in record.targets] or [record.to or _named(to)]
    layers = 2 + 2 * (record.interval is not None)  # X and source, lower and upper
    observed = _observed(predicted)
    size = said(4 * bare.n_obs * bare.n_vars * layers)
    rows = [
        ("model", f"{record.method}, of {record.condition}"),
        ("predicts", ", ".join(map(str, named[:NAMED])) + (f", ... ({len(named)})" if len(named) > NAMED else "")),
        ("from", record.from_ or "every other condition"),
        ("as", record.written),
        ("rows", f"{bare.n_obs:,} cells x {bare.n_vars:,} genes, up to {size} before compression"),
        *([("of these", f"{observed:,} observed control cells")] if observed else []),
        ("writes", output),
    ]
    title = "counterfactual would do this (nothing was written)"
    call.print_rows(title, ["what", "how"], rows, "table", headings=["", ""], prose=True)


def _named(to: str | list[str]) -> str:
    """A name for what was asked."""
    if isinstance(to, str):
        return to
    return ",".join(to[:NAMED]) + (f"+{len(to) - NAMED}" if len(to) > NAMED else "")
