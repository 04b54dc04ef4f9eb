"""The time that runs took, and what those that are not done will take."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..parameters import Project
from ..records import run
from ..records.experiment import Experiment
from .order import Wanted

GPU = "GPU"
USUAL_BATCH = 128  # of the papers' CIFAR runs
# A step's multiply-adds by those of the forward pass: the backward pass has two products for each one.
PASSES = 3


def kind(experiment: Experiment) -> str:
    """What a network is called in the table of times: runs of one kind take about the same time."""
    network, dataset = experiment.parameters["network"], experiment.parameters["dataset"]["name"]
    name = "plain" if network["shortcut"]["kind"] == "none" else "ResNet"
    skip = ", 1-layer skip" if network["unit"] == "single" else ""
    batch = experiment.parameters["recipe"]["batch_size"]
    return f"{name}-{network['depth']}{skip}, {dataset}" + (f", batch {batch}" if batch != USUAL_BATCH else "")


@dataclass(frozen=True)
class Spent:
    """Time that a run took, over all processes that worked on it.

    Attributes:
        device: "GPU" or "CPU", with its model.
        seconds: of the device: a process that trained several runs at once counts by its share.
        iterations: in these seconds.
        peak_memory: of the process, in bytes; None where the record does not say.
    """

    device: str
    seconds: float
    iterations: int
    peak_memory: int | None


def spent(record: run.Record) -> Spent:
    """What the provenance of a run says of its time."""
    origin = record.provenance
    hardware: dict[str, Any] = origin.get("hardware") or {}
    gpu = hardware.get("gpu")
    sessions = origin.get("sessions") or ()
    # Several processes train a run of ImageNet, each with a GPU.
    processes = (origin.get("seed") or {}).get("world_size", 1) if gpu else 1
    seconds = processes * sum(session.get("seconds", 0) / session.get("runs_at_once", 1) for session in sessions)
    peak = max((session.get("peak_memory_bytes", 0) for session in sessions), default=0) or None
    device = f"{GPU} {gpu['model']}" if gpu else f"CPU {hardware.get('cpu', '')}".strip()
    return Spent(device, seconds, record.metrics["iterations"], peak)


@dataclass(frozen=True)
class Times:
    """A row of the table of times.

    Attributes:
        name: a kind of network, or what is summed up.
        wanted, done: runs.
        device: on which the times are; empty where nothing was run.
        seconds_an_iteration: mean over the runs; None where nothing was run, and of sums.
        iterations: of a whole run.
        peak_memory: bytes of a process, the most of all.
        seconds: spent.
        seconds_left: of the runs that are not done; None where that is not measured.
        operations_left: multiply-adds of these, counted; None without a cost record.
    """

    name: str
    wanted: int
    done: int
    device: str
    seconds_an_iteration: float | None
    iterations: int | None
    peak_memory: int | None
    seconds: float | None
    seconds_left: float | None
    operations_left: int | None


def times(project: Project, runs: list[Wanted], costs: dict[str, dict[str, Any]]) -> list[Times]:
    """By kind of network and device; at last he2016's and all runs summed up, on GPUs.

    Args:
        runs: of the order of work.
        costs: entries of the cost record, by network digest.
    """
    kinds: dict[str, list[Wanted]] = {}
    for one in runs:
        kinds.setdefault(kind(one.experiment), []).append(one)
    rows = [row for name, mine in kinds.items() for row in _of_kind(name, mine, costs)]
    he2016 = {name for cell in project.cells("he2016") for name in cell.experiments}
    on_gpu = {row.name: row.seconds_an_iteration for row in rows if row.device.startswith(GPU)}
    for name, mine in (
        ("he2016's CIFAR half", [one for one in runs if one.experiment.name in he2016]),
        ("all", runs),
    ):
        rows.append(_sum(name, mine, on_gpu, costs))
    return rows


def _operations_left(runs: list[Wanted], costs: dict[str, dict[str, Any]]) -> int | None:
    total = 0
    for one in runs:
        entry = costs.get(one.experiment.network_digest)
        if entry is None:
            return None
        batch = one.experiment.parameters["recipe"]["batch_size"]
        total += PASSES * entry["multiply_adds"] * batch * one.iterations_left
    return total


def _of_kind(name: str, runs: list[Wanted], costs: dict[str, dict[str, Any]]) -> Iterator[Times]:
    by_device: dict[str, list[Spent]] = {}
    for one in runs:
        if one.record:
            found = spent(one.record)
            by_device.setdefault(found.device, []).append(found)
    done, left = sum(one.done for one in runs), sum(one.iterations_left for one in runs)
    length = runs[0].experiment.parameters["recipe"]["iterations"]
    operations = _operations_left(runs, costs)
    if not by_device:
        yield Times(name, len(runs), done, "", None, length, None, None, None, operations)
    for device, found in by_device.items():
        seconds, iterations = sum(one.seconds for one in found), sum(one.iterations for one in found)
        each = seconds / iterations if iterations else None
        peak = max((one.peak_memory or 0 for one in found), default=0) or None
        rest = None if each is None else each * left
        yield Times(name, len(runs), done, device, each, length, peak, seconds, rest, operations)


def _sum(name: str, runs: list[Wanted], on_gpu: dict[str, float | None], costs: dict[str, dict[str, Any]]) -> Times:
    seconds = 0.0
    for one in runs:
        found = spent(one.record) if one.record else None
        seconds += found.seconds if found and found.device.startswith(GPU) else 0
    left: float | None = 0.0
    for one in runs:
        each, rest = on_gpu.get(kind(one.experiment)), one.iterations_left
        if each is None and rest:
            left = None
            break
        left += (each or 0) * rest
    done = sum(one.done for one in runs)
    return Times(name, len(runs), done, GPU, None, None, None, seconds, left, _operations_left(runs, costs))
