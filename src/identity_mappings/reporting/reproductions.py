"""What others report of a cell, and what their numbers say of a claim: each report by itself, by the rule for ours."""

import math
import statistics
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass

from ..parameters import Project
from ..parameters.claims import Claim
from ..parameters.reports import BEST_RUN, MEAN, SINGLE_VIEW, TEST_ERROR, Cell
from ..parameters.reproductions import Number, Report
from . import verdict
from .claims import CONTRADICTED, HOLDS, UNDECIDED, judge_values

EPOCHS = ("last", "unknown", "best of validation", "best of test")


@dataclass(frozen=True)
class Found:
    """A number of others with the report that has it."""

    number: Number
    report: Report


@dataclass(frozen=True)
class Summary:
    """The numbers of independent sources; a source with several counts with their median."""

    median: float
    lowest: float
    highest: float
    sources: int

    @property
    def text(self) -> str:
        if self.sources == 1:
            return f"{self.median:.2f} (1 source)"
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f}, {self.sources} sources)"


@dataclass(frozen=True)
class Compared:
    """A comparison of a claim by the numbers of one report."""

    report: str
    source: str
    names: tuple[str, str]  # of the experiments whose networks they are; the first is said to be lower
    values: tuple[float, float]
    error: float  # standard error of the difference
    verdict: str  # HOLDS, CONTRADICTED or UNDECIDED


def _get_quantity(cell: Cell) -> tuple:
    """What a number of a cell is of: cells of several tables have the same network's error."""
    metric = TEST_ERROR if cell.metric in (BEST_RUN, MEAN) else cell.metric
    return tuple(cell.experiments), metric, cell.tested_by


def find_numbers(project: Project, cell: Cell) -> list[Found]:
    """What others report of a cell, here or in another table, also what counts for nothing."""
    if not cell.is_error or not cell.experiments:
        return []
    others, cells = project.reproductions, project.cells_by_place()
    return [
        Found(number, others.reports[number.report])
        for entry in others.cells
        if _get_quantity(cells[entry.place]) == _get_quantity(cell)
        for number in entry.numbers
    ]


def summarize(found: list[Found]) -> dict[tuple[str, str], Summary]:
    """{(epoch, recipe): summary} of the numbers that count: a best epoch is not comparable with a last one.

    The nearest to the papers' statistic and recipe comes first.
    """
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in found:
        if one.number.counts:
            by_source = values.setdefault((one.report.epoch, one.report.recipe), {})
            by_source.setdefault(one.report.source, []).append(one.number.value)
    summaries = {}
    for key, by_source in sorted(values.items(), key=lambda item: (item[0][1] != "same", EPOCHS.index(item[0][0]))):
        everything = [value for several in by_source.values() for value in several]
        median = statistics.median(map(statistics.median, by_source.values()))
        summaries[key] = Summary(median, min(everything), max(everything), len(by_source))
    return summaries


def name_statistic(epoch: str, recipe: str) -> str:
    """What the numbers of a summary are: "best of test, other recipe"; empty if they are of the kind of the papers'."""
    words = {"last": "", "unknown": "epoch not said"}.get(epoch, epoch), "other recipe" if recipe == "other" else ""
    return ", ".join(filter(None, words))


def count_independent(found: list[Found]) -> int:
    """Sources with a number that counts."""
    return len({one.report.source for one in found if one.number.counts})


def describe(found: list[Found]) -> str:
    """The summary that is nearest to the papers' statistic and recipe, and that of best epochs; empty without any."""
    summaries = summarize(found)
    shown = dict.fromkeys([*list(summaries)[:1], *({("best of test", "same")} & summaries.keys())])
    texts = [" ".join(filter(None, (name_statistic(*key), summaries[key].text))) for key in shown]
    return "; ".join(texts)


def format_number(number: Number) -> str:
    return f"{number.value:.2f}" + ("" if number.deviation is None else f" ± {number.deviation:.2f}")


def describe_report(project: Project, report: Report) -> dict[str, str]:
    """Where numbers of others stand, and what they are."""
    source = project.reproductions.sources[report.source]
    runs = "one run" if report.runs == 1 else f"{report.summary} of {report.runs or 'several'} runs"
    epoch = {"last": "last epoch", "unknown": "epoch not said"}.get(report.epoch, report.epoch)
    version = report.date or (report.commit or "")[:7]
    return {
        "name": source.name,
        "link": report.get_link(source),
        "place": f"{report.at} {version}".strip(),
        "statistic": f"{epoch}, {runs}, {report.recipe} recipe",
    }


def list_remarks(one: Found) -> list[str]:
    """What is to be known of a number, beginning with why it does not count."""
    return list(filter(None, (one.number.reason, one.number.remark, one.report.differs, one.report.remark)))


def compare_in_reports(project: Project, claim: Claim) -> Iterator[Compared]:
    """Each comparison of a claim on test errors by each report that has a number for both networks."""
    if claim.metric != TEST_ERROR:
        return
    single_view = [cell for cell in project.cells() if cell.tested_by == SINGLE_VIEW and len(cell.experiments) == 1]
    cells = {cell.experiments[0]: cell for cell in single_view if cell.is_error}
    reporting = project.reporting.get_limits("paper")
    for names in claim.pairs():
        if not all(name in cells for name in names):
            continue
        datasets = [project.experiments[name].dataset for name in names]
        limits = [verdict.limit(reporting, dataset) for dataset in datasets]
        margin = reporting.resolution[datasets[1]] if claim.is_no_worse(*names) else 0.0
        lower, higher = (
            {one.number.report: one for one in find_numbers(project, cells[name]) if one.number.counts}
            for name in names
        )
        for report in (name for name in lower if name in higher):
            sides = (lower[report], higher[report])
            values = (sides[0].number.value, sides[1].number.value)
            priors = [reporting.prior_deviation[dataset] for dataset in datasets]
            error = math.sqrt(sum(map(_get_variance, sides, priors)))
            found = judge_values(values, error, limits, reporting.differs_beyond, margin)
            yield Compared(report, sides[0].report.source, names, values, error, found)


def _get_variance(found: Found, prior: float) -> float:
    """Of the reported number; by the prior deviation where no spread of enough runs is reported."""
    runs, deviation = found.report.runs or 1, found.number.deviation
    known = prior if deviation is None or runs < verdict.ENOUGH else deviation
    return verdict.median_variance(known, runs, found.report.summary != "median")


def judge_together(counts: Container[str]) -> str:
    """The verdict of several comparisons, by the rule for a claim; empty without any."""
    return next((word for word in (CONTRADICTED, UNDECIDED, HOLDS) if word in counts), "")


def count_sources(compared: list[Compared]) -> Counter[str]:
    """Sources by what their comparisons say together."""
    by_source: dict[str, set[str]] = {}
    for one in compared:
        by_source.setdefault(one.source, set()).add(one.verdict)
    return Counter(map(judge_together, by_source.values()))
