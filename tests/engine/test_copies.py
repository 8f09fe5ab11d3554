"""Ranks of a machine read one unpacked copy, which one of them writes; none is left behind."""

import tempfile
from pathlib import Path

import as_threads
import numpy as np
import pytest
import torch
from scipy import sparse

from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.data.stored import Held
from cellalign.data.unpacked import Unpacked
from cellalign.engine import copies
from cellalign.engine.ranks import RankLost
from cellalign.nn.minibatch import Fields

X = sparse.random(300, 40, 0.3, "csr", np.float32, 0)


class Counted(Held):
    """Counts the rows that are read of it."""

    block_values, read = 1200, 0

    def runs(self, runs):
        self.read += sum(last - first for first, last in runs)
        return super().runs(runs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def on_all(world, what, monkeypatch, machines=1, lost_at=None):
    """What became of it on each rank; of an even number of ranks half are on another machine where there are two."""
    names = [f"m{rank * machines // world}" for rank in range(world)]
    monkeypatch.setattr(copies.platform, "node", lambda: names[as_threads.number()])
    return as_threads.on_all(world, what, lost_at)


@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("x", [X, X.toarray()], ids=["sparse", "dense"])
def test_of_each_machine_one_rank_reads_the_file_once(folder, monkeypatch, x, machines):
    wholes = [Counted(x) for _ in range(4)]

    def train(ranks):
        matrix = copies.one_copy(wholes[ranks.rank], ranks)
        ranks.wait()
        assert not list(folder.iterdir())  # it has no name any more, and nothing lies in it yet
        cells = Cells(as_matrix(matrix), Fields([]), (), 300)
        copies.fill_copy(cells, ranks)
        for rows in (torch.arange(300), torch.randperm(300)[:90]):
            expected = x[rows.numpy()]
            found = matrix.rows(rows.numpy())
            assert abs(found - expected).max() == 0 and found.dtype == expected.dtype
        return matrix

    found = on_all(4, train, monkeypatch, machines)
    assert all(isinstance(matrix, Unpacked) for matrix in found), found
    firsts = {0} if machines == 1 else {0, 2}
    assert [whole.read for whole in wholes] == [300 if rank in firsts else 0 for rank in range(4)]


def test_one_rank_looks_at_all_values(folder, monkeypatch):
    """The pass that checks them leaves them in the copy, and others are told what it found."""
    wholes = [Counted(X) for _ in range(3)]

    def look(ranks):
        return copies.looked_at_by_one(copies.one_copy(wholes[ranks.rank], ranks), ranks).facts

    found = on_all(3, look, monkeypatch)
    assert [whole.read for whole in wholes] == [300, 0, 0]
    for facts in found:
        np.testing.assert_array_equal(facts.held, np.diff(X.indptr))
    assert on_all(2, lambda ranks: copies.looked_at_by_one(X, ranks) is X, monkeypatch) == [True, True]


@pytest.mark.parametrize("at", [1, 2])
def test_no_file_is_left_where_a_rank_dies(folder, monkeypatch, at):
    found = on_all(2, lambda ranks: copies.one_copy(Counted(X), ranks), monkeypatch, lost_at=at)
    assert all(isinstance(each, RankLost) for each in found) and not list(folder.iterdir())


def test_without_room_or_where_writing_fails_each_reads_the_matrix(folder, monkeypatch):
    def train(ranks):
        matrix = copies.one_copy(Counted(X), ranks)
        copies.fill_copy(Cells(as_matrix(matrix), Fields([]), (), 300), ranks)
        assert (matrix.rows(np.arange(300)) != X).nnz == 0
        return isinstance(matrix, Unpacked) and matrix.done

    monkeypatch.setattr(Unpacked, "_append", lambda self, values: (_ for _ in ()).throw(OSError("full")))
    assert on_all(2, train, monkeypatch) == [0, 0]
    monkeypatch.setattr(copies, "unpacked_by_name", lambda x: (x, None))
    assert on_all(2, train, monkeypatch) == [False, False]
    assert not list(Path(folder).iterdir())
