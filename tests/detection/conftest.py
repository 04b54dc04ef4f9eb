"""Detections of a few iterations on the small sets, on a backbone with weights that were never trained."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import make_small_data
from identity_mappings.data.prepare import prepare
from identity_mappings.detection import backbone, make_trainer
from identity_mappings.evaluation.single_view import recompute_statistics
from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.files import json_bytes, write_atomically
from identity_mappings.training import checkpoint, devices
from identity_mappings.training.assembly import build, get_recipe, initialize
from identity_mappings.training.trainer import Options

SHORT = {
    "iterations": 8,
    "learning_rate": [[0, 0.01], [6, 0.001]],
    "regions": 8,
    "proposals_test": 4,
    "evaluate_every": 8,
    "log_every": 4,
}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("voc-small", "coco-small"):
        make_small_data.make(name, folder)
        prepare(name, folder)
    return folder


@pytest.fixture(scope="session")
def detection(root_of_project):
    """A detection of scale demo, shortened; keywords change its recipe."""

    def make(name: str = "voc-resnet101", **recipe) -> Experiment:
        resolved = load(root_of_project).resolve(name, "demo")
        parameters = copy.deepcopy(resolved.parameters)
        parameters["recipe"] |= SHORT | recipe
        return replace(resolved, parameters=parameters)

    return make


@pytest.fixture(scope="session")
def options(data, root_of_project):
    """Options of a folder of results, with the backbones' weights and the metrics of their records in it."""

    def make(results: Path, **chosen) -> Options:
        project = load(root_of_project)
        for name in ("voc-resnet101", "voc-vgg16"):
            detection = project.resolve(name, "demo")
            trained = project.resolve(detection.parameters["backbone"]["experiment"], "demo")
            network = build(trained)
            initialize(network, get_recipe(trained), 0)
            noise = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            recompute_statistics(network, [60 * noise])
            record, weights = backbone.get_paths(detection, results)
            weights.parent.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), weights)
            digest = checkpoint.weights_sha256(network.state_dict())
            write_atomically(record / run.METRICS, json_bytes({"weights_sha256": digest}))
        return Options(results, data, root_of_project, device="cpu", make_trainer=make_trainer, **chosen)

    devices.prepare("float32", 1)
    return make
