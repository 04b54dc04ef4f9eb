"""The time that runs took, and what those that are not done will take."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..parameters import Project
from ..records import run
from ..records.experiment import ARITHMETICS, Experiment
from .order import Wanted

GPU, CPU = "GPU", "CPU"
USUAL_BATCH = 128  # of the papers' CIFAR runs
# A step's multiply-adds by those of the forward pass: the backward pass has two products for each one.
PASSES = 3


def kind(experiment: Experiment) -> str:
    """What a network is called in the table of times: runs of one kind take about the same time."""
    network, dataset = experiment.parameters["network"], experiment.parameters["dataset"]["name"]
    if experiment.detects:
        return f"Faster R-CNN, {network['family']} {network['depth']}, {dataset}"
    name = "plain" if network["shortcut"]["kind"] == "none" else "ResNet"
    skip = ", 1-layer skip" if network["unit"] == "single" else ""
    batch = experiment.parameters["recipe"]["batch_size"]
    return f"{name}-{network['depth']}{skip}, {dataset}" + (f", batch {batch}" if batch != USUAL_BATCH else "")


@dataclass(frozen=True)
class Spent:
    """Time that a run took, over all processes that worked on it.

    Attributes:
        device: "GPU" or "CPU" with its model, and the arithmetic if that is not the papers'.
        seconds: of the device: of several runs that a process trained at once each has its share.
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
    gpu, sessions = hardware.get("gpu"), origin.get("sessions") or ()
    # Several processes train a run of ImageNet, each with a GPU.
    processes = (origin.get("seed") or {}).get("world_size", 1) if gpu else 1
    seconds = processes * sum(map(_seconds, sessions))
    peak = max((session.get("peak_memory_bytes", 0) for session in sessions), default=0) or None
    device = device_name(gpu and gpu["model"], hardware.get("cpu", ""), record.metrics["arithmetic"])
    return Spent(device, seconds, record.metrics["iterations"], peak)


def device_name(gpu: str | None, cpu: str, arithmetic: str) -> str:
    """ "GPU" or "CPU" with its model, and the arithmetic if that is not the papers'."""
    return (f"{GPU} {gpu}" if gpu else f"{CPU} {cpu}".strip()) + _arithmetic(arithmetic)


def _seconds(session: dict[str, Any]) -> float:
    """Of the device; older records have those of the process alone."""
    return session.get("device_seconds", session.get("seconds", 0) / (session.get("runs_at_once") or 1))


def _arithmetic(name: str) -> str:
    """As it stands behind a device: the papers' own needs no word."""
    return "" if name == ARITHMETICS[0] else f", {name}"


def _arithmetic_of(device: str) -> str:
    return next((word for word in map(_arithmetic, ARITHMETICS[1:]) if device.endswith(word)), "")


def _network(experiment: Experiment) -> tuple[str, str]:
    """What takes the same time: a network, with its batch."""
    return kind(experiment), experiment.network_digest


@dataclass
class Rate:
    """Seconds and iterations of several runs."""

    seconds: float = 0.0
    iterations: int = 0

    def add(self, found: Spent) -> None:
        self.seconds += found.seconds
        self.iterations += found.iterations

    @property
    def each(self) -> float | None:
        """Seconds an iteration; None if there is nothing to tell it by."""
        return self.seconds / self.iterations if self.seconds and self.iterations else None


@dataclass(frozen=True)
class Left:
    """What runs that are not done will take: seconds, without the runs of so many kinds of which nothing is known."""

    runs: int
    seconds: float
    unknown_runs: int
    unknown_kinds: int


@dataclass(frozen=True)
class Times:
    """A row of the table of times.

    Attributes:
        name: a kind of network, or what is summed up.
        wanted: runs, wherever they are trained.
        done: of these, on this device.
        device: "" where nothing was run.
        seconds_an_iteration: mean over the runs; None where nothing was run, and of sums.
        iterations: of a whole run.
        peak_memory: bytes of a process, the most of all.
        seconds: spent.
        left: of the runs that are not done, on the same device.
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
    left: Left
    operations_left: int | None


class Clock:
    """How fast runs were, by network and device.

    Args:
        runs: of the order of work.
    """

    def __init__(self, runs: Iterable[Wanted]):
        self.of_network: dict[tuple[tuple[str, str], str], Rate] = {}
        self.of_kind: dict[tuple[str, str], Rate] = {}
        self.iterations: Counter[str] = Counter()
        for one in runs:
            if one.record:
                self.add(one.experiment, spent(one.record))

    def add(self, experiment: Experiment, found: Spent) -> None:
        """Count what a run of an experiment took."""
        self.iterations[found.device] += found.iterations
        self.of_network.setdefault((_network(experiment), found.device), Rate()).add(found)
        self.of_kind.setdefault((kind(experiment), found.device), Rate()).add(found)

    def devices(self, kind: str) -> list[str]:
        """Those of a kind, GPU or CPU; that with the most iterations first."""
        found = (device for device in self.iterations if device.startswith(kind))
        return sorted(found, key=lambda device: (-self.iterations[device], device))

    def rate(self, experiment: Experiment, device: str) -> float | None:
        """Seconds an iteration: of this very network, or else of its kind."""
        if _arithmetic(experiment.parameters["recipe"]["arithmetic"]) != _arithmetic_of(device):
            return None
        for rates, key in ((self.of_network, _network(experiment)), (self.of_kind, kind(experiment))):
            if (rate := rates.get((key, device))) and rate.each:
                return rate.each
        return None

    def left(self, runs: Iterable[Wanted], devices: Iterable[str]) -> Left:
        """What runs will take on the first of these devices on which something like them was run."""
        seconds, unknown, count = 0.0, [], 0
        for one in (one for one in runs if one.iterations_left):
            count += 1
            each = next(filter(None, (self.rate(one.experiment, device) for device in devices)), None)
            if each is None:
                unknown.append(kind(one.experiment))
            else:
                seconds += each * one.iterations_left
        return Left(count, seconds, len(unknown), len(set(unknown)))


def summed_device(project: Project, runs: list[Wanted]) -> str:
    """The kind of device of whose hours there is a sum: that of the runs' scale."""
    return CPU if runs and project.scale(runs[0].experiment.scale).device == "cpu" else GPU


def times(project: Project, runs: list[Wanted], costs: dict[str, dict[str, Any]]) -> list[Times]:
    """By kind of network and device; at last those of he2016's tables and all runs summed up, on the scale's devices.

    Args:
        runs: of the order of work, of one scale.
        costs: entries of the cost record, by network digest.
    """
    clock, kinds = Clock(runs), {}
    for one in runs:
        kinds.setdefault(kind(one.experiment), []).append(one)
    rows = []
    for name, mine in kinds.items():
        length, operations = mine[0].experiment.parameters["recipe"]["iterations"], count_operations_left(mine, costs)
        devices = dict.fromkeys(spent(one.record).device for one in mine if one.record)
        if not devices:
            nothing = clock.left(mine, ())
            rows.append(Times(name, len(mine), 0, "", None, length, None, None, nothing, operations))
        for device in devices:
            done, peak, rate = _on(mine, [device])
            left = clock.left(mine, [device])
            rows.append(Times(name, len(mine), done, device, rate.each, length, peak, rate.seconds, left, operations))
    he2016 = {name for cell in project.cells("he2016") for name in cell.experiments if not project.holds_out(name)}
    sums = {"all of he2016's CIFAR tables": [one for one in runs if one.experiment.name in he2016], "all": runs}
    device = summed_device(project, runs)
    devices = clock.devices(device)
    for name, mine in sums.items():
        done, _, rate = _on(mine, devices)
        left = clock.left(mine, devices)
        operations = count_operations_left(mine, costs)
        rows.append(Times(name, len(mine), done, device, None, None, None, rate.seconds, left, operations))
    return rows


def _on(runs: list[Wanted], devices: Iterable[str]) -> tuple[int, int | None, Rate]:
    """Runs that are done on these devices, the most memory, and the time of all that were begun there."""
    found = [(one, spent(one.record)) for one in runs if one.record]
    mine = [(one, time) for one, time in found if time.device in devices]
    rate = Rate()
    for _, time in mine:
        rate.add(time)
    peak = max((time.peak_memory or 0 for _, time in mine), default=0) or None
    return sum(one.done for one, _ in mine), peak, rate


def count_operations_left(runs: list[Wanted], costs: dict[str, dict[str, Any]]) -> int | None:
    """Multiply-adds of the iterations that are left, forward and backward; None if a network was not counted.

    Args:
        costs: entries of the cost record, by network digest.
    """
    total = 0
    for one in runs:
        entry = costs.get(one.experiment.network_digest)
        if entry is None:
            return None
        batch = one.experiment.parameters["recipe"]["batch_size"]
        total += PASSES * entry["multiply_adds"] * batch * one.iterations_left
    return total
