"""Facts of the papers' text that no table holds: bounds of errors, training times, numbers of images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..parameters import Project
from ..parameters.reports import SPLIT, TEST_BOUND, TRAINING_TIME, Cell
from ..records.experiment import Experiment
from . import verdict

if TYPE_CHECKING:
    from .cells import Tested

RULE = """\
A bound that a paper states in its text, like "above 60 %", **agrees** if the median of the runs keeps it, and
**differs** if the median breaks it by more than {differs:g} se (a training error: at all); else it is **undecided**.
Training times are of other devices: they are shown and **not judged**."""


def rebuild(
    project: Project, scale: str, cell: Cell, experiment: Experiment, tests: "Sequence[Tested]"
) -> tuple[str, float | str, str] | None:
    """Text, value and verdict of a fact, from the tests of runs; None where their records do not say."""
    comparable = project.scale(scale).published
    if cell.metric == SPLIT:
        data = tests[0].record.provenance.get("data") or {}
        if not {"training_images", "test_images"} <= data.keys():
            return None
        text = f"{data['training_images'] / 1000:g}k/{data['test_images'] / 1000:g}k"
        judged = verdict.AGREES if text == cell.published else verdict.DIFFERS
        return text, text, judged if comparable else "not comparable"
    if cell.metric == TRAINING_TIME:
        hours = _device_hours(tests)
        if not hours:
            return None
        return f"{hours:.3g} device hours", hours, verdict.NOT_JUDGED if comparable else "not comparable"
    errors = [tested.error(cell) for tested in tests]
    value = verdict.median(errors)
    text = verdict.FAIL if value is None else f"{value:.{cell.decimals}f}"
    judged = _judge_bound(project, cell, experiment, errors, value) if comparable else "not comparable"
    return text, verdict.FAIL if value is None else value, judged


def _judge_bound(
    project: Project, cell: Cell, experiment: Experiment, errors: Sequence[float | None], value: float | None
) -> str:
    """By `RULE`; a run that diverged lies above every bound."""
    above, bound = cell.published[0] == ">", float(cell.published[1:])
    if value is None:
        return verdict.AGREES if above else verdict.DIFFERS
    if value > bound if above else value < bound:
        return verdict.AGREES
    if cell.metric != TEST_BOUND:
        return verdict.DIFFERS
    dataset = experiment.parameters["dataset"]["name"]
    se = verdict.variance(errors, project.reporting.prior_deviation[dataset]) ** 0.5
    return verdict.DIFFERS if abs(value - bound) > project.reporting.differs_beyond * se else verdict.UNDECIDED


def _device_hours(tests: "Sequence[Tested]") -> float | None:
    """The median over the runs of the hours of all their devices together."""
    from .times import spent  # which reads cells

    hours = [spent(tested.record).seconds / 3600 for tested in tests]
    return verdict.median(hours) or None
