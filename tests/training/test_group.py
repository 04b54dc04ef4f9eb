"""Several processes that train one run together, on the CPU with gloo."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import make_small_data
from fork_server import find_commands
from identity_mappings.data.prepare import prepare
from identity_mappings.parameters import load
from identity_mappings.training.group import Group

ROOT = Path(__file__).parents[2]

# Ten iterations in double precision; the last lines say what each process has.
DOUBLE = """
import sys, torch
from pathlib import Path
from identity_mappings.records.experiment import Experiment
from identity_mappings.training import devices
from identity_mappings.training.checkpoint import weights_sha256
from identity_mappings.data.prepare import prepare
from identity_mappings.parameters import load
from identity_mappings.training.group import Group
from identity_mappings.training.trainer import Options, Trainer
torch.set_default_dtype(torch.float64)
devices.prepare("float32", 1)
group, device = Group.from_environment(), torch.device("cpu")
with group.joined(device):
    trainer = Trainer(Experiment.load(Path(sys.argv[1])), 0, device, Options(*map(Path, sys.argv[2:])), group=group)
    replica = trainer.feed.replica
    trainer.feed.replica = lambda *where: (replica(*where)[0].double(), replica(*where)[1])
    steps = [trainer.step(iteration) for iteration in range(10)]
    state = trainer.state()
    hashes = [weights_sha256(state["network"])] if group.size == 1 else [None] * group.size
    if group.size > 1:
        torch.distributed.all_gather_object(hashes, weights_sha256(state["network"]))
    if group.leads:
        losses = [(loss.item(), int(wrong), size) for loss, wrong, size in steps]
        torch.save({"losses": losses, "state": state, "hashes": hashes}, sys.argv[2])
"""

# Trains; the process of rank 1 kills itself before an iteration, if so asked.
TRAIN = """
import os, signal, sys
from pathlib import Path
from identity_mappings.cli import main
from identity_mappings.training import trainer
at, step = int(sys.argv[1]), trainer.Trainer.step
def killed(self, iteration):
    if iteration == at and self.group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, iteration)
trainer.Trainer.step = killed
sys.exit(main(["train", *sys.argv[2:]]))
"""


def start(processes: int, program: Path, *words: object) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [find_commands() / "python", *(launcher if processes > 1 else []), str(program), *map(str, words)]
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def program(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def saved(short, tmp_path) -> Path:
    """An experiment with four replicas, whose batches go on into the next epoch."""
    path = tmp_path / "run.json"
    short("cifar10-resnet110", batch_size=32, batch_norm_samples=8, epoch_end="continue").save(path)
    return path


@pytest.mark.slow
def test_one_and_three_processes_compute_the_same_function(saved, program, tmp_path):
    """The first steps in double precision agree to rounding; the same number of processes gives the same bytes."""
    found = {}
    for name, processes in (("1", 1), ("3", 3), ("3 again", 3)):
        done = start(processes, program(DOUBLE), saved, tmp_path / name)
        assert done.returncode == 0, done.stderr
        found[name] = torch.load(tmp_path / name, weights_only=True)
        assert len(set(found[name]["hashes"])) == 1, "every process has the whole state, of all replicas"
    for (loss, *counts), (expected, *others) in zip(found["3"]["losses"], found["1"]["losses"], strict=True):
        assert counts == others
        assert loss == pytest.approx(expected, rel=1e-11)
    for key, tensor in found["3"]["state"]["network"].items():
        torch.testing.assert_close(tensor, found["1"]["state"]["network"][key], rtol=1e-9, atol=1e-11)
    assert found["3"]["hashes"] == found["3 again"]["hashes"]
    assert found["3"]["losses"] == found["3 again"]["losses"]


@pytest.mark.slow
def test_so_do_they_with_images_from_shards(program, tmp_path):
    make_small_data.make("imagenet-small", tmp_path / "data")
    prepare("imagenet-small", tmp_path / "data")
    load(ROOT).resolve("imagenet-resnet18", "demo").save(tmp_path / "run.json")
    found = {}
    for processes in (1, 4):
        words = (tmp_path / "run.json", tmp_path / str(processes), tmp_path / "data")
        done = start(processes, program(DOUBLE), *words)
        assert done.returncode == 0, done.stderr
        found[processes] = torch.load(tmp_path / str(processes), weights_only=True)
    for (loss, *counts), (expected, *others) in zip(found[4]["losses"], found[1]["losses"], strict=True):
        assert counts == others
        assert loss == pytest.approx(expected, rel=1e-9)
    for key, tensor in found[4]["state"]["network"].items():
        torch.testing.assert_close(tensor, found[1]["state"]["network"][key], rtol=1e-6, atol=1e-8)


def files(results: Path) -> dict[str, bytes]:
    [record] = results.glob("runs/*/seed0")
    return {name: (record / name).read_bytes() for name in ("metrics.json", "curve.csv")}


@pytest.mark.slow
def test_a_lost_worker_ends_the_run_and_its_checkpoint_is_resumed_exactly(saved, program, tmp_path):
    train = program(TRAIN)
    common = [saved, "--device", "cpu", "--results"]
    assert start(2, train, -1, *common, tmp_path / "whole").returncode == 0

    lost = start(2, train, 8, *common, tmp_path / "lost", "--checkpoint-seconds", 0)
    assert lost.returncode != 0
    assert "another process of this run is gone" in lost.stderr and "checkpoint of iteration 8" in lost.stderr
    assert not list((tmp_path / "lost").glob("runs/*/seed0/metrics.json"))
    shutil.copytree(tmp_path / "lost", tmp_path / "fewer")
    again = start(2, train, -1, *common, tmp_path / "lost")
    assert again.returncode == 0 and "resumes at iteration 8" in again.stderr
    assert files(tmp_path / "lost") == files(tmp_path / "whole")
    provenance = json.loads(next((tmp_path / "lost").glob("runs/*/seed0/provenance.json")).read_bytes())
    assert provenance["seed"]["world_size"] == 2

    # With another number of processes the function is the same, and so are the numbers but for rounding.
    assert start(1, train, -1, *common, tmp_path / "fewer").returncode == 0
    one, two = (json.loads(files(tmp_path / name)["metrics.json"]) for name in ("fewer", "whole"))
    assert one["training_loss"] == pytest.approx(two["training_loss"], rel=1e-2)
    assert one["first_losses"][:8] == two["first_losses"][:8]


def test_a_terminated_group_stops_after_one_iteration_with_a_checkpoint(saved, program, tmp_path):
    stopped = TRAIN.replace("os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGTERM)")
    done = start(2, program(stopped), 5, saved, "--device", "cpu", "--results", tmp_path / "results")
    assert done.returncode != 0
    [checkpoint] = (tmp_path / "results").glob("checkpoints/*/seed0/checkpoint-*.pt")
    assert checkpoint.name.startswith("checkpoint-00000006-")
    assert "unfinished after 6 iterations" in done.stderr


def test_more_processes_than_replicas_are_refused(saved, program, tmp_path):
    done = start(5, program(TRAIN), -1, saved, "--device", "cpu", "--results", tmp_path / "results")
    assert done.returncode != 0
    assert "5 processes, but the recipe's batch has 4 part(s)" in done.stderr
    assert "identity_mappings/" not in done.stderr, "no traceback of ours; torchrun prints its own"


@pytest.mark.parametrize(("size", "shares"), [(1, [[0, 1, 2, 3]]), (3, [[0, 3], [1], [2]]), (4, [[0], [1], [2], [3]])])
def test_replicas_are_dealt_out(size, shares):
    assert [Group(rank, size).get_share(4) for rank in range(size)] == shares
