"""The cells of all tables, filled from the records that are there."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..parameters.reports import (
    BEST_RUN,
    MAP,
    MAP_50,
    MEAN,
    MULTIPLY_ADDS,
    SINGLE_VIEW,
    TOP_5,
    TRAINING_BOUND,
    Cell,
    Row,
    Table,
)  # fmt: skip
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from . import facts, verdict

NOT_RUN, NO_COUNTERPART, NOT_COUNTED, NOT_REBUILT = "not run", "no counterpart", "not counted", "not rebuilt"
NO_MEAN, NOT_COMPARABLE = "a run diverged", "not comparable"


@dataclass
class Records:
    """The records of a scale, each read once; what is wrong with the others is kept for the page.

    Attributes:
        bad: why records were not believed.
        runs, signals: what was read, also of unfinished runs, by file; of signals by folder.
    """

    project: Project
    scale: str
    bad: list[str] = field(default_factory=list)
    runs: dict[Path, run.Record] = field(default_factory=dict)
    signals: dict[Path, Experiment] = field(default_factory=dict)
    _read: dict[str, list[run.Record]] = field(default_factory=dict)
    _costs: dict[str, dict[str, Any]] | None = None

    def of(self, experiment: Experiment) -> list[run.Record]:
        """Of the wanted seeds, those that are there and are what they say.

        In float32, which goes before the other arithmetics; only where there is no such run, in the next.
        """
        if experiment.folder not in self._read:
            found = (self._records(alternative) for alternative in experiment.alternatives)
            self._read[experiment.folder] = next(filter(None, found), [])
        return self._read[experiment.folder]

    def _records(self, experiment: Experiment) -> list[run.Record]:
        seeds = self.project.seeds(experiment)
        found = (self._record(run.folder_of(self.results, experiment, seed), experiment, seed) for seed in seeds)
        return [record for record in found if record]

    def unfinished(self, experiment: Experiment, seed: int) -> run.Record | None:
        """What a run left that was stopped before its end."""
        folder = run.folder_of(self.results, experiment, seed) / run.PARTIAL
        return self._record(folder, experiment, seed, partial=True)

    def _record(self, folder: Path, experiment: Experiment, seed: int, partial: bool = False) -> run.Record | None:
        try:
            record = run.read(folder, experiment, seed, partial)
        except run.BadRecord as error:
            self.note(error)
            return None
        if record:
            self.runs[record.path] = record
        return record

    def tested(self, experiment: Experiment, protocol: str) -> list["Tested"]:
        """Of these, those that were tested by a protocol."""
        found = self.of(experiment)
        if protocol in run.DETECTION_PROTOCOLS:
            return [Tested(record, record.path, record.metrics["test"] or {}) for record in found]
        if protocol == SINGLE_VIEW:
            return [Tested(record, record.path, {"test_error": record.test_error}) for record in found]
        tested = []
        for record in found:
            try:
                evaluation = run.read_evaluation(record, protocol)
            except run.BadRecord as error:
                self.note(error)
                continue
            if evaluation:
                tested.append(Tested(record, run.evaluation_of(record.path.parent, protocol), evaluation))
        return tested

    def note(self, problem: object) -> None:
        """Keep what is wrong with a record for the page; once, however many cells or curves it fills."""
        if str(problem) not in self.bad:
            self.bad.append(str(problem))

    @property
    def results(self) -> Path:
        return self.project.root / self.project.scale(self.scale).results

    def costs(self) -> dict[str, dict[str, Any]]:
        """The entries of the cost record, by network digest."""
        if self._costs is None:
            try:
                self._costs = measurement.read_costs(self.results) or {}
            except run.BadRecord as error:
                self.note(error)
                self._costs = {}
        return self._costs


@dataclass(frozen=True)
class Tested:
    """A run's record, its test by a cell's protocol, and the file that holds it."""

    record: run.Record
    path: Path
    numbers: dict[str, Any]

    def error(self, cell: Cell) -> float | None:
        """In %, of the cell's kind, of detections the mean average precision; None if the run diverged."""
        if cell.metric in (MAP_50, MAP):
            return self.numbers.get("map_50" if cell.metric == MAP_50 else "map")
        if cell.metric == TRAINING_BOUND:
            return None if self.record.metrics["status"] == "diverged" else self.record.metrics["training_error"]
        return self.numbers["top_5_error" if cell.metric == TOP_5 else "test_error"]


@dataclass(frozen=True)
class Filled:
    """A cell with what was measured for it.

    Attributes:
        table, row, column, cell: its place and parameters.
        experiment: that the number is of; None where the scale has no counterpart or the row is quoted.
        tests: of its runs, by the cell's protocol.
        text: as it stands in tables.md.
        published_text: as it stands in paper.md.
        measured: the rebuilt number, "fail", or None.
        verdict: of `verdict`, or why there is none.
        cost_record: that a count was read from.
    """

    table: Table
    row: Row
    column: str
    cell: Cell
    experiment: Experiment | None
    tests: list[Tested]
    text: str
    published_text: str
    measured: float | str | None
    verdict: str
    cost_record: Path | None = None

    @property
    def records(self) -> list[run.Record]:
        return [tested.record for tested in self.tests]

    @property
    def errors(self) -> list[float | None]:
        return [tested.error(self.cell) for tested in self.tests]

    @property
    def finite(self) -> list[float]:
        return [error for error in self.errors if error is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.finite) if self.finite and len(self.finite) == len(self.records) else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.finite) if self.mean is not None and len(self.finite) > 1 else None

    @property
    def best(self) -> float | None:
        """Median over the runs of the lowest test error of each: chosen on the test set; of CIFAR's test only."""
        if self.cell.tested_by != SINGLE_VIEW:
            return None
        lowest = [record.metrics["best"]["test_error"] for record in self.records if record.metrics["best"]]
        return statistics.median(lowest) if lowest else None

    @property
    def arithmetic(self) -> str:
        return ", ".join(sorted({record.metrics["arithmetic"] for record in self.records}))

    @property
    def paths(self) -> list[Path]:
        """The files that the number comes from."""
        return [self.cost_record] if self.cost_record else [tested.path for tested in self.tests]

    @property
    def difference(self) -> float | None:
        comparable = (
            not self.cell.is_cost and isinstance(self.measured, float) and isinstance(self.cell.published, (int, float))
        )
        return self.measured - self.cell.published if comparable else None

    def as_json(self, root: Path) -> dict[str, Any]:
        def rounded(value: float | str | None) -> float | str | None:
            return round(value, 4) if isinstance(value, float) else value

        name = self.experiment.name if self.experiment else None
        return {
            "paper": self.table.paper,
            "table": self.table.table,
            "row": self.row.name,
            "column": self.column,
            "dataset": self.experiment.parameters["dataset"]["name"] if self.experiment else self.cell.dataset,
            "network": self.cell.network,
            "experiment": name or (self.cell.experiments[0] if self.cell.experiments else None),
            "metric": self.cell.metric,
            "protocol": self.cell.tested_by,
            "counted": self.cell.counted,
            "published": self.cell.published,
            "measured": rounded(self.measured),
            "runs": len(self.records),
            "mean": rounded(self.mean),
            "std": rounded(self.deviation),
            "best": rounded(self.best),
            "arithmetic": self.arithmetic or None,
            "difference": rounded(self.difference),
            "records": [path.relative_to(root).as_posix() for path in self.paths],
            "verdict": self.verdict,
        }


def _number(value: float, cell: Cell) -> str:
    return f"{value:.{cell.decimals}f}"


def published_text(cell: Cell) -> str:
    if cell.published is None:
        return "-"
    text = _number(cell.published, cell) if isinstance(cell.published, (int, float)) else cell.published
    return f"{text} (quoted)" if cell.quoted else text


def published_number(cell: Cell) -> tuple[float | str, Cell]:
    """A published error as a number (or "fail"), and the cell with the deviation that stands beside a mean."""
    if cell.metric == MEAN and isinstance(cell.published, str) and cell.published != verdict.FAIL:
        mean, deviation = cell.published.split("±")
        return float(mean), cell.model_copy(update={"published_deviation": float(deviation)})
    return cell.published, cell


def counted_value(project: Project, scale: str, cell: Cell, costs: dict[str, dict[str, Any]]) -> float | int | None:
    """The number of a cost cell, by its convention, from the entries of a cost record; None if it was not counted."""

    def of(name: str) -> int | None:
        experiment = project.resolve(name, scale)
        entry = costs.get(experiment.network_digest) if experiment else None
        if entry is None:
            return None
        if cell.metric == MULTIPLY_ADDS:
            return entry["convolution"] + (entry["linear"] if cell.counted == "with linear layers" else 0)
        return entry["weights" if cell.counted == "with batch norm" else "weights_without_batch_norm"]

    there = next((name for name in cell.experiments if project.resolve(name, scale)), None)
    value = of(there) if there else None
    if value is None or cell.share_of is None:
        return value
    whole = of(cell.share_of)
    return 100 * value / whole if whole else None


def fill(project: Project, scale: str, records: Records) -> Iterator[Filled]:
    """Every cell of every table, in order."""
    for table in project.tables.values():
        for row in table.rows:
            for column, cell in row.cells.items():
                yield _fill(project, scale, records, table, row, column, cell)


def _fill(project: Project, scale: str, records: Records, table: Table, row: Row, column: str, cell: Cell) -> Filled:
    def filled(experiment, found, text, measured, judged, cost_record=None) -> Filled:
        return Filled(
            table, row, column, cell, experiment, found, text, published_text(cell), measured, judged, cost_record
        )

    if cell.quoted:
        return filled(None, [], published_text(cell), None, "quoted")
    if cell.not_rebuilt:
        return filled(None, [], NOT_REBUILT, None, NOT_REBUILT)
    resolved = [project.resolve(name, scale) for name in cell.experiments]
    there = [experiment for experiment in resolved if experiment]
    if not there:
        return filled(None, [], NO_COUNTERPART, None, NO_COUNTERPART)
    if cell.is_cost:
        value = counted_value(project, scale, cell, records.costs())
        if value is None:
            return filled(there[0], [], NOT_COUNTED, None, NOT_COUNTED)
        comparable = project.scale(scale).published and cell.published is not None
        judged = verdict.judge_count(value, cell.published) if comparable else NOT_COMPARABLE
        text = verdict.count_text(value, cell.published)
        return filled(there[0], [], text, value, judged, records.results / measurement.COST / measurement.COST_JSON)
    if cell.is_fact:
        tests = records.tested(there[0], SINGLE_VIEW)
        fact = facts.rebuild(project, scale, cell, there[0], tests) if tests else None
        return filled(there[0], tests, *(fact or (NOT_RUN, None, NOT_RUN)))
    candidates = [(experiment, found) for experiment in there if (found := records.tested(experiment, cell.tested_by))]
    if not candidates:
        return filled(there[0], [], NOT_RUN, None, NOT_RUN)

    # Of several experiments the lowest error counts: "all of these fail" is refuted by one that does not.
    def height(candidate: tuple[Experiment, list[Tested]]) -> float:
        value = verdict.median([tested.error(cell) for tested in candidate[1]])
        return float("inf") if value is None else value

    experiment, found = min(candidates, key=height)
    dataset = experiment.parameters["dataset"]["name"]
    errors = [tested.error(cell) for tested in found]
    of_mean = cell.metric == MEAN
    finite = [error for error in errors if error is not None]
    value = verdict.median(errors)
    if cell.metric == BEST_RUN and finite:
        value = min(finite)
    failed = verdict.fails(value, project.reporting, dataset)
    if of_mean and not failed and len(finite) < len(errors):
        return filled(experiment, found, NO_MEAN, None, verdict.UNDECIDED)
    if of_mean and len(finite) == len(errors):
        value = statistics.fmean(finite)
    failed = verdict.fails(value, project.reporting, dataset)
    measured: float | str = verdict.FAIL if failed else float(value)
    text = verdict.FAIL if failed else _number(value, cell)
    if of_mean and not failed:
        text += f"±{_number(statistics.stdev(finite), cell)}" if len(finite) > 1 else "±-"
    arithmetic = found[0].record.metrics["arithmetic"]
    if arithmetic != ARITHMETICS[0]:  # the papers' own needs no word
        text += f" ({arithmetic})"
    if not project.scale(scale).published or cell.published is None:
        return filled(experiment, found, text, measured, NOT_COMPARABLE)
    if cell.metric == BEST_RUN:  # chosen among the runs by the test set
        return filled(experiment, found, text, measured, verdict.NOT_JUDGED)
    published, cell_of_rule = published_number(cell)
    judged = verdict.judge(value, published, errors, cell_of_rule, dataset, project.reporting, of_mean)
    if len(candidates) < len(there) and judged == verdict.AGREES:
        judged = verdict.UNDECIDED  # not all experiments of the row were run
    return filled(experiment, found, text, measured, judged)
