"""Two ranks train as one process with the double batch; who started them; what a command ends with."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from cellalign.data.formats import on_disk
from cellalign.data.formats.on_disk import CsrOnDisk
from cellalign.data.loader import Cells, balanced, shuffled
from cellalign.data.source import as_matrix
from cellalign.engine import launch, meeting, ranks
from cellalign.engine.launch import Started, run_ranks, several_to_start, started
from cellalign.engine.ranks import Ranks, check_shares, shares_batches
from cellalign.engine.sharing import Sharing
from cellalign.engine.signals import ENDING, KEEPING, Signals
from cellalign.errors import InputError, TrainingError, UsageError
from cellalign.methods.capabilities import Trains
from cellalign.methods.registry import get, loadable
from cellalign.nn.minibatch import Fields

WORKER = Path(__file__).parent / "several_ranks.py"
QUICK = ("comp", "scvi")
REST = (
    "cvae",
    "cvae?",
    "trvae",
    "trvae-images",
    "vfae",
    "mmd-ae",
    "scanvi",
    "scgen",
    "vae",
    "beta-vae",
    "ivae",
    "svae",
)
REST += ("svae+", "nf-ivae", "invae", "invae-weighted")


def carried_out(worker: Path, folder: Path, world: int, *more: str) -> None:
    """Run a program as so many ranks, which are given a folder, their number, and more."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, str(WORKER.parent.parent)])}
    all_of_them = [
        subprocess.Popen([sys.executable, str(worker), str(folder), str(rank), *more], env=env, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    for process in all_of_them:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said.decode()


def outcome(folder: Path, world: int, precision: str, names, backend: str) -> list[dict]:
    """What became of the methods on each rank."""
    carried_out(WORKER, folder, world, str(world), precision, ",".join(names), backend)
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]


def compared(folder: Path, precision: str, names, world: int = 2, backend: str = "gloo"):
    (one,), several = (outcome(folder, n, precision, names, backend) for n in (1, world))
    for name in names:
        for other in several[1:]:  # all ranks end in the same bits
            for key, values in several[0][name]["weights"].items():
                assert torch.equal(values, other[name]["weights"][key]), (name, key)
        assert one[name]["steps"] == several[0][name]["steps"] == 50
    return one, several


def losses(history, of="train_"):
    return np.array([[value for key, value in row.items() if key.startswith(of)] for row in history])


def in_float64(folder, names, world=2, backend="gloo"):
    one, several = compared(folder, "float64", names, world, backend)
    for name in names:
        a, b = one[name], several[0][name]
        for key, values in a["weights"].items():
            np.testing.assert_allclose(b["weights"][key], values, rtol=1e-8, atol=1e-8, err_msg=f"{name}: {key}")
        for part in ("train_", "validation_"):
            np.testing.assert_allclose(losses(b["history"], part), losses(a["history"], part), rtol=1e-5, atol=1e-6)
    return one, several


def predicts_as_one(one, several):
    """All ranks are given all; what each computes for itself to write it, together they have once, taking turns."""
    keys = [key for key in one if key not in ("weights", "history", "latents", "steps")]
    own = [key for key in keys if key.startswith("own")]
    for i, key in enumerate(own):
        assert [rank for rank, found in enumerate(several) if key in found] == [(i + 1) % len(several)]
        np.testing.assert_allclose(several[(i + 1) % len(several)][key], one[key], atol=1e-5, err_msg=key)
    for found in several:
        for key in set(keys) - set(own):
            np.testing.assert_allclose(found[key], one[key], atol=1e-5, err_msg=key)
    assert len(own) > len(several)


def test_two_train_as_one_and_predict_as_one(tmp_path):
    one, several = in_float64(tmp_path, QUICK)
    predicts_as_one(one["comp"], [rank["comp"] for rank in several])


@pytest.mark.slow
def test_so_does_every_method_that_several_can_train(tmp_path):
    there = {name.rstrip("?").partition("-weighted")[0].partition("-images")[0] for name in (*QUICK, *REST)}
    assert there == {name for name, cls in loadable() if shares_batches(cls)}
    in_float64(tmp_path, REST)


@pytest.mark.slow
def test_three_train_as_one(tmp_path):
    in_float64(tmp_path, (*QUICK, "invae", "scanvi"), world=3)


@pytest.mark.slow
def test_in_float32_losses_and_latents_are_as_near_as_rounding_lets_them(tmp_path):
    one, several = compared(tmp_path, "float32", (*QUICK, *REST))
    for name in (*QUICK, *REST):
        a, b = one[name]["latents"], several[0][name]["latents"]
        # the first bias of the images' condition passes a leaky ReLU, and does next to nothing behind it
        idle = name == "trvae-images"
        assert (a - b).abs().max() < (3e-3 if idle else 1e-3) * a.std(), name
        for part in ("train_", "validation_"):
            before, after = (losses(found[name]["history"], part) for found in (one, several[0]))
            np.testing.assert_allclose(after, before, rtol=1e-3 if idle else 1e-4, atol=1e-5, err_msg=name)


def test_a_batch_is_shared_out_once_each_and_one_too_small_is_counted_once():
    for n in (2, 3, 7, 512):
        all_of_them = [Ranks(rank, 3) for rank in range(3)]
        rows = torch.arange(n)
        own = [ranks.own(rows) for ranks in all_of_them]
        if n >= 3:
            assert torch.equal(torch.cat(own), rows) and max(map(len, own)) - min(map(len, own)) <= 1
            assert all(ranks.counts(n) for ranks in all_of_them)
        else:
            assert all(torch.equal(each, rows) for each in own) and [r.counts(n) for r in all_of_them] == [1, 0, 0]
            assert all(ranks.share_of(n) is None for ranks in all_of_them)


@pytest.mark.parametrize("balance", [False, True])
def test_of_a_packed_file_several_ranks_unpack_little_more_than_one(tmp_path, monkeypatch, balance):
    monkeypatch.setattr("cellalign.data.source.READ_TOGETHER", (1024, 1024))
    x = sparse.random(6000, 40, 0.2, "csr", np.float32, 0)
    with h5py.File(tmp_path / "x.h5", "w") as handle:
        for name in ("data", "indices", "indptr"):
            handle.create_dataset(name, data=getattr(x, name), chunks=(64,), compression="gzip")
    condition = (torch.arange(6000) >= 3000).long()
    unpacked = []
    monkeypatch.setattr(on_disk, "_chunk_of", lambda *a, known=on_disk._chunk_of: unpacked.append(a[1]) or known(*a))
    with h5py.File(tmp_path / "x.h5") as handle:
        matrix = CsrOnDisk(handle, "x", x.shape)
        cells = Cells(as_matrix(matrix), Fields([]), (), 6000)
        generator = torch.Generator().manual_seed(0)
        if balance:
            rows = balanced(torch.arange(6000), condition, 64, generator, *cells.order)
        else:
            rows = shuffled(torch.arange(6000), 64, generator, *cells.order)

        def read(world: int) -> float:
            """How many times the file."""
            unpacked.clear()
            for rank in range(world):
                ranks = Ranks(rank, world)
                settings = ranks, {}, Signals(), torch.device("cpu")
                for (batch, _), of_all in zip(Sharing(*settings).batches(cells, rows), rows, strict=True):
                    np.testing.assert_array_equal(batch.x.numpy(), x[ranks.own(of_all).numpy()].toarray())
            return len(unpacked) / (2 * -(-x.nnz // 64))

        one, two, four = (read(world) for world in (1, 2, 4))
    assert one < 1.5 and two < 1.15 * one and four < 1.4 * one, (one, two, four)


def test_methods_say_of_themselves_whether_several_can_train_them(monkeypatch):
    class Further(get("comp")):
        """Adds nobody knows what."""

    assert shares_batches(get("comp")) and not shares_batches(Further)
    assert {"stgan"} == {n for n, cls in loadable() if issubclass(cls, Trains) and not shares_batches(cls)}
    check_shares(get("pca"))  # alone
    monkeypatch.setattr("cellalign.engine.ranks._current", Ranks(0, 2))
    with pytest.raises(UsageError, match="'pca' is fitted by one process: leave out devices; several fit beta-"):
        check_shares(get("pca"))


@pytest.fixture
def nobody(monkeypatch):
    """No variable of a launcher is set."""
    for name in (
        *launch.BY_TORCHRUN,
        "LOCAL_WORLD_SIZE",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_JOB_NAME",
        "SLURM_STEP_ID",
        "SLURM_STEPID",
        "NODE_RANK",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def by_torchrun(monkeypatch, world="4", local="2"):
    for name, value in zip(launch.BY_TORCHRUN, ("3", "1", world, "here", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)


def test_who_started_them(nobody):
    assert started(None, None) is None and started(1, None) is None and not several_to_start(1, 1)
    assert several_to_start(2, None) and several_to_start(None, 2)
    with pytest.raises(UsageError, match="devices=2 takes 2 processes, and there is one: .*torchrun"):
        started(2, None)
    by_torchrun(nobody)
    assert started(None, None) == started(2, 2) == Started("torchrun", 2, 2) and not several_to_start(2, 2)
    with pytest.raises(UsageError, match="devices=3 asks for 3 processes, and torchrun started 4"):
        started(3, None)
    assert started(1, None) is None  # processes that have nothing to do with each other
    by_torchrun(nobody, "1", "1")
    assert started(None, None) is None


def test_slurm_starts_them_where_several_are_asked_for(nobody):
    nobody.setenv("SLURM_PROCID", "1")
    nobody.setenv("SLURM_NTASKS", "4")
    nobody.setenv("SLURM_STEP_ID", "0")
    assert started(None, None) is None  # of a job whose tasks are something else
    assert started(2, 2) == Started("slurm", 2, 2) and not several_to_start(2, 2)
    nobody.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert launch.environment(Started("slurm", 2, 2)).global_rank() == 1
    nobody.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UsageError, match="--ntasks-per-node=2"):
        launch.environment(Started("slurm", 2, 2))
    nobody.setenv("SLURM_JOB_NAME", "bash")
    assert several_to_start(2, 2)


@pytest.mark.parametrize("step", [None, "batch", "4294967291", "4294967290", ""])
def test_in_a_batch_script_without_srun_the_command_starts_them(nobody, step):
    """Its variables are those of a job of several tasks, of which it is the only process."""
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_JOB_NAME", "train")):
        nobody.setenv(name, value)
    if step is not None:
        nobody.setenv("SLURM_STEP_ID", step)
    assert several_to_start(2, None)
    nobody.setenv("SLURM_STEP_ID", "3")
    assert started(2, None) == Started("slurm", 2, 1) and not several_to_start(2, None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_ranks_that_do_not_come_are_named(monkeypatch, capfd):
    monkeypatch.setattr(meeting, "PATIENCE", 0.5)
    monkeypatch.setattr(meeting, "LAST_WORD", 0.3)
    port, said = free_port(), []

    def comes(rank):
        with pytest.raises(TrainingError) as caught:
            meeting.meet("127.0.0.1", port, rank, 4)
        said.append(str(caught.value))

    others = [threading.Thread(target=comes, args=(rank,)) for rank in (0, 2)]
    for each in others:
        each.start()
    for each in others:
        each.join()
    assert said == [f"ranks 1, 3 did not come to 127.0.0.1:{port} within 0 seconds of the others"] * 2
    port = free_port()
    comes(1)
    assert said[-1].startswith("rank 0 did not come to ") and TrainingError.exit_status == 5
    assert capfd.readouterr().err == ""


def ranks_that(monkeypatch, tmp_path, code: str) -> None:
    """The command's ranks are another program, which knows its number as R."""
    folder = tmp_path / "cellalign"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(f"import os, signal, sys, time\nR = int(os.environ['RANK'])\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # which would be taken for that of the next, written at once
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "PATIENCE", 0.3)


def test_a_command_ends_as_its_ranks_do(nobody, tmp_path, capfd):
    ranks_that(nobody, tmp_path, "print(R, sys.argv[1:], os.environ['WORLD_SIZE'])")
    assert run_ranks(["train", "x"], 2) == 0
    assert capfd.readouterr().out == "0 ['train', 'x'] 2\n"  # the first alone is heard
    ranks_that(nobody, tmp_path, "sys.stderr.write(f'{R} is wrong\\n'); sys.exit(3)")
    assert run_ranks([], 3) == 3
    assert capfd.readouterr().err == "0 is wrong\n"
    ranks_that(nobody, tmp_path, "time.sleep(60) if R == 0 else os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(TrainingError, match="rank 1 was ended by SIGKILL, and the others with it"):
        run_ranks([], 2)
    code = "R == 0 and os.kill(os.getpid(), signal.SIGKILL); sys.stderr.write('lost; go on with: X\\n'); sys.exit(5)"
    ranks_that(nobody, tmp_path, code)
    with pytest.raises(TrainingError, match="rank 0 was ended by SIGKILL, and the others with it; go on with: X$"):
        run_ranks([], 2)
    ranks_that(nobody, tmp_path, "sys.stderr.write(f'line of {R}\\n'); sys.exit(5 - R)")
    assert run_ranks([], 2) == 5
    assert capfd.readouterr().err == "line of 0\nrank 1: line of 1\n"


def test_cpus_are_shared_out_unless_somebody_says_how_many(nobody, tmp_path, capfd):
    ranks_that(nobody, tmp_path, "print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('NUMBA_NUM_THREADS'))")
    nobody.setattr(launch, "available", lambda: 6)
    nobody.delenv("NUMBA_NUM_THREADS", raising=False)
    for asked, threads, found in ((None, None, "3 3"), ("6", None, "3 3"), ("4", None, "4 None"), ("4", 5, "5 5")):
        nobody.delenv("OMP_NUM_THREADS", raising=False)
        if asked is not None:
            nobody.setenv("OMP_NUM_THREADS", asked)
        assert run_ranks([], 2, 1, threads) == 0
        assert capfd.readouterr().out.strip() == found


def test_of_several_machines_it_is_said_which_is_which(nobody, tmp_path, capfd):
    with pytest.raises(UsageError, match="nodes=2: start it by srun or torchrun .* NODE_RANK, MASTER_ADDR"):
        run_ranks([], 2, 2)
    for name, value in (("NODE_RANK", "1"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")):
        nobody.setenv(name, value)
    ranks_that(nobody, tmp_path, "print(*(os.environ[n] for n in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'GROUP_RANK')))")
    assert run_ranks([], 2, 2) == 0
    assert capfd.readouterr().out == "2 4 node0 1\n"


@pytest.mark.parametrize("fails", [False, True])
def test_who_is_done_waits_for_the_first_that_still_writes(monkeypatch, fails):
    """Or a queue would end that one; what goes wrong ends a rank at once."""
    waited = []

    class Two(Ranks):
        def wait(self):
            waited.append(self.rank)

    monkeypatch.setattr(ranks, "started", lambda devices, nodes: Started("torchrun", 2, 1))
    monkeypatch.setattr(ranks, "_connect", lambda there, device: Two(1, 2))
    monkeypatch.setattr(ranks, "end_with_parent", lambda: None)
    monkeypatch.setattr(ranks.log, "level", ranks.log.level)
    with nullcontext() if not fails else pytest.raises(InputError), ranks.connected():
        assert not ranks.current().alone and not waited
        if fails:
            raise InputError("of this rank")
    assert waited == ([] if fails else [1]) and ranks.current().alone


def test_no_rank_leaves_before_the_checkpoint_is_written(tmp_path):
    """srun --kill-on-bad-exit would kill the first while it writes."""
    carried_out(WORKER.with_name("ended_ranks.py"), tmp_path, 2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["True", "True"]


def test_signals_wait_until_all_ranks_know_of_them():
    with Signals(alone=False) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not signals.waiting and sum(signals.noted()) == 2
        signals.agree(np.array(signals.noted()) + np.eye(len(ENDING) + len(KEEPING))[0])  # another has one besides
        assert signals.waiting and signals.keep and signals.ending == ENDING[0] and not any(signals.noted())
        signals.ending = None
