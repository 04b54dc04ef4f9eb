"""Leases of stand-in devices: never two jobs on one, whatever ends them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from identity_mappings.errors import UserError
from identity_mappings.training import driver, lease
from identity_mappings.training.driver import Device, Driver

ROOT = Path(__file__).parents[2]
SOURCES = f"{ROOT / 'tests/stand_ins'}{os.pathsep}{ROOT / 'src'}"  # with a driver that lists no device

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
with open(f"{folder}/.started-{os.getpid()}", "w") as file:
    file.write(os.environ["CUDA_VISIBLE_DEVICES"])
os.replace(file.name, f"{folder}/started-{os.getpid()}")
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
    environment = {**os.environ, "PYTHONPATH": SOURCES, **more}
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
    """20 jobs of one to three devices on four devices; a third of them are killed with -9 at a random time."""
    chance = random.Random(0)
    jobs = [start(place, gpus, chance.uniform(0, 0.6), SLURM_JOB_ID="7") for gpus in [1, 1, 1, 2, 3] * 4]
    doomed = chance.sample(jobs, 7)
    while any(job.poll() is None for job in jobs):
        time.sleep(chance.uniform(0.05, 0.4))
        if doomed:
            doomed.pop().kill()
    for job in jobs:
        assert job.wait(120) in (0, -signal.SIGKILL), job.stderr.read()
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


GPUS = [Device(number, f"GPU-{letter * 4}", f"GPU-{letter * 4}") for number, letter in enumerate("abc")]
MIG = [Device(2, f"MIG-{number}", GPUS[2].uuid) for number in (1, 2)]
DRIVER = Driver("580.1", GPUS, MIG)


def names(visible: str | None, driver: Driver = Driver(), **more: str) -> list[str]:  # noqa: B008
    environment = more if visible is None else {"CUDA_VISIBLE_DEVICES": visible, **more}
    return list(lease.list_devices(environment, driver))


@pytest.mark.parametrize(
    ("visible", "found"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), (" 0 , 3 ", ["0", "3"]), ("MIG-1/2", ["MIG-1/2"])],
)
def test_the_devices_are_those_that_cuda_would_see(visible, found):
    assert names(visible) == found


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["GPU-aaaa", "GPU-bbbb", "MIG-1", "MIG-2"]),  # of the third, which is divided, the parts
        ("1,GPU-aaaa", ["1", "GPU-aaaa"]),
        ("0,7,1", ["0"]),  # what follows an index that does not exist is ignored
        ("GPU-zzzz,1", []),
        ("MIG-2", ["MIG-2"]),
        ("MIG-GPU-cccc/1/0", ["MIG-GPU-cccc/1/0"]),
    ],
)
def test_the_driver_says_what_there_is(visible, found):
    assert names(visible, DRIVER) == found


def test_one_device_is_one_by_every_name():
    for name in ("1", "GPU-bbbb", "GPU-b"):
        assert lease.list_devices({"CUDA_VISIBLE_DEVICES": name}, DRIVER) == {name: GPUS[1]}
    assert not DRIVER.find("GPU-"), "the beginning of several"


def test_a_device_that_is_listed_twice_is_one():
    assert names("0,0,1") == ["0", "1"] and names("0,GPU-aaaa,1", DRIVER) == ["0", "1"]


def test_a_gpu_and_its_mig_instances_exclude_each_other(place):
    whole, first, second = lease.list_devices({"CUDA_VISIBLE_DEVICES": "2,MIG-1,MIG-2"}, DRIVER).values()
    held = lease._claim(first)
    assert held and lease._claim(first) is None and lease._claim(whole) is None
    other = lease._claim(second)
    assert other, "two instances of one GPU are two devices"
    lease._release(held + other)
    held = lease._claim(whole)
    assert held and lease._claim(first) is None
    lease._release(held)
    assert lease._claim(first)


NVML = """
class NVMLError(Exception): pass
def nvmlInit():
    print("WARNING: infoROM is corrupted at gpu 0000:00:04.0")
    {init}
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetCount(): return 3
def nvmlDeviceGetHandleByIndex(index):
    if index == 1: raise NVMLError("GPU is lost")
    return index
def nvmlDeviceGetUUID(handle): return handle if isinstance(handle, str) else "GPU-" + "abc"[handle] * 4
def nvmlDeviceGetMaxMigDeviceCount(handle):
    if handle == 0: raise NVMLError("Not Supported")
    return 3
def nvmlDeviceGetMigMode(handle):
    if handle == 0: raise NVMLError("Not Supported")
    return [NVML_DEVICE_MIG_ENABLE, 1]
NVML_DEVICE_MIG_ENABLE = 1
def nvmlDeviceGetMigDeviceHandleByIndex(handle, number):
    if number == 1: raise NVMLError("Not Found")
    return f"MIG-{number}"
"""


def ask_stand_in(monkeypatch, init: str = "pass", source: str = NVML) -> Driver:
    library = ModuleType("pynvml")
    exec(source.replace("{init}", init), vars(library))
    monkeypatch.setattr(driver, "nvml", library)
    return driver.query_driver()


def test_the_driver_is_asked_through_its_library(monkeypatch):
    """A GPU that is lost, and warnings on standard output, are no reason to know nothing of the others."""
    found = ask_stand_in(monkeypatch)
    assert found.version == "580.1" and found.problem == "GPU 1: GPU is lost"
    assert [(gpu.index, gpu.uuid) for gpu in found.gpus] == [(0, "GPU-aaaa"), (2, "GPU-cccc")]
    assert [device.uuid for device in found.usable] == ["GPU-aaaa", "MIG-0", "MIG-2"]


def test_a_gpu_in_mig_mode_without_instances_is_not_usable(monkeypatch):
    found = ask_stand_in(monkeypatch, source=NVML.replace("if number == 1: raise", "raise"))
    assert [device.uuid for device in found.usable] == ["GPU-aaaa"]


@pytest.mark.parametrize("init", ["raise NVMLError('version mismatch')", "raise OSError('no library')"])
def test_a_driver_that_does_not_answer_is_no_traceback(place, monkeypatch, init):
    found = ask_stand_in(monkeypatch, init)
    assert not found.usable and found.version is None and found.problem
    with pytest.raises(UserError, match=r"1 GPU\(s\) wanted, none found \(the driver: "):
        lease.acquire(1, {}, 0)


def test_without_a_choice_the_devices_are_the_drivers(place):
    (place / "pynvml.py").write_text(NVML.replace("{init}", "pass"))
    path = f"{place}{os.pathsep}{ROOT / 'src'}"
    one = start(place, 1, 60, visible=None, PYTHONPATH=path)
    wait_for(lambda: started(place))
    assert list(started(place).values()) == ["GPU-aaaa"]
    other = start(place, 1, 60, visible="0", PYTHONPATH=path)  # the same device by another name
    time.sleep(1)
    assert other.poll() is None and len(started(place)) == 1
    for job in (one, other):
        job.kill()
        job.wait()


def test_more_than_there_is_is_refused(place):
    job = start(place, 5, 0)
    assert job.wait(30) == 2
    error = job.stderr.read()
    assert "5 GPU(s) wanted, 4 (0, 1, 2, 3) found" in error and "Traceback" not in error
    assert not started(place)
    for gpus, visible in ((1, ""), (2, "0")):
        with pytest.raises(UserError, match=rf"{gpus} GPU\(s\) wanted"):
            lease.acquire(gpus, {"CUDA_VISIBLE_DEVICES": visible}, 0)


def test_a_grant_that_snakemake_cut_down_is_refused(place):
    with pytest.raises(UserError, match=r"wants 8 GPU\(s\), Snakemake grants 2"):
        lease.run_leased(8, 2, ["true"], 1)


def test_impatience_names_the_holder(place):
    job = start(place, 1, 60, visible="0")
    wait_for(lambda: started(place))
    with pytest.raises(UserError, match=rf"within 0 s; held by 0: process {job.pid}"):
        lease.acquire(1, {"CUDA_VISIBLE_DEVICES": "0"}, patience=0.3)
    job.kill()
    job.wait()


def test_zero_gpus_hide_all_and_the_commands_status_is_the_leases(place):
    script = 'echo "[$CUDA_VISIBLE_DEVICES]"; exit 7'
    words = ["-m", "identity_mappings", "lease", "--gpus", "0", "--", "sh", "-c", script]
    environment = {**os.environ, "PYTHONPATH": SOURCES, "CUDA_VISIBLE_DEVICES": "0,1"}
    done = subprocess.run([sys.executable, *words], env=environment, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, "[]\n")


def test_jobs_that_share_an_allocation_get_devices_of_their_own(place):
    """Plain `snakemake --resources gpu=4` inside `salloc --gres=gpu:4`."""
    jobs = [start(place, gpus, 60, SLURM_JOB_ID="7") for gpus in (1, 1, 2)]
    wait_for(lambda: len(started(place)) == 3)
    assert sorted(",".join(started(place).values()).split(",")) == ["0", "1", "2", "3"]
    for job in jobs:
        job.kill()
        job.wait()


def test_jobs_with_an_allocation_each_do_not_wait_for_each_other():
    """Slurm may call the device of each "0"; where the driver tells, they are known by their UUIDs."""

    def find(job: str, driver: Driver) -> Device:
        [device] = lease.list_devices({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": job}, driver).values()
        return device

    assert find("7", Driver()) != find("8", Driver()) and find("7", DRIVER) == find("8", DRIVER)
