"""Rows read from a temporary file are those of the matrix, to the bit, and a file that fails costs nothing but time."""

import errno
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import cellalign
from cellalign.data import unpacked as module
from cellalign.data.formats.on_disk import CsrOnDisk
from cellalign.data.reading import Reading
from cellalign.data.source import content_of
from cellalign.data.stored import Held
from cellalign.data.unpacked import Unpacked, in_memory, smallest, unpacked
from cellalign.engine import copies
from cellalign.tasks.paths import cells_for

RNG = np.random.default_rng(0)
MATRICES = {
    "counts": sparse.random(300, 40, 0.3, "csr", np.float32, 0, lambda n: RNG.integers(1, 200, n).astype(np.float32)),
    "deep counts": sparse.csr_matrix(RNG.poisson(3_000, (300, 40)).astype(np.int64)),
    "deepest counts": sparse.csr_matrix(RNG.poisson(100_000, (300, 40)).astype(np.float32)),
    "log": sparse.random(300, 40, 0.3, "csr", np.float32, 0),
    "float64": sparse.random(300, 40, 0.3, "csr", np.float64, 0),
    "negative": sparse.csr_matrix(RNG.integers(-3, 4, (300, 40)).astype(np.float32)),
    "many genes": sparse.random(300, 70_000, 0.001, "csr", np.float32, 0),
    "empty rows": sparse.csr_matrix(np.diag(np.arange(300.0, dtype=np.float32) % 2)),
    "dense": RNG.normal(size=(300, 40)).astype(np.float32),
    "dense counts": RNG.poisson(2, (300, 40)).astype(np.int32),
    "nothing": sparse.csr_matrix((300, 40), dtype=np.float32),
}


class Watched(Held):
    """Counts what is read of it."""

    block_values, reads = 1200, 0

    def runs(self, runs):
        self.reads += 1
        return super().runs(runs)


def same(found, known):
    assert found.dtype == known.dtype
    if not sparse.issparse(known):
        return np.testing.assert_array_equal(found, known)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(known, name))
    assert found.indices.dtype == known.indices.dtype == found.indptr.dtype
    assert found.has_canonical_format
    return None


@pytest.mark.parametrize("name", MATRICES)
def test_rows_are_the_same_and_read_once(name):
    whole = Watched(MATRICES[name])
    x = unpacked(whole)
    assert isinstance(x, Unpacked) and x.shape == whole.shape and x.chunk_rows == whole.chunk_rows
    assert content_of(x) == content_of(whole)  # a pass, as training makes one
    assert x.done == 300 and len(x._parts) >= 1
    before = whole.reads
    for rows in (np.arange(300), RNG.permutation(300)[:90], np.array([299, 0, 0, 7])):
        same(x.rows(rows), Held(MATRICES[name]).rows(rows))
    assert whole.reads == before
    same(x.rows(np.zeros(0, int)), whole.rows(np.zeros(0, int)))
    same(pickle.loads(pickle.dumps(x)).rows(np.arange(300)), whole.rows(np.arange(300)))  # elsewhere: of the matrix


def test_what_was_read_is_there_before_all_is():
    whole = Watched(MATRICES["log"])
    x = unpacked(whole)
    same(x.runs([(50, 60)]), whole.runs([(50, 60)]))  # not the next rows
    assert x.done == 0
    x.runs([(0, 100)])
    assert x.done == 100
    before = whole.reads
    same(x.runs([(10, 20), (90, 100)]), MATRICES["log"][np.r_[10:20, 90:100]])
    assert whole.reads == before
    same(x.runs([(90, 110)]), whole.runs([(90, 110)]))
    x.fill()
    assert x.done == 300
    same(x.runs([(5, 295)]), MATRICES["log"][5:295])  # across blocks of different passes


def test_it_takes_the_smallest_type_that_is_exact():
    for values, kind in (([0, 255], "u1"), ([0, 256], "u2"), ([0, 65_536], "f4"), ([-1, 3], "f4"), ([0.5], "f4")):
        found = smallest(np.array(values, np.float32))
        assert found.dtype == np.dtype(kind)
        np.testing.assert_array_equal(found, np.array(values, np.float32))
    for strange in (np.array([np.nan, 1], np.float32), np.array([np.inf, 1], np.float32), np.zeros(0, np.float32)):
        np.testing.assert_array_equal(smallest(strange), strange)


@pytest.mark.parametrize("at", ["first write", "later write", "read"])
def test_a_disk_that_fails_costs_time_alone(at, monkeypatch):
    whole = Watched(MATRICES["log"])
    x = unpacked(whole)

    def full(self, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    if at != "first write":
        x.runs([(0, 100)])
    if at != "read":
        monkeypatch.setattr(Unpacked, "_append", full)
    else:
        monkeypatch.setattr(Unpacked, "_read", lambda self, at, size: b"short")
    x.fill()
    for rows in (np.arange(300), RNG.permutation(300)[:90]):
        same(x.rows(rows), Held(MATRICES["log"]).rows(rows))
    assert x.done == 0 and x._file.closed
    x.fill()  # is not tried again
    same(x.rows(np.arange(300)), MATRICES["log"])


def test_the_file_has_no_name_and_needs_room_on_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    x = unpacked(Watched(MATRICES["log"]))
    x.fill()
    assert os.name == "nt" or not list(tmp_path.iterdir())
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    whole = Watched(MATRICES["log"])
    assert unpacked(whole) is whole
    monkeypatch.undo()
    assert unpacked(MATRICES["log"]) is MATRICES["log"]  # in memory it stays there
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert unpacked(whole) is whole


def test_a_folder_in_memory_is_known(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(module, "MOUNTS", mounts)
    here = Path(os.path.realpath(tmp_path))
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {here.parent} tmpfs rw 0 0\n")
    assert in_memory(str(tmp_path)) and not in_memory("/")
    mounts.write_text(f"tmpfs {here.parent} tmpfs rw 0 0\n/dev/vdb {here} xfs rw 0 0\ntmpfs {here}x tmpfs rw 0 0\n")
    assert not in_memory(str(tmp_path))
    mounts.unlink()
    assert not in_memory(str(tmp_path))  # where the system does not say


@pytest.mark.parametrize("counts_in", ["raw", "umi", "X", "estimated"])
def test_a_copy_is_made_of_what_is_trained_on_alone(tiny, tmp_path, monkeypatch, counts_in):
    """Not of a matrix that is looked at first, nor of one that is rounded first."""
    counts, made = tiny.layers["counts"].copy(), []
    del tiny.layers["counts"]
    if counts_in == "raw":
        tiny.raw = AnnData(counts, obs=tiny.obs, var=tiny.var)
    elif counts_in == "umi":
        tiny.layers["umi"] = counts
    else:
        tiny.X = counts if counts_in == "X" else counts * np.float32(1.01)
    tiny.write_h5ad(tmp_path / "in.h5ad")

    def kept(x):
        found = unpacked(x)
        if isinstance(found, Unpacked) and found not in made:
            made.append(found)
        return found

    monkeypatch.setattr(copies, "unpacked", kept)
    options = {"condition": "stim", "epochs": 1, "settings": {"hidden": [8]}, "rounded": counts_in == "estimated"}
    left = cells_for(
        Reading((str(tmp_path / "in.h5ad"),), stream=True), "counts", streaming=True, often=copies.unpacked
    )
    cellalign.train(left, method="scvi", **options)
    (x,) = made
    assert (x.to_memory() != counts.rint()).nnz == 0


@pytest.mark.parametrize("method", ["comp", "scvi"])
def test_a_training_on_disk_reads_the_file_once_and_ends_in_the_same_weights(tiny, tmp_path, monkeypatch, method):
    tiny.write_h5ad(tmp_path / "in.h5ad")
    options = {"condition": "stim", "epochs": 3, "settings": {"hidden": [8]}, "batch_size": 32, "method": method}
    made, read_later = [], []

    def train(within):
        monkeypatch.setattr(copies, "unpacked", within)
        return cellalign.train(cellalign.read(tmp_path / "in.h5ad", stream=True), **options)

    def kept(x):
        made.append(unpacked(x))
        return made[-1]

    def looked_at(self):
        found = of_pass(self)
        runs = CsrOnDisk.runs
        monkeypatch.setattr(CsrOnDisk, "runs", lambda self, asked: read_later.append(asked) or runs(self, asked))
        return found

    known, of_pass = train(lambda x: x), Unpacked.looked_at
    monkeypatch.setattr(Unpacked, "looked_at", looked_at)
    found = train(kept)
    x = made[0]
    assert isinstance(x, Unpacked) and x.done == tiny.n_obs and all(each is x for each in made)
    assert "facts" in vars(x.whole) and not read_later  # the pass that checks it is the only one
    for name, weight in known.method.state_dict().items():
        assert torch.equal(weight, found.method.state_dict()[name])
    assert found.record.content == known.record.content
