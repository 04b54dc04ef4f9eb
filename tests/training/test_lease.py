"""Leases of stand-in devices: never two jobs on one, whatever ends them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity_mappings.errors import UserError
from identity_mappings.training import lease

ROOT = Path(__file__).parents[2]

# Takes a marker of each of its devices while it lives. A marker left by a dead process (killed) may be taken over; one
# of a living process is a conflict.
JOB = """
import os, sys, time
folder, seconds = sys.argv[1], float(sys.argv[2])
for device in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    path = f"{folder}/device-{device}"
    if os.path.exists(path):
        pid = int(open(path).read() or 0)
        if pid and os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split()[2] != "Z":
            open(f"{folder}/conflict-{device}-{os.getpid()}", "w").close()
    with open(path + f".{os.getpid()}", "w") as file:
        file.write(str(os.getpid()))
    os.replace(path + f".{os.getpid()}", path)
open(f"{folder}/started-{os.getpid()}", "w").write(os.environ["CUDA_VISIBLE_DEVICES"])
time.sleep(seconds)
for device in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    os.remove(f"{folder}/device-{device}")
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("IDENTITY_MAPPINGS_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "jobs").mkdir()
    return tmp_path


def start(place: Path, gpus: int, seconds: float, visible: str | None = "0,1,2,3", **more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    words = ["-m", "identity_mappings", "lease", "--gpus", str(gpus), "--", sys.executable, "-c", JOB]
    return subprocess.Popen(
        [sys.executable, *words, str(place / "jobs"), str(seconds)], env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def started(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (place / "jobs").glob("started-*")}


def test_four_jobs_sit_on_four_devices(place):
    jobs = [start(place, 1, 60) for _ in range(4)]
    wait_for(lambda: sorted(started(place).values()) == ["0", "1", "2", "3"])
    fifth = start(place, 1, 0)
    time.sleep(1)
    assert fifth.poll() is None and len(started(place)) == 4
    jobs[2].kill()
    jobs[2].wait()
    assert fifth.wait(30) == 0
    for job in jobs:
        job.kill()
        job.wait()


@pytest.mark.slow
def test_jobs_killed_at_random_never_share_a_device(place):
    """16 jobs of one device and 4 of two on four devices; a third of them are killed with -9 at a random time."""
    chance = random.Random(0)
    jobs = [start(place, gpus, chance.uniform(0, 0.6)) for gpus in [1, 1, 1, 1, 2] * 4]
    doomed = chance.sample(jobs, 7)
    while any(job.poll() is None for job in jobs):
        time.sleep(chance.uniform(0.05, 0.4))
        if doomed:
            doomed.pop().kill()
    for job in jobs:
        assert job.wait(60) in (0, -signal.SIGKILL), job.stderr.read()
    assert not list((place / "jobs").glob("conflict-*"))
    assert sum(job.returncode == 0 for job in jobs) >= 13


def test_the_lease_ends_with_the_process_itself(place):
    """The leasing process becomes the job, so killing it cannot leave a job that lives on without its lease."""
    job = start(place, 1, 60, visible="7")
    wait_for(lambda: started(place))
    assert set(started(place)) == {f"started-{job.pid}"}
    job.kill()
    job.wait()
    assert start(place, 1, 0, visible="7").wait(30) == 0


def test_an_inherited_choice_is_honoured(place):
    jobs = [start(place, 1, 60, visible="GPU-aaaa,5") for _ in range(2)]
    wait_for(lambda: sorted(started(place).values()) == ["5", "GPU-aaaa"])
    for job in jobs:
        job.kill()
        job.wait()


@pytest.mark.parametrize(
    ("visible", "found"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), (" 0 , 3 ", ["0", "3"]), ("MIG-1/2", ["MIG-1/2"])],
)
def test_the_pool_is_what_cuda_would_see(visible, found):
    assert lease.pool({"CUDA_VISIBLE_DEVICES": visible}) == found


def test_without_a_choice_the_pool_is_the_drivers_list(place, monkeypatch):
    tool = place / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-a\\n1, GPU-b\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    assert lease.pool({}) == ["0", "1"]
    one = start(place, 1, 60, visible=None)
    wait_for(lambda: started(place))
    assert list(started(place).values()) == ["0"]
    other = start(place, 1, 60, visible="GPU-a")  # the same device by another name
    time.sleep(1)
    assert other.poll() is None and len(started(place)) == 1
    for job in (one, other):
        job.kill()
        job.wait()


@pytest.mark.parametrize(("gpus", "visible"), [(1, ""), (5, "0,1,2,3"), (2, "0")])
def test_more_than_there_is_is_refused(place, gpus, visible):
    job = start(place, gpus, 0, visible=visible)
    assert job.wait(30) == 2
    error = job.stderr.read()
    assert f"{gpus} GPU(s) wanted" in error and "Traceback" not in error
    assert not started(place)


def test_a_grant_that_snakemake_cut_down_is_refused(place):
    with pytest.raises(UserError, match=r"wants 8 GPU\(s\), Snakemake grants 2"):
        lease.run(8, 2, ["true"], 1)


def test_impatience_names_the_holder(place):
    job = start(place, 1, 60, visible="0")
    wait_for(lambda: started(place))
    with pytest.raises(UserError, match=rf"within 0 s; held by 0: process {job.pid}"):
        lease.acquire(1, {"CUDA_VISIBLE_DEVICES": "0"}, patience=0.3)
    job.kill()
    job.wait()


def test_zero_gpus_hide_all(place):
    words = ["-m", "identity_mappings", "lease", "--gpus", "0", "--", "sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"']
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": "0,1"}
    done = subprocess.run([sys.executable, *words], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"


def test_slurms_choice_is_left_alone(place):
    job = start(place, 1, 0, visible="3", SLURM_JOB_ID="1")
    assert job.wait(30) == 0
    assert list(started(place).values()) == ["3"] and not (place / "leases").exists()


def test_the_commands_status_is_the_leases(place):
    words = ["-m", "identity_mappings", "lease", "--gpus", "0", "--", "sh", "-c", "exit 7"]
    assert subprocess.run([sys.executable, *words], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}).returncode == 7
