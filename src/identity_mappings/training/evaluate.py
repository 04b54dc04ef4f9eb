"""Testing a trained run again, from its kept weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..records import provenance, run
from ..records.experiment import Experiment
from ..records.files import hash_file, json_bytes, write_atomically
from . import checkpoint, devices
from .feeds import STATISTICS_BATCHES
from .group import Group
from .trained_run import MOVING
from .trainer import Options, Trainer

SINGLE_VIEW, RECOMPUTED = run.CIFAR_PROTOCOLS
DIVERGED = {"test_error": None, "top_5_error": None}  # of a run whose weights are no numbers any more


def evaluate(experiment: Experiment, seed: int, protocols: Sequence[str], options: Options) -> list[Path]:
    """Test a finished run by protocols and leave evaluation-PROTOCOL.json beside its record.

    Args:
        protocols: on CIFAR "single-view": with the batch norm statistics that the run ended with, so its own test
            again; "single-view-recomputed": with plain averages over training images. On ImageNet those of
            `evaluation.protocols`, each with the statistics that the recipe tests with and, beside them, with the
            other ones. Empty: the first of CIFAR's, all that fit of ImageNet's.

    Raises:
        UserError: no record, no weights, other weights than the record's, another dataset's protocol, or a repeated
            test that differs on the same kind of device.
    """
    if experiment.detects:
        raise UserError(f"{experiment.name}: a detection is tested at the end of its training: its record has the mAP")
    protocols = run.choose_protocols(experiment.name, experiment.parameters["network"].get("family"), protocols)
    folder = run.get_folder(options.results, experiment, seed)
    if (record := run.read_record(folder, experiment, seed)) is None:
        raise UserError(f"{folder}: no finished record: train the run first")
    copied = ("experiment", "digest", "seed", "arithmetic", "weights_sha256")
    head = {"format": run.FORMAT, **{key: record.metrics[key] for key in copied}}
    parents = {"parents": {run.METRICS: hash_file(record.path)}}
    if record.test_error is None:
        return _write(folder, head, dict.fromkeys(protocols, DIVERGED), parents, options)
    weights = checkpoint.read_trained(experiment, record, options.results, options.root)
    statistics = experiment.parameters["recipe"]["test_statistics"]
    moving = run.get_checkpoint_folder(options.results, experiment, seed) / MOVING
    trainer, results = _test(experiment, seed, protocols, options, weights, statistics, moving)
    repeated = run.IMAGENET_PROTOCOLS[0] if experiment.streamed else SINGLE_VIEW
    if repeated in results:
        _check_repeated(trainer, record, results[repeated]["wrong"])
    return _write(folder, head, results, parents, options) if trainer.group.leads else []


def evaluate_checkpoint(
    experiment: Experiment, seed: int, protocols: Sequence[str], options: Options, file: Path
) -> list[Path]:
    """Test a network as it is in a checkpoint, of whatever iteration; no table shows these numbers.

    Leaves partial/evaluation-PROTOCOL-ITERATION.json in the run's folder. Batch norm has its moving statistics, and
    beside them recomputed ones.

    Raises:
        UserError: the file is no checkpoint, or is of another run or network.
    """
    protocols = run.choose_protocols(experiment.name, experiment.parameters["network"].get("family"), protocols)
    saved = checkpoint.read_saved(file)
    if "progress" not in saved or saved.get("run") != {"digest": experiment.digest, "seed": seed}:
        raise UserError(f"{file}: no checkpoint of {experiment.folder}, seed {seed}: name one of its folder")
    weights, iteration = saved["network"], saved["progress"]["iteration"]
    trainer, results = _test(experiment, seed, protocols, options, weights)
    folder = run.get_folder(options.results, experiment, seed) / run.PARTIAL
    head = {"format": run.FORMAT, "experiment": experiment.name, **saved["run"], "iteration": iteration}
    digest = {"weights_sha256": checkpoint.weights_sha256(weights)}
    return _write(folder, head, results, digest, options, f"-{iteration}") if trainer.group.leads else []


def _write(
    folder: Path,
    head: dict[str, Any],
    results: dict[str, dict[str, Any]],
    origin: dict[str, Any],
    options: Options,
    suffix: str = "",
) -> list[Path]:
    origin, written = {**origin, "made_by": provenance.code(options.root)}, []
    for protocol, numbers in results.items():
        written.append(run.get_evaluation_path(folder, protocol + suffix))
        write_atomically(written[-1], json_bytes({**head, "protocol": protocol, **numbers, **origin}))
    return written


def _test(
    experiment: Experiment,
    seed: int,
    protocols: Sequence[str],
    options: Options,
    weights: dict[str, torch.Tensor],
    statistics: str = "moving",
    moving: Path | None = None,
) -> tuple[Trainer, dict[str, dict[str, Any]]]:
    """A trainer with these weights, and the numbers by protocol."""
    group = Group.from_environment()
    device = devices.set_up(options.device, experiment, options.root, group)
    with group.joined(device):
        trainer = Trainer(experiment, seed, device, options, group=group)
        trainer.network.load_state_dict(weights)
        if experiment.streamed:
            results = _test_by_protocols(trainer, protocols, statistics, moving)
        else:
            results = {}
            for protocol in sorted(protocols):  # the run's own statistics go first
                if protocol == RECOMPUTED:
                    trainer.recompute_statistics()
                batches = STATISTICS_BATCHES if protocol == RECOMPUTED else None
                results[protocol] = {**trainer.test().as_json(), "statistics_batches": batches}
        trainer.close()
    measured_on = {"device": trainer.device_name, "world_size": group.size}
    if trainer.why_eager:
        measured_on["eager"] = trainer.why_eager
    return trainer, {protocol: {**result, **measured_on} for protocol, result in results.items()}


def _test_by_protocols(
    trainer: Trainer, protocols: Sequence[str], statistics: str, moving: Path | None
) -> dict[str, dict[str, Any]]:
    """Test as the network is, and with batch norm's other statistics.

    Args:
        statistics: that the network has: "moving" or "recomputed".
        moving: file of the moving ones, for a network that has recomputed ones.
    """

    def test() -> dict[str, dict[str, Any]]:
        found = {protocol: trainer.feed.test_by(protocol, trainer.network) for protocol in protocols}
        return {protocol: {"statistics": statistics, **result.as_json()} for protocol, result in found.items()}

    results, others = test(), dict[str, Any]()
    if statistics == "moving":
        statistics = "recomputed"
        trainer.recompute_statistics()
        others = test()
    elif moving is not None and moving.is_file():
        statistics = "moving"
        state = torch.load(moving, map_location=trainer.device, weights_only=True)
        trainer.network.load_state_dict(state, strict=False)
        others = test()
    return {protocol: {**result, "other_statistics": others.get(protocol)} for protocol, result in results.items()}


def _check_repeated(trainer: Trainer, record: run.Record, wrong: int) -> None:
    # Other processes test other batches, in which convolutions may round otherwise.
    processes, recorded = record.provenance["seed"].get("world_size", 1), record.metrics["test"]["wrong"]
    same = trainer.device_name == record.metrics["device"] and trainer.group.size == processes
    if same and wrong != recorded:
        raise UserError(
            f"{record.path.parent}: {wrong} wrong predictions now, {recorded} in the record, on the "
            "same kind of device: the record or the environment is not what it says; see its provenance.json"
        )
