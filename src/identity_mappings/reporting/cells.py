"""The cells of all tables, filled from the records that are there."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..parameters.models import Cell, Row, Table
from ..records import run
from ..records.experiment import Experiment
from . import verdict

NOT_RUN, NO_COUNTERPART, NOT_COUNTED = "not run", "no counterpart", "not counted"
NO_MEAN = "a run diverged"
MEAN = "test error %, mean ± standard deviation"


@dataclass
class Records:
    """The records of a scale, each read once; what is wrong with the others is kept for the page."""

    project: Project
    scale: str
    bad: list[str] = field(default_factory=list)
    _read: dict[str, list[run.Record]] = field(default_factory=dict)

    def of(self, experiment: Experiment) -> list[run.Record]:
        """Of the wanted seeds, those that are there and are what they say."""
        if experiment.folder not in self._read:
            settings = self.project.scale(self.scale)
            found = []
            for seed in range(settings.runs):
                folder = run.folder_of(self.project.root / settings.results, experiment, seed)
                try:
                    record = run.read(folder, experiment, seed)
                except run.BadRecord as error:
                    self.bad.append(str(error))
                    continue
                if record:
                    found.append(record)
            self._read[experiment.folder] = found
        return self._read[experiment.folder]


@dataclass(frozen=True)
class Filled:
    """A cell with what was measured for it.

    Attributes:
        table, row, column, cell: its place and parameters.
        experiment: that the number is of; None where the scale has no counterpart or the row is quoted.
        records: of its runs.
        text: as it stands in tables.md.
        published_text: as it stands in paper.md.
        measured: the rebuilt number, "fail", or None.
        verdict: of `verdict`, or why there is none.
    """

    table: Table
    row: Row
    column: str
    cell: Cell
    experiment: Experiment | None
    records: list[run.Record]
    text: str
    published_text: str
    measured: float | str | None
    verdict: str

    @property
    def errors(self) -> list[float | None]:
        return [record.test_error for record in self.records]

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
        """Median over the runs of the lowest test error of each: chosen on the test set."""
        lowest = [record.metrics["best"]["test_error"] for record in self.records if record.metrics["best"]]
        return statistics.median(lowest) if lowest else None

    @property
    def arithmetic(self) -> str:
        return ", ".join(sorted({record.metrics["arithmetic"] for record in self.records}))

    @property
    def difference(self) -> float | None:
        comparable = isinstance(self.measured, float) and isinstance(self.cell.published, (int, float))
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
            "published": self.cell.published,
            "measured": rounded(self.measured),
            "runs": len(self.records),
            "mean": rounded(self.mean),
            "std": rounded(self.deviation),
            "best": rounded(self.best),
            "arithmetic": self.arithmetic or None,
            "difference": rounded(self.difference),
            "records": [record.path.relative_to(root).as_posix() for record in self.records],
            "verdict": self.verdict,
        }


def _number(value: float) -> str:
    return f"{value:.2f}"


def published_text(cell: Cell) -> str:
    if cell.published is None:
        return "-"
    text = _number(cell.published) if isinstance(cell.published, (int, float)) else cell.published
    return f"{text} (quoted)" if cell.quoted else text


def fill(project: Project, scale: str, records: Records) -> Iterator[Filled]:
    """Every cell of every table, in order."""
    for table in project.tables.values():
        for row in table.rows:
            for column, cell in row.cells.items():
                yield _fill(project, scale, records, table, row, column, cell)


def _fill(project: Project, scale: str, records: Records, table: Table, row: Row, column: str, cell: Cell) -> Filled:
    def filled(experiment, found, text, measured, judged) -> Filled:
        return Filled(table, row, column, cell, experiment, found, text, published_text(cell), measured, judged)

    if cell.quoted:
        return filled(None, [], published_text(cell), None, "quoted")
    resolved = [project.resolve(name, scale) for name in cell.experiments]
    there = [experiment for experiment in resolved if experiment]
    if not there:
        return filled(None, [], NO_COUNTERPART, None, NO_COUNTERPART)
    if cell.metric == "parameters":
        return filled(there[0], [], NOT_COUNTED, None, NOT_COUNTED)
    candidates = [(experiment, found) for experiment in there if (found := records.of(experiment))]
    if not candidates:
        return filled(there[0], [], NOT_RUN, None, NOT_RUN)

    # Of several experiments the lowest error counts: "all of these fail" is refuted by one that does not.
    def height(candidate: tuple[Experiment, list[run.Record]]) -> float:
        value = verdict.median([record.test_error for record in candidate[1]])
        return float("inf") if value is None else value

    experiment, found = min(candidates, key=height)
    errors = [record.test_error for record in found]
    of_mean = cell.metric == MEAN
    finite = [error for error in errors if error is not None]
    value = verdict.median(errors)
    failed = verdict.fails(value, project.reporting)
    if of_mean and not failed and len(finite) < len(errors):
        return filled(experiment, found, NO_MEAN, None, verdict.UNDECIDED)
    if of_mean and len(finite) == len(errors):
        value = statistics.fmean(finite)
    failed = verdict.fails(value, project.reporting)
    measured: float | str = verdict.FAIL if failed else float(value)
    text = verdict.FAIL if failed else _number(value)
    if of_mean and not failed:
        text += f"±{_number(statistics.stdev(finite))}" if len(finite) > 1 else "±-"
    if not project.scale(scale).published or cell.published is None:
        return filled(experiment, found, text, measured, "not comparable")
    published = cell.published
    if of_mean and isinstance(published, str):
        mean, deviation = published.split("±")
        published, cell_of_rule = float(mean), cell.model_copy(update={"published_deviation": float(deviation)})
    else:
        cell_of_rule = cell
    dataset = experiment.parameters["dataset"]["name"]
    judged = verdict.judge(value, published, errors, cell_of_rule, dataset, project.reporting, of_mean)
    if len(candidates) < len(there) and judged == verdict.AGREES:
        judged = verdict.UNDECIDED  # not all experiments of the row were run
    return filled(experiment, found, text, measured, judged)
