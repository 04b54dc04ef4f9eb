"""Testing a trained run again, from its kept weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..evaluation.single_view import Result
from ..records import provenance, run
from ..records.experiment import Experiment
from ..records.files import json_bytes, sha256_of, write_atomically
from . import checkpoint, devices
from .feeds import STATISTICS_BATCHES
from .group import Group
from .record import MOVING
from .trainer import Options, Trainer

SINGLE_VIEW, RECOMPUTED = run.CIFAR_PROTOCOLS
DIVERGED = {"test_error": None, "top_5_error": None}  # of a run whose weights are no numbers any more


def protocols_of(experiment: Experiment) -> tuple[str, ...]:
    """The protocols by which an experiment's networks can be tested, its own first."""
    return run.IMAGENET_PROTOCOLS if experiment.streamed else run.CIFAR_PROTOCOLS


def evaluate(experiment: Experiment, seed: int, protocols: Sequence[str], options: Options) -> list[Path]:
    """Test a finished run by protocols and leave evaluation-PROTOCOL.json beside its record.

    Args:
        protocols: on CIFAR "single-view": with the batch norm statistics that the run ended with, so its own test
            again; "single-view-recomputed": with plain averages over training images. On ImageNet those of
            `evaluation.protocols`, each with the statistics that the recipe tests with and, beside them, with the
            other ones. None: the first of CIFAR's, all of ImageNet's.

    Raises:
        UserError: no record, no weights, other weights than the record's, another dataset's protocol, or a repeated
            test that differs on the same kind of device.
    """
    if experiment.detects:
        raise UserError(f"{experiment.name}: a detection is tested at the end of its training: its record has the mAP")
    protocols = _known(experiment, protocols)
    folder = run.folder_of(options.results, experiment, seed)
    try:
        record = run.read(folder, experiment, seed)
    except run.BadRecord as error:
        raise UserError(f"{error}: not tested") from None
    if record is None:
        raise UserError(f"{folder}: no finished record: train the run first")
    if record.test_error is None:
        return [_write(folder, record, protocol, DIVERGED, options) for protocol in protocols]
    kept = run.checkpoints_of(options.results, experiment, seed)
    path = run.weights_of(options.results, experiment, seed, options.root)
    if path is None:
        raise UserError(
            f"{kept / run.WEIGHTS}: the trained weights are not here; they stay where the run was trained, unless they "
            "were exported: fetch them, or `dvc pull models`"
        )
    weights = checkpoint.read(path)
    if checkpoint.weights_sha256(weights) != record.metrics["weights_sha256"]:
        raise UserError(f"{path}: not the weights of the record {record.path}: remove the file and train the run again")
    statistics = experiment.parameters["recipe"]["test_statistics"]
    trainer, results = _test(experiment, seed, protocols, options, weights, statistics, kept / MOVING)
    for protocol, result in results.items():
        if protocol == protocols_of(experiment)[0]:
            _check_repeated(trainer, record, folder, result["wrong"])
    leading = results.items() if trainer.group.leads else ()
    return [_write(folder, record, protocol, result, options) for protocol, result in leading]


def of_checkpoint(
    experiment: Experiment, seed: int, protocols: Sequence[str], options: Options, file: Path
) -> list[Path]:
    """Test a network as it is in a checkpoint, of whatever iteration; no table shows these numbers.

    Leaves partial/evaluation-PROTOCOL-ITERATION.json in the run's folder. Batch norm has its moving statistics, and
    beside them recomputed ones.

    Raises:
        UserError: the file is no checkpoint, or is of another run or network.
    """
    protocols, saved = _known(experiment, protocols), checkpoint.read(file)
    if "progress" not in saved or saved.get("run") != {"digest": experiment.digest, "seed": seed}:
        raise UserError(f"{file}: no checkpoint of {experiment.folder}, seed {seed}: name one of its folder")
    trainer, results = _test(experiment, seed, protocols, options, saved["network"], "moving", None)
    iteration, folder = saved["progress"]["iteration"], run.folder_of(options.results, experiment, seed) / run.PARTIAL
    written = []
    for protocol, result in results.items() if trainer.group.leads else ():
        evaluation = {
            "format": run.FORMAT,
            "experiment": experiment.name,
            "digest": experiment.digest,
            "seed": seed,
            "protocol": protocol,
            "iteration": iteration,
            **result,
            "weights_sha256": checkpoint.weights_sha256(saved["network"]),
            "made_by": made_by(options.root),
        }
        written.append(run.evaluation_of(folder, f"{protocol}-{iteration}"))
        write_atomically(written[-1], json_bytes(evaluation))
    return written


def _known(experiment: Experiment, protocols: Sequence[str]) -> list[str]:
    """The protocols that are asked for, or those that are meant where none is."""
    known = protocols_of(experiment)
    for protocol in protocols:
        if protocol not in known:
            raise UserError(f"{experiment.name} is not tested by {protocol}: its protocols are {', '.join(known)}")
    return list(protocols) or list(known[:1] if SINGLE_VIEW in known else known)


def _test(
    experiment: Experiment,
    seed: int,
    protocols: Sequence[str],
    options: Options,
    weights: dict[str, torch.Tensor],
    statistics: str,
    moving: Path | None,
) -> tuple[Trainer, dict[str, dict[str, Any]]]:
    """A trainer with these weights, and the numbers by protocol."""
    group, recipe = Group.of_environment(), experiment.parameters["recipe"]
    device = devices.choose(options.device, experiment, options.root, group)
    devices.prepare(recipe["arithmetic"], recipe["cpu_threads"])
    with group.joined(device):
        trainer = Trainer(experiment, seed, device, options, group=group)
        trainer.network.load_state_dict(weights)
        if experiment.streamed:
            results = by_protocols(trainer, protocols, statistics, moving)
        else:
            results = _single_views(trainer, protocols)
        trainer.feed.close()
    where = {"device": trainer.device_name, "world_size": group.size}
    return trainer, {protocol: {**result, **where} for protocol, result in results.items()}


def _write(folder: Path, record: run.Record, protocol: str, numbers: dict[str, Any], options: Options) -> Path:
    of_run = ("experiment", "digest", "seed", "arithmetic", "weights_sha256")
    evaluation = {
        "format": run.FORMAT,
        **{key: record.metrics[key] for key in of_run},
        "protocol": protocol,
        **numbers,
        "parents": {run.METRICS: sha256_of(record.path)},
        "made_by": made_by(options.root),
    }
    path = run.evaluation_of(folder, protocol)
    write_atomically(path, json_bytes(evaluation))
    return path


def made_by(root: Path) -> dict[str, Any]:
    """Commit, sources and environment of an evaluation."""
    return provenance.code(root)


def _numbers(result: Result) -> dict[str, Any]:
    numbers = {
        "test_error": round(result.error, 6),
        "wrong": result.wrong,
        "images": result.images,
        "test_loss": result.loss,
    }
    if result.wrong_top_5 is not None:
        numbers |= {
            "top_5_error": round(100 * result.wrong_top_5 / result.images, 6),
            "wrong_top_5": result.wrong_top_5,
        }
    return numbers


def _single_views(trainer: Trainer, protocols: Sequence[str]) -> dict[str, dict[str, Any]]:
    results = {}
    for protocol in sorted(protocols):  # the run's own statistics go first
        if protocol == RECOMPUTED:
            trainer.recompute_statistics()
        batches = STATISTICS_BATCHES if protocol == RECOMPUTED else None
        results[protocol] = {**_numbers(trainer.test()), "statistics_batches": batches}
    return results


def by_protocols(
    trainer: Trainer, protocols: Sequence[str], statistics: str, moving: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Test as the network is, and with batch norm's other statistics.

    Args:
        statistics: that the network has: "moving" or "recomputed".
        moving: file of the moving ones, for a network that has recomputed ones.
    """
    results = {p: {"statistics": statistics, **_numbers(trainer.feed.test_by(p, trainer.network))} for p in protocols}
    other = "moving" if statistics == "recomputed" else "recomputed"
    if other == "recomputed":
        trainer.recompute_statistics()
    elif moving is not None and moving.is_file():
        trainer.network.load_state_dict(
            torch.load(moving, map_location=trainer.device, weights_only=True), strict=False
        )
    else:
        return {p: {**result, "other_statistics": None} for p, result in results.items()}
    for p in protocols:
        numbers = _numbers(trainer.feed.test_by(p, trainer.network))
        results[p]["other_statistics"] = {"statistics": other, **numbers}
    return results


def _check_repeated(trainer: Trainer, record: run.Record, folder: Path, wrong: int) -> None:
    same = trainer.device_name == record.metrics["device"]
    # Other processes test other batches, in which convolutions may round otherwise.
    same &= trainer.group.size == record.provenance["seed"].get("world_size", 1)
    if same and wrong != record.metrics["test"]["wrong"]:
        raise UserError(
            f"{folder}: {wrong} wrong predictions now, {record.metrics['test']['wrong']} in the record, on the "
            "same kind of device: the record or the environment is not what it says; see its provenance.json"
        )
