"""Runs of a second or two, in this process."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from identity_mappings.parameters import load
from identity_mappings.records.experiment import Experiment
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options

ROOT = Path(__file__).parents[2]
SHORT = {
    "batch_size": 16,
    "batch_norm_samples": 8,
    "iterations": 12,
    "learning_rate": [[0, 0.01], [2, 0.1], [8, 0.01]],
    "crop_padding": 1,
    "flip": True,
    "evaluate_every": 6,
    "log_every": 3,
}


@pytest.fixture
def short() -> Callable[..., Experiment]:
    """An experiment of the demo with 8 layers and 12 iterations; keywords change its recipe."""

    def make(name: str = "cifar10-resnet110-dropout", **recipe) -> Experiment:
        resolved = load(ROOT).resolve(name, "demo")
        parameters = copy.deepcopy(resolved.parameters)
        parameters["recipe"] |= SHORT | recipe
        parameters["network"]["depth"] = 8
        return Experiment(resolved.name, resolved.scale, parameters)

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Train into a folder of tmp_path; returns the record's bytes that must not depend on anything but the run."""

    def call(experiment: Experiment, folder: str = "results", seed: int = 0, **options) -> dict[str, bytes]:
        results = tmp_path / folder
        status = train(experiment, seed, Options(results, root=ROOT, device="cpu", **options))
        assert status == 0
        record = results / "runs" / experiment.folder / f"seed{seed}"
        found = {
            path.relative_to(record).as_posix(): path.read_bytes()
            for path in record.rglob("*")
            if path.is_file() and path.name != "provenance.json"
        }
        return found

    return call
