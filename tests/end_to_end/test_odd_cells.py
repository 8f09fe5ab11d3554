"""Odd but valid cells: every command works on them or says in one line why not, and nothing is unexpected."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import in_this_process
from scipy import sparse
from support import at_every_change

SMALL = ["--epochs", "1", "--set", "hidden=[8]", "--set", "latent_dim=3"]
ROLES = ["--condition", "stim", "--label", "cell_type"]
FORCED = ["--force"]
COMMANDS = {
    "preprocess": ["preprocess", "in.h5ad", "-o", "out.h5ad", "--n-top-genes", "5", "--batch", "donor", "--force"],
    "train": ["train", "in.h5ad", "--method", "scanvi", *ROLES, "--batch", "donor", "-m", "own", "--force", *SMALL],
    "tune": ["tune", "in.h5ad", "--method", "vae", "--grid", "lr=0.001", "--seeds", "1", "-m", "best", *FORCED, *SMALL],
    "embed": ["embed", "in.h5ad", "-m", "comp", "-o", "out.h5ad", "--force"],
    "counterfactual": ["counterfactual", "in.h5ad", "-m", "comp", "--to", "stimulated", "-o", "out.h5ad", "--force"],
    "annotate": [
        "annotate",
        "in.h5ad",
        "--reference",
        "base.h5ad",
        *ROLES[2:],
        "-m",
        "comp",
        "-o",
        "out.h5ad",
        *FORCED,
    ],
    "evaluate": ["evaluate", "in.h5ad", *ROLES, "--embedding", "X_z", "--k", "5"],
    "evaluate a prediction": ["evaluate", "in.h5ad", "--against", "base.h5ad", *ROLES, "--panel", "response"],
}
GARBAGE = [
    "text",
    3,
    np.array([1, 2]),
    np.array(["a"], dtype=object),
    {},
    {"a": 1},
    {"format_version": "x"},
    {"format_version": 2, "embedding": "x"},
    {"format_version": 2, "embedding": {"X_z": {}}},
    {"format_version": 1, "kind": "embedding"},
    {"format_version": 1, "annotation": "x"},
    {"format_version": 2, "counterfactual": {"method": "x", "condition": "nothing", "to": "x"}},
    {"format_version": 2, "preprocess": {"counts_from": "X", "n_top_genes": 5, "target_sum": np.nan}},
    {"format_version": 2, "preprocess": {"counts_from": "X", "n_top_genes": 5, "target_sum": -3.0}},
    sparse.csr_matrix(np.eye(2)),
    pd.DataFrame({"a": [1]}),
]


def relabelled(key: str, name: str):
    """The first cell is the only one of its category."""

    def change(cells: ad.AnnData) -> ad.AnnData:
        cells.obs[key] = np.where(np.arange(cells.n_obs) == 0, name, cells.obs[key].astype(str))
        return cells

    return change


def zeros(cells: ad.AnnData) -> ad.AnnData:
    cells.X = sparse.csr_matrix(cells.shape, dtype=np.float32)
    cells.layers["counts"] = cells.X.copy()
    return cells


def hostile(cells: ad.AnnData) -> ad.AnnData:
    names = {"control": "[/naive] \x1b]0;t\x07", "stimulated": "$\\foo$ \u202e[link=x]"}
    cells.obs["stim"] = cells.obs["stim"].cat.rename_categories(names)
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({"B": "B [naive]", "NK": "[memory]\n"})
    cells.obs_names = [f"\x1b[31m{name}" for name in cells.obs_names]
    return cells


def surrounded(cells: ad.AnnData) -> ad.AnnData:
    cells.varm["p"], cells.obsp["d"] = np.ones((cells.n_vars, 2)), sparse.eye(cells.n_obs).tocsr()
    cells.obsm["table"] = pd.DataFrame({"a": ["x"] * cells.n_obs}, index=cells.obs_names)
    cells.uns["other"] = {"empty": {}, "array": np.arange(3)}
    for name in ("held_out", "X_z", "stim_source", "cell_type_predicted", "n_counts"):
        cells.obs[name] = "theirs"
    cells.raw = cells.copy()
    return cells


ODD = {
    "one cell": lambda cells: cells[:1].copy(),
    "two cells": lambda cells: cells[[0, 3]].copy(),
    "four cells": lambda cells: cells[[0, 1, 3, 4]].copy(),
    "a batch of one cell": lambda cells: cells[:13].copy(),
    "no cell": lambda cells: cells[:0].copy(),
    "one gene": lambda cells: cells[:, :1].copy(),
    "no gene": lambda cells: cells[:, :0].copy(),
    "all zero": zeros,
    "a condition of one cell": relabelled("stim", "alone"),
    "a batch's only cell": relabelled("donor", "alone"),
    "a type of one cell": relabelled("cell_type", "alone"),
    "names a terminal would obey": hostile,
    "everything else that a file can hold": surrounded,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_cells):
    """base.h5ad, and the model comp of its cells."""
    at = tmp_path_factory.mktemp("odd")
    cells = base(tiny_cells)
    cells.write_h5ad(at / "base.h5ad")
    done = in_this_process(["train", "base.h5ad", "--method", "comp", *ROLES[:2], "-m", "comp", *SMALL], at)
    assert done.returncode == 0, done.stderr
    return at


def base(tiny_cells: ad.AnnData) -> ad.AnnData:
    cells = tiny_cells[:60].copy()
    cells.obsm["X_z"] = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return cells


def check(folder, words) -> int:
    done = in_this_process(words, folder)
    assert done.returncode in (0, 2, 3, 4, 5), (words, done.stderr)
    said = done.stdout + done.stderr
    assert "Traceback" not in said and not set(said) & set("\x1b\x07\u202e"), words
    assert sum(line.startswith("cellalign: error: ") for line in done.stderr.splitlines()) == (done.returncode > 0)
    return done.returncode


FAST = ["everything else that a file can hold"]


@pytest.mark.parametrize("name", at_every_change(ODD, FAST))
def test_every_command_on_odd_cells(folder, tiny_cells, name):
    ODD[name](base(tiny_cells)).write_h5ad(folder / "in.h5ad")
    statuses = {command: check(folder, words) for command, words in COMMANDS.items()}
    if name in ("no cell", "no gene"):
        assert statuses.pop("evaluate") == (0 if name == "no gene" else 3)  # an embedding needs none
        assert set(statuses.values()) == {3}
    elif name.startswith("everything"):
        assert set(statuses.values()) == {0}
    elif name in ("one cell", "two cells"):
        assert statuses["counterfactual"] == statuses["embed"] == 0 and statuses["train"] == 3


@pytest.mark.parametrize(
    "value", at_every_change(GARBAGE, ["text"]), ids=lambda value: str(value)[:40].replace("\n", " ")
)
def test_a_record_that_is_none(folder, tiny_cells, value):
    cells = base(tiny_cells)
    cells.uns["cellalign"] = value
    cells.write_h5ad(folder / "in.h5ad")
    for name in ("preprocess", "embed", "counterfactual", "evaluate"):
        status = check(folder, COMMANDS[name])
        assert status == 0 or "nothing" in str(value), name


def test_a_record_that_is_none_is_said_once(folder, tiny_cells):
    cells = base(tiny_cells)
    cells.uns["cellalign"] = "text"
    cells.write_h5ad(folder / "in.h5ad")
    done = in_this_process([*COMMANDS["evaluate"], "--panel", "mixing"], folder)
    assert done.stderr.count('warning: uns["cellalign"] is not read: it has no format_version') == 1
