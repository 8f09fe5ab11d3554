"""How much memory there is: the least of what the machine, cgroups, a job and the process itself may have."""

import os
import resource

import pytest

from cellalign import cgroups, memory, threads

GB = 2**30
VARIABLES = ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU", "CPUS_ON_NODE", "CPUS_PER_TASK", "STEP_TASKS_PER_NODE")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(cgroup, files)`: 1 TB, of which 900 GB are free, /proc/self/cgroup and files below /sys/fs/cgroup."""
    for name in (*(f"SLURM_{each}" for each in VARIABLES), "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "meminfo").write_text(f"MemTotal: {2**30} kB\nMemAvailable: {900 * 2**20} kB\nSwapTotal: 0 kB\n")
    (tmp_path / "statm").write_text("0 0 0 0 0 0 0\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OF_THIS_PROCESS", tmp_path / "statm")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OF_THIS_PROCESS", tmp_path / "groups")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def made(groups="0::/\n", files=()):
        (tmp_path / "groups").write_text(groups)
        for name, content in dict(files).items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    made()
    return made


JOB = "system.slice/slurmstepd.scope/job_7"
SECOND = f"0::/{JOB}/step_0/user/task_0\n"
FIRST = "11:memory:/slurm/uid_1/job_7/step_0\n4:cpu,cpuacct:/slurm/uid_1/job_7\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "total", "free"),
    [
        (SECOND, {f"{JOB}/memory.max": 16 * GB, f"{JOB}/memory.current": 2 * GB}, 16, 14),
        (
            SECOND,
            {f"{JOB}/memory.max": 16 * GB, f"{JOB}/step_0/memory.max": 8 * GB, f"{JOB}/step_0/memory.current": GB},
            8,
            7,
        ),
        (  # what would be given back counts as free, and beyond `high` little can be had
            SECOND,
            {
                f"{JOB}/memory.max": 16 * GB,
                f"{JOB}/memory.high": 12 * GB,
                f"{JOB}/memory.current": 9 * GB,
                f"{JOB}/memory.stat": f"anon 1\ninactive_file {5 * GB}",
            },
            16,
            8,
        ),
        (SECOND, {f"{JOB}/memory.max": "max", f"{JOB}/memory.high": "max"}, 1024, 900),
        (SECOND, {"memory.max": 4 * GB, "memory.current": GB}, 4, 3),  # a container is told a path that it does not see
        ("0::/../other\n", {"memory.max": 4 * GB}, 4, 4),
        (
            FIRST,
            {
                "memory/slurm/uid_1/job_7/memory.limit_in_bytes": 16 * GB,
                "memory/slurm/uid_1/job_7/memory.usage_in_bytes": 6 * GB,
                "memory/slurm/uid_1/job_7/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GB}",
                "memory/memory.limit_in_bytes": 2**63 - 4096,
            },
            16,
            12,
        ),
        (FIRST, {"cpu/slurm/uid_1/job_7/memory.limit_in_bytes": GB}, 1024, 900),  # no controller of memory
        (SECOND, {f"{JOB}/memory.max": "nonsense"}, 1024, 900),
        (SECOND, {f"{JOB}/memory.max": GB, f"{JOB}/memory.current": 2 * GB}, 1, 0),
    ],
)
def test_the_limits_of_all_cgroups_around_a_process_hold(machine, groups, files, total, free):
    machine(groups, files)
    assert (memory.total(), memory.available()) == (total * GB, free * GB)


def test_without_proc_the_root_of_the_cgroups_is_read(machine, tmp_path):
    machine(files={"memory/memory.limit_in_bytes": 3 * GB})
    (tmp_path / "groups").unlink()
    assert memory.total() == 3 * GB


def test_the_quota_of_cpus_is_found_in_both_versions(machine):
    machine(SECOND, {f"{JOB}/cpu.max": "200000 100000"})
    assert threads._quotas() == [2]
    quota = {"cpu.cfs_quota_us": 300000, "cpu.cfs_period_us": 100000}
    machine("4:cpu,cpuacct:/job\n", {f"cpu,cpuacct/job/{name}": value for name, value in quota.items()})
    assert threads._quotas() == [3]


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"MEM_PER_NODE": "16384"}, 16),
        ({"MEM_PER_NODE": "16G"}, 16),
        ({"MEM_PER_NODE": "0"}, None),  # all there is
        ({"MEM_PER_NODE": "much"}, None),
        ({"MEM_PER_CPU": "4096", "CPUS_ON_NODE": "8", "CPUS_PER_TASK": "2"}, 32),
        ({"MEM_PER_CPU": "4096", "CPUS_PER_TASK": "2"}, 8),
        ({"MEM_PER_CPU": "4096"}, None),  # of how many nobody says
        ({"MEM_PER_GPU": "10240", "GPUS_ON_NODE": "2"}, 20),
    ],
)
def test_what_slurm_gave_the_job(machine, monkeypatch, given, limit):
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert memory.total() == (limit or 1024) * GB and memory.available() == (limit or 900) * GB


def test_what_a_process_has_of_its_jobs_memory_is_no_longer_free(machine, monkeypatch):
    page = os.sysconf("SC_PAGE_SIZE")
    memory.OF_THIS_PROCESS.write_text(f"{5 * GB // page} {3 * GB // page} {GB // page} 0 0 0 0\n")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "16384")
    assert memory.available() == 14 * GB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 * GB, 8 * GB))  # of addresses: ulimit -v, h_vmem
    assert memory.available() == 3 * GB and memory.total() == 8 * GB


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 4),  # torchrun, and cellalign itself
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,3(x2)"}, 3),
        ({"SLURM_NTASKS": "8", "SLURM_TASKS_PER_NODE": "8"}, 1),  # the job's script, which runs once
        ({"LOCAL_WORLD_SIZE": "some"}, 1),
    ],
)
def test_processes_of_one_machine_share_what_is_free(machine, monkeypatch, given, ranks):
    machine(SECOND, {f"{JOB}/memory.max": 16 * GB, f"{JOB}/memory.current": 4 * GB})
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert memory.processes() == ranks and memory.available() == 12 * GB // ranks
    machine(SECOND, {f"{JOB}/memory.max": "max"})
    assert memory.available() == 900 * GB // ranks
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "16384")
    assert memory.available() == 16 * GB // ranks and memory.total() == 16 * GB


def test_a_system_that_says_nothing(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory.total() == memory.available() == 4_096_000
    monkeypatch.delattr(os, "sysconf")
    assert memory.total() is None and memory.available() is None
