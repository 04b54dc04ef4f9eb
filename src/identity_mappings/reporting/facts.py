"""Facts of the papers' text that no table holds: bounds of errors, training times, numbers of images, a choice."""

from ..parameters.reports import CHOSEN_BIAS, SPLIT, TEST_BOUND, TRAINING_TIME, Cell
from ..records.experiment import Experiment
from ..records.speed import read_spent
from . import verdict
from .store import Records, Tested

WHERE_TIMES_ARE = "README.md, Time"  # the same runs take another time on every machine: no table has one


def rebuild(
    records: Records, cell: Cell, experiment: Experiment, tests: list[Tested], complete: bool
) -> tuple[str, float | str, str] | None:
    """Text, value and verdict of a fact; None where the records do not say.

    Args:
        experiment, tests: with its runs; of several experiments that with the lowest error.
        complete: all experiments of the cell were run.
    """
    comparable = records.settings.published
    errors = [tested.read_value(cell) for tested in tests]
    median = verdict.median(errors)
    value: float | str
    if cell.metric == SPLIT:
        data = tests[0].record.provenance.get("data") or {}
        if not {"training_images", "test_images"} <= data.keys():
            return None
        value = text = f"{data['training_images'] / 1000:g}k/{data['test_images'] / 1000:g}k"
        judged = verdict.AGREES if text == cell.published else verdict.DIFFERS
    elif cell.metric == CHOSEN_BIAS:
        bias = experiment.parameters["network"]["shortcut"]["gate_bias"]
        value = verdict.FAIL if median is None else f"{bias:g}"
        text = value if complete else f"{value}, not all biases run"
        judged = (verdict.AGREES if value == cell.published else verdict.DIFFERS) if complete else verdict.UNDECIDED
    elif cell.metric == TRAINING_TIME:
        if not any(read_spent(tested.record).seconds for tested in tests):
            return None
        text = value = WHERE_TIMES_ARE
        judged = verdict.NOT_JUDGED
    else:
        text = verdict.FAIL if median is None else f"{median:.{cell.decimals}f}"
        value = verdict.FAIL if median is None else median
        judged = _judge_bound(records, cell, experiment, errors) if comparable else ""
    return text, value, judged if comparable else "not comparable"


def _judge_bound(records: Records, cell: Cell, experiment: Experiment, errors: list[float | None]) -> str:
    """A run that diverged lies above every bound."""
    reporting, value = records.reporting, verdict.median(errors)
    published = str(cell.published)
    above, bound = published[0] == ">", float(published[1:])
    if value is None:
        return verdict.AGREES if above else verdict.DIFFERS
    if value > bound if above else value < bound:
        return verdict.AGREES
    if cell.metric != TEST_BOUND:
        return verdict.DIFFERS
    prior = reporting.prior_deviation[experiment.parameters["dataset"]["name"]]
    se = verdict.variance(errors, prior) ** 0.5
    return verdict.DIFFERS if abs(value - bound) > reporting.differs_beyond * se else verdict.UNDECIDED
