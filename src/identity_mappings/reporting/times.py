"""The time that runs took, and what those that are not done will take."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..records import run
from ..records.experiment import ARITHMETICS, Experiment
from .cells import Records
from .order import PlannedRun

GPU, CPU = "GPU", "CPU"
USUAL_BATCH = 128  # of the papers' CIFAR runs
# A step's multiply-adds by those of the forward pass: the backward pass has two products for each one.
PASSES = 3


def name_kind(experiment: Experiment) -> str:
    """The name of a kind of network in the table of times: runs of one kind take about the same time."""
    network, dataset = experiment.parameters["network"], experiment.parameters["dataset"]["name"]
    if experiment.detects:
        return f"Faster R-CNN, {network['family']} {network['depth']}, {dataset}"
    name = "plain" if network["shortcut"]["kind"] == "none" else "ResNet"
    skip = ", 1-layer skip" if network["unit"] == "single" else ""
    batch = experiment.parameters["recipe"]["batch_size"]
    return f"{name}-{network['depth']}{skip}, {dataset}" + (f", batch {batch}" if batch != USUAL_BATCH else "")


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
    device = name_device(gpu and gpu["model"], hardware.get("cpu", ""), record.metrics["arithmetic"])
    seconds = sum(  # older records have those of the process alone
        session.get("device_seconds", session.get("seconds", 0) / (session.get("runs_at_once") or 1))
        for session in sessions
    )
    return Spent(device, processes * seconds, record.metrics["iterations"], peak)


def name_device(gpu: str | None, cpu: str, arithmetic: str) -> str:
    """ "GPU" or "CPU" with its model, and the arithmetic if that is not the papers'."""
    return (f"{GPU} {gpu}" if gpu else f"{CPU} {cpu}".strip()) + _suffix(arithmetic)


def _suffix(arithmetic: str) -> str:
    return "" if arithmetic == ARITHMETICS[0] else f", {arithmetic}"


@dataclass
class Rate:
    """Seconds and iterations of several runs."""

    seconds: float = 0.0
    iterations: int = 0

    def add(self, spent: Spent) -> None:
        self.seconds += spent.seconds
        self.iterations += spent.iterations

    @property
    def each(self) -> float | None:
        """Seconds an iteration; None if nothing was measured."""
        return self.seconds / self.iterations if self.seconds and self.iterations else None


@dataclass(frozen=True)
class Left:
    """What runs that are not done will take."""

    runs: int
    seconds: float  # without the runs of unknown time
    unknown_runs: int
    unknown_kinds: int


@dataclass(frozen=True)
class Times:
    """A row of the table of times: a kind of network, or a sum."""

    name: str
    wanted: int  # runs, wherever they are trained
    done: int  # of these, on this device
    device: str  # "" where nothing was run
    seconds: float | None  # spent
    left: Left  # of the runs that are not done, on the same device
    operations_left: int | None  # multiply-adds of these; None without a cost record
    seconds_an_iteration: float | None = None  # mean over the runs; None where nothing was run, and of sums
    iterations: int | None = None  # of a whole run
    peak_memory: int | None = None  # bytes of a process, the most of all


class Clock:
    """How fast the runs that have a record were, by network and device."""

    def __init__(self, runs: Iterable[PlannedRun]):
        self.rates: defaultdict[tuple[Any, str], Rate] = defaultdict(Rate)  # by network or kind, and device
        self.iterations: Counter[str] = Counter()
        for planned in runs:
            if planned.record:
                self.add(planned.experiment, read_spent(planned.record))

    def add(self, experiment: Experiment, spent: Spent) -> None:
        """Count what a run of an experiment took."""
        self.iterations[spent.device] += spent.iterations
        self.rates[network_key(experiment), spent.device].add(spent)
        self.rates[name_kind(experiment), spent.device].add(spent)

    def devices(self, kind: str) -> list[str]:
        """Those of a kind, GPU or CPU; that with the most iterations first."""
        found = (device for device in self.iterations if device.startswith(kind))
        return sorted(found, key=lambda device: (-self.iterations[device], device))

    def rate(self, experiment: Experiment, device: str) -> float | None:
        """Seconds an iteration: of this very network, or else of its kind; in its arithmetic only."""
        suffix = next((word for word in map(_suffix, ARITHMETICS[1:]) if device.endswith(word)), "")
        if _suffix(experiment.parameters["recipe"]["arithmetic"]) != suffix:
            return None
        keys = ((network_key(experiment), device), (name_kind(experiment), device))
        return next((self.rates[key].each for key in keys if key in self.rates and self.rates[key].each), None)

    def left(self, runs: Iterable[PlannedRun], devices: Iterable[str]) -> Left:
        """What runs will take on the first of these devices on which something like them was run."""
        seconds, unknown, left = 0.0, [], [planned for planned in runs if planned.iterations_left]
        for planned in left:
            each = next(filter(None, (self.rate(planned.experiment, device) for device in devices)), None)
            if each is None:
                unknown.append(name_kind(planned.experiment))
            else:
                seconds += each * planned.iterations_left
        return Left(len(left), seconds, len(unknown), len(set(unknown)))


def network_key(experiment: Experiment) -> tuple[str, str]:
    """What takes the same time: a network, with its batch."""
    return name_kind(experiment), experiment.network_digest


def tabulate_times(records: Records, runs: list[PlannedRun]) -> list[Times]:
    """By kind of network and device; at last the sums of he2016's tables and of all runs, on the scale's devices."""
    project, costs, clock = records.project, records.costs, Clock(runs)
    kinds: dict[str, list[PlannedRun]] = {}
    for planned in runs:
        kinds.setdefault(name_kind(planned.experiment), []).append(planned)

    def row(name: str, group: list[PlannedRun], label: str, devices: list[str]) -> Times:
        timed = [(planned.done, read_spent(planned.record)) for planned in group if planned.record]
        timed = [(done, spent) for done, spent in timed if spent.device in devices]
        rate = Rate()
        for _, spent in timed:
            rate.add(spent)
        return Times(
            name,
            len(group),
            sum(done for done, _ in timed),
            label,
            rate.seconds if label else None,
            clock.left(group, devices),
            count_operations_left(group, costs),
            rate.each,
            group[0].experiment.parameters["recipe"]["iterations"] if group else None,
            max((spent.peak_memory or 0 for _, spent in timed), default=0) or None,
        )

    rows = []
    for name, group in kinds.items():
        devices = list(dict.fromkeys(read_spent(planned.record).device for planned in group if planned.record))
        rows += [row(name, group, device, [device]) for device in devices] or [row(name, group, "", [])]
    he2016 = {name for cell in project.cells("he2016") for name in cell.experiments if not project.holds_out(name)}
    sums = {"all of he2016's CIFAR tables": [run for run in runs if run.experiment.name in he2016], "all": runs}
    kind = records.settings.device.upper()
    for name, group in sums.items():
        total = row(name, group, kind, clock.devices(kind))
        rows.append(replace(total, seconds_an_iteration=None, iterations=None, peak_memory=None))
    return rows


def count_operations_left(runs: list[PlannedRun], costs: dict[str, dict[str, Any]]) -> int | None:
    """Multiply-adds of the iterations that are left, forward and backward; None if a network was not counted.

    Args:
        costs: entries of the cost record, by network digest.
    """
    total = 0
    for planned in runs:
        if (entry := costs.get(planned.experiment.network_digest)) is None:
            return None
        images = planned.experiment.parameters["recipe"]["batch_size"] * planned.iterations_left
        total += PASSES * entry["multiply_adds"] * images
    return total
