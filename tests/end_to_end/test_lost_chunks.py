"""A zarr store whose only chunk of X's values was lost reads as zeros: no command computes with these."""

from __future__ import annotations

import shutil

import anndata as ad
import pytest
from running import in_this_process

SMALL = ["--epochs", "1", "--set", "hidden=[8]", "--latent-dim", "3"]
ROLES = ["--condition", "stim", "--label", "cell_type"]
ANNOTATED = ["--label", "cell_type", "-m", "m", "-o", "out.h5ad"]
COMMANDS = {
    "embed": ["embed", "lost.zarr", "-m", "m", "-o", "out.h5ad"],
    "counterfactual": ["counterfactual", "lost.zarr", "-m", "m", "--to", "stimulated", "-o", "out.h5ad"],
    "annotate": ["annotate", "lost.zarr", "--reference", "good.zarr", *ANNOTATED],
    "a reference": ["annotate", "good.zarr", "--reference", "lost.zarr", *ANNOTATED],
    "train": ["train", "lost.zarr", "--method", "comp", *ROLES[:2], "-m", "new", *SMALL],
    "train any": ["train", "lost.zarr", "--method", "comp", *ROLES[:2], "-m", "new", "--expression", "any", *SMALL],
    "train counts": ["train", "no-counts.zarr", "--method", "scvi", "-m", "new", *SMALL],
    "train on": ["train", "lost.zarr", "--from", "m", "--learn", "all", "-m", "new", "--epochs", "1"],
    "preprocess": ["preprocess", "no-counts.zarr", "-o", "out.h5ad"],
    "preprocess like": ["preprocess", "lost.zarr", "--like", "m", "-o", "out.h5ad"],
    "check": ["check", "lost-alone.zarr", *ROLES],
    "a prediction": ["evaluate", "predicted.zarr", "--against", "good.zarr", *ROLES],
    "real cells": ["evaluate", "predicted.h5ad", "--against", "lost.zarr", *ROLES],
    "an embedding": ["evaluate", "embedded.zarr", *ROLES],
}
AT_DOORS = ("embed", "counterfactual", "annotate", "train", "train counts", "preprocess", "check")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_cells):
    """Stores that are whole, and such as lost a chunk; the model m."""
    at = tmp_path_factory.mktemp("lost")
    cells = tiny_cells[:60].copy()
    cells.write_zarr(at / "good.zarr")
    alone = cells.copy()
    del alone.layers["counts"]
    alone.write_zarr(at / "alone.zarr")
    for words in (
        ["train", "good.zarr", "--method", "comp", *ROLES[:2], "-m", "m", *SMALL],
        ["counterfactual", "good.zarr", "-m", "m", "--to", "stimulated", "-o", "predicted.h5ad"],
        ["embed", "good.zarr", "-m", "m", "-o", "embedded.h5ad"],
    ):
        done = in_this_process(words, at)
        assert done.returncode == 0, done.stderr
    for name in ("predicted", "embedded"):
        ad.read_h5ad(at / f"{name}.h5ad").write_zarr(at / f"{name}.zarr")
    for whole, name, part in (
        ("good", "lost", "X/data"),
        ("good", "no-counts", "layers/counts/data"),
        ("alone", "lost-alone", "X/data"),
        ("predicted", "predicted", "X"),
        ("embedded", "embedded", "obsm/X_comp"),
    ):
        if whole != name:
            shutil.copytree(at / f"{whole}.zarr", at / f"{name}.zarr")
        every = (at / f"{name}.zarr" / part).rglob("*")
        chunks = [file for file in every if file.is_file() and file.name[-1].isdigit()]
        assert chunks
        for chunk in chunks:
            chunk.unlink()
    return at


@pytest.mark.parametrize(
    ("command", "stream"),
    [(command, stream) for command in COMMANDS for stream in ("", "--stream") if not stream or command in AT_DOORS],
)
def test_a_matrix_of_zeros_is_refused(folder, command, stream):
    done = in_this_process([*COMMANDS[command], *([stream] if stream else [])], folder)
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("cellalign: error: ")]
    assert len(errors) == 1 and "zero" in errors[0] + done.stdout
    assert not (folder / "out.h5ad").exists() and not (folder / "new").exists()


def test_what_is_refused_is_named_with_its_cure(folder):
    done = in_this_process(COMMANDS["embed"], folder)
    assert "the input's X holds nothing but zeros (each of" in done.stderr
    assert "the only chunk of a zarr store was lost; copy it again, or make it anew" in done.stderr


def test_a_layer_of_zeros_beside_good_counts_is_a_warning_of_check(folder):
    done = in_this_process(["check", "lost.zarr", *ROLES, "--strict"], folder)
    assert done.returncode == 3 and "all values of X are zero" in done.stdout
