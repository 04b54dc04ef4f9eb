"""The arithmetic of a run stands beside its number, and float32 goes before another."""

import pytest

from identity_mappings.records.experiment import ARITHMETICS
from identity_mappings.reporting.figures import read_curves
from identity_mappings.reporting.store import Records

NAME = "cifar10-resnet110-dropout"


def shown(bench) -> tuple[str, str]:
    """The row of the table, and that of the comparison."""
    folder = bench.tables()
    pages = [(folder / name).read_text().split("# Identity Mappings")[-1] for name in ("tables.md", "comparison.md")]
    return tuple(next(line for line in page.splitlines() if line.startswith("| dropout")) for page in pages)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_row_names_its_arithmetic(bench, arithmetic):
    for seed in range(3):
        bench.record(NAME, 7.5, seed, arithmetic=arithmetic)
    row, compared = shown(bench)
    assert ("7.50 (tf32)" in row, "7.50 (bfloat16)" in row) == (arithmetic == "tf32", arithmetic == "bfloat16")
    assert "7.50" in row and f" {arithmetic} " in compared
    cell = bench.cell("Table 1", "dropout shortcut")
    assert (cell["arithmetic"], cell["measured"], cell["runs"]) == (arithmetic, 7.5, 3)
    assert all(bench.project.resolve(NAME).in_arithmetic(arithmetic).digest in path for path in cell["records"])


def test_one_run_in_float32_goes_before_five_in_another(bench):
    for seed in range(5):
        bench.record(NAME, 7.5, seed, arithmetic="tf32")
        bench.record(NAME, 7.9, seed, arithmetic="bfloat16")
    assert bench.tables() and bench.cell("Table 1", "dropout shortcut")["arithmetic"] == "tf32"
    bench.record(NAME, 8.0, 3)
    assert bench.tables()
    cell = bench.cell("Table 1", "dropout shortcut")
    assert (cell["arithmetic"], cell["measured"], cell["runs"]) == ("float32", 8.0, 1)


def test_a_record_of_another_arithmetic_is_not_taken_for_float32(bench):
    """Were its folder renamed, its parameters would still say so."""
    folder = bench.record(NAME, 7.5, arithmetic="tf32")
    there = bench.folder(NAME)
    there.parent.mkdir(parents=True)
    folder.rename(there)
    records = Records(bench.project, "paper")
    assert records.read_finished(bench.project.resolve(NAME)) == []
    assert "experiment's digest does not match" in records.bad[0]


def test_curves_name_it_too(bench):
    curve = bench.project.figures["he2016-figure3"].panels[0].curves[0]
    bench.record(curve.experiment, 7.5, arithmetic="bfloat16")
    label = read_curves(Records(bench.project, "paper"), curve)[2]
    assert label == f"{curve.label}: 7.50 % (bfloat16)"
