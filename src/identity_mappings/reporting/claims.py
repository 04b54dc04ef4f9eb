"""What the papers say of their networks, judged by the records, by the rule in templates/rules.md.jinja."""

import io
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas

from ..parameters import Project
from ..parameters.claims import EARLY_GRADIENT, GRADIENTS, TRAINING_ERROR, TRAINING_LOSS, Claim
from ..parameters.reports import SINGLE_VIEW, TEST_ERROR, Cell, Reporting
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from ..records.measurement import SIGNALS_CSV, get_signals_folder
from . import verdict
from .cells import NO_COUNTERPART
from .store import Records

HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN = "holds", "contradicted", "undecided", "not run"
OPEN = "open"  # of a claim: nothing contradicts it, and not all of it was run
METRICS = {TEST_ERROR: "test_error", TRAINING_ERROR: "training_error", TRAINING_LOSS: "training_loss"}


@dataclass(frozen=True)
class Side:
    """What was measured of one network of a comparison."""

    experiment: Experiment
    metric: str
    values: list[float | None]  # of its runs; None: the run diverged
    records: list[run.Record] = field(default_factory=list)  # of these runs; a gradient has none
    signals: Path | None = None  # the file that a gradient comes from

    @property
    def arithmetic(self) -> str:
        """Of the runs; empty of a gradient."""
        return self.records[0].metrics["arithmetic"] if self.records else ""

    @property
    def paths(self) -> list[Path]:
        """The files that the values come from."""
        return [self.signals] if self.signals else [record.path for record in self.records]

    @property
    def value(self) -> float | None:
        """The median; None if it diverged."""
        return verdict.median(self.values)

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def text(self) -> str:
        """As tables print it: errors in %, with the spread of the runs; gradients and losses with their digits."""
        form = ".2g" if self.metric in GRADIENTS else ".2f" if self.metric.endswith("%") else ".4f"
        if self.value is None:
            text = "no number" if self.metric in GRADIENTS else verdict.FAIL
        else:
            text = format(self.value, form)
        if diverged := len(self.values) - len(self.finite):
            text += f" ({diverged} diverged)"
        elif len(self.values) > 1:
            text += f" ± {statistics.stdev(self.finite):{form}}"
        return text if self.arithmetic in ("", ARITHMETICS[0]) else f"{text} ({self.arithmetic})"


def difference_text(lower: Side | None, higher: Side | None, error: float | None = None) -> str:
    """How far one lies above the other: a factor of gradients, else points."""
    if lower is None or higher is None or lower.value is None or higher.value is None:
        return ""
    if lower.metric in GRADIENTS:
        return f"{higher.value / lower.value:.2g} x" if lower.value else ""
    return f"{higher.value - lower.value:+.2f}" + ("" if error is None else f" ± {error:.2f}")


@dataclass(frozen=True)
class Pair:
    """One comparison of a claim: is `lower` below `higher`?"""

    names: tuple[str, str]  # of the two experiments
    lower: Side | None  # None where nothing was measured
    higher: Side | None
    published: tuple[float | str | None, float | str | None]  # their test errors, where the claim is of these
    on_paper: str | None  # the verdict on the published numbers, with the papers' runs and the prior spread
    error: float | None  # standard error of the difference; None of gradients, and where too few runs show a spread
    verdict: str  # HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN or NO_COUNTERPART

    @property
    def sides(self) -> list[Side]:
        """Those that were measured."""
        return [side for side in (self.lower, self.higher) if side]

    @property
    def both(self) -> list[tuple[str, Side | None, float | str | None]]:
        """Name, measurement and published number of the lower and the higher network."""
        return list(zip(self.names, (self.lower, self.higher), self.published, strict=True))

    @property
    def printed(self) -> list[float | str]:
        """The published errors of both; empty where one is not printed."""
        values = [value for value in self.published if value is not None]
        return values if len(values) == 2 else []

    @property
    def difference(self) -> str:
        return difference_text(self.lower, self.higher, self.error)


def format_published(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


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
    def source(self) -> str:
        return f"ours; {self.claim.source}" if self.claim.paper == "own" else f"{self.claim.paper}, {self.claim.source}"

    @property
    def verdict(self) -> str:
        counts = self.counts
        if counts[CONTRADICTED]:
            return CONTRADICTED
        if counts[NOT_RUN] == counts.total():
            return NOT_RUN if counts else NO_COUNTERPART
        if counts[NOT_RUN]:
            return OPEN
        return UNDECIDED if counts[UNDECIDED] else HOLDS


def judge_claims(records: Records) -> Iterator[Judged]:
    """Every claim, in order."""
    for claim in records.project.claims.claims:
        yield Judged(claim, [_compare_networks(records, claim, names) for names in claim.pairs()])


def _compare_networks(records: Records, claim: Claim, names: tuple[str, str]) -> Pair:
    reporting = records.reporting
    lower, higher = (records.project.resolve(name, records.scale) for name in names)
    cells = [_find_printed(records.project, name) if claim.metric == TEST_ERROR else None for name in names]
    published = cells[0].published if cells[0] else None, cells[1].published if cells[1] else None
    # Two names may be one network at a smaller scale: there is nothing to compare.
    if lower is None or higher is None or lower.digest == higher.digest:
        return Pair(names, None, None, published, None, None, NO_COUNTERPART)
    datasets = [experiment.parameters["dataset"]["name"] for experiment in (lower, higher)]
    printed = [cell for cell in cells if cell]
    on_paper = _judge_published(reporting, printed, datasets) if len(printed) == 2 else None
    low, high = (measure_side(records, claim.metric, experiment) for experiment in (lower, higher))
    if low is None or high is None:
        return Pair(names, low, high, published, on_paper, None, NOT_RUN)
    if claim.metric in GRADIENTS:
        found = _judge_gradients(low.value, high.value, reporting.gradient_factor)
        return Pair(names, low, high, published, on_paper, None, found)
    of_test, error = claim.metric == TEST_ERROR, None
    if of_test or min(len(low.finite), len(high.finite)) >= verdict.ENOUGH:  # else no spread is known
        priors = [reporting.prior_deviation[name] for name in datasets]
        error = math.sqrt(verdict.variance(low.values, priors[0]) + verdict.variance(high.values, priors[1]))
    limits = [verdict.limit(reporting, name) if of_test else math.inf for name in datasets]
    margin = reporting.resolution[datasets[1]] if claim.is_no_worse(*names) else 0.0
    found = judge_values([low.value, high.value], error, limits, reporting.differs_beyond, margin)
    if low.arithmetic != high.arithmetic:
        found = UNDECIDED
    return Pair(names, low, high, published, on_paper, error, found)


def _find_printed(project: Project, name: str) -> Cell | None:
    """The first cell that prints a test error of an experiment."""
    cells = (cell for cell in project.cells() if cell.metric == TEST_ERROR and cell.tested_by == SINGLE_VIEW)
    return next((cell for cell in cells if name in cell.experiments and cell.published is not None), None)


def _judge_published(reporting: Reporting, cells: Sequence[Cell], datasets: Sequence[str]) -> str:
    """The verdict on two published numbers; "fail" is above all others."""
    values = [None if cell.published == verdict.FAIL else float(cell.published or 0) for cell in cells]
    priors = [reporting.prior_deviation[dataset] for dataset in datasets]
    error = math.sqrt(sum(map(verdict.published_variance, cells, priors)))
    return judge_values(values, error, [math.inf] * 2, reporting.differs_beyond)


def measure_side(records: Records, metric: str, experiment: Experiment) -> Side | None:
    """What was measured of an experiment by a claim's metric; None if nothing was."""
    if metric in GRADIENTS:
        return _measure_gradient(records, metric, experiment)
    runs = records.read_finished(experiment)
    values = [None if r.metrics["status"] == "diverged" else r.metrics[METRICS[metric]] for r in runs]
    return Side(experiment, metric, values, runs) if runs else None


def _measure_gradient(records: Records, metric: str, experiment: Experiment) -> Side | None:
    """Norm of the gradient at the first unit divided by the norm at the last, from the record of signals."""
    iterations = records.project.scale(experiment.scale).signal_iterations
    folder = get_signals_folder(records.results, experiment, iterations)
    content = records.try_reading(lambda: measurement.read_experiment(folder, SIGNALS_CSV, experiment))
    if content is None:
        return None
    try:
        table = pandas.read_csv(io.BytesIO(content))
        # Row 0 is the stem, whose output is the input of the first unit.
        norms = table.loc[table["iteration"] == (iterations if metric == EARLY_GRADIENT else 0), "gradient_norm"]
        first, last = float(norms.iloc[0]), float(norms.iloc[-1])
    except (ValueError, KeyError, IndexError):
        records.note_problem(f"{folder / SIGNALS_CSV}: not a table of signals: remove the folder to have it made again")
        return None
    value = first / last if last else math.nan  # a dead network passes nothing anywhere
    records.signals[folder] = experiment
    return Side(experiment, metric, [value if math.isfinite(value) else None], signals=folder / SIGNALS_CSV)


def judge_values(
    values: Sequence[float | None], error: float | None, limits: Sequence[float], beyond: float, margin: float = 0.0
) -> str:
    """The verdict on two medians (None: diverged), the first of which is said to be lower.

    Args:
        limits: above which they fail.
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


def _judge_gradients(lower: float | None, higher: float | None, factor: float) -> str:
    """Equal ones are undecided: both may be 0, below what float32 can hold."""
    if lower is None or higher is None or lower == higher or max(lower, higher) < factor * min(lower, higher):
        return UNDECIDED
    return HOLDS if higher > lower else CONTRADICTED


def join_counts(counts: Counter[str]) -> str:
    """Comparisons by verdict: "1 holds, 2 not run"."""
    return ", ".join(f"{counts[word]} {word}" for word in (HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN) if counts[word])


def describe_origin(judged: Judged) -> str:
    """Source, metric, comparisons and runs behind a claim, in short."""
    claim, runs = judged.claim, [len(side.values) for pair in judged.pairs for side in pair.sides]
    words = ["ours" if claim.paper == "own" else f"{claim.paper}; {claim.source}", claim.metric]
    words += [f"comparisons: {join_counts(judged.counts)}"] if judged.counts else []
    if runs:
        words.append(f"runs of a network: {min(runs)}" + (f" to {max(runs)}" if max(runs) > min(runs) else ""))
    return "; ".join(words)
