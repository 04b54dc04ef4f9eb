"""How fast networks train: the seconds of an iteration, measured in runs that have records."""

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import measurement, run
from .experiment import Experiment
from .files import parse_json

GPU, CPU = "GPU", "CPU"
# A step's multiply-adds by those of the forward pass: the backward pass has two products for each one.
PASSES = 3


@dataclass(frozen=True)
class Spent:
    """Time that a run took, over all processes that worked on it."""

    device: str  # of `name_device`
    seconds: float  # of the device: of several runs that a process trained at once each has its share
    iterations: int
    peak_memory: int | None  # of the process, in bytes; None where the record does not say


def read_spent(record: run.Record) -> Spent:
    """What the provenance of a run says of its time."""
    origin = record.provenance
    hardware: dict[str, Any] = origin.get("hardware") or {}
    gpu, sessions = hardware.get("gpu"), origin.get("sessions") or ()
    # Several processes train a run of ImageNet, each with a GPU.
    processes = (origin.get("seed") or {}).get("world_size", 1) if gpu else 1
    peak = max((session.get("peak_memory_bytes", 0) for session in sessions), default=0) or None
    seconds = sum(  # older records have those of the process alone
        session.get("device_seconds", session.get("seconds", 0) / (session.get("runs_at_once") or 1))
        for session in sessions
    )
    device = name_device(gpu and gpu["model"], hardware.get("cpu", ""))
    return Spent(device, processes * seconds, record.metrics["iterations"], peak)


def name_device(gpu: str | None, cpu: str) -> str:
    """ "GPU" or "CPU" with its model."""
    return f"{GPU} {gpu}" if gpu else f"{CPU} {cpu}".strip()


@dataclass(frozen=True)
class Speed:
    """How fast a network trains on a device."""

    seconds: float  # of an iteration
    device: str
    scaled_from: str | None = None  # the experiment that was measured instead; None: this network was


@dataclass
class _Measured:
    """All runs of a network on a device."""

    experiment: Experiment
    multiply_adds: int | None  # of an iteration's forward pass
    seconds: float = 0.0
    iterations: int = 0


class Speeds:
    """The speed of each network on each device: measured, or scaled from another network by multiply-adds.

    Args:
        costs: entries of cost records, by network digest.
    """

    def __init__(self, costs: dict[str, dict[str, Any]]):
        self.costs = costs
        self._measured: dict[str, dict[tuple, _Measured]] = {}  # by device and network

    def add(self, experiment: Experiment, spent: Spent) -> None:
        """Count what a run of an experiment took."""
        if spent.seconds and spent.iterations:
            measured = self._measured.setdefault(spent.device, {})
            key = _identify(experiment, spent.device)
            if key not in measured:
                measured[key] = _Measured(experiment, self.count_multiply_adds(experiment))
            measured[key].seconds += spent.seconds
            measured[key].iterations += spent.iterations

    def count_multiply_adds(self, experiment: Experiment) -> int | None:
        """Of an iteration's forward pass; None where no cost record has the network, as of detections."""
        entry = self.costs.get(experiment.network_digest)
        return entry["multiply_adds"] * experiment.parameters["recipe"]["batch_size"] if entry else None

    def list_devices(self, kind: str, first: str = "") -> list[str]:
        """Those of a kind, GPU or CPU, on which runs were measured: `first`, then those with the most iterations."""
        iterations: Counter[str] = Counter()
        for device, measured in self._measured.items():
            if device.startswith(kind):
                iterations[device] = sum(each.iterations for each in measured.values())
        return sorted(iterations, key=lambda device: (device != first, -iterations[device], device))

    def find(self, experiment: Experiment, devices: list[str]) -> Speed | None:
        """On the first of these devices where it is known; None where nothing tells."""
        return next(filter(None, (self._find(experiment, device) for device in devices)), None)

    def _find(self, experiment: Experiment, device: str) -> Speed | None:
        measured = self._measured.get(device, {})
        key = _identify(experiment, device)
        if found := measured.get(key):
            return Speed(found.seconds / found.iterations, device)
        wanted, (_, _, settings) = self.count_multiply_adds(experiment), key
        alike = [
            (each.multiply_adds / wanted, each)
            for (_, _, other), each in measured.items()
            if wanted and other == settings and each.multiply_adds
        ]
        if not alike:
            return None
        ratio, nearest = min(alike, key=lambda pair: (abs(math.log(pair[0])), pair[1].experiment.name))
        return Speed(nearest.seconds / nearest.iterations / ratio, device, nearest.experiment.name)


def _identify(experiment: Experiment, device: str) -> tuple[str, int, tuple]:
    """What takes the same time: a network, with its batch and the settings of the device."""
    recipe = experiment.parameters["recipe"]
    settings = (recipe["arithmetic"],) if device.startswith(GPU) else (recipe["arithmetic"], recipe["cpu_threads"])
    return experiment.network_digest, recipe["batch_size"], settings


def read_speeds(root: Path, leave_out: Path | None = None) -> Speeds:
    """The speeds by the records of all scales of a project; those in the folder of results `leave_out` are not read."""
    results = [root / "results", *sorted(path.parent for path in (root / "results").glob("*/runs"))]
    speeds = Speeds({})
    for folder in results:
        with contextlib.suppress(run.BadRecord):
            speeds.costs |= measurement.read_costs(folder) or {}
    for folder in results:
        for path in sorted(folder.glob(f"runs/*/seed*/{run.METRICS}")) if folder != leave_out else ():
            with contextlib.suppress(run.BadRecord):
                speeds.add(*_read(path.parent))
    return speeds


def _read(folder: Path) -> tuple[Experiment, Spent]:
    """A run by its record alone.

    Raises:
        BadRecord: it is not to be believed.
    """
    with run.reading(folder, "a record of a run"):
        metrics, origin = (parse_json((folder / name).read_bytes()) for name in (run.METRICS, run.PROVENANCE))
        experiment = Experiment(metrics["experiment"], metrics["scale"], origin["params"]["resolved"])
        record = run.read_record(folder, experiment, metrics["seed"])
        if record is None:
            raise run.BadRecord(f"{folder}: gone meanwhile")
        return experiment, read_spent(record)
