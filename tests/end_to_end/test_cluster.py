"""preprocess --cluster, on a dask cluster of two workers in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import pytest
from signalled import Command

from cellalign.data import crew, files
from cellalign.data.stored import Stored
from tests.data.test_cluster import check_same_file

distributed = pytest.importorskip("distributed")
pytest.importorskip("cloudpickle").register_pickle_by_value(sys.modules[__name__])  # workers do not see the tests
pytestmark = [pytest.mark.process, pytest.mark.slow]  # workers take some seconds to start, and to import what they need


@pytest.fixture(scope="module")
def workers():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as found:
        with distributed.Client(found, set_as_default=False) as client:
            yield client


@pytest.fixture(scope="module")
def alone(kang_raw, cellalign, tmp_path_factory):
    """What one process makes of the cells, with blocks as small as the workers' are."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stored, "block_values", 2000)
        for ending in ("h5ad", "zarr"):
            done = cellalign(cwd=folder)("preprocess", kang_raw, "--stream", *ASKED, "-o", f"out.{ending}")
            assert done.returncode == 0, done.stderr
    return folder


ASKED = ("--n-top-genes", 100, "--batch", "cell_type", "--min-genes", 20)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(Stored, "block_values", 2000)


def address(client):
    return client.scheduler.address


def has_worked():
    """On a worker: whether it did anything for a command."""
    from cellalign.data import crew

    return len(crew._at_work) > 0


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_two_workers_make_the_file_of_one_process(workers, alone, small_blocks, kang_raw, cellalign, tmp_path, ending):
    run = cellalign(cwd=tmp_path)
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": address(workers)}))
    done = run("preprocess", kang_raw, *ASKED, "--cluster", "scheduler.json", "-o", f"out.{ending}")
    assert done.returncode == 0, done.stderr
    assert "2 workers, 2 tasks at a time" in done.stderr and "stay on disk" in done.stderr
    check_same_file(alone / f"out.{ending}", tmp_path / f"out.{ending}")
    assert all(workers.run(has_worked).values())
    said = run("preprocess", kang_raw, *ASKED, "--cluster", address(workers), "-o", "x.zarr", "--dry-run")
    assert said.returncode == 0 and not (tmp_path / "x.zarr").exists()


def dying():
    """On a worker: end in the middle of a task, once."""
    import os

    from cellalign.data import crew

    work, done = crew._work, []

    def once(*arguments):
        done.append(1)
        if len(done) == 3:
            os._exit(1)
        return work(*arguments)

    once.__module__, once.__qualname__ = work.__module__, work.__qualname__
    crew._work = once


def test_a_worker_that_dies_changes_nothing(workers, alone, small_blocks, kang_raw, cellalign, tmp_path):
    first = sorted(workers.nthreads())[0]
    workers.run(dying, workers=[first])
    done = cellalign(cwd=tmp_path)("preprocess", kang_raw, *ASKED, "--cluster", address(workers), "-o", "out.zarr")
    assert done.returncode == 0, done.stderr
    check_same_file(alone / "out.zarr", tmp_path / "out.zarr")
    workers.wait_for_workers(2, timeout=60)
    assert first not in workers.nthreads()


def test_workers_that_all_die_are_one_line(workers, kang_raw, cellalign, tmp_path, monkeypatch):
    def _work(*_):
        os._exit(1)

    monkeypatch.setattr(crew, "_work", _work)
    monkeypatch.setattr(workers.cluster.scheduler, "allowed_failures", 1)
    done = cellalign(cwd=tmp_path)("preprocess", kang_raw, "--cluster", address(workers), "-o", "out.zarr")
    assert done.returncode == 5 and "2 workers died one after the other" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
    workers.wait_for_workers(2, timeout=60)


def test_an_error_of_a_worker_is_the_one_of_a_single_process(workers, tiny, tmp_path, cellalign):
    import h5py

    files.write(tiny, tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle["layers/counts/indices"][5] = 10_000
    found = [
        cellalign(cwd=tmp_path)("preprocess", "in.h5ad", *how, "-o", "out.h5ad")
        for how in (("--stream",), ("--cluster", address(workers)))
    ]
    assert [done.returncode for done in found] == [3, 3]
    assert found[0].stderr.splitlines()[-1] == found[1].stderr.splitlines()[-1]
    missing = cellalign(cwd=tmp_path)("preprocess", "none.h5ad", "--cluster", address(workers), "-o", "out.h5ad")
    assert missing.returncode == 3 and "no such file: none.h5ad" in missing.stderr.splitlines()[-1]


@pytest.mark.parametrize("after", [2.0, 6.0])
def test_ctrl_c_leaves_nothing(kang_raw, tmp_path, after):
    psutil = pytest.importorskip("psutil")
    command = Command(["preprocess", kang_raw, "--cluster", "local", "--threads", 2, "-o", "out.zarr"], tmp_path)
    time.sleep(after)
    children = psutil.Process(command.process.pid).children(recursive=True)
    command.send(signal.SIGINT)
    status, said = command.ended()
    assert (status, said.splitlines()[-1]) == (130, "cellalign: interrupted; outputs are as they were") or status == 0
    assert "Traceback" not in said and "leaked" not in said
    assert [path.name for path in tmp_path.iterdir()] == ([] if status else ["out.zarr"])
    psutil.wait_procs(children, timeout=20)
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_the_slurm_script_starts_all_of_it(kang_raw, alone, tmp_path):
    """Without SLURM: `srun` starts one process of what it is given."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {"PATH": path, "INPUT": str(kang_raw), "OUTPUT": "out.zarr", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).resolve().parents[2] / "workflows" / "slurm" / "preprocess_cluster.sbatch"
    asked = ["bash", str(script), *map(str, ASKED)]
    done = subprocess.run(asked, cwd=tmp_path, env=os.environ | given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "1 workers, 1 tasks at a time" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "out.zarr"]
    found, known = (anndata.read_zarr(each / "out.zarr") for each in (tmp_path, alone))
    assert list(found.var_names) == list(known.var_names)
    assert (found.layers["counts"] != known.layers["counts"]).nnz == 0
