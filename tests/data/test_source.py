"""How rows that are read from disk come to a device."""

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from cellalign.data import source
from cellalign.data.formats.on_disk import CsrOnDisk, DenseOnDisk
from cellalign.data.source import OnDisk

ROWS = {"ascending": [1, 2, 5], "in any order, one twice": [5, 1, 1]}


@pytest.fixture
def moves(monkeypatch):
    """A GPU that is not there: what is moved to it stays, and is noted with where it came from and who waits."""
    pinned, found, usual = set(), [], torch.Tensor.to

    def pin(values):
        copy = values.clone()
        pinned.add(copy.data_ptr())
        return copy

    def to(values, *args, non_blocking=False):
        if not isinstance(args[0], torch.device) or args[0].type != "cuda":
            return usual(values, *args)
        found.append(("pinned" if values.data_ptr() in pinned else "pageable", "on" if non_blocking else "waits"))
        return values

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return found


@pytest.fixture(params=["sparse", "dense"])
def matrix(request, tmp_path):
    """A matrix [6, 4] on disk, and it in memory."""
    x = sparse.random(6, 4, 0.6, "csr", dtype=np.float32, random_state=0)
    with h5py.File(tmp_path / "x.h5", "w") as handle:
        handle["dense"] = x.toarray()
        for name in ("data", "indices", "indptr"):
            handle[f"sparse/{name}"] = getattr(x, name)
    with h5py.File(tmp_path / "x.h5") as handle:
        given, kind = handle[request.param], request.param
        yield (CsrOnDisk(given, kind, x.shape) if kind == "sparse" else DenseOnDisk(given, kind)), x.toarray()


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_gpu_fills_itself_from_pinned_memory_while_the_thread_reads_on(matrix, moves, rows):
    there, x = matrix
    found = OnDisk(there, torch.device("cuda")).fetch(torch.tensor(rows))
    assert moves and set(moves) == {("pinned", "on")}
    read = found.rows(torch.arange(len(rows)))
    np.testing.assert_array_equal(read if isinstance(read, torch.Tensor) else read.dense(), x[rows])


def test_what_is_large_and_what_stays_here_is_not_pinned(matrix, moves, monkeypatch):
    there, _ = matrix
    OnDisk(there).fetch(torch.tensor([0, 1]))
    assert not moves
    monkeypatch.setattr(source, "PINNED", 8)
    OnDisk(there, torch.device("cuda")).fetch(torch.tensor([0, 1, 2]))
    assert set(moves) == {("pageable", "waits")}
