"""--threads holds for every library, and what the machine, the job and the environment allow is kept to."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from cellalign import threads
from cellalign.errors import UsageError


def numbers() -> dict[str, object]:
    pools = {info["filepath"]: info["num_threads"] for info in threadpool_info()}
    return {"torch": torch.get_num_threads(), "numba": numba.get_num_threads(), "pools": pools}


def test_all_libraries_are_limited_and_come_back():
    numba.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        before, jobs = numbers(), threads.workers()
        with threads.limited(1):
            assert set(numbers()["pools"].values()) == {1}
            assert torch.get_num_threads() == numba.get_num_threads() == threads.workers() == 1
            with threads.limited(None):
                assert threads.workers() == 1  # the outer limit holds
            with threads.limited(2):
                assert torch.get_num_threads() == threads.workers() == 2
            assert torch.get_num_threads() == threads.workers() == 1
        assert numbers() == before and threads.workers() == jobs


def test_they_come_back_after_an_error_too():
    before = numbers()
    with pytest.raises(ZeroDivisionError), threads.limited(1):
        raise ZeroDivisionError
    assert numbers() == before


def test_no_thread_is_refused():
    with pytest.raises(UsageError, match="must be at least 1, not 0"), threads.limited(0):
        pass


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, [2]),
        ({"cpu.max": "150000 100000\n"}, [2]),
        ({"cpu.max": "max 100000\n"}, []),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, [4]),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, []),
        ({"cpu.max": "nonsense"}, []),
        ({}, []),
    ],
)
def test_the_quota_of_a_cgroup(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert threads._quota(tmp_path) == expected


def test_a_jobs_cpus_are_all_that_is_used(monkeypatch):
    monkeypatch.setattr(threads, "_quotas", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert threads.available() == 64
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert threads.available() == 4
    monkeypatch.setattr(threads, "_quotas", lambda: [2, 8])
    assert threads.available() == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "many")
    monkeypatch.setattr(threads, "_quotas", lambda: [])
    assert threads.available() == 64


@pytest.fixture
def environment(monkeypatch):
    for name in (*threads.VARIABLES, "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(threads, "available", lambda: 4)
    return monkeypatch


def test_libraries_are_told_what_is_available(environment):
    threads.tell_libraries()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "4"


def test_the_users_number_wins(environment):
    environment.setenv("OMP_NUM_THREADS", "8")
    threads.tell_libraries()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "8"
    environment.setenv("NUMBA_NUM_THREADS", "3")
    threads.tell_libraries()
    assert os.environ["NUMBA_NUM_THREADS"] == "3"


def test_what_a_command_is_given_wins_over_the_environment(environment):
    environment.setenv("OMP_NUM_THREADS", "8")
    environment.setenv("OPENBLAS_NUM_THREADS", "8")
    threads.tell_libraries(2)
    assert {os.environ[name] for name in (*threads.VARIABLES, "NUMBA_NUM_THREADS")} == {"2"}


def test_all_cpus_need_no_word(environment):
    environment.setattr(threads, "available", lambda: 64)
    threads.tell_libraries()
    assert "OMP_NUM_THREADS" not in os.environ and "NUMBA_NUM_THREADS" not in os.environ


# neighbours


@pytest.fixture
def two_cpus(monkeypatch, tmp_path):
    """A machine of two CPUs for this process, a third for others; `spent(seconds)` lets others work for a second."""
    stat, now = tmp_path / "stat", {"elapsed": 100.0, "own": 1.0}
    rows = {"cpu": [0] * 10, "cpu0": [0] * 10, "cpu1": [0] * 10, "cpu2": [0] * 10}

    def write():
        stat.write_text("".join(f"{name} {' '.join(map(str, row))}\n" for name, row in rows.items()) + "intr 1 2\n")

    def spent(seconds, on="cpu1", own=0.0):
        now["elapsed"] += 1.0
        now["own"] += own
        rows["cpu0"][0] += round(100 * own)
        rows[on][0] += round(100 * seconds)
        rows[on][3] += round(100 * (1 - seconds))  # idle
        write()

    write()
    monkeypatch.setattr(threads, "CPU_TIMES", stat)
    monkeypatch.setattr(threads, "_cpus", lambda: {0, 1})
    monkeypatch.setattr(threads, "available", lambda: 2)
    monkeypatch.setattr(threads, "_neighbours", None)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(os, "times", lambda: os.times_result((now["own"], 0.0, 0.0, 0.0, now["elapsed"])))
    monkeypatch.delitem(sys.modules, "torch")
    for name in (*threads.WAITING, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield spent
    os.environ.pop("GOMP_SPINCOUNT", None)


@pytest.mark.parametrize(
    ("seconds", "more", "said"), [(0.9, {}, "0.9 of 2 CPUs"), (0.2, {}, None), (0.9, {"own": 1.0}, "0.9")]
)
def test_idle_threads_sleep_soon_beside_a_busy_process(two_cpus, seconds, more, said):
    threads.watch_neighbours()
    two_cpus(seconds, **more)
    told = threads.wait_as_neighbours_allow()
    assert (told is None) == (said is None) and (said or "") in (told or "")
    assert os.environ.get("GOMP_SPINCOUNT") == (None if said is None else threads.SPIN_BESIDE_OTHERS)


def test_what_leaves_the_waiting_as_it_is(two_cpus, monkeypatch):
    assert threads.wait_as_neighbours_allow() is None  # nobody looked
    threads.watch_neighbours()
    two_cpus(0.9, on="cpu2")  # on a CPU that is not this process's
    assert threads.wait_as_neighbours_allow() is None
    two_cpus(1.0)
    assert threads.wait_as_neighbours_allow(1) is None  # there is a CPU for each
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert threads.wait_as_neighbours_allow() is None  # the user's own choice
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(threads, "CPU_TIMES", threads.CPU_TIMES.with_name("absent"))
    assert threads.wait_as_neighbours_allow() is None  # another system
    assert "GOMP_SPINCOUNT" not in os.environ


IN_PYTHON = """
import sys, cellalign
cells = cellalign.preprocess(cellalign.simulate.ifnb(200, 300), n_top_genes=100)
import scanpy, numba
assert "torch" not in sys.modules  # the order in which it went wrong
cellalign.train(cells, method="cvae", condition="stim", epochs=1, settings={"hidden": [8]})
import numba, torch
print(torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.slow
def test_python_obeys_the_number_that_openmp_is_told():
    """numba, which scanpy imports, would start OpenMP with a thread for each core, of torch's as well."""
    told = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", IN_PYTHON], env=told, capture_output=True, text=True, timeout=120)
    assert done.stdout == "1 1\n", done.stderr


def test_folds_are_fitted_at_once_each_on_one_thread_of_blas():
    from joblib import effective_n_jobs

    before = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    with threads.limited(2), threads.folds_at_once():
        assert effective_n_jobs(None) == 2
        assert {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"} == {1}
    assert effective_n_jobs(None) == 1
    assert [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"] == before


def test_a_thread_beside_the_one_that_trains_has_no_helpers_of_openmp():
    torch.set_num_threads(2)
    before = numbers()

    def own():
        threads.computes_alone()
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "openmp"}

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(own).result() == {1}
    assert numbers() == before
