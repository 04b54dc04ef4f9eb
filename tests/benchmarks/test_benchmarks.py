"""`make bench`: what is compared, and how it is shown; times themselves are not tested."""

import copy
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import pages, steps, views, worker
from benchmarks.__main__ import get_folder
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.parameters import load
from identity_mappings.records.experiment import Experiment
from identity_mappings.reporting import benchmarks as records
from identity_mappings.training.assembly import build
from simulated_cuda import simulated_cuda

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PROJECT = load(ROOT)
NAME = "cifar10-resnet110"


@pytest.fixture
def small() -> Experiment:
    """ResNet-8 on 8x8 images in batches of 16."""
    resolved = PROJECT.resolve(NAME, "demo")
    parameters = copy.deepcopy(resolved.parameters)
    parameters["network"]["depth"] = 8
    parameters["recipe"] |= {"batch_size": 16, "batch_norm_samples": 8}
    return Experiment(resolved.name, resolved.scale, parameters)


# What is compared


def test_the_eager_network_is_the_same_with_torchs_batch_norm(small):
    theirs = worker.build_eager_network(small)
    ours = build(small)
    assert not any(isinstance(m, BatchNorm2d) for m in theirs.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in theirs.modules()) == 7
    state = {key: value[0] if "running" in key else value for key, value in ours.state_dict().items()}
    assert theirs.load_state_dict(state, strict=False).unexpected_keys == []
    x = torch.randn(6, 1, 8, 8)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", [name for name in worker.PYTORCHCV if "1001" not in name and "1202" not in name])
def test_the_packages_networks_are_of_our_depth_and_width(name):
    """Its shortcuts where widths change are projections, ours are not: it has a little more to do, and weights."""
    experiment = PROJECT.resolve(name)
    theirs, ours = worker.build_published_network(experiment, "pytorchcv"), build(experiment)
    counts = [sum(p.numel() for p in network.parameters()) for network in (theirs, ours)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    assert theirs(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_each_peer_is_paired_with_ours(monkeypatch):
    monkeypatch.setattr(steps, "has_bfloat16", lambda device: False)
    ours = ("ours", 1)
    on_gpu = [[ours, (peer, 1)] for peer in ("ours, not recorded", "eager", "pytorchcv")] + [
        [("ours", 5)],
        [("ours", 8)],
    ]
    assert steps.list_groups(PROJECT.resolve(NAME), CUDA, True) == [
        (arithmetic, group) for arithmetic in ("float32", "tf32") for group in on_gpu
    ]
    assert steps.list_groups(PROJECT.resolve("cifar10-plain20"), CPU, True) == [("float32", [ours, ("eager", 1)])]
    assert steps.list_groups(PROJECT.resolve("cifar10-resnet20"), CPU, False) == [("float32", [ours])]
    assert ("float32", [ours, ("timm", 1)]) in steps.list_groups(PROJECT.resolve("imagenet-resnet50"), CPU, True)


def test_several_runs_take_turns(small, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 0.1)
    measured = worker.Measured(small, CPU, "ours", 2)
    before = [trainer.parameters[-1].clone() for trainer in measured.trainers]
    measured.run_round()
    for trainer, weight in zip(measured.trainers, before, strict=True):
        assert not torch.equal(trainer.parameters[-1], weight)
    assert len(measured.seconds) == 1 and measured.describe()["runs_at_once"] == 2


def test_runs_at_once_on_a_simulated_gpu_have_the_bits_of_a_cpu(small, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 0)

    def measure(device, runs):
        measured = worker.Measured(small, torch.device(device), worker.OURS, runs)
        measured.run_round()
        assert measured.describe()["eager"] is None
        return [[tensor.cpu() for tensor in trainer._state()] for trainer in measured.trainers]

    plain = measure("cpu", 1)
    with simulated_cuda("late"):
        first, _ = measure("cuda", 2)
    assert all(map(torch.equal, plain[0], first))


def test_both_pipelines_make_all_views(tmp_path):
    threads = torch.get_num_threads()
    found = views.measure_views(tmp_path, workers=0, rounds=1, images=4, batch_size=3)
    torch.set_num_threads(threads)
    assert found["images_per_second"].keys() == {"torchvision", "ours, pillow", "ours, torchvision"}
    assert all(value > 0 for value in [*found["images_per_second"].values(), *found["ratios"].values()])


# Memory


def test_a_pair_is_measured_in_its_own_processes(small, capfd):
    rows = steps.measure_group(small, CPU, [("ours", 1), ("eager", 1)], rounds=1)
    assert [(row["implementation"], row["arithmetic"], row["runs_at_once"]) for row in rows] == [
        ("ours", "float32", 1),
        ("eager", "float32", 1),
    ]
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
    assert all(row["peak_memory_bytes"] > 50e6 and row["eager"] is None for row in rows)
    assert capfd.readouterr().err == ""


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Here:
    """In place of the process of an implementation, which `alive` counts."""

    alive, most = 0, 0

    def __init__(self, *_: object):
        Here.alive += 1
        Here.most = max(Here.most, Here.alive)

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        Here.alive -= 1

    def submit(self, function, *arguments):
        future = Future()
        if function is worker.start:
            self.row = arguments[2]
            if self.row == "eager":
                future.set_exception(MemoryError("does not fit into memory"))
                return future
        future.set_result(self.row if function is worker.describe else None)
        return future


def test_what_does_not_fit_is_named_and_the_others_are_measured(small, monkeypatch, capsys):
    monkeypatch.setattr(steps, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(steps, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(steps.memory, "group_runs", lambda runs, device: [runs[:5], runs[5:]] if runs[5:] else [runs])
    found = steps.measure_steps(small, CUDA, peers=True, rounds=2)["rows"]
    assert found == ["ours", "ours, not recorded", "ours", "ours", "pytorchcv", "ours"] * 3
    assert Here.most == 2 and Here.alive == 0
    assert capsys.readouterr().out.splitlines() == [
        f"skipped: {NAME}, {what}, {arithmetic}: does not fit into memory"
        for arithmetic in ("float32", "tf32", "bfloat16")
        for what in ("eager", "ours, 8 at once")
    ]


def test_a_process_that_linux_kills_is_named(small, monkeypatch, capsys):
    monkeypatch.setattr(worker, "start", killed)
    assert steps.measure_group(small, CPU, [("ours", 1)], rounds=1) == []
    assert f"skipped: {NAME}, ours, float32: A process in the process pool was terminated" in capsys.readouterr().out


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_memory_is_named_whatever_it_led_to(small, monkeypatch, error):
    def fail(*_: object) -> None:
        try:
            raise error
        except RuntimeError:
            raise ValueError("a step cannot be computed")  # noqa: B904

    monkeypatch.setattr(worker, "Trainer", fail)
    with pytest.raises(MemoryError, match="does not fit into memory"):
        worker.Measured(small, CPU, "ours", 1)
    monkeypatch.setattr(worker, "Trainer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.Measured(small, CPU, "ours", 1)


# Pages


def test_a_device_has_a_folder_of_its_own():
    folders = [get_folder(Path(), {"cpu": "AMD EPYC", "gpu": gpu}, NAME) for gpu in (None, {"model": "NVIDIA H200"})]
    assert folders == [Path(f"bench/{device}/{NAME}") for device in ("cpu-amd-epyc", "gpu-nvidia-h200")]


def test_the_plot_has_a_line_for_each_implementation():
    [axes] = pages.draw(records.read_records(ROOT / "results")).axes
    lines = {line.get_label(): line.get_xdata().tolist() for line in axes.get_lines()}
    assert lines["ours, basic units, cpu-amd-epyc"] == [20, 56, 110, 1202]
    assert lines["eager, bottleneck units, cpu-amd-epyc"] == [164]


def test_without_a_gpu_it_says_so_in_one_line():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "benchmarks"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "bench: no GPU here; for the CPU: make bench BENCH_ARGS='--device cpu'\n"
