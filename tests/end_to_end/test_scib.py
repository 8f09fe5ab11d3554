"""`evaluate --panel bio --scib-table` prints and draws scIB's scores, or says in one line why not."""

import json

import anndata as ad
import matplotlib.image
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


def test_a_batch_gives_the_scores_and_their_picture(embedded, cellalign):
    run = cellalign(cwd=embedded, env={"NUMBA_OPT": "0"})  # numba compiles in half the time
    options = ("--batch", "stim", "--label", "cell_type", "--panel", "bio", "--format", "json")
    done = run("evaluate", "cells.h5ad", *options, "--scib-table", "table.png")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no word of JAX or scib-metrics"
    scores = {(row["system"], row["metric"]): row["value"] for row in json.loads(done.stdout)["scores"]}
    assert {system for system, _ in scores} == {"X_mine", "unintegrated PCA"}
    total = 0.4 * scores["X_mine", "batch correction"] + 0.6 * scores["X_mine", "bio conservation"]
    assert scores["X_mine", "total"] == pytest.approx(total)
    assert scores["X_mine", "total"] > scores["unintegrated PCA", "total"]
    pixels = matplotlib.image.imread(embedded / "table.png")
    assert pixels.shape[1] > pixels.shape[0] > 200 and (pixels[..., :3] != 1).any(-1).mean() > 0.01
    assert not list(embedded.glob(".*")), "nothing temporary is left"


def test_tables_that_cannot_be_drawn(embedded, kang_like, cellalign):
    (embedded / "there.svg").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in embedded.iterdir()}

    def mistake(*arguments, says, status=2, cells="nothing.h5ad"):  # not there: found out before any is read
        done = cellalign(cwd=embedded)("evaluate", cells, "--condition", "stim", *arguments)
        assert done.returncode == status and done.stdout == ""
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert {path.name: path.stat().st_mtime_ns for path in embedded.iterdir()} == before

    label = ("--label", "cell_type")
    mistake(*label, "--scib-table", "a.jpg", says="--scib-table a.jpg ends in none of .png, .pdf, .svg")
    mistake(*label, "--scib-table", "there.svg", says="there.svg exists; pass --force")
    mistake("--scib-table", "a.svg", says="--scib-table needs --label")
    mistake(*label, "--scib-table", "a.svg", "--panel", "mixing", says="panel bio, which --panel leaves out")
    mistake(*label, "--panel", "bio", "--batch", "none", status=3, says="no batch column 'none'", cells="cells.h5ad")
    twice = ("--scib-table", "a.svg", "--scatter", "./a.svg", "--against", kang_like)
    mistake(*label, *twice, says="--scatter and --scib-table name the same file")
