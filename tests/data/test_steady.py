"""HDF5 never meets a write that fails, nor a signal: both would end the interpreter with a segmentation fault."""

import errno
import os
import signal
import subprocess
import sys
import time

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from cellalign.data import files
from cellalign.data.formats import steady
from cellalign.errors import InputError

LIMITED = """
import os, resource, sys
import anndata as ad, numpy as np, scipy.sparse as sp
from cellalign.data import files
from cellalign.errors import InputError

x = sp.random(400, 100, 0.3, format="csr", dtype="f4", random_state=0)
cells = ad.AnnData(x, layers={"counts": x.copy()}, obsm={"z": np.ones((400, 5))})
cells.write_h5ad("in.h5ad")

def copy():
    files.write_with("in.h5ad", "out.h5ad", obsm={"more": np.random.rand(400, 500)})

def batches():
    some = ((50 * i, {"X": np.random.rand(50, 100).astype("f4")}) for i in range(8))
    files.write_batches(ad.AnnData(obs=cells.obs, var=cells.var), some, "out.h5ad")

def h5ad():
    files.write(cells, "out.h5ad")

def zarr():
    files.write(cells, "out.zarr")

for how, limits in ((h5ad, (0, 1000, 5000, 30000, 60000)), (copy, (0, 30000, 500000)), (batches, (0, 3000, 40000)),
                    (zarr, (0, 300, 20000))):
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            how()
        except InputError as error:
            assert "the disk is full; nothing was changed" in str(error), (how, limit, error)
        else:
            sys.exit(f"{how} {limit}: written")
        assert os.listdir() == ["in.h5ad"], (how, limit, os.listdir())
"""


def test_a_full_disk_at_any_byte_is_one_line_and_no_segmentation_fault(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_ends_a_long_prediction_at_once(tmp_path, monkeypatch):
    asked, names = [], [f"n{i}" for i in range(6000)]
    bare = ad.AnnData(obs=pd.DataFrame(index=names), var=pd.DataFrame(index=names[:1500]))

    def batches():
        for start in range(0, 6000, 500):
            asked.append(start)
            yield start, {"X": np.zeros((500, 1500), np.float32)}

    class Full(steady.Steady):
        def write(self, content):
            if asked and self.error is None:
                self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    monkeypatch.setattr(steady, "Steady", Full)
    with pytest.raises(InputError, match="the disk is full"):
        files.write_batches(bare, batches(), tmp_path / "out.h5ad")
    assert 0 < len(asked) < 12 and not list(tmp_path.iterdir())


def test_what_is_written_is_what_anndata_writes(tmp_path, tiny):
    tiny.raw = tiny
    tiny.uns["mine"] = {"a": [1, 2], "b": "text"}
    files.write(tiny, tmp_path / "ours.h5ad")
    tiny.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")

    def content(name):
        found = {}

        def look(key, element):
            attributes = {k: str(v) for k, v in element.attrs.items()}
            values = element[()] if isinstance(element, h5py.Dataset) else None
            found[key] = attributes, getattr(element, "dtype", None), getattr(element, "compression", None), values

        with h5py.File(tmp_path / name) as file:
            look("/", file["/"])
            file.visititems(look)
        return found

    ours, theirs = content("ours.h5ad"), content("theirs.h5ad")
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        assert found[:3] == theirs[key][:3], key
        np.testing.assert_array_equal(found[3], theirs[key][3], err_msg=key)


@pytest.mark.parametrize("method", ["seek", "write"])
def test_a_signal_while_hdf5_writes_comes_after_it(tmp_path, monkeypatch, method):
    """What a handler raises within HDF5's call would be a write that failed."""
    sent = []

    class Signalled(steady.Steady):
        def within(self):
            if not sent:
                sent.append(signal.raise_signal(signal.SIGINT))

    for name in ("seek", "write"):
        real = getattr(steady.Steady, name)

        def inside(self, *arguments, real=real, name=name):
            if name == method:
                self.within()
            return real(self, *arguments)

        setattr(Signalled, name, inside)
        monkeypatch.setattr(steady, "INSIDE", steady.INSIDE | {inside.__code__})
    monkeypatch.setattr(steady, "Steady", Signalled)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with steady.steady(tmp_path / "x.h5", "w") as (file, check):
            file["a"] = np.arange(1000)
            file.flush()
            check()  # the write itself went well
            for _ in range(1200):  # a machine may stand still before it is handed on
                time.sleep(0.1)
    assert sent and signal.getsignal(signal.SIGINT) is before
    assert os.path.getsize(tmp_path / "x.h5") > 0
