"""A part of the demo through a real Slurm that the test starts: runs that are cut or killed go on by themselves.

The runs of the copy wait in each step, so that they last longer than Slurm's shortest time limit, which is a minute;
their networks and batches are smaller than the demo's.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from one_node_slurm import NoSlurm, Slurm

from identity_mappings.parameters import load
from identity_mappings.records import run

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slurm, pytest.mark.slow]

CUT, KILLED = "cifar10-resnet20", "cifar10-resnet110-convolution"
CANCELLED = "imagenet-resnet18"  # on two nodes with a process each
EVERY = (CUT, KILLED, CANCELLED)
SMALLER = {  # edits of params/scales/demo.yaml
    "{16: 8,": "{16: 8, 20: 8,",
    "110: 32, 1202": "110: 8, 1202",
    "batch_size: 64\n    batch_norm_samples: 32": "batch_size: 16\n    batch_norm_samples: 8",
    "batch_size: 32\n      batch_norm_samples: 8\n      crop_size: 32\n      shorter_side": (
        "batch_size: 8\n      batch_norm_samples: 4\n      crop_size: 32\n      shorter_side"
    ),
}
PATIENCE = 420  # seconds for all runs


def folder(root: Path, name: str, results: str = "results/demo") -> Path:
    return run.get_folder(root / results, load(root).resolve(name, "demo"), 0)


def read_outputs(record: Path) -> dict[str, bytes]:
    return {name: (record / name).read_bytes() for name in (run.METRICS, run.CURVE)}


def wait_for(condition, seconds: float, process: subprocess.Popen, log: Path):
    """What `condition` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()[-6000:]
        time.sleep(0.5)
    return found


def list_jobs(slurm: Slurm) -> dict[str, dict[str, str]]:
    """{number: facts} of all jobs of which Slurm knows."""
    jobs = {}
    for line in slurm.call("scontrol", "--oneliner", "show", "jobs").splitlines():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "JobId" in facts:
            jobs[facts["JobId"]] = facts
    return jobs


def has_checkpoint(project, name: str) -> bool:
    checkpoints = run.get_checkpoint_folder(project.root / "results/demo", load(project.root).resolve(name, "demo"), 0)
    return any(checkpoints.glob("checkpoint-*"))


def find_training(project, name: str) -> int | None:
    """The process that trains an experiment in the copy."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if (place / "cwd").resolve() != project.root.resolve():
                continue
        except OSError:
            continue
        if b"train" in words[:5] and name.encode() in words and not any(b"snakemake" in word for word in words[:5]):
            return int(place.name)
    return None


def find_jobs(project, jobs: dict[str, dict[str, str]], name: str) -> list[dict[str, str]]:
    """The jobs of an experiment, in the order in which they were submitted."""
    log = f"_{name}_{load(project.root).resolve(name, 'demo').digest}_"
    return [facts for _, facts in sorted(jobs.items(), key=lambda job: int(job[0])) if log in facts.get("StdOut", "")]


@pytest.fixture(scope="module")
def ran(project_copy, tmp_path_factory):
    """The copy after a call of Snakemake in which each run met its accident; the jobs of Slurm; the logs."""
    with tempfile.TemporaryDirectory(prefix="slurm") as short:  # a socket's path may have 107 letters
        Path(short).chmod(0o755)
        try:
            with Slurm(Path(short) / "slurm") as slurm:
                yield _run(project_copy(tmp_path_factory.mktemp("slurm") / "project", few_figures=True), slurm)
        except NoSlurm as error:
            pytest.skip(str(error))


def _run(project, slurm: Slurm) -> SimpleNamespace:
    step = "        size = self.feed.seek(iteration)\n"
    wait = "        __import__('time').sleep(1)\n"
    project.edit("src/identity_mappings/training/trainer.py", step, wait + step)
    for old, new in SMALLER.items():
        project.edit("params/scales/demo.yaml", old, new)
    project.edit(
        "workflow/rules/train.smk", "identity-mappings train ", "identity-mappings train --checkpoint-seconds 4 "
    )
    settings = ["slurm_account=test", "slurm_partition=main", "mem_mb=1000", "runtime=10"]
    limits = f"train:runtime=1 if wildcards.experiment == '{CUT}' and attempt < 2 else 10"
    words = ["snakemake", "--profile", "profiles/slurm", "--jobs", "6", "--config", "scale=demo", "nodes=2"]
    words += ["--default-resources", *settings, "--set-resources", limits]
    words += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
    words += ["--latency-wait", "10", "--"]
    words += [str((folder(project.root, name) / run.METRICS).relative_to(project.root)) for name in EVERY]
    environment = {**project.environment, **slurm.environment, "PYTHONPATH": str(project.root / "src")}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), slurm.environment["PATH"]))
    log = project.root / "snakemake.log"
    options = {"cwd": project.root, "env": environment, "stdout": log.open("w"), "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, start_new_session=True, **options) as process:
        try:
            wait_for(lambda: has_checkpoint(project, KILLED), 120, process, log)
            os.kill(wait_for(lambda: find_training(project, KILLED), 20, process, log), signal.SIGKILL)
            wait_for(lambda: has_checkpoint(project, CANCELLED), 120, process, log)
            [job] = [
                facts for facts in find_jobs(project, list_jobs(slurm), CANCELLED) if facts["JobState"] == "RUNNING"
            ]
            slurm.call("scancel", job["JobId"])
            status = process.wait(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    logs = "\n".join(path.read_text(errors="replace") for path in sorted((project.root / "logs").rglob("*.log")))
    text = log.read_text()
    assert status == 0, f"{text[-6000:]}\n{logs[-6000:]}\n{slurm.logs()}"
    return SimpleNamespace(project=project, jobs=list_jobs(slurm), output=text)


@pytest.fixture(scope="module")
def undisturbed(ran) -> str:
    """Results of the same runs, trained by hand, without Slurm and without waiting."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for names, words in (((CUT, KILLED), ()), ((CANCELLED,), launcher)):
        options = ("--scale", "demo", "--device", "cpu", "--results", "results/undisturbed")
        command = (sys.executable, *words, "-m", "identity_mappings", "train", *names, *options)
        done = ran.project.call(*command, PYTHONPATH=str(ROOT / "src"))
        assert done.returncode == 0, done.stdout
    return "results/undisturbed"


@pytest.mark.parametrize(("name", "state"), [(CUT, "TIMEOUT"), (KILLED, "FAILED"), (CANCELLED, "CANCELLED")])
def test_a_run_that_met_an_accident_went_on_to_the_bytes_of_an_undisturbed_one(ran, undisturbed, name, state):
    found = find_jobs(ran.project, ran.jobs, name)
    states = [facts["JobState"] for facts in found]
    assert state in states and states[-1] == "COMPLETED", states
    assert {facts["NumNodes"] for facts in found} == {"2" if name == CANCELLED else "1"}
    record = folder(ran.project.root, name)
    provenance = json.loads((record / run.PROVENANCE).read_bytes())
    sessions = provenance["sessions"]
    assert len(sessions) > 1 and sessions[-1]["from_iteration"] > 0, "it went on from a checkpoint"
    assert provenance["seed"].get("world_size", 1) == (2 if name == CANCELLED else 1)
    assert read_outputs(record) == read_outputs(folder(ran.project.root, name, undisturbed))


def test_jobs_ask_for_what_their_experiment_needs(ran):
    limits = {name: "00:01:00" if name == CUT else "00:10:00" for name in EVERY}
    for name in EVERY:
        job = find_jobs(ran.project, ran.jobs, name)[0]
        assert (job["Account"], job["Partition"], job["TimeLimit"]) == ("test", "main", limits[name])
        assert job["NumCPUs"] == ("2" if name == CANCELLED else "1"), job
        assert job["MinMemoryNode"] not in ("0", "1000M"), "of the experiment, not the default"


def test_logs_of_slurm_lie_beside_those_of_the_runs(ran):
    logs = ran.project.root / "logs"
    assert list((logs / "slurm").rglob("*.log")), "those of failed jobs are kept"
    for name in EVERY:
        experiment = load(ran.project.root).resolve(name, "demo")
        assert (logs / "results/demo" / experiment.folder / "seed0.log").is_file()
