"""Whether a rebuilt number agrees with the published one: the rule that comparison.md states."""

import math
import re
import statistics
from collections.abc import Collection, Sequence

from ..parameters.reports import Cell, Reporting

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "undecided"
CUT_OFF, NOT_JUDGED = "cut off", "not judged"
FAIL = "fail"
ENOUGH = 3  # runs, for a spread of their own
MEDIAN_VARIANCE = math.pi / 2  # of the median of many normal values, in units of the mean's

RULE = """\
A rebuilt value is compared with the published one by the standard error *se* of their difference. The spread of a
rebuilt value is the standard deviation of its n runs, or a prior one where n is below 3 ({prior});
that of a published value is the one that the paper states, or the prior one. A median of n >= 3 runs has the variance
pi/2 s²/n, a mean or a smaller n has s²/n. The value **agrees** if the difference is at most {agrees:g} se and these are
no wider than the resolution ({resolution}); it **differs** if the difference is more than
{differs:g} se; else it is **undecided**. "fail" is a test error above a limit ({fail}), or a loss that is
not a number: it agrees with "fail" and differs from any number; a number differs from "fail" if it is more than
{differs:g} se below the limit, else it is undecided."""


COUNT_RULE = """\
A count **agrees** with the published one if it rounds to it, by the convention that stands beside it (papers leave
batch norm or linear layers out of some counts and not of others); it is **cut off** if the paper's figure is its
beginning, not rounded; else it **differs**."""
SCALES = {"M": 10**6, "×10^9": 10**9, "%": 1}


def rule(reporting: Reporting, datasets: Collection[str]) -> str:
    """The rule in words, with its constants for these datasets."""

    def by_dataset(values: dict[str, float], unit: str = "points") -> str:
        return ", ".join(f"{value:g} {unit} on {name}" for name, value in values.items() if name in datasets)

    return RULE.format(
        prior=by_dataset(reporting.prior_deviation),
        resolution=by_dataset(reporting.resolution),
        agrees=reporting.agrees_within,
        differs=reporting.differs_beyond,
        fail=by_dataset(reporting.fail_above, "%"),
    )


def _parts(published: str) -> tuple[int, str]:
    """Decimals and unit of a published count: "1.7M" has 1 and M."""
    number, unit = re.fullmatch(r"([\d.]+)(\D.*)", published).groups()
    return len(number.partition(".")[2]), unit


def count_text(value: float, published: str | None) -> str:
    """A count as the paper would print it: in its unit, rounded to its decimals."""
    if published is None:
        return f"{value:,}"
    decimals, unit = _parts(published)
    return f"{value / SCALES[unit]:.{decimals}f}{unit}"


def judge_count(value: float, published: str) -> str:
    """The verdict on a count, by `COUNT_RULE`."""
    if count_text(value, published) == count_text(_number_of(published), published):
        return AGREES
    decimals, unit = _parts(published)
    step = SCALES[unit] / 10**decimals
    return CUT_OFF if math.floor(value / step) == round(_number_of(published) / step) else DIFFERS


def _number_of(published: str) -> float:
    unit = _parts(published)[1]
    return float(published.removesuffix(unit)) * SCALES[unit]


def median(errors: Sequence[float | None]) -> float | None:
    """Of the test errors of runs, in %; a diverged run (None) is above all others. None if the median diverged."""
    value = statistics.median(math.inf if error is None else error for error in errors)
    return value if math.isfinite(value) else None


def limit(reporting: Reporting, dataset: str) -> float:
    """The test error on a dataset above which the papers print "fail"; infinite where they do not."""
    return reporting.fail_above.get(dataset, math.inf)


def fails(error: float | None, reporting: Reporting, dataset: str) -> bool:
    """Whether the papers would print "fail"."""
    return error is None or error > limit(reporting, dataset)


def variance(errors: Sequence[float | None], prior: float, of_mean: bool = False) -> float:
    """Of the median (or mean) of runs' errors, in squared points; of fewer than 3 runs by the prior spread."""
    finite = [error for error in errors if error is not None]
    return variance_of(statistics.stdev(finite) if len(finite) >= ENOUGH else prior, len(errors), of_mean)


def variance_of(deviation: float, n: int, of_mean: bool = False) -> float:
    """Of the median (or mean) of n values that spread by `deviation`."""
    return deviation**2 / n * (MEDIAN_VARIANCE if n >= ENOUGH and not of_mean else 1)


def standard_error(
    errors: Sequence[float | None], cell: Cell, dataset: str, reporting: Reporting, of_mean: bool = False
) -> float:
    """Of the difference between a statistic of `errors` and the published one, in points."""
    prior = reporting.prior_deviation[dataset]
    published = prior if cell.published_deviation is None else cell.published_deviation
    return math.sqrt(variance(errors, prior, of_mean) + variance_of(published, cell.published_runs, of_mean))


def judge(
    value: float | None,
    published: float | str,
    errors: Sequence[float | None],
    cell: Cell,
    dataset: str,
    reporting: Reporting,
    of_mean: bool = False,
) -> str:
    """The verdict on a rebuilt median or mean `value` (None: diverged) of the runs' `errors`."""
    failed = fails(value, reporting, dataset)
    if published == FAIL and failed:
        return AGREES
    if failed and published != FAIL:
        return DIFFERS
    se = standard_error(errors, cell, dataset, reporting, of_mean)
    if published == FAIL:
        return DIFFERS if value < limit(reporting, dataset) - reporting.differs_beyond * se else UNDECIDED
    distance = abs(value - float(published))
    if distance > reporting.differs_beyond * se:
        return DIFFERS
    band = reporting.agrees_within * se
    return AGREES if distance <= band <= reporting.resolution[dataset] else UNDECIDED
