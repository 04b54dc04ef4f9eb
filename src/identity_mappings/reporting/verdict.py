"""Whether a rebuilt number agrees with the published one, by rules whose words are in templates/rules.md.jinja."""

import math
import re
import statistics
from collections.abc import Sequence

from ..parameters import Project
from ..parameters.reports import Cell, Reporting
from .rendering import render_macro

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "undecided"
TRUNCATED, NOT_JUDGED = "truncated", "not judged"
FAIL = "fail"
ENOUGH = 3  # runs, for a spread of their own
RUNS_OF_THE_PAPERS = 5  # behind each of their medians
MEDIAN_VARIANCE = math.pi / 2  # of the median of many normal values, in units of the mean's
UNITS = {"M": 10**6, "×10^9": 10**9, "%": 1}  # of published counts

Errors = Sequence[float | None]  # test errors of runs in %; None: the run diverged


def _parse_count(published: str | float) -> tuple[float, int, str]:
    """Value, decimals and unit of a published count: "1.7M" is 1.7e6 with 1 decimal and M."""
    [(number, unit)] = re.findall(r"^([\d.]+)(\D.*)$", str(published))
    return float(number) * UNITS[unit], len(number.partition(".")[2]), unit


def format_count(value: float, published: str | float | None) -> str:
    """A count as the paper would print it: in its unit, rounded to its decimals."""
    if published is None:
        return f"{value:,}"
    _, decimals, unit = _parse_count(published)
    return f"{value / UNITS[unit]:.{decimals}f}{unit}"


def judge_count(value: float, published: str | float) -> str:
    """The verdict on a count, by the rule for counts."""
    expected, decimals, unit = _parse_count(published)
    if format_count(value, published) == format_count(expected, published):
        return AGREES
    step = UNITS[unit] / 10**decimals
    return TRUNCATED if math.floor(value / step) == round(expected / step) else DIFFERS


def median(errors: Errors) -> float | None:
    """The median, where a diverged run is above all others; None if the median diverged."""
    value = statistics.median(math.inf if error is None else error for error in errors)
    return value if math.isfinite(value) else None


def limit(reporting: Reporting, dataset: str) -> float:
    """The test error on a dataset above which the papers print "fail"; infinite where they do not."""
    return reporting.fail_above.get(dataset, math.inf)


def fails(error: float | None, reporting: Reporting, dataset: str) -> bool:
    """Whether the papers would print "fail"."""
    return error is None or error > limit(reporting, dataset)


def variance(errors: Errors, prior: float, of_mean: bool = False) -> float:
    """The variance of the median (or mean) of runs, in squared points; of fewer than 3 runs by the prior deviation."""
    finite = [error for error in errors if error is not None]
    deviation = statistics.stdev(finite) if len(finite) >= ENOUGH else prior
    return median_variance(deviation, len(errors), of_mean)


def median_variance(deviation: float, n: int, of_mean: bool = False) -> float:
    """The variance of the median (or mean) of n values with this standard deviation."""
    return deviation**2 / n * (MEDIAN_VARIANCE if n >= ENOUGH and not of_mean else 1)


def published_variance(cell: Cell, prior: float, of_mean: bool = False) -> float:
    """The variance of a published median (or mean), by the deviation that stands beside it or the prior one."""
    deviation = prior if cell.published_deviation is None else cell.published_deviation
    return median_variance(deviation, cell.published_runs, of_mean)


def standard_error(errors: Errors, cell: Cell, dataset: str, reporting: Reporting, of_mean: bool = False) -> float:
    """The standard error of the difference between a statistic of `errors` and the published one, in points."""
    prior = reporting.prior_deviation[dataset]
    return math.sqrt(variance(errors, prior, of_mean) + published_variance(cell, prior, of_mean))


def judge_error(
    value: float | None,
    published: float | str,
    errors: Errors,
    cell: Cell,
    dataset: str,
    reporting: Reporting,
    of_mean: bool = False,
) -> str:
    """The verdict on a rebuilt median or mean `value` (None: diverged) of the runs' `errors`."""
    if value is None or fails(value, reporting, dataset):
        return AGREES if published == FAIL else DIFFERS
    se = standard_error(errors, cell, dataset, reporting, of_mean)
    if published == FAIL:
        return DIFFERS if value < limit(reporting, dataset) - reporting.differs_beyond * se else UNDECIDED
    distance = abs(value - float(published))
    if distance > reporting.differs_beyond * se:
        return DIFFERS
    band = reporting.agrees_within * se
    return AGREES if distance <= band <= reporting.resolution[dataset] else UNDECIDED


def state_rules(project: Project, scale: str) -> dict[str, str]:
    """The rules for errors, counts, bounds and claims in words, with their constants, each as one line."""
    reporting = project.reporting.get_limits(scale)
    names = {name for claim in project.claims.claims for pair in claim.pairs() for name in pair}
    datasets = {experiment.parameters["dataset"]["name"] for experiment in project.list_in_tables_and_figures(scale)}
    compared = {found.parameters["dataset"]["name"] for found in project.resolve_all(sorted(names), scale)}
    smallest = {
        name: float(f"{reporting.differs_beyond * math.sqrt(2 * median_variance(prior, RUNS_OF_THE_PAPERS)):.2g}")
        for name, prior in reporting.prior_deviation.items()
    }
    return {
        "errors": render_macro("rules.md.jinja", "errors", reporting, datasets),
        "counts": state_count_rule(),
        "bounds": render_macro("rules.md.jinja", "bounds", reporting),
        "claims": render_macro("rules.md.jinja", "claims", reporting, compared, smallest),
    }


def state_count_rule() -> str:
    return render_macro("rules.md.jinja", "counts")
