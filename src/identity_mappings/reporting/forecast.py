"""How long the runs that are left would take on some devices, and what that rests on."""

import heapq
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..networks.closed_form import closed_form
from ..records import machine
from ..records.experiment import Experiment
from ..training.driver import ask
from . import times
from .run_states import NO_DATA, RUNNING, RunProgress

MEASURED, ESTIMATED, UNKNOWN, TOO_WIDE = "measured", "estimated", "unknown", "needs more devices"


@dataclass(frozen=True)
class Devices:
    """So many devices of a kind, GPU or CPU; of a CPU its cores."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind.lower()}={self.count}"


def parse_devices(text: str) -> Devices | None:
    """What a person says after --what-if: gpu=4 or cpu=8; None for "here".

    Raises:
        UserError: it is neither.
    """
    if text == "here":
        return None
    kind, _, count = text.partition("=")
    if kind.upper() not in (times.GPU, times.CPU) or not re.fullmatch("[1-9][0-9]{0,4}", count):
        raise UserError(f"--what-if {text}: give gpu=N or cpu=N, N from 1 to 99999, or nothing for this machine")
    return Devices(kind.upper(), int(count))


def devices_here(kind: str) -> Devices:
    """What this machine has for a scale of a kind: GPUs where it has some, or else cores."""
    if kind == "gpu" and (gpus := ask().usable):
        return Devices(times.GPU, len(gpus))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Devices(times.CPU, cores)


@dataclass(frozen=True)
class Part:
    """The runs that are left of one kind of network.

    Attributes:
        name: of the kind.
        runs: that are left.
        basis: "measured", "estimated" (by multiply-adds), "unknown" or "needs more devices".
        seconds_an_iteration: of the device, mean over the runs; None where unknown.
        records: how many runs, finished or begun, it rests on.
        like: the kind of network that it was estimated from.
    """

    name: str
    runs: int
    basis: str
    seconds_an_iteration: float | None
    records: int
    like: str | None = None


@dataclass(frozen=True)
class Forecast:
    """What is left, on some devices.

    Attributes:
        devices: asked for.
        model: of the device whose speed it rests on; None where nothing was trained on any of its kind.
        seconds: from now to the end of the last run, without those of unknown time; None if there is no other.
        device_seconds: of all of these together.
        parts: by kind of network.
    """

    devices: Devices
    model: str | None
    seconds: float | None
    device_seconds: float
    parts: list[Part] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return sum(part.runs for part in self.parts)

    def of_basis(self, *names: str) -> list[Part]:
        return [part for part in self.parts if part.basis in names]

    def count(self, *names: str) -> int:
        return sum(part.runs for part in self.of_basis(*names))

    def as_json(self) -> dict[str, Any]:
        return {
            "devices": str(self.devices),
            "model": self.model,
            "seconds": self.seconds and round(self.seconds, 1),
            "device_seconds": round(self.device_seconds, 1),
            "runs": self.runs,
            "runs_of_unknown_time": self.count(UNKNOWN, TOO_WIDE),
            "kinds": [
                {
                    "kind": part.name,
                    "runs": part.runs,
                    "basis": part.basis,
                    "seconds_an_iteration": part.seconds_an_iteration and round(part.seconds_an_iteration, 6),
                    "records": part.records,
                    "estimated_from": part.like,
                }
                for part in self.parts
            ],
        }


class Speeds:
    """Seconds an iteration of networks on one model of a device: measured, or scaled by multiply-adds.

    Args:
        runs: whose records and heartbeats tell.
        costs: entries of the cost record, by network digest.
    """

    def __init__(self, runs: Sequence[RunProgress], costs: dict[str, dict[str, Any]]):
        self.clock, self.costs = times.Clock(()), costs
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], Experiment] = {}
        for run in runs:
            for spent in run.evidence:
                key = (times.kind(run.experiment), spent.device)
                self.clock.add(run.experiment, spent)
                self.examples.setdefault(key, run.experiment)
            for device in {spent.device for spent in run.evidence}:
                self.counts[times.kind(run.experiment), device] += 1

    def models(self, kind: str) -> list[str]:
        """Devices of a kind, GPU or CPU: this machine's CPU first, then that with the most iterations."""
        here = machine.cpu_model()
        return sorted(self.clock.devices(kind), key=lambda device: here not in device)

    def multiply_adds(self, experiment: Experiment) -> int | None:
        """Of an iteration's forward pass; None for a network that neither the cost record nor a closed form knows."""
        if experiment.detects:  # what a detection costs depends on its images and boxes
            return None
        entry, parameters = self.costs.get(experiment.network_digest), experiment.parameters
        dataset, network = parameters["dataset"], parameters["network"]
        if entry:
            of_image = entry["multiply_adds"]
        else:
            found = closed_form(network, dataset["classes"], dataset["channels"], dataset["size"])
            of_image = found and found.multiply_adds
        return of_image and of_image * parameters["recipe"]["batch_size"]

    def estimate(self, experiment: Experiment, device: str) -> tuple[float, str] | None:
        """Seconds an iteration by those of the measured network that is nearest in multiply-adds, and its kind."""
        wanted, found = self.multiply_adds(experiment), []
        for (kind, where), example in self.examples.items():
            if where != device or not wanted:
                continue
            # In the same arithmetic, for which `rate` looks.
            each, known = self.clock.rate(_alike(example, experiment), device), self.multiply_adds(example)
            if each and known:
                found.append((abs(math.log(known / wanted)), each * wanted / known, kind))
        if not found:
            return None
        _, each, kind = min(found)
        return each, kind


def _alike(example: Experiment, experiment: Experiment) -> Experiment:
    return example.in_arithmetic(experiment.parameters["recipe"]["arithmetic"])


def forecast(
    runs: Sequence[RunProgress],
    others: Sequence[RunProgress],
    costs: dict[str, dict[str, Any]],
    devices: Devices,
) -> Forecast:
    """What the runs that are left would take: each, in their order, on the first devices that are free.

    Args:
        runs: of a scale; those that are done or begun tell how fast the others will be.
        others: runs that nobody waits for, which tell it too.
        costs: entries of the cost record, by network digest.
    """
    speeds = Speeds([*runs, *others], costs)
    models = speeds.models(devices.kind)
    left = [run for run in runs if run.iterations_left and run.state != NO_DATA]
    left.sort(key=lambda run: run.state != RUNNING)  # these have a device already
    alike: dict[tuple[str, str, str | None], list[float | None]] = {}
    records: Counter[str] = Counter()
    jobs = []
    for run in left:
        kind, width = times.kind(run.experiment), _width(run.experiment, devices)
        each, basis, like, model = _speed(speeds, run.experiment, models)
        if width > devices.count:
            each, basis, like = None, TOO_WIDE, None
        elif each:
            jobs.append((each * run.iterations_left, width))
            records[kind] = max(records[kind], speeds.counts[like or kind, model])
        alike.setdefault((kind, basis, like), []).append(each)
    parts = []
    for (kind, basis, like), found in alike.items():
        known = [each for each in found if each]
        mean = sum(known) / len(known) if known else None
        parts.append(Part(kind, len(found), basis, mean, records[kind] if known else 0, like))
    seconds = _end_of_last(jobs, devices) if jobs else (None if left else 0.0)
    return Forecast(devices, models[0] if models else None, seconds, sum(time for time, _ in jobs), parts)


def _speed(speeds: Speeds, experiment: Experiment, models: Sequence[str]) -> tuple[float | None, str, str | None, str]:
    """Seconds an iteration, what they rest on, the kind they were estimated from, and the model of the device."""
    for model in models:
        if each := speeds.clock.rate(experiment, model):
            return each, MEASURED, None, model
    for model in models:
        if found := speeds.estimate(experiment, model):
            return found[0], ESTIMATED, found[1], model
    return None, UNKNOWN, None, ""


def _width(experiment: Experiment, devices: Devices) -> int:
    """Devices that one run takes: the GPUs of an experiment, or its CPU threads, which Snakemake cuts to the cores."""
    if devices.kind == times.GPU:
        return experiment.gpus
    return min(experiment.parameters["recipe"]["cpu_threads"], devices.count)


def _end_of_last(jobs: Sequence[tuple[float, int]], devices: Devices) -> float:
    """List scheduling: seconds to the end of the last of these (seconds of devices, width), begun in this order.

    The seconds of a run that takes several GPUs are those of all of them together; those of a CPU's threads are not.
    """
    free = [0.0] * devices.count
    heapq.heapify(free)
    for seconds, width in jobs:
        taken = [heapq.heappop(free) for _ in range(width)]
        end = taken[-1] + seconds / (width if devices.kind == times.GPU else 1)
        for _ in taken:
            heapq.heappush(free, end)
    return max(free)
