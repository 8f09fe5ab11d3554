"""cellalign demo: the whole job on simulated cells, each step as a user would type it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cellalign.cli import common as c

NAME = "demo"
EXAMPLES = "Example: cellalign demo demo-folder"


def command(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where to put everything.")] = "cellalign-demo",
    cells: Annotated[int, typer.Option("--cells", min=200, help="Cells to simulate.")] = 1500,
    input: Annotated[str | None, typer.Option("--input", metavar="FILE", help="Raw counts to use instead.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the cells.")] = None,
    seed: c.Seed = 0,
    force: c.Force = False,
) -> None:
    """Simulate, preprocess, train CoMP, embed, predict stimulated cells, and say how good that is."""
    c.start()
    from cellalign.cli.app import app
    from cellalign.data import files

    start = Path(input).absolute() if input else None
    if start is not None and not start.is_file():
        from cellalign.errors import InputError

        raise InputError(f"no such file: {input}")
    files.check_output(folder, force)
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    raw = str(start) if start else "cells.h5ad"
    roles = "--condition stim --label cell_type"
    steps = [f"simulate ifnb --cells {cells} --genes 1500 --seed {seed} -o cells.h5ad"] if start is None else []
    steps += [
        f"preprocess {shlex.quote(raw)} -o cells.pp.h5ad",
        f"train cells.pp.h5ad --method comp --condition stim --seed {seed}" + (f" --epochs {epochs}" if epochs else ""),
        "embed -o cells.emb.h5ad --umap --plot umap.png --color stim --color cell_type",
        "counterfactual --to stimulated -o cells.stimulated.h5ad",
        f"evaluate cells.emb.h5ad {roles}",
        f"evaluate cells.stimulated.h5ad --against cells.pp.h5ad {roles}",
    ]
    for step in steps:
        typer.secho(f"$ cellalign {step}", bold=True)
        words = shlex.split(step) + (["--force"] if force else [])
        app(words, standalone_mode=False)
    typer.echo(f"\nin {folder}: the model (cellalign-model), umap.png, cells.emb.h5ad, cells.stimulated.h5ad")
