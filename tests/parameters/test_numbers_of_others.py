"""params/reproductions.yaml: numbers of others, each at a cell of the tables and at a place in a source."""

import pytest

from identity_mappings.errors import UserError
from identity_mappings.parameters import load

HYSTS = "{report: hysts, value: 6.47}"
WRONG = {
    "unknown row": ("'CIFAR-10, ResNet-1001'", "'CIFAR-10, ResNet-1000'", "cells", "ResNet-1001 / baseline'"),
    "unknown report": (HYSTS, "{report: hyst, value: 6.47}", "numbers", "did you mean 'hysts'"),
    "unknown source": ("source: nutszebra", "source: nutzebra", "reports.nutszebra.source", "did you mean 'nutszebra'"),
    "no error in %": (HYSTS, "{report: hysts, value: 164.7}", "value", "100"),
    "a warning without a reason": (HYSTS, "{report: hysts, value: 6.47, counts: false}", "reason", "give both"),
    "another recipe that differs in nothing": ("differs: bfloat16", "date: '2025-01-12'", "differs", "give both"),
    "several runs as one": ("runs: 6\n    summary: median", "runs: 6", "summary", "correct summary or runs"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "cure"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line(copy, old, new, key, cure):
    path = copy.root / "params/reproductions.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load(copy.root)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert key in message and cure in message, message


def test_every_number_has_a_place_and_stands_once(copy):
    project = load(copy.root)
    others = project.reproductions
    assert len({entry.place for entry in others.cells}) == len(others.cells)
    for entry in others.cells:
        reports = [number.report for number in entry.numbers]
        assert len(set(reports)) == len(reports), entry.place
    assert {report.source for report in others.reports.values()} == set(others.sources)
    assert {number.report for entry in others.cells for number in entry.numbers} == set(others.reports)
    for name, report in others.reports.items():
        assert report.commit or report.date or "before" in report.at, name


def test_they_stand_at_errors_that_are_rebuilt(copy):
    project = load(copy.root)
    cells = project.cells_by_place()
    for entry in project.reproductions.cells:
        cell = cells[entry.place]
        assert cell.is_error and cell.experiments, entry.place


def test_there_are_enough_of_them(copy):
    others = load(copy.root).reproductions
    counted = [number for entry in others.cells for number in entry.numbers if number.counts]
    assert len(counted) >= 80
    assert len({others.reports[number.report].source for number in counted}) >= 14
