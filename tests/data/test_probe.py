"""HDF5 files that HDF5 crashes on, or does not come to an end with: found by a process of its own."""

import os
import signal

import h5py
import numpy as np
import pytest
from anndata import AnnData

from cellalign.data import files
from cellalign.data.formats import probe
from cellalign.errors import InputError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked process")


@pytest.fixture
def saved(tmp_path):
    AnnData(np.ones((4, 3), "float32")).write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def looked_at(monkeypatch):
    """How often files were looked through."""
    calls = []
    look = probe._look_through

    def counted(path):
        calls.append(path)
        return look(path)

    monkeypatch.setattr(probe, "_forked", lambda path, seconds: counted(path))
    return calls


def test_a_good_file_is_looked_through_once_until_it_changes(saved, looked_at):
    for _ in range(2):
        assert files.read(saved).shape == (4, 3)
    assert len(looked_at) == 1
    with h5py.File(saved, "r+") as handle:
        handle.attrs["more"] = "x" * 100
    os.utime(saved, ns=(0, 0))
    files.read(saved)
    assert len(looked_at) == 2


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGSEGV), "HDF5 crashes on it"),
        (lambda _: os.kill(os.getpid(), signal.SIGXCPU), "HDF5 does not come to an end with it"),
        (lambda _: probe.TOO_LARGE, "HDF5 asks for memory without end"),
        (lambda _: probe.DAMAGED, "a chunk is larger than it says"),
    ],
)
def test_what_becomes_of_the_child_is_said_of_the_file(saved, monkeypatch, what, says):
    monkeypatch.setattr(probe, "_look_through", what)
    with pytest.raises(InputError, match=f"in.h5ad is damaged: {says}; copy or download it again"):
        files.read(saved)


def test_an_endless_loop_ends(saved, monkeypatch):
    def endless(_):
        while True:
            pass

    monkeypatch.setattr(probe, "_look_through", endless)
    monkeypatch.setattr(probe, "SECONDS", 1)
    assert probe.fault_of(saved) == "HDF5 does not come to an end with it"


def test_memory_without_end_ends(saved, monkeypatch):
    monkeypatch.setattr(probe, "MEMORY", 1 << 26)
    before = probe._look_through
    monkeypatch.setattr(probe, "_look_through", lambda path: (np.ones(1 << 28), before(path))[1])
    assert probe.fault_of(saved) is None  # an error of Python's is for the one who reads
    monkeypatch.setattr(probe, "_read_through", lambda array: np.ones(1 << 28).any())
    monkeypatch.setattr(probe, "_look_through", before)
    probe._looked_through.clear()
    assert probe.fault_of(saved) == "HDF5 asks for memory without end"


@pytest.mark.parametrize("damage", [lambda content: content, lambda content: content[:1500], lambda content: b"x"])
def test_where_no_process_can_be_forked_one_is_started(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    assert probe._spawned(saved, 10) == probe.FINE  # what can be said of it the reader says


def test_a_chunk_that_unpacks_to_far_more_than_it_is(tmp_path):
    with h5py.File(tmp_path / "in.h5ad", "w") as handle:
        place = handle.create_dataset("a", (8,), "u1", chunks=(8,), compression="gzip")
        place.id.write_direct_chunk((0,), bytes(1 << 22))
    assert probe.fault_of(tmp_path / "in.h5ad") == "a chunk is larger than it says"
