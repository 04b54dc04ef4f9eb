"""The records of a scale, as pages and audit read them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..parameters.models import Scale
from ..parameters.reports import MAP, MAP_50, SINGLE_VIEW, TOP_5, TRAINING_BOUND, Cell, Reporting
from ..records import measurement, run
from ..records.experiment import Experiment
from ..records.files import canonical, parse_json


@dataclass
class Records:
    """The records of a scale, each read once."""

    project: Project
    scale: str
    bad: list[str] = field(default_factory=list)  # why records were not believed
    runs: dict[Path, run.Record] = field(default_factory=dict)  # that were read, also unfinished ones, by file
    signals: dict[Path, Experiment] = field(default_factory=dict)  # whose signals were read, by folder
    _finished: dict[str, list[run.Record]] = field(default_factory=dict)

    @property
    def settings(self) -> Scale:
        return self.project.scale(self.scale)

    @cached_property
    def reporting(self) -> Reporting:
        """The rule of verdicts, with this scale's limits."""
        return self.project.reporting.get_limits(self.scale)

    @property
    def results(self) -> Path:
        return self.project.root / self.settings.results

    def read_finished(self, experiment: Experiment) -> list[run.Record]:
        """The believable records of the wanted seeds: in float32, or else in the next arithmetic that has any."""
        if experiment.folder not in self._finished:
            seeds = self.project.seeds(experiment)
            for other in experiment.alternatives:
                found = [self._read(run.get_folder(self.results, other, seed), other, seed) for seed in seeds]
                self._finished[experiment.folder] = [record for record in found if record]
                if self._finished[experiment.folder]:
                    break
        return self._finished[experiment.folder]

    def read_unfinished(self, experiment: Experiment, seed: int) -> run.Record | None:
        """The record of a run that was stopped before its end."""
        return self._read(run.get_folder(self.results, experiment, seed) / run.PARTIAL, experiment, seed, partial=True)

    def _read(self, folder: Path, experiment: Experiment, seed: int, partial: bool = False) -> run.Record | None:
        record = self.try_reading(lambda: run.read_record(folder, experiment, seed, partial))
        if record:
            self.runs[record.path] = record
        return record

    def read_tests(self, experiment: Experiment, protocol: str | None) -> list["Tested"]:
        """The finished runs of an experiment that were tested by a protocol."""
        tests = []
        for record in self.read_finished(experiment):
            path = record.path
            if protocol in run.DETECTION_PROTOCOLS:
                numbers = record.metrics["test"] or {}
            elif protocol in (SINGLE_VIEW, None):
                numbers = {"test_error": record.test_error}
            else:
                numbers = self.try_reading(partial(run.read_evaluation, record, protocol))
                path = run.get_evaluation_path(path.parent, protocol)
            if numbers is not None:
                tests.append(Tested(record, path, numbers))
        return tests

    @cached_property
    def costs(self) -> dict[str, dict[str, Any]]:
        """The entries of the cost record, by network digest."""
        return self.try_reading(lambda: measurement.read_costs(self.results)) or {}

    def try_reading(self, read: Callable[[], Any]) -> Any:
        """What `read` returns; None, and a note, if it meets a bad record."""
        try:
            return read()
        except run.BadRecord as error:
            self.note_problem(error)
            return None

    def note_problem(self, problem: object) -> None:
        """Keep what is wrong with a record for the page; once, however many cells or curves it fills."""
        if str(problem) not in self.bad:
            self.bad.append(str(problem))


@dataclass(frozen=True)
class Tested:
    """The record of a run, and its test by the protocol of a cell."""

    record: run.Record
    path: Path  # of the file that holds the test
    numbers: dict[str, Any]

    def read_value(self, cell: Cell) -> float | None:
        """The error in %, or the mean average precision of a detection in %; None if the run diverged."""
        if cell.metric in (MAP_50, MAP):
            return self.numbers.get("map_50" if cell.metric == MAP_50 else "map")
        if cell.metric == TRAINING_BOUND:
            return None if self.record.metrics["status"] == "diverged" else self.record.metrics["training_error"]
        return self.numbers["top_5_error" if cell.metric == TOP_5 else "test_error"]


def describe_outdated_records(project: Project, scale: str) -> str | None:
    """How many records of a scale are of other parameters than params/ has, and what to do; None if there are none."""
    paths = sorted((project.root / project.scale(scale).results / "runs").glob(f"*/seed*/{run.METRICS}"))
    outdated = [path.parent for path in paths if not _is_current(project, scale, path.parts[-3])]
    if not outdated:
        return None
    count = f"{len(outdated)} of {len(paths)} records of scale {scale} are of other parameters than params/ has now"
    change = _find_change(project, scale, outdated[-1])
    return f"{count}{change}: no table shows them. Undo the change, or make it in a copy of the file under another name"


def _is_current(project: Project, scale: str, folder: str) -> bool:
    """Whether a folder of runs is that of an experiment, in any arithmetic."""
    name = folder.rpartition("-")[0]
    experiment = project.resolve(name, scale) if name in project.names else None
    return experiment is not None and folder in [other.folder for other in experiment.alternatives]


def _find_change(project: Project, scale: str, folder: Path) -> str:
    """The first parameter in which a record differs from its experiment, and the file that has it; empty if unknown."""
    name = folder.parts[-2].rpartition("-")[0]
    experiment = project.resolve(name, scale) if name in project.experiments else None
    if experiment is None:
        return ""
    files = {"dataset": "datasets.yaml", "recipe": f"recipes/{project.experiments[name].recipe}.yaml"}
    files["network"] = f"experiments/{project.files[name].name}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        recorded = parse_json((folder / run.PROVENANCE).read_bytes())["params"]["resolved"]
        for part, parameters in experiment.parameters.items():
            for key, value in parameters.items():
                before = recorded[part].get(key)
                if canonical(before) != canonical(value) and key != "arithmetic":
                    return f" (params/{files[part]}: {key} was {before}, is {value})"
    return ""
