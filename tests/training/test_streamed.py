"""A trainer whose images come from shards."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import make_small_data
from identity_mappings.data.prepare import prepare
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records.experiment import Experiment
from identity_mappings.training import devices
from identity_mappings.training.trainer import Options, Trainer
from simulated_cuda import simulated_cuda

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of datasets with imagenet-small, prepared."""
    folder = tmp_path_factory.mktemp("data")
    make_small_data.make("imagenet-small", folder)
    prepare("imagenet-small", folder)
    return folder


@pytest.fixture
def small():
    def make(name="imagenet-resnet18", dataset=None, **recipe) -> Experiment:
        resolved = load(ROOT).resolve(name, "demo")
        parameters = copy.deepcopy(resolved.parameters)
        parameters["recipe"] |= {"batch_size": 16, "batch_norm_samples": 4, **recipe}
        parameters["dataset"] |= dataset or {}
        return Experiment(resolved.name, resolved.scale, parameters)

    return make


def trainer(experiment: Experiment, folder: Path, data: Path, **options) -> Trainer:
    devices.prepare("float32", 1)
    return Trainer(experiment, 0, torch.device("cpu"), Options(folder, data, ROOT, device="cpu", **options))


def test_workers_change_no_bit(small, tmp_path, data):
    found = []
    for workers in (0, 2):
        made = trainer(small(), tmp_path, data, workers=workers)
        losses = [made.step(iteration)[0] for iteration in range(3)]
        made.feed.close()
        found.append((torch.stack(losses), made.state()["network"]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(tensor, found[1][1][key]) for key, tensor in found[0][1].items())


def test_a_step_takes_up_anywhere(small, tmp_path, data):
    """What a resume needs: iteration 21, in the third epoch, is the same whether or not those before were seen."""
    one, other = (trainer(small(), tmp_path, data, workers=0) for _ in range(2))
    for iteration in (0, 1, 20):
        one.feed.seek(iteration)
    assert one.feed.seek(21) == other.feed.seek(21) == 16
    for replica in range(4):
        (x, y), (x2, y2) = (made.feed.replica(16, replica) for made in (one, other))
        assert x.shape == (4, 3, 32, 32) and x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_a_short_batch_is_dealt_out(small, tmp_path, data):
    """320 images in batches of 48: the last of an epoch has 32, 8 for each of the four replicas."""
    made = trainer(small(batch_size=48, batch_norm_samples=12, epoch_end="short-batch"), tmp_path, data, workers=0)
    assert [made.feed.seek(iteration) for iteration in (0, 5, 6, 7)] == [48, 48, 32, 48]
    made.feed.seek(6)
    parts = [made.feed.replica(32, replica) for replica in range(4)]
    assert [len(y) for _, y in parts] == [8] * 4
    whole = [image for _, image in made.feed.stream.order.samples(6)]
    labels = torch.stack([y for _, y in parts], 1).flatten()
    assert torch.equal(labels, made.feed.training.labels[torch.tensor(whole)])
    loss, wrong, size = made.step(6)
    assert size == 32 and loss.isfinite() and 0 <= int(wrong) <= 32


def test_recomputed_statistics_are_of_training_images_and_the_moving_ones_are_kept(small, tmp_path, data):
    made = trainer(small(), tmp_path, data, workers=0)
    made.step(0)
    before = {name: buffer.clone() for name, buffer in made.network.named_buffers()}
    made.recompute_statistics()
    assert all(torch.equal(made.moving[name], buffer) for name, buffer in before.items())
    made.network.eval()
    seen = []
    for step in made.feed.after:  # the views behind the training, of the first replica
        made.feed.seek(step)
        seen.append(made.network.stem[0](made.feed.replica(16, 0)[0]).detach())
    assert len(seen) == 20, "an epoch of 320 images"
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(made.network.stem[1].running_mean[0], mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training_images": 321}, "320 training images .* not 321"),
        ({"classes": 11}, "of 10 classes, not 320 of 11"),
        ({"md5": "0" * 32 + ".dir"}, r"dataset imagenet-small has 0+\.dir: remove .* and call"),
        ({"name": "imagenet"}, "data prepare imagenet`"),
    ],
)
def test_another_dataset_than_the_stated_one_is_refused(small, tmp_path, data, change, message):
    with pytest.raises(UserError, match=message):
        trainer(small(dataset=change), tmp_path, data)


def test_shards_of_other_archives_are_refused(small, tmp_path, data):
    shutil.copytree(data / "shards", tmp_path / "shards")
    index = tmp_path / "shards/imagenet-small/index.json"
    index.write_text(index.read_text().replace('"ILSVRC2012_img_val.tar": "', '"ILSVRC2012_img_val.tar": "0'))
    with pytest.raises(UserError, match="made of files with the hash "):
        trainer(small(), tmp_path / "results", tmp_path)


@pytest.mark.slow
def test_a_signal_to_all_processes_leaves_a_checkpoint(small, tmp_path, data):
    """As `timeout` and Slurm send it: to the workers that decode, too, which are not to die of it."""
    small(iterations=2000, learning_rate=[[0, 0.01]]).save(tmp_path / "run.json")
    words = ["-m", "identity_mappings", "train", str(tmp_path / "run.json"), "--device", "cpu", "--workers", "2"]
    words += ["--results", str(tmp_path / "results"), "--data", str(data), "--checkpoint-seconds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("results/checkpoints/*/seed0/checkpoint-*[1-9]-*.pt")):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, said
    assert "unfinished after" in said and "Traceback" not in said


@pytest.mark.parametrize("policy", ["default", 1])
def test_on_a_simulated_gpu_a_replayed_step_has_the_bits_of_a_cpu(small, tmp_path, data, policy):
    devices.prepare("float32", 1)
    experiment = small(colour="pca-and-jitter", batch_size=48, batch_norm_samples=12, epoch_end="short-batch")

    def compute(device):
        made = Trainer(experiment, 0, torch.device(device), Options(tmp_path, data, ROOT, workers=0))
        losses = [made.step(iteration)[0] for iteration in range(5, 9)]  # the seventh batch is short
        result = made.test()
        made.close()
        assert made.why_eager is None
        return torch.stack(losses).tolist(), [tensor.cpu() for tensor in made._state()], result

    plain = compute("cpu")
    with simulated_cuda(policy) as gpu:
        found = compute("cuda")
    assert plain[0] == found[0] and plain[2] == found[2] and all(map(torch.equal, plain[1], found[1]))
    assert gpu.replays == 4


@pytest.mark.gpu
@pytest.mark.parametrize("colour", ["pca", "pca-and-jitter"])
def test_on_a_gpu_a_replayed_step_is_the_eager_one(small, tmp_path, data, colour):
    devices.prepare("float32", 1)
    experiment = small(colour=colour, batch_size=48, batch_norm_samples=12, epoch_end="short-batch")
    both = [
        Trainer(experiment, 0, torch.device("cuda"), Options(tmp_path, data, ROOT, eager=eager, workers=2))
        for eager in (True, False)
    ]
    for iteration in range(8):  # the seventh batch is short
        a, b = (one.step(iteration)[0] for one in both)
        assert float(a) == float(b), iteration
    for one in both:
        one.feed.close()
        assert one.why_eager is None or one.eager
    for a, b in zip(both[0]._state(), both[1]._state(), strict=True):
        assert torch.equal(a, b)
