"""Numbers of others: what a cell's come to, and what they say of a claim."""

import dataclasses
from pathlib import Path

import pytest

from identity_mappings.parameters import Project, load
from identity_mappings.parameters.claims import Claim
from identity_mappings.parameters.reproductions import Reproductions
from identity_mappings.reporting import reproductions

PRE, ORIGINAL = "cifar10-resnet110-full-pre-activation", "cifar10-resnet110"
CELLS = {  # of the same two networks; ResNet-110's error stands in several tables
    "original": ("he2015", "Table 6", "ResNet-110", "mean"),
    "pre": ("he2016", "Table 3", "CIFAR-10, ResNet-110", "pre-activation"),
}
MEAN_OF_5 = {"runs": 5, "summary": "mean"}


@pytest.fixture(scope="module")
def project() -> Project:
    return load(Path(__file__).parents[2])


@pytest.fixture
def others(project):
    """A project whose numbers of others are these: {cell: [(report, value, keys of the number)]}."""

    def build(reports: dict[str, dict], cells: dict[str, list[tuple]]) -> Project:
        defaults = {"at": "README.md", "epoch": "last", "recipe": "same"}
        names = dict.fromkeys(report.get("source", name) for name, report in reports.items())
        content = {
            "sources": {name: {"name": name, "address": "https://example.org"} for name in names},
            "reports": {name: {"source": name, **defaults, **report} for name, report in reports.items()},
            "cells": [
                dict(zip(("paper", "table", "row", "column"), CELLS[cell], strict=True))
                | {"numbers": [{"report": name, "value": value, **more} for name, value, more in numbers]}
                for cell, numbers in cells.items()
            ],
        }
        return dataclasses.replace(project, reproductions=Reproductions.model_validate(content))

    return build


def summarize(project: Project, place: str) -> dict:
    return reproductions.summarize(reproductions.find_numbers(project, project.cells_by_place()[place]))


def claim(**keys) -> Claim:
    comparison = {"lower": [PRE], "higher": [ORIGINAL], **keys.pop("comparison", {})}
    return Claim(name="a", paper="he2016", source="here", says="So.", comparisons=[comparison], **keys)


def test_a_cell_has_median_range_and_sources_by_epoch_and_recipe(others):
    reports = {
        "a": {},
        "a-again": {"source": "a"},
        "b": {},
        "c": {"epoch": "best of test"},
        "d": {"recipe": "other", "differs": "Adam"},
    }
    numbers = [("a", 6.0, {}), ("a-again", 7.0, {}), ("b", 6.9, {}), ("c", 5.0, {}), ("d", 9.0, {})]
    found = summarize(others(reports, {"original": numbers}), " / ".join(CELLS["original"]))
    assert found == {
        ("last", "same"): reproductions.Summary(6.7, 6.0, 7.0, 2),  # the median of 6.5 and 6.9: a source counts once
        ("best of test", "same"): reproductions.Summary(5.0, 5.0, 5.0, 1),
        ("last", "other"): reproductions.Summary(9.0, 9.0, 9.0, 1),
    }


def test_what_does_not_count_is_found_and_not_summarized(others):
    wrong = {"counts": False, "reason": "mislabelled"}
    project = others({"a": {}, "b": {}}, {"pre": [("a", 6.0, {}), ("b", 1.0, wrong)]})
    place = " / ".join(CELLS["pre"])
    assert len(reproductions.find_numbers(project, project.cells_by_place()[place])) == 2
    assert summarize(project, place)["last", "same"].sources == 1


def test_the_nearest_statistic_is_described_first_and_then_best_epochs(others):
    reports = {"a": {}, "b": {}, "c": {"epoch": "best of test"}, "d": {"recipe": "other", "differs": "Adam"}}
    place = " / ".join(CELLS["original"])

    def describe(*numbers: tuple) -> str:
        project = others(reports, {"original": list(numbers)} if numbers else {})
        return reproductions.describe(reproductions.find_numbers(project, project.cells_by_place()[place]))

    a, b, c, d = ("a", 6.0, {}), ("b", 6.9, {}), ("c", 5.0, {}), ("d", 9.0, {})
    assert describe(d, c, a, b) == "6.45 (6.00 to 6.90, 2 sources); best of test 5.00 (1 source)"
    assert describe(d, c) == "best of test 5.00 (1 source)"
    assert describe(d) == "other recipe 9.00 (1 source)"
    assert describe() == ""


@pytest.mark.parametrize(
    ("at", "commit", "link"),
    [
        ("issues/7", None, "https://example.org/issues/7"),
        ("README.md", "0" * 40, f"https://example.org/blob/{'0' * 40}/README.md"),
        ("a/b.csv, vanilla", "0" * 40, f"https://example.org/blob/{'0' * 40}/a/b.csv"),
        ("train/*.tsv", "0" * 40, "https://example.org"),
        ("README.md", None, "https://example.org"),
    ],
)
def test_a_link_leads_to_the_file_as_it_was_read(others, at, commit, link):
    project = others({"a": {"at": at, "commit": commit}}, {})
    assert reproductions.describe_report(project, project.reproductions.reports["a"])["link"] == link


@pytest.mark.parametrize(
    ("place", "sources"),
    [
        ("he2016 / Table 1 / original / error", 1),  # the same network, the same error
        ("he2016 / Table 4 / CIFAR-10, ResNet-110, original / error", 1),
        ("he2016 / Table 3 / CIFAR-10, ResNet-110 / pre-activation", 0),
        ("he2015 / Table 6 / ResNet-110 / parameters", 0),
    ],
)
def test_a_network_is_the_same_in_every_table(others, place, sources):
    project = others({"a": {}}, {"original": [("a", 6.5, {})]})
    assert len(reproductions.find_numbers(project, project.cells_by_place()[place])) == sources


@pytest.mark.parametrize(
    ("pre", "original", "report", "deviation", "verdict"),
    [  # single runs: 3 standard errors of 0.2 are 0.849
        (6.0, 6.86, {}, None, "holds"),
        (6.0, 6.84, {}, None, "undecided"),
        (6.86, 6.0, {}, None, "contradicted"),
        (6.0, 6.2, MEAN_OF_5, 0.1, "holds"),  # 0.19
        (6.0, 6.18, MEAN_OF_5, 0.1, "undecided"),
        (6.0, 6.2, {"runs": 5, "summary": "median"}, 0.1, "undecided"),  # 0.24
        (6.0, 6.3, MEAN_OF_5, None, "undecided"),  # 0.38
        (6.0, 6.2, {"runs": 2, "summary": "mean"}, 0.01, "undecided"),  # a spread of two runs is none
        (6.0, 6.84, {"runs": None, "summary": "mean"}, 0.01, "undecided"),
        (21.0, 22.0, {}, None, "undecided"),  # both fail
    ],
)
def test_a_report_is_judged_by_the_rule_for_ours(others, pre, original, report, deviation, verdict):
    spread = {} if deviation is None else {"deviation": deviation}
    project = others({"a": report}, {"pre": [("a", pre, spread)], "original": [("a", original, spread)]})
    [found] = reproductions.compare_in_reports(project, claim())
    assert (found.report, found.source, found.names, found.verdict) == ("a", "a", (PRE, ORIGINAL), verdict)


def test_one_that_is_no_worse_may_lie_above_by_the_resolution(others):
    project = others({"a": {}}, {"pre": [("a", 6.0, {})], "original": [("a", 6.36, {})]})
    [found] = reproductions.compare_in_reports(project, claim(comparison={"no_worse": True}))
    assert found.verdict == "holds"


def test_only_numbers_of_one_report_are_compared(others):
    reports = {"last": {"source": "a"}, "best": {"source": "a", "epoch": "best of test"}}
    project = others(reports, {"pre": [("last", 6.0, {})], "original": [("best", 9.0, {})]})
    assert list(reproductions.compare_in_reports(project, claim())) == []


def test_neither_a_warning_nor_another_metric_is_compared(others):
    wrong = {"counts": False, "reason": "mislabelled"}
    cells = {"pre": [("a", 6.0, wrong)], "original": [("a", 9.0, {})]}
    assert list(reproductions.compare_in_reports(others({"a": {}}, cells), claim())) == []
    cells = {"pre": [("a", 6.0, {})], "original": [("a", 9.0, {})]}
    assert list(reproductions.compare_in_reports(others({"a": {}}, cells), claim(metric="training loss"))) == []


def test_a_source_counts_once(others):
    reports = {"a": {}, "a-again": {"source": "a"}, "b": {}, "c": {}, "c-again": {"source": "c"}, "d": {}}
    pre = {"a": 6.0, "a-again": 9.0, "b": 6.0, "c": 6.0, "c-again": 8.0, "d": 8.0}
    project = others(
        reports,
        {"pre": [(name, v, {}) for name, v in pre.items()], "original": [(name, 8.0, {}) for name in pre]},
    )
    counts = reproductions.count_sources(list(reproductions.compare_in_reports(project, claim())))
    assert counts == {"contradicted": 1, "holds": 1, "undecided": 2}  # a; b; c, whose second report is, and d
