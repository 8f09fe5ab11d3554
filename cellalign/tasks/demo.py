"""demo: the whole job on simulated cells, each step as a user would type it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

from cellalign.errors import InputError
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of


def steps(raw: str | None, cells: int, epochs: int | None, seed: int, report: str | None = None) -> list[str]:
    """Command lines of the job, on a file of raw counts or on simulated cells."""
    roles = "--condition stim --label cell_type"
    simulated = f"simulate ifnb --cells {cells} --genes 1500 --seed {seed} -o cells.h5ad"
    train = f"train cells.pp.h5ad --method comp --condition stim --seed {seed}"
    page = "report cellalign-model cells.emb.h5ad cells.stimulated.h5ad --against cells.pp.h5ad -o "
    last = [] if report is None else [page + shlex.quote(report)]
    first = [simulated] if raw is None else []
    job = [
        f"preprocess {shlex.quote(raw or 'cells.h5ad')} -o cells.pp.h5ad",
        train if epochs is None else f"{train} --epochs {epochs}",
        "embed -o cells.emb.h5ad --umap --plot umap.png --color stim --color cell_type",
        "counterfactual --to stimulated -o cells.stimulated.h5ad",
        f"evaluate cells.emb.h5ad {roles}",
        f"evaluate cells.stimulated.h5ad --against cells.pp.h5ad {roles}",
    ]
    return [*first, *job, *last]


@command_of(None, name="demo", example="cellalign demo demo-folder")
def command(
    call: Call,
    folder: Annotated[str, Argument("Where to put everything.", metavar="[FOLDER]")] = "cellalign-demo",
    cells: Annotated[int, Option("Cells to simulate.", low=200)] = 1500,
    input: Annotated[str | None, Option("Raw counts to use instead.", metavar="FILE")] = None,
    epochs: Annotated[int | None, o.EPOCHS] = None,
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
    report: Annotated[str | None, o.REPORT] = None,
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Simulate, preprocess, train CoMP, embed, predict stimulated cells, and say how good that is."""
    from cellalign.data import files
    from cellalign.tasks.report_of import check_page

    start = Path(input).absolute() if input else None
    if start is not None and not start.is_file():
        raise InputError(f"no such file: {input}")
    files.check_folder(folder, force)
    Path(folder).mkdir(parents=True, exist_ok=True)
    if report is not None:  # which may lie in the folder
        report = str(Path(report).absolute())
        check_page(report, force, [])
    os.chdir(folder)
    for step in steps(None if start is None else str(start), cells, epochs, seed, report):
        call.announce(f"$ cellalign {step}")
        call.run(shlex.split(step) + (["--force"] if force else []))
    call.announce(f"\nin {folder}: the model (cellalign-model), umap.png, cells.emb.h5ad, cells.stimulated.h5ad")
