"""simulate: data with the truth inside. The functions are those of `cellalign.simulate`, which says what they draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of

if TYPE_CHECKING:
    from anndata import AnnData


def ifnb(
    *,
    n_cells: Annotated[int, Option("Cells.", ("--cells",), low=16)] = 2000,
    n_genes: Annotated[int, Option("Genes.", ("--genes",), low=50)] = 2000,
    n_cell_types: Annotated[int, Option("Cell types, at most 8.", ("--cell-types",), low=1)] = 8,
    batches: Annotated[int, Option("Technical batches.", low=0)] = 0,
    donors: Annotated[int, Option("Donors.", low=0)] = 0,
    sites: Annotated[int, Option("Sites; every donor is measured at each.", low=0)] = 0,
    site_effect: Annotated[float, Option("Spread of log expression between sites.", low=0)] = 0.5,
    diseased: Annotated[float, Option("Share of donors with a disease, below 1.", low=0)] = 0.0,
    disease_effect: Annotated[float, Option("Spread of the disease's log changes.", low=0)] = 0.4,
    stimulated: Annotated[float, Option("Share of stimulated cells, below 1.", low=0)] = 0.5,
    response_scale: Annotated[float, Option("Multiplies every gene's response.", low=0)] = 1.0,
    doses: Annotated[bool, Option("A dose per cell in place of two conditions.")] = False,
    rare: Annotated[float | None, Option("Share of each of the rarer cell types.")] = None,
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
    **others: Any,
) -> AnnData:
    """Cells like peripheral blood with and without interferon beta: `cellalign.simulate.ifnb`."""
    asked = {name: value for name, value in locals().items() if name != "others"}
    from cellalign import simulate
    from cellalign.threads import check

    check(threads)
    return simulate.ifnb(**asked, **others)


def sparse_shift(
    *,
    n_interventions: Annotated[int, Option("Interventions.", ("--interventions",), low=2)] = 100,
    n_cells: Annotated[int, Option("Cells under each intervention.", ("--cells",), low=1)] = 500,
    n_latent: Annotated[int, Option("Latent variables.", ("--latents",), low=1)] = 15,
    n_genes: Annotated[int, Option("Genes.", ("--genes",), low=2)] = 100,
    n_heldout: Annotated[int, Option("Interventions marked as held out.", ("--heldout",), low=0)] = 20,
    n_controls: Annotated[int, Option("Cells under no intervention.", ("--controls",), low=0)] = 0,
    library_size: Annotated[float | None, Option("Counts per cell [100,000].", low=1)] = None,
    targets: Annotated[
        tuple[int, int],
        Option(
            "Latents an intervention targets.",
            metavar="FEWEST,MOST",
            text=str,
            read=lambda text: _two_numbers(text),
        ),
    ] = (1, 3),
    sparsity: Annotated[float | None, Option("Or the share of latents it targets.")] = None,
    effect: Annotated[float, Option("Mean size of a shift.")] = 5.0,
    heldout_sparsity: Annotated[float | None, Option("Sparsity of held-out interventions.")] = None,
    heldout_effect: Annotated[float | None, Option("Effect of held-out interventions.")] = None,
    variant: Annotated[str, Option("As the paper's text, or as its code.", metavar="text|code")] = "text",
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """Cells under interventions that each shift few latent variables: `cellalign.simulate.sparse_shift`."""
    asked = {name: value for name, value in locals().items() if name != "threads"}
    from cellalign import simulate
    from cellalign.threads import limited

    with limited(threads):
        return simulate.sparse_shift(**asked)


def fairness(
    *,
    n_cells: Annotated[int, Option("People, one a row.", ("--cells",), low=2)] = 4000,
    n_numeric: Annotated[int, Option("Columns of numbers.", ("--numbers",), low=0)] = 6,
    n_categorical: Annotated[int, Option("Columns of categories, one-hot.", ("--categories",), low=0)] = 8,
    n_latent: Annotated[int, Option("Latent variables.", ("--latents",), low=1)] = 6,
    share: Annotated[float, Option("Share of the larger sex.")] = 0.675,
    leaking: Annotated[float, Option("Share of columns that tell the sex.")] = 0.6,
    leak: Annotated[float, Option("How strongly they do.", low=0)] = 1.0,
    gap: Annotated[float, Option("What the sex adds to the income's score.")] = 1.0,
    label_rate: Annotated[float, Option("Share of high incomes.")] = 0.25,
    standardise: Annotated[bool, Option("Mean 0 and variance 1.", ("--standardise/--as-it-is",))] = True,
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """People with a sensitive attribute that leaks into their features: `cellalign.simulate.fairness`."""
    asked = {name: value for name, value in locals().items() if name != "threads"}
    from cellalign import simulate
    from cellalign.threads import limited

    with limited(threads):
        return simulate.fairness(**asked)


def digits(
    *,
    n_images: Annotated[int, Option("Digits, each drawn with three strokes.", ("--images",), low=3)] = 1797,
    seen: Annotated[
        Sequence[int],
        Option(
            "Digits whose thin and thick images are to be trained on.",
            metavar="DIGIT,DIGIT",
            text=list[str],
            read=lambda items: _digits(items),
        ),
    ] = (1, 3, 6, 7),
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> AnnData:
    """Handwritten digits with normal, thin and thick strokes: `cellalign.simulate.digits`."""
    from cellalign import simulate
    from cellalign.threads import limited

    with limited(threads):
        return simulate.digits(n_images, seen=seen, seed=seed)


@command_of(ifnb, group="simulate", example="cellalign simulate ifnb --cells 2000 --genes 2000 -o simulated.h5ad")
def ifnb_command(call: Call, output: Annotated[str, o.OUTPUT], force: Annotated[bool, o.FORCE] = False) -> None:
    """Counts like peripheral blood cells with and without interferon beta, and each cell's expected expression."""
    from cellalign.data import files

    files.check_cells_output(output, force)
    adata = ifnb(**call.options)
    files.write(adata, output, force=force)
    call.log.info("%s: %d cells x %d genes", output, adata.n_obs, adata.n_vars)


@command_of(
    sparse_shift,
    group="simulate",
    example="cellalign simulate sparse-shift --interventions 40 --heldout 8 -o shifts.h5ad",
)
def sparse_shift_command(call: Call, output: Annotated[str, o.OUTPUT], force: Annotated[bool, o.FORCE] = False) -> None:
    """Counts under interventions that each shift few latent variables, with latents, graph and effects."""
    from cellalign.data import files

    files.check_cells_output(output, force)
    adata = sparse_shift(**call.options)
    files.write(adata, output, force=force)
    n = call.options["n_interventions"]
    call.log.info("%s: %d cells x %d genes, %d interventions", output, adata.n_obs, adata.n_vars, n)


@command_of(fairness, group="simulate", example="cellalign simulate fairness --cells 4000 -o people.h5ad")
def fairness_command(call: Call, output: Annotated[str, o.OUTPUT], force: Annotated[bool, o.FORCE] = False) -> None:
    """A standardised table of people whose sex leaks into many features, with an income that goes with it."""
    from cellalign.data import files

    files.check_cells_output(output, force)
    adata = fairness(**call.options)
    files.write(adata, output, force=force)
    as_they_are = option("expression", "any")
    call.log.info("%s: %d people x %d features; train with %s", output, adata.n_obs, adata.n_vars, as_they_are)


@command_of(digits, group="simulate", example="cellalign simulate digits -o digits.h5ad")
def digits_command(call: Call, output: Annotated[str, o.OUTPUT], force: Annotated[bool, o.FORCE] = False) -> None:
    """Images of handwritten digits with normal, thin and thick strokes, like Morpho-MNIST."""
    from cellalign.data import files

    files.check_cells_output(output, force)
    adata = digits(**call.options)
    files.write(adata, output, force=force)
    how = "--holdout seen=no,stroke=thin --holdout seen=no,stroke=thick"
    call.log.info("%s: %d images of 32 x 32; train with %s", output, adata.n_obs, how)


def _digits(items: Sequence[str]) -> list[int]:
    try:
        return [int(part) for item in items for part in item.split(",")]
    except ValueError as error:
        raise UsageError(f"{option('seen', ','.join(items))} is not DIGIT,DIGIT,..., for example 1,3,6,7") from error


def _two_numbers(text: str) -> tuple[int, int]:
    try:
        fewest, most = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option('targets', text)} is not FEWEST,MOST, for example 1,3") from error
    return fewest, most
