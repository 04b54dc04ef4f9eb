"""he2016, Tables 1 to 4: tests/published.csv has them as the paper prints them; params/tables and paper.md must agree.

tests/parameters/test_papers.py has all tables of both papers.

A place in a table has the same name in all three: (table, dataset, network, variant, metric). It is read from what is
printed beside a value, so that a value in a wrong row or column is a value missing from its own.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from identity_mappings.parameters import load
from identity_mappings.reporting.cells import fill_cells
from identity_mappings.reporting.store import Records
from identity_mappings.reporting.tables import render_tables

ROOT = Path(__file__).parents[2]
MEDIAN, MEAN, SINGLE = "test error %, median of 5 runs", "test error %, mean±std of 5 runs", "test error %"
VARIANTS = {", original": "original [1]", ", pre-activation": "ours", ", pre-activation †": "ours dagger"}
TABLES = [f"Table {number}" for number in (1, 2, 3, 4)]
Place = tuple[str, str, str, str, str]

with (ROOT / "tests" / "published.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))


def place(table: str, row: dict[str, str], column: str) -> Place:
    """The name of the value in `column` of a printed `row`, a mapping of column headings to texts."""
    if table == "Table 1":
        texts = [row["case"], f"shortcut={row['on shortcut']}", f"F={row['on F']}", f"Fig {row['Fig.']}"]
        if row["remark"].startswith("init"):
            texts.append(row["remark"].replace(" = ", "="))
        return table, "CIFAR-10", "ResNet-110", "; ".join(texts), MEDIAN
    if table == "Table 2":
        return table, "CIFAR-10", column, f"{row['case']}; Fig {row['Fig.']}", MEDIAN
    if table == "Table 3":
        return table, row["dataset"], row["network"].replace("1-layer", "1layer"), column, MEDIAN
    ending = next((ending for ending in VARIANTS if row["method"].endswith(ending)), None)
    network = row["method"].removesuffix(ending or "")
    if column == "parameters":
        return table, "CIFAR-10", network, "any", "parameters"  # one value a network, whatever the dataset
    metric = MEAN if column == "mean ± standard deviation" else MEDIAN
    if not ending or network == "ResNet-1202":
        metric = SINGLE
    return table, row["dataset"], network, VARIANTS[ending] if ending else "reported", metric


def places_of_parameters() -> list[tuple[Place, dict]]:
    """Every cell of these tables in params/tables, with the place in which its row's texts put it."""
    found = []
    for path in sorted((ROOT / "params" / "tables").glob("*.yaml")):
        table = yaml.safe_load(path.read_text())
        if table["paper"] != "he2016" or table["table"] not in TABLES:
            continue
        for row in table["rows"]:
            texts = dict(zip(table["columns"], row["texts"], strict=True))
            for name, cell in row["cells"].items():
                [column] = [column for column, text in texts.items() if f"{{{name}}}" in text]
                found.append((place(table["table"], texts, column), cell))
    return found


def places_of_document(text: str) -> list[tuple[Place, str]]:
    """Every value that paper.md or tables.md has in these tables, with its place."""
    found, table, columns = [], None, None
    for line in text.partition("# Identity Mappings in Deep Residual Networks")[2].splitlines():
        if line.startswith("## "):
            table, columns = line.removeprefix("## "), None
        elif line.startswith("| ") and table in TABLES:
            texts = [part.strip() for part in line.strip("|").split("|")]
            if columns is None:
                columns = texts
                continue
            row = dict(zip(columns, texts, strict=True))
            words = {"Table 1": {"error (%)"}, "Table 2": set(columns[2:]), "Table 3": set(columns[2:])}
            values = words.get(table, set(columns[2:]))
            found += [
                (place(table, row, column), row[column]) for column in columns if column in values and row[column]
            ]
    return found


PUBLISHED = {
    (row["table"], row["dataset"], row["network"], row["variant"], row["metric"]): row["value"] for row in ROWS
}
CELLS = places_of_parameters()


def test_the_transcription_has_every_place_once():
    assert len(PUBLISHED) == len(ROWS) == 63
    assert Counter(row["table"] for row in ROWS) == {"Table 1": 11, "Table 2": 10, "Table 3": 12, "Table 4": 30}


@pytest.mark.parametrize("where", PUBLISHED, ids=" | ".join)
def test_a_published_value_is_in_one_cell(where):
    values = [cell["published"] for found, cell in CELLS if found == where]
    texts = [f"{value:.2f}" if isinstance(value, float) else value for value in values]
    assert texts and set(texts) == {PUBLISHED[where]}
    assert len(texts) == 1 or where[-1] == "parameters"


def test_every_cell_with_a_published_value_is_in_the_transcription():
    published = [where for where, cell in CELLS if cell["published"] is not None]
    assert set(published) == set(PUBLISHED)


def test_paper_md_prints_every_value_in_its_place_and_no_other():
    printed = places_of_document((ROOT / "results" / "paper.md").read_text())
    assert Counter(where for where, _ in printed) == Counter(where for where, _ in CELLS)
    for where, text in printed:
        quoted = " (quoted)" if where[3] == "reported" else ""
        assert text == PUBLISHED[where] + quoted, where


def test_paper_md_is_what_the_parameters_make():
    """With the records of the checkout, whose texts are as wide as columns may become."""
    project = load(ROOT)
    records = Records(project, "paper")
    rebuilt, published = render_tables(records, list(fill_cells(records)))
    assert published.encode() == (ROOT / "results" / "paper.md").read_bytes()
    assert rebuilt.encode() == (ROOT / "results" / "tables.md").read_bytes()


def test_rows_are_quoted_where_the_paper_reports_others():
    for where, cell in CELLS:
        assert cell.get("quoted", False) == (where[3] == "reported"), where


def test_a_cell_states_the_runs_behind_its_value():
    for where, cell in CELLS:
        if where[-1] != "parameters":
            assert cell.get("published_runs", 5) == (1 if where[-1] == SINGLE else 5), where


def test_a_cell_states_the_deviation_that_the_paper_prints():
    """Table 4 prints it beside the mean of the same runs; he2015, Table 6, has 6.61±0.16 for ResNet-110."""
    stated = {where[1:4]: float(value.split("±")[1]) for where, value in PUBLISHED.items() if where[-1] == MEAN}
    for where, cell in CELLS:
        if where[0] == "Table 4" and where[-1] == MEDIAN:
            expected = 0.16 if where[2] == "ResNet-110" else stated.get(where[1:4])
            assert cell.get("published_deviation") == expected, where


ACTIVATIONS = {
    "original Residual Unit; Fig 4(a)": "original",
    "BN after addition; Fig 4(b)": "bn-after-addition",
    "ReLU before addition; Fig 4(c)": "relu-before-addition",
    "ReLU-only pre-activation; Fig 4(d)": "relu-only-pre-activation",
    "full pre-activation; Fig 4(e)": "full-pre-activation",
    "baseline unit": "original",
    "pre-activation unit": "full-pre-activation",
    "original [1]": "original",
    "ours": "full-pre-activation",
    "ours dagger": "full-pre-activation",
}
SHORTCUTS = [
    {"kind": "identity"},
    {"kind": "scaled", "shortcut_scale": 0, "residual_scale": 1},
    {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 1},
    {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 0.5},
    [{"kind": "exclusive-gate", "gate_bias": -bias} for bias in range(6)],
    {"kind": "exclusive-gate", "gate_bias": -6},
    {"kind": "exclusive-gate", "gate_bias": -7},
    {"kind": "shortcut-only-gate", "gate_bias": 0},
    {"kind": "shortcut-only-gate", "gate_bias": -6},
    {"kind": "convolution"},
    [{"kind": "dropout", "ratio": 0.5, "inverted": inverted} for inverted in (None, False)],
]


def test_a_cell_is_made_by_the_network_that_the_paper_names():
    project = load(ROOT)
    for (table, dataset, network, variant, metric), cell in CELLS:
        for name in cell.get("experiments", []):
            parameters = project.resolve(name).parameters
            depth = int(re.search(r"\d+", network)[0])
            unit = "single" if "1layer" in network else "bottleneck" if depth in (164, 1001) else "basic"
            assert (parameters["network"]["depth"], parameters["network"]["unit"]) == (depth, unit), name
            if metric == "parameters":
                continue
            assert parameters["dataset"]["name"] == dataset.lower().replace("-", ""), name
            activation = "original" if table == "Table 1" else ACTIVATIONS[variant]
            assert parameters["network"]["activation"] == activation, name
            if table != "Table 1":
                assert parameters["network"]["shortcut"] == {"kind": "identity"}, name
            assert ("released-code" in name) == (parameters["recipe"]["batch_size"] == 64) == ("dagger" in variant)


def test_the_rows_of_table_1_are_made_by_their_shortcuts():
    project = load(ROOT)
    cells = [cell for where, cell in CELLS if where[0] == "Table 1"]
    for cell, expected in zip(cells, SHORTCUTS, strict=True):
        shortcuts = [project.resolve(name).parameters["network"]["shortcut"] for name in cell["experiments"]]
        assert shortcuts == (expected if isinstance(expected, list) else [expected])
