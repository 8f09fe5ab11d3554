"""Files are read by the part that is needed, and written whole or not at all."""

import errno
import os

import anndata as ad
import numpy as np
import pytest

from cellalign.data import files
from cellalign.errors import InputError, UsageError


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.uns["mine"] = {"a": 1}
    tiny.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def test_one_matrix_is_read_and_the_others_are_not(saved, tiny):
    got = files.read_matrix(saved, "counts")
    assert got.X is None and list(got.layers) == ["counts"]
    np.testing.assert_array_equal(got.layers["counts"].toarray(), tiny.layers["counts"].toarray())
    assert files.read_matrix(saved, "X").X.shape == tiny.shape
    assert files.read_matrix(saved, None).obs.equals(got.obs)
    with pytest.raises(InputError, match="no matrix 'raw'; matrices: X, counts"):
        files.read_matrix(saved, "raw")


def test_write_with_changes_nothing_else(saved, tmp_path, tiny):
    files.write_with(
        saved, tmp_path / "out.h5ad", obsm={"X_z": np.ones((tiny.n_obs, 2))}, uns={"cellalign": {"k": "v"}}
    )
    got = ad.read_h5ad(tmp_path / "out.h5ad")
    assert got.obsm["X_z"].shape == (tiny.n_obs, 2) and got.uns["mine"]["a"] == 1 and got.uns["cellalign"]["k"] == "v"
    np.testing.assert_array_equal(got.X.toarray(), tiny.X.toarray())


def test_an_existing_output_stays_without_force(saved, tiny):
    before = saved.read_bytes()
    with pytest.raises(UsageError, match="force=True"):
        files.write(tiny, saved)
    assert saved.read_bytes() == before
    with pytest.raises(UsageError, match="is the input"):
        files.check_output(saved, True, [saved])


def test_a_failed_write_leaves_what_was_there(saved, tiny, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="the disk is full; nothing was changed"):
        files.write(tiny, saved, force=True)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == ["in.h5ad"]


def test_an_interrupted_directory_leaves_the_old_one(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("kept")
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(target, True, lambda _: None) as fresh:
        (fresh / "new").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in target.iterdir()] == ["old"] and len(list(tmp_path.iterdir())) == 1
    with files.atomic_directory(target, True, lambda _: None) as fresh:
        (fresh / "new").write_text("whole")
    assert [p.name for p in target.iterdir()] == ["new"] and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_h5ad_is_named(tmp_path):
    (tmp_path / "t.h5ad").write_text("text")
    for path, says in (
        (tmp_path / "t.h5ad", "is text, and no table"),
        (tmp_path / "no", "no such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(InputError, match=says):
            files.read(path)
