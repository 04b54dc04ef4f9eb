"""The cells of all tables, filled from the records that are there."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
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
    Cell,
    Row,
    Table,
)  # fmt: skip
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from . import facts, verdict
from .store import Records, Tested

NOT_RUN, NO_COUNTERPART, NOT_COUNTED, NOT_REBUILT = "not run", "no counterpart", "not counted", "not rebuilt"
NO_MEAN, NOT_COMPARABLE, QUOTED = "a run diverged", "not comparable", "quoted"
NOT_TO_BE_REBUILT = (QUOTED, NO_COUNTERPART, NOT_REBUILT)


@dataclass(frozen=True)
class FilledCell:
    """A cell of a table with what was measured for it."""

    table: Table
    row: Row
    column: str
    cell: Cell
    experiment: Experiment | None  # None where the scale has no counterpart, or the number is not rebuilt
    tests: list[Tested]  # of its runs, by the cell's protocol
    text: str  # as it stands in tables.md
    measured: float | str | None  # the rebuilt number, "fail", or None
    verdict: str  # of `verdict`, or why there is none
    cost_record: Path | None = None  # that a count was read from
    others: list[Tested] = field(default_factory=list)  # of the experiments that were compared, and not chosen

    @property
    def place(self) -> str:
        """A cell as a person names it: "he2016, Table 1 · original · error"."""
        return f"{name_place(self.table.paper, self.table.table)} · {self.row.name} · {self.column}"

    @property
    def name(self) -> str:
        """Of the experiment; of one that is not rebuilt at this scale, of the first that the table names."""
        return self.experiment.name if self.experiment else next(iter(self.cell.experiments), "")

    @property
    def digest(self) -> str:
        return self.experiment.digest if self.experiment else ""

    @property
    def published_text(self) -> str:
        """As it stands in paper.md."""
        return format_published_cell(self.cell)

    @property
    def is_to_be_rebuilt(self) -> bool:
        return self.verdict not in NOT_TO_BE_REBUILT

    @property
    def records(self) -> list[run.Record]:
        return [tested.record for tested in (*self.tests, *self.others)]

    @property
    def errors(self) -> list[float | None]:
        return [tested.read_value(self.cell) for tested in self.tests]

    @property
    def finite(self) -> list[float]:
        """The errors of the runs that did not diverge."""
        return [error for error in self.errors if error is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.finite) if self.finite and None not in self.errors else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.finite) if self.mean is not None and len(self.errors) > 1 else None

    @property
    def best(self) -> float | None:
        """The median of the lowest test error of each run: chosen on the test set; of CIFAR's test only."""
        if self.cell.tested_by != SINGLE_VIEW:
            return None
        bests = [tested.record.metrics["best"] for tested in self.tests]
        lowest = [best["test_error"] for best in bests if best]
        return statistics.median(lowest) if lowest else None

    @property
    def arithmetic(self) -> str:
        return ", ".join(sorted({record.metrics["arithmetic"] for record in self.records}))

    @property
    def paths(self) -> list[Path]:
        """The files that the number comes from."""
        return [self.cost_record] if self.cost_record else [tested.path for tested in (*self.tests, *self.others)]

    @property
    def difference(self) -> float | None:
        measured, published = self.measured, self.cell.published
        if isinstance(measured, float) and isinstance(published, (int, float)) and not self.cell.is_cost:
            return measured - published
        return None

    def as_json(self, root: Path) -> dict[str, Any]:
        return round_numbers({
            "paper": self.table.paper,
            "table": self.table.table,
            "row": self.row.name,
            "column": self.column,
            "dataset": self.experiment.parameters["dataset"]["name"] if self.experiment else self.cell.dataset,
            "network": self.cell.network,
            "experiment": self.name or None,
            "metric": self.cell.metric,
            "protocol": self.cell.tested_by,
            "counted": self.cell.counted,
            "published": self.cell.published,
            "measured": self.measured,
            "runs": len(self.records),
            "mean": self.mean,
            "std": self.deviation,
            "best": self.best,
            "arithmetic": self.arithmetic or None,
            "difference": self.difference,
            "records": [path.relative_to(root).as_posix() for path in self.paths],
            "verdict": self.verdict,
        })  # fmt: skip


def round_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """To the 4 decimals that JSON files have."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def name_place(paper: str, text: str) -> str:
    return text if paper == "own" else f"{paper}, {text}"


def _format(value: float, cell: Cell) -> str:
    return f"{value:.{cell.decimals}f}"


def format_published_cell(cell: Cell) -> str:
    if cell.published is None:
        return "-"
    text = _format(cell.published, cell) if isinstance(cell.published, (int, float)) else cell.published
    return f"{text} (quoted)" if cell.quoted else text


def parse_published(cell: Cell) -> tuple[float | str | None, Cell]:
    """A published error as a number (or "fail"), and the cell with the deviation that stands beside a mean."""
    if cell.metric == MEAN and isinstance(cell.published, str) and cell.published != verdict.FAIL:
        mean, deviation = cell.published.split("±")
        return float(mean), cell.model_copy(update={"published_deviation": float(deviation)})
    return cell.published, cell


def find_count(project: Project, scale: str, cell: Cell, costs: dict[str, dict[str, Any]]) -> float | int | None:
    """The number of a cost cell, by its convention, from the entries of a cost record; None if it was not counted."""

    def count(name: str) -> int | None:
        experiment = project.resolve(name, scale)
        entry = costs.get(experiment.network_digest) if experiment else None
        if entry is None:
            return None
        if cell.metric == MULTIPLY_ADDS:
            return entry["convolution"] + (entry["linear"] if cell.counted == "with linear layers" else 0)
        return entry["weights" if cell.counted == "with batch norm" else "weights_without_batch_norm"]

    value = next((count(name) for name in cell.experiments if project.resolve(name, scale)), None)
    if value is None or cell.share_of is None:
        return value
    whole = count(cell.share_of)
    return 100 * value / whole if whole else None


def count_cells(cells: Iterable[FilledCell]) -> tuple[int, int]:
    """How many cells have a rebuilt number, and how many are to have one: the same wherever it is said."""
    wanted = [cell for cell in cells if cell.is_to_be_rebuilt]
    return sum(cell.measured is not None for cell in wanted), len(wanted)


def fill_cells(records: Records) -> Iterator[FilledCell]:
    """Every cell of every table, in order."""
    for table in records.project.tables.values():
        for row in table.rows:
            for column, cell in row.cells.items():
                yield _fill(records, cell, partial(FilledCell, table, row, column, cell))


def _fill(records: Records, cell: Cell, make_cell: Callable[..., FilledCell]) -> FilledCell:
    if cell.quoted:
        return make_cell(None, [], format_published_cell(cell), None, QUOTED)
    resolved = (records.project.resolve(name, records.scale) for name in cell.experiments)
    experiments = [experiment for experiment in resolved if experiment]
    if not experiments:
        reason = NOT_REBUILT if cell.not_rebuilt else NO_COUNTERPART
        return make_cell(None, [], reason, None, reason)
    if cell.is_cost:
        return _fill_count(records, cell, partial(make_cell, experiments[0], []))
    candidates = []
    for experiment in experiments:
        if tests := records.read_tests(experiment, cell.tested_by):
            median = verdict.median([tested.read_value(cell) for tested in tests])
            rank = math.inf if median is None else -median if cell.metric in (MAP_50, MAP) else median
            candidates.append((rank, experiment, tests))
    if not candidates:
        return make_cell(experiments[0], [], NOT_RUN, None, NOT_RUN)
    # Of several experiments the best counts: "all of these fail" is refuted by one that does not.
    _, experiment, tests = min(candidates, key=itemgetter(0))
    complete = len(candidates) == len(experiments)
    if not cell.is_fact:
        return make_cell(experiment, tests, *_judge_error(records, cell, experiment, tests, complete))
    fact = facts.rebuild(records, cell, experiment, tests, complete) or (NOT_RUN, None, NOT_RUN)
    others = [tested for _, other, found in candidates if other is not experiment for tested in found]
    return make_cell(experiment, tests, *fact, others=others)


def _fill_count(records: Records, cell: Cell, make_cell: Callable[..., FilledCell]) -> FilledCell:
    value = find_count(records.project, records.scale, cell, records.costs)
    if value is None:
        return make_cell(NOT_COUNTED, None, NOT_COUNTED)
    judged = NOT_COMPARABLE
    if records.settings.published and cell.published is not None:
        judged = verdict.judge_count(value, cell.published)
    text = verdict.format_count(value, cell.published)
    return make_cell(text, value, judged, records.results / measurement.COST / measurement.COST_JSON)


def _judge_error(
    records: Records, cell: Cell, experiment: Experiment, tests: list[Tested], complete: bool
) -> tuple[str, float | str | None, str]:
    """Text, number and verdict of an error; `complete`: all experiments of the row were run."""
    reporting, dataset = records.reporting, experiment.parameters["dataset"]["name"]
    errors = [tested.read_value(cell) for tested in tests]
    finite = [error for error in errors if error is not None]
    value, of_mean = verdict.median(errors), cell.metric == MEAN
    if of_mean and not verdict.fails(value, reporting, dataset) and len(finite) < len(errors):
        return NO_MEAN, None, verdict.UNDECIDED
    if cell.metric == BEST_RUN and finite:
        value = min(finite)
    elif of_mean and len(finite) == len(errors):
        value = statistics.fmean(finite)
    measured: float | str = verdict.FAIL
    text = verdict.FAIL
    if value is not None and not verdict.fails(value, reporting, dataset):
        measured, text = float(value), _format(value, cell)
        if of_mean:
            text += f"±{_format(statistics.stdev(finite), cell)}" if len(finite) > 1 else "±-"
    arithmetic = tests[0].record.metrics["arithmetic"]
    text += "" if arithmetic == ARITHMETICS[0] else f" ({arithmetic})"  # the papers' own is not named
    published, cell_of_rule = parse_published(cell)
    if not records.settings.published or published is None:
        return text, measured, NOT_COMPARABLE
    if cell.metric == BEST_RUN:  # chosen among the runs by the test set
        return text, measured, verdict.NOT_JUDGED
    judged = verdict.judge_error(value, published, errors, cell_of_rule, dataset, reporting, of_mean)
    return text, measured, verdict.UNDECIDED if judged == verdict.AGREES and not complete else judged
