"""--threads holds for every library, and what the machine, the job and the environment allow is kept to."""

import os

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
