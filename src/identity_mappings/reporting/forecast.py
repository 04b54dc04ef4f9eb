"""How long the runs that are left would take on some devices, and what that rests on."""

import heapq
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..errors import UserError
from ..networks.closed_form import closed_form
from ..records import machine
from ..records.experiment import Experiment
from ..training.driver import query_driver
from . import times
from .run_states import NO_DATA, RUNNING, RunProgress

MEASURED, ESTIMATED, UNKNOWN, TOO_WIDE = "measured", "estimated", "unknown", "needs more devices"


@dataclass(frozen=True)
class Devices:
    """A number of devices of a kind, GPU or CPU; of a CPU its cores."""

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
    if kind == "gpu" and (gpus := query_driver().usable):
        return Devices(times.GPU, len(gpus))
    return Devices(times.CPU, machine.count_cores())


@dataclass(frozen=True)
class Kind:
    """The runs that are left of one kind of network; its fields are those of --json."""

    kind: str
    runs: int
    basis: str  # MEASURED, ESTIMATED (by multiply-adds), UNKNOWN or TOO_WIDE
    seconds_an_iteration: float | None  # of the device, mean over the runs; None where unknown
    records: int  # runs, finished or begun, that it rests on
    estimated_from: str | None = None  # another kind of network


@dataclass(frozen=True)
class Forecast:
    """What is left, on some devices."""

    devices: Devices
    model: str | None  # of the device whose speed it rests on; None where nothing was trained on any of its kind
    seconds: float | None  # to the end of the last run, without those of unknown time; None if there is no other
    device_seconds: float  # of all of these together
    kinds: list[Kind]

    @property
    def runs(self) -> int:
        return sum(kind.runs for kind in self.kinds)

    @property
    def unknown_runs(self) -> int:
        return self.count(UNKNOWN, TOO_WIDE)

    def count(self, *bases: str) -> int:
        return sum(kind.runs for kind in self.kinds if kind.basis in bases)

    def as_json(self) -> dict[str, Any]:
        kinds = [asdict(kind) for kind in self.kinds]
        for kind in kinds:
            kind["seconds_an_iteration"] = kind["seconds_an_iteration"] and round(kind["seconds_an_iteration"], 6)
        return {
            "devices": str(self.devices),
            "model": self.model,
            "seconds": self.seconds and round(self.seconds, 1),
            "device_seconds": round(self.device_seconds, 1),
            "runs": self.runs,
            "runs_of_unknown_time": self.unknown_runs,
            "kinds": kinds,
        }


class Speed(NamedTuple):
    """Seconds an iteration of an experiment, and what they rest on."""

    each: float | None
    basis: str
    model: str = ""  # of the device
    estimated_from: str | None = None  # another kind of network


class Speeds:
    """Seconds an iteration of networks on the devices of a kind: measured, or scaled by multiply-adds.

    Args:
        runs: whose records and heartbeats tell.
        costs: entries of the cost record, by network digest.
        device_kind: GPU or CPU.
    """

    def __init__(self, runs: Sequence[RunProgress], costs: dict[str, dict[str, Any]], device_kind: str):
        self.clock, self.costs = times.Clock(()), costs
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], Experiment] = {}
        for run in runs:
            kind = times.name_kind(run.experiment)
            for spent in run.measurements:
                self.clock.add(run.experiment, spent)
                self.examples.setdefault((kind, spent.device), run.experiment)
            self.counts.update({(kind, spent.device) for spent in run.measurements})
        here = machine.find_cpu_model()  # this machine's CPU comes first, then the device with the most iterations
        self.models = sorted(self.clock.devices(device_kind), key=lambda device: here not in device)

    def find(self, experiment: Experiment) -> Speed:
        for model in self.models:
            if each := self.clock.rate(experiment, model):
                return Speed(each, MEASURED, model)
        for model in self.models:
            if found := self._estimate(experiment, model):
                return found
        return Speed(None, UNKNOWN)

    def _multiply_adds(self, experiment: Experiment) -> int | None:
        """Of an iteration's forward pass; None for a network that neither the cost record nor a closed form knows."""
        if experiment.detects:  # the cost of a detection depends on its images and boxes
            return None
        entry, parameters = self.costs.get(experiment.network_digest), experiment.parameters
        if entry:
            of_image = entry["multiply_adds"]
        else:
            dataset = parameters["dataset"]
            found = closed_form(parameters["network"], dataset["classes"], dataset["channels"], dataset["size"])
            of_image = found and found.multiply_adds
        return of_image and of_image * parameters["recipe"]["batch_size"]

    def _estimate(self, experiment: Experiment, device: str) -> Speed | None:
        """By the measured network that is nearest in multiply-adds."""
        wanted, found = self._multiply_adds(experiment), []
        for (kind, example_device), example in self.examples.items():
            if example_device == device and wanted:
                alike = example.in_arithmetic(experiment.parameters["recipe"]["arithmetic"])
                each, known = self.clock.rate(alike, device), self._multiply_adds(example)
                if each and known:
                    found.append((abs(math.log(known / wanted)), each * wanted / known, kind))
        if not found:
            return None
        _, each, kind = min(found)
        return Speed(each, ESTIMATED, device, kind)


def forecast(
    runs: Sequence[RunProgress], others: Sequence[RunProgress], costs: dict[str, dict[str, Any]], devices: Devices
) -> Forecast:
    """What the runs that are left would take: each, in their order, on the first devices that are free.

    Args:
        runs: of a scale; those that are done or begun tell how fast the others will be.
        others: runs that nobody waits for, which tell it too.
        costs: entries of the cost record, by network digest.
    """
    speeds = Speeds([*runs, *others], costs, devices.kind)
    left = [run for run in runs if run.iterations_left and run.state != NO_DATA]
    left.sort(key=lambda run: run.state != RUNNING)  # these have a device already
    alike: dict[tuple[str, str, str | None], list[float | None]] = {}
    records: Counter[str] = Counter()
    jobs = []
    for run in left:
        kind, speed = times.name_kind(run.experiment), speeds.find(run.experiment)
        width = run.experiment.gpus
        if devices.kind == times.CPU:  # its threads, which Snakemake cuts to the cores
            width = min(run.experiment.parameters["recipe"]["cpu_threads"], devices.count)
        if width > devices.count:
            speed = Speed(None, TOO_WIDE)
        elif speed.each:
            jobs.append((speed.each * run.iterations_left, width))
            records[kind] = max(records[kind], speeds.counts[speed.estimated_from or kind, speed.model])
        alike.setdefault((kind, speed.basis, speed.estimated_from), []).append(speed.each)
    kinds = []
    for (kind, basis, estimated_from), found in alike.items():
        mean = None if None in found else sum(found) / len(found)  # of one basis: all are known, or none
        kinds.append(Kind(kind, len(found), basis, mean, records[kind] if mean else 0, estimated_from))
    seconds = _simulate_queue(jobs, devices) if jobs else (None if left else 0.0)
    model = speeds.models[0] if speeds.models else None
    return Forecast(devices, model, seconds, sum(seconds for seconds, _ in jobs), kinds)


def _simulate_queue(jobs: Sequence[tuple[float, int]], devices: Devices) -> float:
    """List scheduling: seconds to the end of the last of these (seconds of devices, width), begun in this order.

    The seconds of a run that takes several GPUs are those of all of them together; those of a CPU's threads are not.
    """
    free = [0.0] * devices.count
    for seconds, width in jobs:
        starts = [heapq.heappop(free) for _ in range(width)]
        end = starts[-1] + seconds / (width if devices.kind == times.GPU else 1)
        for _ in starts:
            heapq.heappush(free, end)
    return max(free)
