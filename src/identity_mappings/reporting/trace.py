"""The way back from a cell of a table to what made it: runs, provenance, parameters; or what it would cost.

`results/report.html` and `identity-mappings explain` show the same.
"""

import csv
import io
import json
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..durations import format_duration
from ..parameters.reports import MEAN
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from ..records.speed import Speeds, read_spent
from . import verdict
from .cells import NOT_COMPARABLE, FilledCell, parse_published
from .rendering import render_macro
from .run_states import RunState, list_runs, read_state
from .store import Records, Tested
from .times import choose_devices, estimate_left, gather_speeds

SECOND_RESULTS = "again"  # a folder for a second training beside the records
CurvePoint = tuple[int, float | None, float | None]  # iteration, training error and test error in %


@dataclass(frozen=True)
class TracedRun:
    """A run behind a cell."""

    seed: int
    error: float | None  # by the cell's protocol, in %; None if it diverged
    facts: dict[str, str]  # what its record states, by name
    curve: list[CurvePoint]
    commands: dict[str, str]  # what verifies it and trains it again, by purpose


@dataclass(frozen=True)
class Missing:
    """Runs that a cell still wants."""

    runs: int
    time: str  # in words, estimated from the scale's records
    commands: list[str]  # that train them
    data: str  # name of the dataset


@dataclass(frozen=True)
class Trace:
    """A cell, and the way back from it."""

    cell: FilledCell
    reason: str  # why the verdict is what it is
    runs: list[TracedRun]  # behind the number
    shared: dict[str, str]  # what the records of all of these runs state alike
    missing: Missing | None  # None where nothing is to be trained
    facts: dict[str, str]  # of the number itself: its experiment, protocol, convention, or the record of a count
    parameters: dict[str, str]  # dataset, network and recipe, each as text; empty without an experiment

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the cell by what is shown; difference and spread are empty where there is none."""
        cell, decimals = self.cell, self.cell.cell.decimals
        difference = spread = ""
        if cell.difference is not None and cell.verdict != NOT_COMPARABLE:  # of the same experiment
            difference = f"{cell.difference:+.{decimals}f}".replace("-", "−")
        if cell.records:
            spread = "no mean" if cell.mean is None else f"{cell.mean:.{decimals}f}"
            spread += "" if cell.deviation is None else f" ± {cell.deviation:.{decimals}f}"
            spread += f" (n = {len(cell.records)})"
        return {"rebuilt": cell.text, "published": cell.published_text, "difference": difference, "spread": spread}


class Tracer:
    """Finds the way back from each cell that was filled from these records."""

    def __init__(self, records: Records):
        self.project, self.scale, self.records = records.project, records.scale, records

    @cached_property
    def _speeds(self) -> Speeds:
        return gather_speeds(list_runs(self.records), Speeds(self.records.costs))

    def trace(self, cell: FilledCell) -> Trace:
        parameters = {}
        if cell.experiment:
            found = cell.records[0].provenance["params"]["resolved"] if cell.records else cell.experiment.parameters
            for part in (part for part in ("dataset", "network", "recipe") if found[part]):
                lines = [f"{key}: {json.dumps(value)}" for key, value in found[part].items() if value is not None]
                parameters[part] = "\n".join(lines)
        runs, shared = [self._describe_run(cell, tested) for tested in (*cell.tests, *cell.others)], {}
        if len(runs) > 1:
            first, *others = [run.facts for run in runs]
            shared = {name: text for name, text in first.items() if all(o.get(name) == text for o in others)}
            runs = [replace(r, facts={name: r.facts[name] for name in r.facts if name not in shared}) for r in runs]
        return Trace(cell, self._reason(cell), runs, shared, self._missing(cell), self._facts(cell), parameters)

    def _facts(self, cell: FilledCell) -> dict[str, str]:
        experiment, best, count = cell.experiment, cell.best, {}
        if path := cell.cost_record:
            _, origin = measurement.read_required(path.parent, path.name)
            count = {
                "exactly": f"{cell.measured:,}" if isinstance(cell.measured, int) else f"{cell.measured:.2f} %",
                "record": path.relative_to(self.project.root).as_posix(),
                "commit": _commit(origin.get("git")),
                "counted again by": "identity-mappings cost"
                + ("" if self.scale == "paper" else f" --scale {self.scale}"),
            }
        facts = {
            "network": cell.cell.network,
            "metric": cell.cell.metric,
            "tested by": cell.cell.tested_by,
            "counted": cell.cell.counted,
            "experiment": experiment and experiment.name,
            "digest": experiment and experiment.digest,
            "best test of each run, median": best is not None and f"{best:.2f} %: chosen on the test set, not a result",
        }
        return {name: text for name, text in facts.items() if text} | count

    def _reason(self, cell: FilledCell) -> str:
        """Why the verdict is what it is, in the words of reasons.md.jinja."""
        judged, settings, reporting = {}, self.records.settings, self.records.reporting
        (published, cell_of_rule), measured = parse_published(cell.cell), cell.measured
        is_judged = cell.cell.is_error and settings.published
        if is_judged and cell.experiment and isinstance(published, float | int) and isinstance(measured, float):
            dataset, of_mean = cell.experiment.parameters["dataset"]["name"], cell.cell.metric == MEAN
            error = verdict.standard_error(cell.errors, cell_of_rule, dataset, reporting, of_mean)
            judged = {"size": abs(measured - published), "error": error, "resolution": reporting.resolution[dataset]}
        experiments = self.project.resolve_all(cell.cell.experiments, self.scale)
        complete = all(self.records.read_tests(experiment, cell.cell.tested_by) for experiment in experiments)
        return render_macro("reasons.md.jinja", "reason", cell, judged, complete, self.scale, settings, reporting)

    def _describe_run(self, cell: FilledCell, tested: Tested) -> TracedRun:
        record = tested.record
        metrics, origin = record.metrics, record.provenance
        spent, data = read_spent(record), origin.get("data") or {}
        folder = record.path.parent.relative_to(self.project.root).as_posix()
        facts = {
            "status": f"{metrics['status']}, {metrics['iterations']:,} of {metrics['of_iterations']:,} iterations",
            "training error": metrics["training_error"] is not None and f"{metrics['training_error']:.2f} %",
            "device": spent.device,
            "arithmetic": metrics["arithmetic"],
            "time": spent.seconds and format_duration(spent.seconds),
            "trained": origin.get("finished") and f"{origin['started'][:10]} to {origin['finished'][:10]}",
            "commit": _commit(origin.get("git")),
            "data": data.get("name"),
            "data hash": data.get("dvc_md5"),
            "parameters (sha256)": (origin.get("params") or {}).get("sha256"),
            "weights (sha256)": metrics.get("weights_sha256"),
            "torch": (origin.get("env") or {}).get("torch"),
            "record": folder,
            "test": tested.path != record.path and tested.path.relative_to(self.project.root).as_posix(),
        }
        return TracedRun(
            metrics["seed"],
            tested.read_value(cell.cell),
            {name: value for name, value in facts.items() if value},
            read_curve((record.path.parent / run.CURVE).read_bytes()),
            _commands(folder, metrics, origin),
        )

    def _missing(self, cell: FilledCell) -> Missing | None:
        if cell.cell.quoted or cell.cell.not_rebuilt or cell.cell.is_cost:
            return None
        resolved = self.project.resolve_all(cell.cell.experiments, self.scale)
        trainable = [experiment for experiment in resolved if not experiment.untrainable]
        lacking = [each for experiment in trainable for each in self._list_lacking(experiment)]
        if not lacking:
            return None
        commands = []
        for experiment in {each.experiment.digest: each.experiment for each in lacking}.values():
            seeds = [str(each.seed) for each in lacking if each.experiment.digest == experiment.digest]
            words = [experiment.name, "--seed", *seeds, "--device", self.records.settings.device]
            words += [] if self.scale == "paper" else ["--scale", self.scale]
            arithmetic = experiment.parameters["recipe"]["arithmetic"]
            words += [] if arithmetic == ARITHMETICS[0] else ["--arithmetic", arithmetic]
            commands.append(shlex.join(["identity-mappings", "train", *words]))
        devices = choose_devices(self._speeds, self.records.settings.device)
        time = estimate_left(lacking, self._speeds, devices).in_words
        return Missing(len(lacking), time, commands, trainable[0].parameters["dataset"]["name"])

    def _list_lacking(self, experiment: Experiment) -> list[RunState]:
        """The runs of an experiment that are not done."""
        runs = (read_state(self.records, experiment, seed) for seed in self.project.seeds(experiment))
        return [each for each in runs if not each.is_done]


def read_curve(content: bytes) -> list[CurvePoint]:
    """The points of a run's curve.csv; an error is None where none was measured (an RPN's step has no classes)."""

    def parse(text: str) -> float | None:
        return float(text) if text else None

    rows = csv.DictReader(io.StringIO(content.decode()))
    return [(int(row["iteration"]), parse(row["training_error"]), parse(row["test_error"])) for row in rows]


def _commit(git: dict[str, Any] | None) -> str:
    made = git or {}
    return f"{made.get('commit') or ''}{' (with uncommitted changes)' if made.get('dirty') else ''}"


def _commands(folder: str, metrics: dict[str, Any], origin: dict[str, Any]) -> dict[str, str]:
    device = ["--device", "cpu"] if metrics.get("device") == "cpu" else []
    commands = {"verify its first iterations": shlex.join(["identity-mappings", "verify", folder, *device])}
    if origin.get("command"):
        commands["train it again"] = " ".join([origin["command"], *device, "--results", SECOND_RESULTS])
    if commit := (origin.get("git") or {}).get("commit"):
        commands["check out its code"] = f"git checkout {commit[:12]}"
    return commands
