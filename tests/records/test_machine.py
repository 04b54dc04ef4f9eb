"""How many cores and how much memory a process may use, by stand-ins for the kernel's files."""

import os
from pathlib import Path

import pytest

from identity_mappings.records import machine

GB = 10**9


@pytest.fixture
def system(monkeypatch, tmp_path: Path):
    """Write the kernel's files, on a machine of 64 cores and 256 GB."""
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 1000 if name == "SC_PAGE_SIZE" else 256 * GB // 1000)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return write


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, 64, 256 * GB),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"},
            64, 256 * GB, id="version 2, no limit",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000", "sys/fs/cgroup/memory.max": 8 * GB},
            2, 8 * GB, id="docker run --cpus=2 --memory=8g, version 2",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/user.slice/a:b.scope",
                "sys/fs/cgroup/user.slice/cpu.max": "350000 100000",
                "sys/fs/cgroup/user.slice/memory.max": 32 * GB,
                "sys/fs/cgroup/user.slice/a:b.scope/cpu.max": "max 100000",
                "sys/fs/cgroup/user.slice/a:b.scope/memory.high": 4 * GB,
            },
            3, 4 * GB, id="systemd-run in a slice: the narrowest of all around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/docker/01\n3:memory:/docker/01\n0::/docker/01",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 4 * GB,
            },
            1, 4 * GB, id="docker run --cpus=0.5, version 1: the root is the container's",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/job_7\n1:cpu:/job_7",
                "sys/fs/cgroup/cpu/job_7/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/job_7/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/job_7/memory.limit_in_bytes": 16 * GB,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            },
            64, 16 * GB, id="a job of Slurm, version 1, no quota",
        ),
    ],
)  # fmt: skip
def test_cores_and_memory_are_those_that_the_process_may_use(system, files, cores, memory):
    system(files)
    assert (machine.count_cores(), machine.count_memory()) == (cores, memory)


def test_the_affinity_counts(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert machine.count_cores() == 2
