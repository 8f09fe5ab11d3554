"""The commands on files that stay on disk."""

import h5py
import numpy as np
from scipy import sparse

from cellalign.data import files


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def test_streamed_cells_are_trained_on_by_the_command(tiny, tmp_path, cellalign):
    for part, name in ((tiny[:120], "a.h5ad"), (tiny[120:], "b.zarr")):
        files.write(part.copy(), tmp_path / name)
    run = cellalign(cwd=tmp_path)
    how = ("--stream", "--file-key", "site", "--batch", "site", "--condition", "stim", "--method", "cvae")
    done = run("train", "a.h5ad", "b.zarr", *how, "--epochs", 2, "--set", "hidden=[8]", "-o", "emb.h5ad")
    assert done.returncode == 0, done.stderr
    assert "stay on disk" in done.stderr and "cells/s" in done.stderr and "waiting for cells" in done.stderr
    assert files.read(tmp_path / "emb.h5ad").obsm["X_cvae"].shape[0] == tiny.n_obs
    done = run("counterfactual", "--stream", "--to", "stimulated", "-o", "out.zarr")
    assert done.returncode == 0, done.stderr
    done = run("counterfactual", "--in-memory", "--to", "stimulated", "-o", "out.h5ad")
    assert done.returncode == 0 and "stay on disk" not in done.stderr
    found, known = files.read(tmp_path / "out.zarr"), files.read(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.X, known.X)
    np.testing.assert_array_equal(dense(found.layers["source"]), dense(known.layers["source"]))


def test_what_cannot_be_streamed_is_one_line_and_a_command_that_works(tiny, tmp_path, cellalign):
    tiny.X = tiny.X.tocsc()
    del tiny.layers["counts"]
    files.write(tiny, tmp_path / "columns.h5ad")
    run = cellalign(cwd=tmp_path)
    train = ("--stream", "--method", "cvae", "--condition", "stim", "--epochs", 1, "--set", "hidden=[8]")
    refused = run("train", "columns.h5ad", *train)
    assert refused.returncode == 3 and len(refused.stderr.splitlines()) == 1
    words = refused.stderr.partition("run: cellalign ")[2].split()
    assert words == ["convert", "columns.h5ad", "-o", "columns.rows.h5ad"]
    assert run(*words).returncode == 0
    done = run("train", "columns.rows.h5ad", *train)
    assert done.returncode == 0, done.stderr


def test_a_file_on_disk_is_checked_as_in_memory(tiny, tmp_path, cellalign):
    files.write(tiny, tmp_path / "in.h5ad")
    asked = ("check", "in.h5ad", "--condition", "stim", "--label", "cell_type", "--format", "json")
    known, found = (cellalign(cwd=tmp_path)(*asked, how) for how in ("--in-memory", "--stream"))
    assert "stay on disk" in found.stderr and found.stdout == known.stdout and found.returncode == known.returncode


def test_a_damaged_file_on_disk_is_one_line(tiny, tmp_path, cellalign):
    files.write(tiny, tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle["X/indices"][5] = 10_000
    refused = cellalign(cwd=tmp_path)("train", "in.h5ad", "--stream", "--method", "cvae", "--condition", "stim")
    assert refused.returncode == 3 and "is damaged: an index of 10000" in refused.stderr.splitlines()[-1]
    missing = cellalign(cwd=tmp_path)("embed", "none.h5ad", "--stream")
    assert missing.returncode in (3, 4)
