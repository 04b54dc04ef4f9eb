"""The way back from a cell of a table to what made it: runs, provenance, parameters; or what it would cost.

`results/report.html` and `identity-mappings explain` tell of the same walk.
"""

import csv
import io
import json
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..parameters import Project
from ..parameters.claims import Step
from ..parameters.reports import BEST_RUN, MEAN, SPLIT, TRAINING_TIME
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from . import times, verdict
from .cells import NO_COUNTERPART, NOT_COMPARABLE, Filled, Records, Tested, published_number
from .order import Wanted, wanted

AGAIN = "again"  # a folder for a second training beside the records
BESIDE = Step(name="beside the order of work", why="a table shows it", experiments=["none"], runs=1)


@dataclass(frozen=True)
class Run:
    """A run behind a cell.

    Attributes:
        error: by the cell's protocol, in %; None if it diverged.
        facts: what its record states, by name, in the order in which it is told.
        curve: (iteration, training error, test error), each in %; the test error None between tests.
        commands: what verifies it and trains it again, by purpose.
    """

    seed: int
    error: float | None
    facts: dict[str, str]
    curve: list[tuple[int, float, float | None]]
    commands: dict[str, str]


@dataclass(frozen=True)
class Missing:
    """Runs that a cell still wants.

    Attributes:
        runs: how many.
        cost: in words: hours where something like them was timed, and multiply-adds.
        commands: that train them.
        data: name of the dataset.
    """

    runs: int
    cost: str
    commands: list[str]
    data: str


@dataclass(frozen=True)
class Walk:
    """A cell, and the way back from it.

    Attributes:
        reason: why the verdict is what it is.
        runs: behind the number.
        shared: what the records of all of these runs state alike.
        missing: None where nothing is to be trained.
        facts: of the number itself: its experiment, protocol, convention, or the record of a count.
        parameters: resolved, as JSON of dataset, network and recipe; None without an experiment.
    """

    cell: Filled
    reason: str
    runs: list[Run]
    shared: dict[str, str]
    missing: Missing | None
    facts: dict[str, str]
    parameters: dict[str, str] | None

    @property
    def place(self) -> str:
        return place_of(self.cell)


def place_of(cell: Filled) -> str:
    """A cell as a person names it: "he2016, Table 1 · original · error"."""
    paper = "" if cell.table.paper == "own" else f"{cell.table.paper}, "
    return f"{paper}{cell.table.table} · {cell.row.name} · {cell.column}"


def spread_text(cell: Filled) -> str:
    """Mean and standard deviation of the runs, and how many there are; empty where nothing was trained."""
    if not cell.records:
        return ""
    mean = "no mean" if cell.mean is None else f"{cell.mean:.{cell.cell.decimals}f}"
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.{cell.cell.decimals}f}"
    return f"{mean}{spread} (n = {len(cell.records)})"


def difference_text(cell: Filled) -> str:
    """Rebuilt less published, in points; empty where the two are not of the same experiment."""
    if cell.difference is None or cell.verdict == NOT_COMPARABLE:
        return ""
    return f"{cell.difference:+.{cell.cell.decimals}f}".replace("-", "−")


class Walks:
    """Finds the way back from each cell of a scale.

    Args:
        records: from which the cells were filled.
    """

    def __init__(self, project: Project, scale: str, records: Records):
        self.project, self.scale, self.records = project, scale, records

    @cached_property
    def _order(self) -> list[Wanted]:
        return list(wanted(self.project, self.scale, self.records))

    @cached_property
    def _clock(self) -> times.Clock:
        return times.Clock(self._order)

    def walk(self, cell: Filled) -> Walk:
        """The way back from a cell."""
        parameters = None
        if cell.experiment:
            found = cell.records[0].provenance["params"]["resolved"] if cell.records else cell.experiment.parameters
            parameters = {name: _as_text(found[name]) for name in ("dataset", "network", "recipe") if found[name]}
        runs = [self._run(cell, tested) for tested in cell.tests]
        shared = _shared([run.facts for run in runs])
        runs = [replace(run, facts={name: run.facts[name] for name in run.facts if name not in shared}) for run in runs]
        return Walk(cell, self._reason(cell), runs, shared, self._missing(cell), self._facts(cell), parameters)

    def _facts(self, cell: Filled) -> dict[str, str]:
        asked = cell.cell
        facts = {"network": asked.network, "metric": asked.metric}
        if asked.tested_by:
            facts["tested by"] = asked.tested_by
        if asked.counted:
            facts["counted"] = asked.counted
        if cell.experiment:
            facts["experiment"] = cell.experiment.name
            facts["digest"] = cell.experiment.digest
        if cell.best is not None:
            facts["best of all tests"] = f"{cell.best:.2f} %: chosen on the test set, not a result"
        if cell.cost_record:
            facts |= self._cost_facts(cell)
        return facts

    def _cost_facts(self, cell: Filled) -> dict[str, str]:
        path = cell.cost_record
        _, origin = measurement.read(path.parent, path.name)
        words = "" if self.scale == "paper" else f" --scale {self.scale}"
        exact = f"{cell.measured:,}" if isinstance(cell.measured, int) else f"{cell.measured:.2f} %"
        return {
            "exactly": exact,
            "record": path.relative_to(self.project.root).as_posix(),
            "commit": _commit(origin.get("git")),
            "counted again by": f"identity-mappings cost{words}",
        }

    def _reason(self, cell: Filled) -> str:
        asked, reporting = cell.cell, self.project.reporting
        if asked.quoted:
            return "The paper quotes this number from another paper; it is not rebuilt."
        if asked.not_rebuilt:
            return f"Not rebuilt: {asked.not_rebuilt}"
        if cell.verdict == NO_COUNTERPART:
            return f"Scale {self.scale} has no counterpart of this experiment."
        if cell.measured is None:
            return "A run diverged, so there is no mean." if cell.records else "No record fills this cell yet."
        if not self.project.scale(self.scale).published:
            return f"Not compared: scale {self.scale} trains other networks on other data than the paper."
        if asked.published is None:
            return "The paper prints no such number."
        if asked.is_cost:
            return {
                verdict.AGREES: "The count rounds to the published one.",
                verdict.CUT_OFF: "The paper's figure is the beginning of the count, cut off and not rounded.",
            }.get(cell.verdict, "The count does not round to the published one.")
        if asked.metric == BEST_RUN:
            return "The best of several runs is chosen by the test set: it is shown and not judged."
        if asked.is_fact:
            return {
                TRAINING_TIME: "Hours of all devices of a run together; the paper's are of other devices.",
                SPLIT: "Images that the run trained on, and held out for the choice.",
            }.get(asked.metric, "The median keeps the bound, or breaks it, by the rule for bounds.")
        published, of_rule = published_number(asked)
        if verdict.FAIL in (published, cell.measured):
            return "A test error above the paper's limit, or a loss that is not a number, is “fail”."
        dataset = cell.experiment.parameters["dataset"]["name"]
        error = verdict.standard_error(cell.errors, of_rule, dataset, reporting, asked.metric == MEAN)
        size = abs(cell.measured - published)
        return (
            f"The difference of {size:.2f} points is {size / error:.1f} times its standard error se = {error:.2f}. "
            f"It agrees within {reporting.agrees_within:g} se if that is no wider than "
            f"{reporting.resolution[dataset]:g} points, and differs beyond {reporting.differs_beyond:g} se."
        )

    def _run(self, cell: Filled, tested: Tested) -> Run:
        record = tested.record
        metrics, origin = record.metrics, record.provenance
        spent, data = times.spent(record), origin.get("data") or {}
        folder = record.path.parent.relative_to(self.project.root).as_posix()
        environment = origin.get("env") or {}
        facts = {
            "status": metrics["status"] + _iterations(metrics),
            "training error": "" if metrics["training_error"] is None else f"{metrics['training_error']:.2f} %",
            "device": spent.device,
            "arithmetic": metrics["arithmetic"],
            "time": hours_text(spent.seconds) if spent.seconds else "",
            "trained": f"{origin['started'][:10]} to {origin['finished'][:10]}" if origin.get("finished") else "",
            "commit": _commit(origin.get("git")),
            "data": data.get("name", ""),
            "data hash": data.get("dvc_md5") or "",
            "parameters (sha256)": (origin.get("params") or {}).get("sha256") or "",
            "weights (sha256)": metrics.get("weights_sha256") or "",
            "torch": environment.get("torch") or "",
            "record": folder,
        }
        if tested.path != record.path:
            facts["test"] = tested.path.relative_to(self.project.root).as_posix()
        return Run(
            metrics["seed"],
            tested.error(cell.cell),
            {name: value for name, value in facts.items() if value},
            curve_points((record.path.parent / run.CURVE).read_bytes()),
            _commands(folder, metrics, origin),
        )

    def _missing(self, cell: Filled) -> Missing | None:
        if cell.cell.quoted or cell.cell.not_rebuilt or cell.cell.is_cost:
            return None
        resolved = [self.project.resolve(name, self.scale) for name in cell.cell.experiments]
        trainable = [experiment for experiment in resolved if experiment and not experiment.untrainable]
        lacking = [one for experiment in trainable for one in self._lacking(experiment)]
        if not lacking:
            return None
        device = self.project.scale(self.scale).device
        return Missing(
            len(lacking),
            self.cost_text(lacking),
            list(dict.fromkeys(_training(one.experiment, self.scale, device, lacking) for one in lacking)),
            trainable[0].parameters["dataset"]["name"],
        )

    def _lacking(self, experiment: Experiment) -> list[Wanted]:
        """The runs of an experiment that are wanted and not done, as the order of work has them or beside it."""
        ordered = [one for one in self._order if one.experiment.name == experiment.name]
        if ordered:
            return [one for one in ordered if not one.done]
        done = {record.metrics["seed"] for record in self.records.of(experiment)}
        seeds = self.project.seeds(experiment)
        return [Wanted(BESIDE, experiment, seed, None) for seed in seeds if seed not in done]

    def cost_text(self, lacking: list[Wanted]) -> str:
        """What runs would cost, in words: measured hours, else counted work at a speed that was measured."""
        operations = times.count_operations_left(lacking, self.records.costs())
        work = "" if operations is None else f"{operations:.2g} multiply-adds".replace("e+", "×10^")
        for device in self._devices:
            left = self._clock.left(lacking, [device])
            if not left.unknown_runs:
                return f"about {hours_text(left.seconds)} on {device}, as runs like it took there" + (
                    work and f"; {work}"
                )
        if operations and self._devices:
            device = self._devices[0]
            speed = self._speed(device)
            if speed:
                hours = hours_text(operations / speed)
                return f"{work}: {hours} if {device} works as fast on them as on what was trained there ({speed:.2g}/s)"
        return work or "not known yet: nothing like it was trained or counted"

    @cached_property
    def _devices(self) -> list[str]:
        """GPUs first, each with the most iterations first."""
        known = sorted(self._clock.iterations, key=lambda name: (-self._clock.iterations[name], name))
        gpus = self._clock.devices(times.GPU)
        return [*gpus, *(device for device in known if device not in gpus)]

    def _speed(self, device: str) -> float | None:
        """Multiply-adds a second, forward and backward, of all that was trained on a device."""
        seconds = operations = 0.0
        for one in (one for one in self._order if one.record):
            spent, entry = times.spent(one.record), self.records.costs().get(one.experiment.network_digest)
            if spent.device == device and entry:
                batch = one.experiment.parameters["recipe"]["batch_size"]
                operations += times.PASSES * entry["multiply_adds"] * batch * spent.iterations
                seconds += spent.seconds
        return operations / seconds if seconds else None


def curve_points(content: bytes) -> list[tuple[int, float, float | None]]:
    """(iteration, training error, test error) of a run's curve.csv, in %."""
    rows = csv.DictReader(io.StringIO(content.decode()))
    return [
        (int(row["iteration"]), float(row["training_error"]), float(row["test_error"]) if row["test_error"] else None)
        for row in rows
    ]


def hours_text(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 100 else f"{hours:,.0f} hours"


def _shared(facts: list[dict[str, str]]) -> dict[str, str]:
    """What all of several runs have alike; nothing of a single one."""
    if len(facts) < 2:
        return {}
    return {name: value for name, value in facts[0].items() if all(one.get(name) == value for one in facts[1:])}


def _iterations(metrics: dict[str, Any]) -> str:
    return f", {metrics['iterations']:,} of {metrics['of_iterations']:,} iterations"


def _commit(made: dict[str, Any] | None) -> str:
    commit = (made or {}).get("commit")
    if not commit:
        return ""
    return f"{commit} (with changes that are in no commit)" if made.get("dirty") else commit


def _as_text(part: dict[str, Any]) -> str:
    """Parameters a person can read: a line each, nulls left out."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in part.items() if value is not None)


def _device_option(metrics: dict[str, Any]) -> list[str]:
    return ["--device", "cpu"] if metrics.get("device") == "cpu" else []


def _commands(folder: str, metrics: dict[str, Any], origin: dict[str, Any]) -> dict[str, str]:
    device = _device_option(metrics)
    commands = {"verify its first iterations": shlex.join(["identity-mappings", "verify", folder, *device])}
    if origin.get("command"):
        commands["train it again"] = " ".join([origin["command"], *device, "--results", AGAIN])
    commit = (origin.get("git") or {}).get("commit")
    if commit:
        commands["its very code"] = f"git checkout {commit[:12]}"
    return commands


def _training(experiment: Experiment, scale: str, device: str, lacking: list[Wanted]) -> str:
    seeds = [str(one.seed) for one in lacking if one.experiment.name == experiment.name]
    arithmetic = experiment.parameters["recipe"]["arithmetic"]
    words = ["identity-mappings", "train", experiment.name, "--seed", *seeds, "--device", device]
    words += [] if scale == "paper" else ["--scale", scale]
    words += [] if arithmetic == ARITHMETICS[0] else ["--arithmetic", arithmetic]
    return shlex.join(words)
