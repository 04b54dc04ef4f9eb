"""Testing a trained run again, from its kept weights."""

from pathlib import Path

import torch

from ..errors import UserError
from ..records import run
from ..records.experiment import Experiment
from ..records.files import json_bytes, sha256_of, write_atomically
from . import checkpoint, devices
from .trainer import STATISTICS_BATCHES, Options, Trainer


def evaluate(experiment: Experiment, seed: int, protocol: str, options: Options) -> Path:
    """Test a finished run by a protocol and leave evaluation-PROTOCOL.json beside its record.

    Args:
        protocol: "single-view": with the batch norm statistics that the run ended with, so its own test again;
            "single-view-recomputed": with plain averages over training images.

    Raises:
        UserError: no record or no weights, other weights than the record's, or a repeated test that differs on the
            same kind of device.
    """
    folder = run.folder_of(options.results, experiment, seed)
    try:
        record = run.read(folder, experiment, seed)
    except run.BadRecord as error:
        raise UserError(f"{error}: not tested") from None
    if record is None or record.test_error is None:
        raise UserError(f"{folder}: no finished record with a test error: train the run first")
    path = run.checkpoints_of(options.results, experiment, seed) / "weights.pt"
    if not path.is_file():
        raise UserError(f"{path}: the trained weights are not here; they stay where the run was trained: fetch them")
    device = devices.choose(options.device, experiment, options.root)
    devices.prepare(experiment.parameters["recipe"]["arithmetic"], experiment.parameters["recipe"]["cpu_threads"])
    trainer = Trainer(experiment, seed, device, options)
    weights = torch.load(path, map_location=device, weights_only=True)
    if checkpoint.weights_sha256(weights) != record.metrics["weights_sha256"]:
        raise UserError(f"{path}: not the weights of the record {record.path}: remove the file and train the run again")
    trainer.network.load_state_dict(weights)
    if protocol == "single-view-recomputed":
        trainer.recompute_statistics()
    result = trainer.test()
    same = protocol == "single-view" and trainer.device_name == record.metrics["device"]
    if same and result.wrong != record.metrics["test"]["wrong"]:
        raise UserError(
            f"{folder}: {result.wrong} wrong predictions now, {record.metrics['test']['wrong']} in the record, on the "
            "same kind of device: the record or the environment is not what it says; see its provenance.json"
        )
    output = folder / f"evaluation-{protocol}.json"
    evaluation = {
        "format": run.FORMAT,
        "experiment": experiment.name,
        "digest": experiment.digest,
        "seed": seed,
        "protocol": protocol,
        "test_error": round(result.error, 6),
        "wrong": result.wrong,
        "images": result.images,
        "test_loss": result.loss,
        "statistics_batches": STATISTICS_BATCHES if protocol == "single-view-recomputed" else None,
        "device": trainer.device_name,
        "parents": {run.METRICS: sha256_of(record.path)},
    }
    write_atomically(output, json_bytes(evaluation))
    return output
