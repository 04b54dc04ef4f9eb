"""What the papers say of their networks, judged by the records: the rule that results/README.md states."""

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..parameters import Project
from ..parameters.reports import SINGLE_VIEW, TEST_ERROR
from ..parameters.work import EARLY_GRADIENT, GRADIENTS, TRAINING_ERROR, TRAINING_LOSS, Claim
from ..records import measurement, run
from ..records.experiment import Experiment
from ..records.propagation import SIGNALS_CSV, signals_of
from . import verdict
from .cells import NO_COUNTERPART, Records

HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN = "holds", "contradicted", "undecided", "not run"
OPEN = "open"  # of a claim: nothing contradicts it, and not all of it was run

RULE = """\
A claim is a number of comparisons: one network lies below another. Errors and losses are compared by the standard
error *se* of the difference of two medians, each with the spread of its own runs, or with a prior one where there are
fewer than 3 ({prior}; there is none for a loss, which stays undecided). A comparison **holds** if the difference is
more than {beyond:g} se, is **contradicted** if it is more than {beyond:g} se the other way, else it is **undecided**. A
network that fails (a test error above {fail:g} %, or a loss that is not a number) lies above one that does not.
Gradients are of one seed and compared by size: a factor of {factor:g} or more decides. A claim holds if all of its
comparisons hold, and is contradicted if one is; it is **open** while some were not run."""


def rule(project: Project, scale: str) -> str:
    """The rule in words, with its constants."""
    reporting = project.reporting
    names = {name for claim in project.claims.claims for pair in claim.pairs() for name in pair}
    datasets = {e.parameters["dataset"]["name"] for name in names if (e := project.resolve(name, scale))}
    prior = ", ".join(f"{reporting.prior_deviation[name]:g} points on {name}" for name in sorted(datasets))
    return RULE.format(
        prior=prior, beyond=reporting.differs_beyond, fail=reporting.fail_above, factor=reporting.gradient_factor
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
    def deviation(self) -> float | None:
        finite = [value for value in self.values if value is not None]
        return statistics.stdev(finite) if len(finite) > 1 else None


@dataclass(frozen=True)
class Pair:
    """One comparison of a claim: is `lower` below `higher`?

    Attributes:
        names: of the two experiments.
        lower, higher: what was measured; None where nothing was, or the scale has no counterpart.
        published: their published test errors, where the claim is of these.
        error: standard error of the difference; of gradients None.
        verdict: HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN or "no counterpart".
    """

    names: tuple[str, str]
    lower: Side | None
    higher: Side | None
    published: tuple[float | str | None, float | str | None]
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
    published = tuple(_published(project, name) if claim.metric == TEST_ERROR else None for name in names)
    # Two names may be one network at a smaller scale: there is nothing to compare.
    if None in experiments or experiments[0].digest == experiments[1].digest:
        return Pair(names, None, None, published, None, NO_COUNTERPART)
    sides = [side_of(project, records, claim.metric, experiment) for experiment in experiments]
    if None in sides:
        return Pair(names, *sides, published, None, NOT_RUN)
    error = None if claim.metric in GRADIENTS else _standard_error(project, claim.metric, *sides)
    return Pair(names, *sides, published, error, _verdict(project, claim.metric, *sides, error))


def _published(project: Project, name: str) -> float | str | None:
    """The test error that the first table which has one prints of an experiment."""
    for cell in project.cells():
        if cell.metric == TEST_ERROR and cell.tested_by == SINGLE_VIEW and name in cell.experiments:
            return cell.published
    return None


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
        value = float(rows[0]["gradient_norm"]) / float(rows[-1]["gradient_norm"])
    except run.BadRecord as error:
        records.note(error)
        return None
    except (ValueError, KeyError, IndexError, ZeroDivisionError):
        records.note(f"{folder / SIGNALS_CSV}: not a table of signals: remove the folder to have it made again")
        return None
    return Side(experiment, [value if math.isfinite(value) else None], measured=folder / SIGNALS_CSV)


def _standard_error(project: Project, metric: str, lower: Side, higher: Side) -> float | None:
    """Of the difference of two medians; None where too few runs say how a loss spreads, or all diverged."""
    if metric == TRAINING_LOSS and min(len(lower.values), len(higher.values)) < 3:
        return None
    total = 0.0
    for side in (lower, higher):
        prior = project.reporting.prior_deviation[side.experiment.parameters["dataset"]["name"]]
        total += verdict.variance(side.values, prior)
    return math.sqrt(total)


def _verdict(project: Project, metric: str, lower: Side, higher: Side, error: float | None) -> str:
    reporting = project.reporting
    if metric in GRADIENTS:
        return _verdict_of_gradients(lower.value, higher.value, reporting.gradient_factor)
    limit = reporting.fail_above if metric == TEST_ERROR else math.inf
    failed = [side.value is None or side.value > limit for side in (lower, higher)]
    if any(failed):
        return UNDECIDED if all(failed) else HOLDS if failed[1] else CONTRADICTED
    distance = higher.value - lower.value
    if error is None or abs(distance) <= reporting.differs_beyond * error:
        return UNDECIDED
    return HOLDS if distance > 0 else CONTRADICTED


def _verdict_of_gradients(lower: float | None, higher: float | None, factor: float) -> str:
    if lower is None or higher is None or max(lower, higher) < factor * min(lower, higher):
        return UNDECIDED
    if lower == higher:  # both 0: below what float32 can hold
        return UNDECIDED
    return HOLDS if higher > lower else CONTRADICTED
