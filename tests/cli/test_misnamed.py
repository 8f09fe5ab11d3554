"""A mistyped file or column is told before an output that is there already, by every command and of every input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_cells) -> Path:
    """Cells as h5ad, zarr and beside a table of columns, and outputs that are there."""
    at = tmp_path_factory.mktemp("misnamed")
    tiny_cells.write_h5ad(at / "in.h5ad")
    tiny_cells.write_zarr(at / "in.zarr")
    pd.DataFrame({"site": ["a", "b"] * 120}, index=tiny_cells.obs_names).to_csv(at / "cells.csv")
    for name in ("out.h5ad", "scores.csv", "page.html"):
        (at / name).write_text("there")
    (at / "m").mkdir()
    return at


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train in.h5ad --condition stm -m m", "no condition column 'stm' in obs. Did you mean 'stim'?"),
        ("train in.zarr --condition stim --batch dnor -m m", "no batch column 'dnor' in obs. Did you mean 'donor'?"),
        ("train in.h5ad --condition stim --holdout typ=B,stim=x -m m", "no selection column 'typ' in obs."),
        ("train in.h5ad --obs cells.csv --condition stim --batch sit -m m", "no batch column 'sit' in obs."),
        ("train in.h5ad in.zarr --condition stim --batch fil -m m", "no batch column 'fil' in obs."),
        ("train nothing.h5ad --condition stim -m m", "no such file: nothing.h5ad"),
        ("train in.h5ad --obs nothing.csv --condition stim -m m", "no such file: nothing.csv"),
        ("preprocess nothing.h5ad -o out.h5ad", "no such file: nothing.h5ad"),
        ("preprocess in.h5ad --batch donr -o out.h5ad", "no batch column 'donr' in obs."),
        ("evaluate in.h5ad --condition stim --label celltype -o scores.csv", "no label column 'celltype' in obs."),
        ("tune in.h5ad --method vae --condition stm --grid lr=0.001 -m m", "no condition column 'stm' in obs."),
    ],
)
def test_a_mistyped_name_comes_first(folder, mistaken: Callable, line, said):
    done = mistaken(folder)(*line.split())
    assert done.returncode == 3 and said in done.stderr, done.stderr
    assert "exists; pass --force to replace it" in done.stderr  # as well
    assert done.stderr.count("cellalign: error: ") == 1


@pytest.mark.parametrize(
    "line",
    [
        "train in.h5ad --condition stim --batch donor --holdout cell_type=B,stim=stimulated -m m",
        "train in.h5ad in.zarr --condition stim --batch file -m m",
        "train in.h5ad --obs cells.csv --condition stim --batch site -m m",
        "train in.h5ad --condition stim --batch X_pca --kind X_pca=vector -m m",
        "train in.h5ad --condition stim --calibrate none -m m",
        "preprocess in.h5ad -o out.h5ad",
    ],
)
def test_an_output_that_is_there_is_told_alone_where_no_column_is_mistyped(folder, mistaken: Callable, line):
    done = mistaken(folder)(*line.split())
    assert done.returncode == 2 and "exists; pass --force to replace it" in done.stderr, done.stderr
    assert "column" not in done.stderr
