"""The rules that count and measure: made when they are missing or old, never when a clone only lacks weights."""

import csv
import json
import os
import re

import pytest

pytestmark = pytest.mark.slow
TINY = ("--config", "scale=tiny")


def planned(project, *arguments: str) -> dict[str, int]:
    answer = project.snakemake("--dry-run", *arguments)
    assert answer.returncode == 0, answer.stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", answer.stdout, re.MULTILINE)}


def test_the_cost_record_is_counted_and_fills_its_cells(trained):
    networks = json.loads((trained.root / "results/tiny/cost/networks.json").read_text())["networks"]
    cells = json.loads((trained.root / "results/tiny/tables.json").read_text())["cells"]
    counted = [cell for cell in cells if cell["counted"] and cell["measured"] is not None]
    assert counted and {path for cell in counted for path in cell["records"]} == {"results/tiny/cost/networks.json"}
    assert {cell["measured"] for cell in counted} <= {
        entry[key]
        for entry in networks.values()
        for key in ("weights", "weights_without_batch_norm", "convolution", "multiply_adds")
    } | {cell["measured"] for cell in counted if str(cell["published"]).endswith("%")}


def test_a_network_that_the_record_lacks_is_counted_and_tables_with_it(clone):
    """One that is complete is kept, whatever its age."""
    for path in (clone.root / "results/tiny/cost").iterdir():
        os.utime(path, (1e9, 1e9))
    assert "cost" not in planned(clone, *TINY)
    clone.edit("params/experiments/cifar10.yaml", "dropout, ratio: 0.5}}", "dropout, ratio: 0.4}}")
    plan = planned(clone, "tables", *TINY)
    assert plan["cost"] == plan["make_tables"] == 1 and "train" not in plan
    answer = clone.snakemake("tables", *TINY)
    assert answer.returncode == 0, answer.stdout
    assert not planned(clone, "tables", *TINY)


def test_changed_signals_are_measured_again_and_drawn(clone):
    clone.edit("params/scales/tiny.yaml", "signal_iterations: 2", "signal_iterations: 1")
    plan = planned(clone, *TINY)
    assert plan["signals_tiny"] == plan["update_reports"] == 1 and "train" not in plan
    assert "signals_tiny" not in planned(clone, "figures", *TINY), "the target figures never trains"
    answer = clone.snakemake(*TINY)
    assert answer.returncode == 0, answer.stdout
    with (clone.root / "results/tiny/figures/own-signals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["iteration"] for row in rows} == {"0", "1"}
    assert {row["curve"] for row in rows} >= {"original", "dropout 0.5"}
    assert not planned(clone, *TINY)


def test_responses_are_a_rule_for_any_run_with_weights(clone, trained):
    """Of a finished run, by its weights; a clone without them is not asked to make them."""
    clone.edit(
        "params/figures/he2015-figure7.yaml", "experiment: cifar10-plain20", "experiment: cifar10-resnet110-dropout"
    )
    plan = planned(clone, *TINY)
    assert "train" not in plan and "responses" not in plan, "the weights are elsewhere"
    weights = next((trained.root / "results/tiny/checkpoints").glob("cifar10-resnet110-dropout-*/seed0/weights.pt"))
    here = clone.root / weights.relative_to(trained.root)
    here.parent.mkdir(parents=True, exist_ok=True)
    here.write_bytes(weights.read_bytes())
    assert planned(clone, *TINY)["responses"] == 1
    answer = clone.snakemake(*TINY)
    assert answer.returncode == 0, answer.stdout
    [made] = (clone.root / "results/tiny/runs").glob("cifar10-resnet110-dropout-*/seed0/responses/responses.csv")
    assert len(made.read_text().splitlines()) == 1 + 7  # a network of 8 layers has seven 3x3 ones
    assert "cifar10-resnet110-dropout" not in (clone.root / "results/tiny/figures/he2015-figure7.csv").read_text()
    assert "plain-20,7," in (clone.root / "results/tiny/figures/he2015-figure7.csv").read_text(), "by its label"
    assert not planned(clone, *TINY)
