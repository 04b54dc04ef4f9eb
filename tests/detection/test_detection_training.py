"""Detections through the training loop: killed and resumed to the same bytes, two processes, verify, imported."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

import fork_server
from identity_mappings.detection import backbone
from identity_mappings.detection.trainer import DetectionTrainer
from identity_mappings.errors import UserError
from identity_mappings.networks import vgg
from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.reporting import detections
from identity_mappings.reporting.store import Records
from identity_mappings.reporting.tables import render_imported
from identity_mappings.training import checkpoint, verify
from identity_mappings.training.loop import train
from simulated_cuda import simulated_cuda


def record_of(results: Path, experiment) -> dict[str, bytes]:
    folder = run.get_folder(results, experiment, 0)
    return {name: (folder / name).read_bytes() for name in (run.METRICS, run.CURVE)}


@pytest.fixture(scope="module")
def alternating(detection):
    return detection("voc-resnet101", steps="alternating", detector_batch_size=3)


@pytest.fixture(scope="module")
def whole(alternating, options, tmp_path_factory):
    """Results of an alternating training that nothing interrupted."""
    results = tmp_path_factory.mktemp("whole")
    assert train(alternating, 0, options(results)) == 0
    return results


def test_a_record_is_whole(whole, alternating):
    folder = run.get_folder(whole, alternating, 0)
    record = run.read_record(folder, alternating, 0)
    found = record.metrics
    assert found["status"] == "finished" and found["protocol"] == "voc-11-point"
    assert found["test"]["images"] == 24 and 0 <= found["test"]["map_50"] <= 100
    assert found["test_error"] == round(100 - found["test"]["mean_average_precision"], 6)
    assert len(found["first_losses"]) == 8 and all(loss > 0 for loss in found["first_losses"])
    weights = checkpoint.read_saved(run.get_checkpoint_folder(whole, alternating, 0) / run.WEIGHTS)
    assert checkpoint.weights_sha256(weights) == found["weights_sha256"]
    sources = record.provenance["source"]
    assert {f"src/identity_mappings/detection/{name}.py" for name in ("networks", "trainer", "scores")} <= set(sources)
    metrics = backbone.get_paths(alternating, whole)[0] / run.METRICS
    assert record.provenance["parents"]["weights"] == json.loads(metrics.read_bytes())["weights_sha256"]


@pytest.mark.parametrize("stop", [2, 3])  # where the RPN's step ends and the detector's begins, and inside of that
def test_stopped_and_resumed_it_is_the_same_bytes(whole, alternating, options, tmp_path, stop):
    chosen = options(tmp_path)
    assert train(alternating, 0, options(tmp_path, stop_after=stop)) == 0
    assert not (run.get_folder(tmp_path, alternating, 0) / run.METRICS).exists()
    assert train(alternating, 0, chosen) == 0
    assert record_of(tmp_path, alternating) == record_of(whole, alternating)


@pytest.mark.parametrize("policy", ["late", "default"])
def test_on_a_simulated_gpu_it_is_the_same(whole, alternating, options, tmp_path, policy):
    with simulated_cuda(policy) as gpu:
        assert train(alternating, 0, replace(options(tmp_path), device="gpu")) == 0
    cpu, found = (
        run.read_record(run.get_folder(results, alternating, 0), alternating, 0) for results in (whole, tmp_path)
    )
    for key in ("first_losses", "test", "weights_sha256"):
        assert cpu.metrics[key] == found.metrics[key]
    assert gpu.replays == 0


def command(*words: str, root: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    return {"args": [*words], "cwd": root, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


def test_killed_and_resumed_it_is_the_same_bytes(whole, alternating, options, data, tmp_path, root_of_project):
    options(tmp_path)
    alternating.save(tmp_path / "run.json")
    words = (
        "-m",
        "identity_mappings",
        "train",
        str(tmp_path / "run.json"),
        "--results",
        str(tmp_path),
        "--data",
        str(data),
    )
    python = str(fork_server.find_commands() / "python")
    started = command(python, *words, "--device", "cpu", "--checkpoint-seconds", "0", root=root_of_project)
    process = subprocess.Popen(**started)
    folder = run.get_checkpoint_folder(tmp_path, alternating, 0)
    deadline = time.monotonic() + 200
    while process.poll() is None and (checkpoint.find_newest(folder) or 0) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and checkpoint.find_newest(folder) in range(1, 8)
    assert train(alternating, 0, options(tmp_path)) == 0
    assert record_of(tmp_path, alternating) == record_of(whole, alternating)


def test_two_processes_take_the_same_steps(detection, options, data, tmp_path, root_of_project):
    """Up to the order in which gradients are added; the images, regions and boxes are the same."""
    experiment = detection(
        "voc-resnet101", iterations=3, batch_size=2, log_every=3, evaluate_every=3, learning_rate=[[0, 0.001]]
    )
    alone, together = tmp_path / "1", tmp_path / "2"
    assert train(experiment, 0, options(alone)) == 0
    options(together)
    experiment.save(together / "run.json")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "identity_mappings")
    words = ("train", str(together / "run.json"), "--results", str(together), "--data", str(data), "--device", "cpu")
    python = str(fork_server.find_commands() / "python")
    done = subprocess.run(**command(python, *launcher, *words, root=root_of_project), text=True)
    assert done.returncode == 0, done.stdout
    records = [run.read_record(run.get_folder(results, experiment, 0), experiment, 0) for results in (alone, together)]
    assert records[1].provenance["seed"]["world_size"] == 2
    losses = [record.metrics["first_losses"] for record in records]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_verify_trains_a_recorded_beginning_again(whole, alternating, options, capsys, monkeypatch):
    folder = run.get_folder(whole, alternating, 0)
    assert verify.verify_record(folder, options(whole), 4) == 0
    assert "bit by bit" in capsys.readouterr().out
    provenance = json.loads((folder / run.PROVENANCE).read_bytes())
    assert provenance["params"]["resolved"]["backbone"]["experiment"] == "imagenet-resnet152"


def test_coco_is_scored_by_its_library(detection, options, tmp_path):
    experiment = detection("coco-vgg16", iterations=4, log_every=4, evaluate_every=4, learning_rate=[[0, 0.01]])
    assert train(experiment, 0, options(tmp_path)) == 0
    test = run.read_record(run.get_folder(tmp_path, experiment, 0), experiment, 0).metrics["test"]
    assert test["mean_average_precision"] == test["map"] <= test["map_50"]


def test_other_weights_than_the_records_are_refused(detection, options, tmp_path):
    experiment, chosen = detection(), options(tmp_path)
    record, weights = backbone.get_paths(experiment, tmp_path)
    state = torch.load(weights)
    torch.save({**state, "linear.bias": state["linear.bias"] + 1}, weights)
    with pytest.raises(UserError, match=r"weights.pt: not the weights of"):
        train(experiment, 0, chosen)
    weights.unlink()
    with pytest.raises(UserError, match="begins from imagenet-resnet152, whose weights are not here: train it first"):
        train(experiment, 0, chosen)
    assert record.is_dir()


def test_moving_statistics_are_refused(detection, options, tmp_path):
    experiment = detection()
    experiment.parameters["backbone"]["statistics"] = "moving"
    with pytest.raises(UserError, match="its batch norm has moving averages"):
        DetectionTrainer(experiment, 0, torch.device("cpu"), options(tmp_path))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_imported_weights_are_a_detection_of_their_own(detection, options, data, tmp_path, kind, monkeypatch):
    """torchvision's names in; the record says where they come from, and its digest is no cell's."""
    torch.manual_seed(0)
    if kind == "vgg":  # with few hidden units: half a GB less to write
        monkeypatch.setattr(vgg, "HIDDEN", 8)
        with torch.device("meta"):
            shapes = vgg.Vgg(16, dropout=0.5).state_dict()
        state = {name.replace("linear", "classifier"): torch.zeros(shape.shape) for name, shape in shapes.items()}
    else:
        state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    taken = tmp_path / "theirs.pth", "tv", "torchvision, a test"
    wanted = detection(
        iterations=1, batch_size=1, log_every=1, evaluate_every=1, learning_rate=[[0, 0.001]], pooled_size=None
    )
    experiment = backbone.import_backbone(wanted, *taken, tmp_path)
    assert experiment.digest != wanted.digest and experiment.name == "voc-resnet101-tv"
    if kind == "vgg":  # read, and not trained
        loaded, parents = backbone.load(experiment, options(tmp_path))
        assert len(loaded) == 32 and parents == {
            "imported weights": experiment.parameters["backbone"]["weights_sha256"]
        }
        return
    results = tmp_path / "imported"
    backbone.import_backbone(wanted, *taken, results)
    assert train(experiment, 0, replace(options(tmp_path), results=results)) == 0
    [folder] = detections.imported_folders(tmp_path)
    assert detections.read_imported_detection(folder).metrics["experiment"] == "voc-resnet101-tv"
    monkeypatch.setattr(Records, "results", tmp_path)
    records = Records(load(Path(__file__).parents[2]), "paper")
    table = render_imported(records)
    assert not records.bad and "voc-resnet101-tv (imported weights, other recipe)" in table
    assert "torchvision, a test" in table
    (folder / run.CURVE).write_text("")
    assert render_imported(records) == "" and "hash of curve.csv" in records.bad[0]
