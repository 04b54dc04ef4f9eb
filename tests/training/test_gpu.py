"""On a real GPU, by `make gpu-check` or `pytest -m gpu`: what test_simulated_cuda.py shows of the order of work, the
device itself must confirm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from identity_mappings import doctor
from identity_mappings.parameters import load
from identity_mappings.records.files import parse_json
from identity_mappings.records.run import get_folder
from identity_mappings.training import checkpoint, devices, memory
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
KINDS = {experiment.name: experiment for experiment in doctor.list_kinds(load(ROOT), "float32")}


def compute_steps(experiment, steps=6, images=None, **options):
    """Losses, hash of the weights, and why nothing was replayed."""
    devices.prepare(experiment.parameters["recipe"]["arithmetic"], 1)
    made = Trainer(experiment, 0, CUDA, Options(Path(), root=ROOT, **options), images)
    losses = torch.stack([made.step(iteration)[0] for iteration in range(steps)]).tolist()
    weights = checkpoint.weights_sha256(made.state()["network"])
    made.close()
    return losses, weights, made.why_eager


@pytest.mark.parametrize("name", KINDS)
def test_a_replayed_step_is_the_eager_one(name):
    eager, *replayed = [
        compute_steps(KINDS[name], images=doctor.make_images(), eager=eager) for eager in (True, False, False)
    ]
    assert replayed[0] == replayed[1] == (*eager[:2], None)


@pytest.mark.parametrize("arithmetic", ["tf32", "bfloat16"])
@pytest.mark.parametrize("recipe", [{}, {"batch_size": 512, "batch_norm_samples": 256, "epoch_end": "short-batch"}])
def test_dropout_and_short_batches(short, recipe, arithmetic):
    eager, replayed = (compute_steps(short(arithmetic=arithmetic, **recipe), eager=eager) for eager in (True, False))
    assert replayed == (*eager[:2], None)


def test_runs_at_once_and_a_resume_change_no_bit(short, tmp_path):
    experiments = [short(), short("cifar10-resnet110")]

    def read(folder):
        paths = [get_folder(tmp_path / folder, experiment, 0) / "metrics.json" for experiment in experiments]
        return [parse_json(path.read_bytes()) for path in paths]

    for experiment in experiments:
        assert train(experiment, 0, Options(tmp_path / "alone", root=ROOT)) == 0
    for stop_after in (7, None):
        assert train(experiments, 0, Options(tmp_path / "at-once", root=ROOT, stop_after=stop_after)) == 0
    assert read("alone") == read("at-once")


@pytest.mark.parametrize("name", ["cifar10-resnet110", "cifar10-resnet164-full-pre-activation"])
def test_memory_is_what_was_estimated(name):
    """At most a quarter more: workspaces of cuDNN are not counted."""
    experiment = load(ROOT).resolve(name)
    dataset = experiment.parameters["dataset"]
    pixels = torch.zeros(dataset["training_images"], 3, 32, 32, dtype=torch.uint8)
    labels = torch.zeros(dataset["training_images"], dtype=torch.int64)
    images = doctor.Images(pixels, labels, pixels[:10_000], labels[:10_000])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    compute_steps(experiment, 4, images)
    used, estimated = torch.cuda.max_memory_reserved() - before, memory.estimate_needed_bytes(experiment, ROOT)
    assert used < 1.25 * estimated + 2**29, f"{used / 2**20:.0f} MiB, estimated {estimated / 2**20:.0f}"


def test_a_lease_shows_one_device():
    program = "import torch; print(torch.cuda.device_count(), torch.ones(1, device='cuda').item())"
    words = ["-m", "identity_mappings", "lease", "--gpus", "1", "--", sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert found.stdout == "1 1.0\n", found.stderr
