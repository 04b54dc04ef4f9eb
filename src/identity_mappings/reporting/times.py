"""The time that the runs of a scale took, and what those that are not done will take."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..durations import format_duration
from ..records.experiment import ARITHMETICS, Experiment
from ..records.speed import CPU, GPU, Speeds, Spent, read_spent
from .run_states import RunState

USUAL_BATCH = 128  # of the papers' CIFAR runs


def name_kind(experiment: Experiment) -> str:
    """The name of a kind of network in the table of times: runs of one kind take about the same time."""
    network, dataset = experiment.parameters["network"], experiment.parameters["dataset"]["name"]
    if experiment.detects:
        return f"Faster R-CNN, {network['family']} {network['depth']}, {dataset}"
    recipe = experiment.parameters["recipe"]
    vgg = network["family"] == "vgg"
    name = "VGG" if vgg else "plain" if network["shortcut"]["kind"] == "none" else "ResNet"
    skip = ", 1-layer skip" if network["unit"] == "single" else ""
    batch = f", batch {recipe['batch_size']}" if recipe["batch_size"] != USUAL_BATCH else ""
    arithmetic = f", {recipe['arithmetic']}" if recipe["arithmetic"] != ARITHMETICS[0] else ""
    return f"{name}-{network['depth']}{skip}, {dataset}{batch}{arithmetic}"


def gather_speeds(runs: Iterable[RunState], speeds: Speeds) -> Speeds:
    """`speeds` with what these runs tell, those that are not done included."""
    for run in runs:
        for spent in run.measurements:
            speeds.add(run.experiment, spent)
    return speeds


@dataclass(frozen=True)
class Left:
    """What runs that are not done will take, as far as it is known."""

    runs: int
    seconds: float  # of devices
    longest: float  # of one run
    scaled: int  # runs whose time is that of other networks, scaled by multiply-adds
    unknown: int  # runs whose time nothing tells
    devices: list[str]  # that the times are of

    @property
    def in_words(self) -> str:
        """ "about 3.0 h on CPU AMD EPYC"; empty where no run is left."""
        if self.runs == self.unknown:
            return "unknown: nothing like it was trained" if self.runs else ""
        about = "at least" if self.unknown else "about"
        words = f"{about} {format_duration(self.seconds)} on {', '.join(self.devices)}"
        if self.scaled:
            which = "" if self.scaled == self.runs else f"{self.scaled} of {self.runs} runs "
            words += f" ({which}estimated by multiply-adds)"
        return words + (f", without {self.unknown} runs of unknown time" if self.unknown else "")


def estimate_left(runs: Iterable[RunState], speeds: Speeds, devices: list[str]) -> Left:
    """What the iterations that are left will take, each run on the first of these devices where that is known."""
    left = [(run, speeds.find(run.experiment, devices)) for run in runs if run.iterations_left]
    known = [(speed, run.iterations_left * speed.seconds) for run, speed in left if speed]
    seconds = [each for _, each in known]
    return Left(
        len(left),
        sum(seconds),
        max(seconds, default=0.0),
        sum(speed.scaled_from is not None for speed, _ in known),
        len(left) - len(known),
        list(dict.fromkeys(speed.device for speed, _ in known)),
    )


def choose_devices(speeds: Speeds, kind: str, first: str = "") -> list[str]:
    """The devices by which what is left is estimated: of the kind that a scale is for, else those that were used."""
    kinds = (GPU, CPU) if kind == "gpu" else (CPU,)
    return [device for each in kinds for device in speeds.list_devices(each, first)]


@dataclass(frozen=True)
class Times:
    """A row of the table of times: a kind of network on a device, or the sum of all."""

    name: str
    wanted: int  # runs, wherever they are trained
    done: int  # of these, on this device
    device: str  # "" where nothing was run, and of the sum
    seconds: float  # spent there
    left: Left | None  # of all runs of the kind; None but in its first row
    seconds_an_iteration: float | None = None  # mean over the runs
    iterations: int | None = None  # of a whole run
    peak_memory: int | None = None  # bytes of a process, the most of all


def tabulate_times(runs: list[RunState], speeds: Speeds, devices: list[str]) -> list[Times]:
    """By kind of network and device; at last the sum."""
    kinds: dict[str, list[RunState]] = {}
    for run in runs:
        kinds.setdefault(name_kind(run.experiment), []).append(run)
    rows = []
    for name, group in kinds.items():
        by_device: dict[str, list[tuple[RunState, Spent]]] = {}
        for run in group:
            if run.record:
                spent = read_spent(run.record)
                by_device.setdefault(spent.device, []).append((run, spent))
        for device, timed in (by_device or {"": []}).items():
            seconds, iterations = (sum(getattr(s, key) for _, s in timed) for key in ("seconds", "iterations"))
            rows.append(
                Times(
                    name,
                    len(group),
                    sum(run.is_done for run, _ in timed),
                    device,
                    seconds,
                    estimate_left(group, speeds, devices) if device == next(iter(by_device), "") else None,
                    seconds / iterations if seconds and iterations else None,
                    group[0].iterations,
                    max((spent.peak_memory or 0 for _, spent in timed), default=0) or None,
                )
            )
    done, seconds = sum(run.is_done for run in runs), sum(row.seconds for row in rows)
    return [*rows, Times("all", len(runs), done, "", seconds, estimate_left(runs, speeds, devices))]
