"""What the papers say of their networks, judged by the records: the rule that results/README.md states."""

import csv
import io
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..parameters import Project
from ..parameters.claims import EARLY_GRADIENT, GRADIENTS, TRAINING_ERROR, TRAINING_LOSS, Claim
from ..parameters.reports import SINGLE_VIEW, TEST_ERROR, Cell, Reporting
from ..records import measurement, run
from ..records.experiment import Experiment
from ..records.propagation import SIGNALS_CSV, signals_of
from . import verdict
from .cells import NO_COUNTERPART, Records

HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN = "holds", "contradicted", "undecided", "not run"
OPEN = "open"  # of a claim: nothing contradicts it, and not all of it was run
RUNS = 5  # of the papers' medians

RULE = """\
A claim is a number of comparisons: one network lies below another. They are decided by the standard error *se* of the
difference of two medians, each with the spread of its own runs. Of test errors there is a prior spread for fewer than
3 runs ({prior}); training errors and losses need 3. A comparison **holds** if the difference is more than {beyond:g}
se, is **contradicted** if it is more than {beyond:g} se the other way, else it is **undecided**. Of a network that is
said to be no worse, the difference may fall short by the resolution ({resolution}) to hold. It is also undecided
between runs of unequal arithmetic, and between two networks that both fail. A run that diverged lies above all that
did not. With five runs on both sides and the prior spread a difference of {smallest} is the smallest that decides:
*on paper* says what the rule makes of the papers' own numbers. Gradients are of one seed and compared by size: a
factor of {factor:g} or more decides. A claim holds if all of its comparisons hold, and is contradicted if one is; it
is **open** while some were not run. One that was made after its records were seen only tells what they show: they do
not test it."""


def rule(project: Project, scale: str) -> str:
    """The rule in words, with its constants."""
    reporting = project.reporting
    names = {name for claim in project.claims.claims for pair in claim.pairs() for name in pair}
    experiments = filter(None, (project.resolve(name, scale) for name in sorted(names)))
    datasets = sorted({experiment.parameters["dataset"]["name"] for experiment in experiments})

    def by_dataset(value: Callable[[float], float]) -> str:
        return ", ".join(f"{value(reporting.prior_deviation[name]):.2g} points on {name}" for name in datasets)

    def smallest(prior: float) -> float:
        return reporting.differs_beyond * math.sqrt(2 * verdict.variance_of(prior, RUNS))

    return "\n".join(
        textwrap.wrap(
            RULE.format(
                prior=by_dataset(lambda prior: prior),
                smallest=by_dataset(smallest),
                beyond=reporting.differs_beyond,
                factor=reporting.gradient_factor,
                resolution=", ".join(f"{reporting.resolution[name]:g} points on {name}" for name in datasets),
            ),
            120,
            break_on_hyphens=False,
        )
    )


@dataclass(frozen=True)
class Side:
    """What was measured of one network.

    Attributes:
        values: of its runs; None of one that diverged.
        records: of these runs; of a gradient none.
        measured: the file of a gradient.
    """

    experiment: Experiment
    values: list[float | None]
    records: list[run.Record] = field(default_factory=list)
    measured: Path | None = None

    @property
    def arithmetic(self) -> str:
        """Of the runs; empty of a gradient."""
        return self.records[0].metrics["arithmetic"] if self.records else ""

    @property
    def paths(self) -> list[Path]:
        """The files that the values come from."""
        return [self.measured] if self.measured else [record.path for record in self.records]

    @property
    def value(self) -> float | None:
        """The median; None if it diverged."""
        return verdict.median(self.values)

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def deviation(self) -> float | None:
        """Of the runs; None of one run, or where some diverged."""
        whole = len(self.finite) == len(self.values)
        return statistics.stdev(self.finite) if whole and len(self.values) > 1 else None


@dataclass(frozen=True)
class Pair:
    """One comparison of a claim: is `lower` below `higher`?

    Attributes:
        names: of the two experiments.
        lower, higher: what was measured; None where nothing was, or the scale has no counterpart.
        published: their published test errors, where the claim is of these.
        on_paper: what the rule says of the published numbers, with the papers' runs and the prior spread; None where
            they do not print both.
        error: standard error of the difference; None of gradients, and where nothing says how the runs spread.
        verdict: HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN or "no counterpart".
    """

    names: tuple[str, str]
    lower: Side | None
    higher: Side | None
    published: tuple[float | str | None, float | str | None]
    on_paper: str | None
    error: float | None
    verdict: str

    @property
    def sides(self) -> list[Side]:
        """Those of which there is something."""
        return [side for side in (self.lower, self.higher) if side]


@dataclass(frozen=True)
class Judged:
    """A claim with its comparisons."""

    claim: Claim
    pairs: list[Pair]

    @property
    def counts(self) -> Counter[str]:
        return Counter(pair.verdict for pair in self.pairs if pair.verdict != NO_COUNTERPART)

    @property
    def on_paper(self) -> Counter[str]:
        """Of the comparisons of which the papers print both numbers."""
        return Counter(pair.on_paper for pair in self.pairs if pair.on_paper and pair.verdict != NO_COUNTERPART)

    @property
    def verdict(self) -> str:
        found = self.counts
        if found[CONTRADICTED]:
            return CONTRADICTED
        if found[NOT_RUN] == found.total():
            return NOT_RUN if found else NO_COUNTERPART
        if found[NOT_RUN]:
            return OPEN
        return UNDECIDED if found[UNDECIDED] else HOLDS


def judge(project: Project, scale: str, records: Records) -> Iterator[Judged]:
    """Every claim, in order."""
    for claim in project.claims.claims:
        yield Judged(claim, [_pair(project, scale, records, claim, names) for names in claim.pairs()])


def _pair(project: Project, scale: str, records: Records, claim: Claim, names: tuple[str, str]) -> Pair:
    experiments = [project.resolve(name, scale) for name in names]
    cells = [_printed(project, name) for name in names] if claim.metric == TEST_ERROR else [None, None]
    published = tuple(cell and cell.published for cell in cells)
    # Two names may be one network at a smaller scale: there is nothing to compare.
    if None in experiments or experiments[0].digest == experiments[1].digest:
        return Pair(names, None, None, published, None, None, NO_COUNTERPART)
    datasets = [experiment.parameters["dataset"]["name"] for experiment in experiments]
    on_paper = None if None in published else _on_paper(project.reporting, cells, datasets)
    sides = [side_of(project, records, claim.metric, experiment) for experiment in experiments]
    if None in sides:
        return Pair(names, *sides, published, on_paper, None, NOT_RUN)
    if claim.metric in GRADIENTS:
        found = _verdict_of_gradients(*(side.value for side in sides), project.reporting.gradient_factor)
        return Pair(names, *sides, published, on_paper, None, found)
    error = _standard_error(project.reporting, claim.metric, sides, datasets)
    limits = [verdict.limit(project.reporting, name) if claim.metric == TEST_ERROR else math.inf for name in datasets]
    margin = project.reporting.resolution[datasets[1]] if claim.is_no_worse(*names) else 0.0
    found = _verdict([side.value for side in sides], error, limits, project.reporting.differs_beyond, margin)
    if sides[0].arithmetic != sides[1].arithmetic:
        found = UNDECIDED
    return Pair(names, *sides, published, on_paper, error, found)


def _printed(project: Project, name: str) -> Cell | None:
    """The first cell that prints a test error of an experiment."""
    cells = (cell for cell in project.cells() if cell.metric == TEST_ERROR and cell.tested_by == SINGLE_VIEW)
    return next((cell for cell in cells if name in cell.experiments and cell.published is not None), None)


def _on_paper(reporting: Reporting, cells: Sequence[Cell], datasets: Sequence[str]) -> str:
    """What the rule says of two published numbers; "fail" has none."""
    values = [None if cell.published == verdict.FAIL else float(cell.published) for cell in cells]
    total = 0.0
    for cell, dataset in zip(cells, datasets, strict=True):
        spread = reporting.prior_deviation[dataset] if cell.published_deviation is None else cell.published_deviation
        total += verdict.variance_of(spread, cell.published_runs)
    return _verdict(values, math.sqrt(total), [math.inf] * 2, reporting.differs_beyond)


def side_of(project: Project, records: Records, metric: str, experiment: Experiment) -> Side | None:
    """What was measured of an experiment by a claim's metric; None if nothing was."""
    if metric in GRADIENTS:
        return _gradient(project, records, metric, experiment)
    found = records.of(experiment)
    if not found:
        return None
    key = {TEST_ERROR: "test_error", TRAINING_ERROR: "training_error", TRAINING_LOSS: "training_loss"}[metric]
    values = [None if record.metrics["status"] == "diverged" else record.metrics[key] for record in found]
    return Side(experiment, values, found)


def _gradient(project: Project, records: Records, metric: str, experiment: Experiment) -> Side | None:
    """Norm of the gradient at the first unit by the norm at the last, of the record of signals."""
    iterations = project.scale(experiment.scale).signal_iterations
    folder = signals_of(records.results, experiment, iterations)
    try:
        content = measurement.read_of(folder, SIGNALS_CSV, experiment)
        if content is None:
            return None
        wanted = str(iterations if metric == EARLY_GRADIENT else 0)
        rows = [row for row in csv.DictReader(io.StringIO(content.decode())) if row["iteration"] == wanted]
        # Row 0 is the stem, whose output is the first unit's input.
        first, last = float(rows[0]["gradient_norm"]), float(rows[-1]["gradient_norm"])
        value = first / last if last else math.nan  # a dead network passes nothing anywhere
    except run.BadRecord as error:
        records.note(error)
        return None
    except (ValueError, KeyError, IndexError):
        records.note(f"{folder / SIGNALS_CSV}: not a table of signals: remove the folder to have it made again")
        return None
    records.signals[folder] = experiment
    return Side(experiment, [value if math.isfinite(value) else None], measured=folder / SIGNALS_CSV)


def _standard_error(reporting: Reporting, metric: str, sides: Sequence[Side], datasets: Sequence[str]) -> float | None:
    """Of the difference of two medians; None where too few runs say how they spread."""
    if metric != TEST_ERROR and min(len(side.finite) for side in sides) < verdict.ENOUGH:
        return None
    priors = [reporting.prior_deviation[name] for name in datasets]
    return math.sqrt(sum(verdict.variance(side.values, prior) for side, prior in zip(sides, priors, strict=True)))


def _verdict(
    values: Sequence[float | None], error: float | None, limits: Sequence[float], beyond: float, margin: float = 0.0
) -> str:
    """Of two medians (None: diverged), the first of which is said to be lower, and the limits above which they fail.

    Args:
        margin: points by which the first may lie above the second, where it is only said to be no worse.
    """
    lower, higher = values
    if all(value is None or value > limit for value, limit in zip(values, limits, strict=True)):
        return UNDECIDED  # both fail
    if lower is None or higher is None:
        return HOLDS if higher is None else CONTRADICTED
    if error is None:
        return UNDECIDED
    if higher + margin - lower > beyond * error:
        return HOLDS
    return CONTRADICTED if lower - higher > beyond * error else UNDECIDED


def _verdict_of_gradients(lower: float | None, higher: float | None, factor: float) -> str:
    if lower is None or higher is None or max(lower, higher) < factor * min(lower, higher):
        return UNDECIDED
    if lower == higher:  # both 0: below what float32 can hold
        return UNDECIDED
    return HOLDS if higher > lower else CONTRADICTED
