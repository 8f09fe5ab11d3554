"""`evaluate --scib-table` says in one line why it cannot draw. That it draws is shown by the command in README.md."""

import anndata as ad
import numpy as np
import pytest


@pytest.fixture(scope="module")
def embedded(kang_like, tmp_path_factory):
    """A folder with cells.h5ad: 120 cells with an embedding of their cell types alone."""
    folder = tmp_path_factory.mktemp("scib")
    cells = ad.read_h5ad(kang_like)
    kinds = cells.obs["cell_type"].value_counts().index[:2]
    rows = [np.flatnonzero(cells.obs["cell_type"] == kind)[:60] for kind in kinds]  # every shape compiles anew
    cells = cells[np.concatenate(rows)].copy()
    noise = np.random.default_rng(0).normal(size=(cells.n_obs, 50))
    cells.obsm["X_mine"] = noise + np.where(cells.obs["cell_type"] == kinds[0], 20, -20)[:, None]
    cells.write_h5ad(folder / "cells.h5ad")
    return folder


def test_tables_that_cannot_be_drawn(embedded, kang_like, mistaken):
    (embedded / "there.svg").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in embedded.iterdir()}

    def mistake(*arguments, says, status=2, cells="nothing.h5ad"):  # not there: found out before any is read
        done = mistaken(cwd=embedded)("evaluate", cells, "--condition", "stim", *arguments)
        assert done.returncode == status and done.stdout == ""
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert {path.name: path.stat().st_mtime_ns for path in embedded.iterdir()} == before

    label = ("--label", "cell_type")
    mistake(*label, "--scib-table", "a.jpg", says="--scib-table a.jpg ends in none of .png, .pdf, .svg")
    mistake(*label, "--scib-table", "there.svg", says="there.svg exists; pass --force", cells="cells.h5ad")
    mistake("--scib-table", "a.svg", says="--scib-table needs --label")
    mistake(*label, "--scib-table", "a.svg", "--panel", "mixing", says="panel bio, which --panel leaves out")
    mistake(*label, "--panel", "bio", "--batch", "none", status=3, says="no batch column 'none'", cells="cells.h5ad")
    twice = ("--scib-table", "a.svg", "--scatter", "./a.svg", "--against", kang_like)
    mistake(*label, *twice, says="--scatter and --scib-table name the same file")
