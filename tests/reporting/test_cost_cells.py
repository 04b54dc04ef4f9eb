"""Weights and multiply-adds: which counts fill cells, which are not believed, and what `cost` says of them."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from closed_form import closed_form
from identity_mappings.parameters import load
from identity_mappings.records import measurement
from identity_mappings.records.files import json_bytes
from identity_mappings.reporting import cost as counting
from identity_mappings.reporting.cells import fill_cells
from identity_mappings.reporting.store import Records

RESNET, IMAGENET = "cifar10-resnet110", "params/experiments/imagenet.yaml"
RESNET50 = (
    "imagenet-resnet50: {dataset: imagenet, recipe: he2015-imagenet, gpus: 8, "
    "network: {family: imagenet, depth: 50, unit: "
)
RECORD = "results/cost/networks.json"
WITH, WITHOUT = "with batch norm", "without batch norm"


def cell_of(bench, table: str, row: str, column: str = "parameters", paper: str = "he2015") -> dict:
    return bench.cell(table, row, column, paper=paper)


def compared(bench, grids, table: str, row: str, column: str) -> dict[str, str]:
    grid = grids((bench.root / "results/comparison.md").read_text())[table]
    [found] = [texts for texts in grid[1:] if texts[:2] == [row, column]]
    return dict(zip(grid[0], found, strict=True))


def stride_on_3x3(bench) -> None:
    bench.copy.edit(IMAGENET, RESNET50 + "bottleneck}", RESNET50 + "bottleneck, bottleneck_stride: 3x3}")


def count_only(bench, *names: str) -> None:
    """A cost record of these networks, as the project has them now."""
    project, networks = bench.project, {}
    for name in names:
        experiment = project.resolve(name)
        found = counting.count_network(experiment, bench.root)
        networks[experiment.network_digest] = measurement.describe_cost(
            experiment, **asdict(found), multiply_adds=found.multiply_adds
        )
    content = json_bytes({"format": measurement.COST_FORMAT, "networks": networks})
    measurement.write_measurement(bench.root / "results/cost", measurement.COST_JSON, content, {})


# Cells


FILLED = [
    # paper, table, row, column; as the paper would print it, with all digits, convention, verdict
    ("he2015", "Table 1", "18-layer", "flops", "1.8×10^9", "1,794,805,760", "with linear layers", "agrees"),
    ("he2015", "Table 1", "50-layer", "flops", "3.9×10^9", "3,857,973,248", "with linear layers", "truncated"),
    ("he2015", "Table 1", "VGG-16", "flops", "15.3×10^9", "15,346,630,656", "without linear layers", "agrees"),
    ("he2015", "Table 1", "34-layer of VGG-19", "share", "19%", "18.56%", "with linear layers", "truncated"),
    ("he2015", "Table 6", "ResNet-20", "parameters", "0.27M", "269,722", WITH, "agrees"),
    ("he2015", "Table 6", "ResNet-110", "parameters", "1.7M", "1,727,962", WITH, "agrees"),
    ("he2016", "Table 4", "CIFAR-10, ResNet-110, original", "parameters", "1.7M", "1,719,866", WITHOUT, "agrees"),
    ("he2016", "Table 4", "CIFAR-10, ResNet-1202, original", "parameters", "19.4M", "19,421,274", WITH, "agrees"),
    ("he2016", "Table 4", "CIFAR-10, ResNet-1001, pre-activation", "parameters", "10.2M", None, WITHOUT, "agrees"),
]  # fmt: skip


def test_cells_of_costs_are_filled_from_the_record(counted, grids):
    rebuilt = grids((counted.tables() / "tables.md").read_text())
    for paper, table, row, column, text, digits, convention, judged in FILLED:
        place = f"{paper}, {table}"
        side = compared(counted, grids, place, row, column)
        wanted = (convention, judged, "", "")
        assert (side["arithmetic or convention"], side["verdict"], side["n"], side["difference"]) == wanted
        assert digits in (None, side["rebuilt"]), place
        name = row.split(", ", 1)[1] if paper == "he2016" else row
        [line] = [line for line in rebuilt[place] if name in (line[0], line[1], f"ResNet-{line[1]}")][:1]
        assert text in line, (place, row)
        cell = cell_of(counted, table, row, column, paper)
        assert cell["records"] == [RECORD] and (counted.root / RECORD).is_file()
        assert (cell["counted"], cell["protocol"], cell["runs"], cell["difference"]) == (convention, None, 0, None)
        if digits and "%" not in digits:
            assert cell["measured"] == int(digits.replace(",", "")), "exact"


def test_every_count_of_both_papers_is_rebuilt_and_none_contradicted(counted):
    cells = [
        cell for cell in fill_cells(Records(counted.project, "paper")) if cell.cell.is_cost and not cell.cell.quoted
    ]
    verdicts = [cell.verdict for cell in cells]
    assert (len(cells), verdicts.count("agrees"), verdicts.count("truncated")) == (22, 20, 2)


def test_metrics_json_has_the_counts(counted):
    metrics = json.loads((counted.tables() / "metrics.json").read_text())
    assert metrics["he2015"]["Table 1"]["50-layer"]["flops"] == {"count": 3_857_973_248}
    assert (metrics["cells"]["agrees"], metrics["cells"]["truncated"], metrics["cells"]["differs"]) == (20, 2, 0)


def test_without_a_record_nothing_is_counted(bench, grids):
    bench.tables()
    for row, column in (("50-layer", "flops"), ("34-layer of VGG-19", "share")):
        cell = cell_of(bench, "Table 1", row, column)
        assert (cell["measured"], cell["verdict"], cell["records"]) == (None, "not counted", [])


def test_a_network_that_is_not_in_the_record_is_not_counted(counted):
    """The record has ResNet-50 as the paper has it, and under the same name another network is asked for."""
    stride_on_3x3(counted)
    counted.tables()
    assert cell_of(counted, "Table 1", "50-layer", "flops")["verdict"] == "not counted"
    assert cell_of(counted, "Table 1", "101-layer", "flops")["verdict"] == "agrees"


def test_a_share_needs_both_networks(bench):
    count_only(bench, "imagenet-resnet34")
    bench.tables()
    assert cell_of(bench, "Table 1", "34-layer", "flops")["measured"] == 3_644_493_824
    assert cell_of(bench, "Table 1", "34-layer of VGG-19", "share")["verdict"] == "not counted"


def test_the_stride_on_the_3x3_contradicts_the_paper(bench, grids):
    stride_on_3x3(bench)
    count_only(bench, "imagenet-resnet50")
    rebuilt = grids((bench.tables() / "tables.md").read_text())["he2015, Table 1"]
    assert [row[1] for row in rebuilt if row[0] == "50-layer"] == ["4.1×10^9"]
    cell = cell_of(bench, "Table 1", "50-layer", "flops")
    assert (round(cell["measured"] / 1e9, 2), cell["verdict"]) == (4.09, "differs")


def write(path: Path, content: bytes) -> None:
    measurement.write_measurement(path.parent, path.name, content, {})


SPOIL = {
    "a count": lambda path: path.write_text(path.read_text().replace("3855925248", "3755925248")),
    "a space": lambda path: path.write_text(path.read_text() + " "),
    "garbage": lambda path: path.write_text("{"),
    "no provenance": lambda path: path.with_name("provenance.json").unlink(),
    "garbage as provenance": lambda path: path.with_name("provenance.json").write_text("[]"),
    "another format": lambda path: measurement.write_measurement(
        path.parent, path.name, b'{"format": 0, "networks": {}}', {}
    ),
    "a list of networks": lambda path: measurement.write_measurement(
        path.parent, path.name, b'{"format": 1, "networks": [1]}', {}
    ),
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_a_cost_record_that_is_not_believed_is_named_and_fills_no_cell(counted, capsys, spoil):
    before = counted.copy.bytes_of("results/cost", "*.json")
    spoil(counted.root / RECORD)
    assert counted.copy.bytes_of("results/cost", "*.json") != before
    counted.record(RESNET, 6.5)
    page = (counted.tables() / "comparison.md").read_text()
    assert cell_of(counted, "Table 1", "50-layer", "flops")["verdict"] == "not counted"
    assert counted.cell("Table 1", "original")["measured"] == 6.5, "hides no other record"
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("invalid record: ")]
    assert str(counted.root / "results/cost") in line
    assert line.removeprefix("invalid record: ") in page


def test_a_scale_that_is_not_the_papers_is_not_judged(bench):
    counting.record_costs("demo", bench.root)
    bench.tables("demo")
    cell = bench.cell("Table 6", "ResNet-20", "parameters", "demo", "he2015")
    assert (cell["verdict"], cell["records"]) == ("not comparable", ["results/demo/cost/networks.json"])
    assert cell["measured"] > 0
    assert bench.cell("Table 1", "50-layer", "flops", "demo", "he2015")["verdict"] == "no counterpart"
    assert counting.print_costs("demo", bench.root) == 0


# Errors by the papers' other metrics and protocols


@pytest.mark.parametrize("errors", [[6.43], [6.43, 9.0, 8.0], [3.0], [8.0]])
def test_the_best_of_several_runs_is_shown_and_not_judged(bench, grids, errors):
    """It is chosen on the test set, so that nothing follows from it, near or far."""
    for seed, error in enumerate(errors):
        bench.record(RESNET, error, seed, best=1.0)
    bench.tables()
    cell = cell_of(bench, "Table 6", "ResNet-110", "best")
    assert (cell["measured"], cell["verdict"]) == (min(errors), "not judged")
    assert cell["metric"] == "test error %, best run"
    assert cell_of(bench, "Table 6", "ResNet-110", "mean")["verdict"] != "not judged"


def test_a_single_view_fills_no_cell_of_another_protocol(bench):
    """10-crop, multi-scale and 320x320 give lower errors than one view: to mix them would flatter."""
    for name in ("imagenet-resnet34", "imagenet-resnet152", "imagenet-resnet101"):
        bench.record(name, 5.0)
    bench.copy.edit(
        "params/tables/he2016-table1.yaml",
        "{error: {published: 6.61,",
        "{error: {protocol: multi-scale, published: 6.61,",
    )
    bench.record(RESNET, 6.5)
    bench.tables()
    data = json.loads((bench.root / "results/tables.json").read_text())["cells"]
    other = [cell for cell in data if cell["protocol"] not in (None, "single-view") and cell["verdict"] != "quoted"]
    assert len(other) > 40
    assert {cell["verdict"] for cell in other} == {"not run", "not rebuilt"}
    assert all(cell["measured"] is None and cell["records"] == [] for cell in other)
    assert bench.cell("Table 2", "original Residual Unit", "ResNet-110")["measured"] == 6.5


def test_an_error_has_the_decimals_of_its_paper(bench, grids):
    bench.copy.edit("params/tables/he2016-table1.yaml", "{published: 6.61,", "{published: 6.6, decimals: 1,")
    bench.record(RESNET, 6.349)
    results = bench.tables()
    pages = [grids((results / name).read_text()) for name in ("tables.md", "paper.md")]
    assert [page["he2016, Table 1"][1][4] for page in pages] == ["6.3", "6.6"]
    assert [page["he2016, Table 2"][1][2] for page in pages] == ["6.35", "6.61"]
    assert pages[1]["he2016, Table 5"][1][-2:] == ["23.0", "6.7"]
    assert pages[1]["he2015, Table 4"][-1][-2:] == ["19.38", "4.49"]
    assert bench.cell("Table 1", "original")["measured"] == 6.349


# The command


@pytest.fixture
def small(bench):
    """A project of he2015's Table 1 alone: seven networks, counted in a second."""
    params = bench.root / "params"
    for path in [*params.rglob("tables/*"), *params.rglob("figures/*"), *params.rglob("scales/*"),
                 *params.rglob("experiments/*")]:  # fmt: skip
        if path.stem not in ("he2015-table1", "paper", "imagenet"):
            path.unlink()
    names = r"imagenet-(resnet(18|34|50|101|152)|vgg\d+): .*"
    lines = [line for line in (bench.root / IMAGENET).read_text().splitlines() if re.fullmatch(names, line)]
    (bench.root / IMAGENET).write_text("\n".join(lines) + "\n")
    (params / "claims.yaml").write_text("claims: []\n")
    (params / "reproductions.yaml").write_text("sources: {}\nreports: {}\ncells: []\n")
    for name, key in (("scales/paper", "order"), ("reporting", "scales")):  # of experiments and scales that are gone
        path = params / f"{name}.yaml"
        path.write_text(re.sub(rf"^{key}:.*\n(  .*\n)*", "", path.read_text(), flags=re.MULTILINE))
    path.write_text(re.sub(r"side_by_side: .*", "side_by_side: [paper]", path.read_text()))
    (params / "detection.yaml").write_text("recipes: {}\nexperiments: {}\nscales: {paper: {}}\n")
    assert len(load(bench.root).experiments) == 7
    return bench


@pytest.fixture
def show(small, capsys):
    """What `cost` does, in this process: its exit status and its words."""

    def call() -> tuple[int, str]:
        capsys.readouterr()
        status = counting.print_costs("paper", small.root)
        shown = capsys.readouterr()
        return status, " ".join((shown.err + shown.out).split())

    return call


def test_cost_says_what_the_papers_print_of_each_network(small):
    answer = small.copy.command("cost")
    assert answer.returncode == 0, "truncated is no contradiction"
    lines = [" ".join(line.split()) for line in answer.stdout.splitlines()]
    [line] = [line for line in lines if line.startswith("imagenet-resnet50")]
    assert line == (
        "imagenet-resnet50 50 25,557,032 25,503,912 3,857,973,248 3.8×10^9 multiply-adds he2015, Table 1 truncated"
    )
    assert any(line.endswith("18% multiply-adds he2015, Table 1 truncated") for line in lines)
    assert any("7 networks, counted now." in line for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        stride_on_3x3,
        lambda bench: bench.copy.edit("params/tables/he2015-table1.yaml", "published: 3.8×", "published: 4.0×"),
        lambda bench: bench.copy.edit("params/tables/he2015-table1.yaml", "published: 18%", "published: 17%"),
        lambda bench: bench.copy.edit(
            "params/tables/he2015-table1.yaml", "counted: without linear layers", "counted: with linear layers"
        ),
    ],
    ids=["stride on the 3x3", "another published value", "another share", "another convention"],
)
def test_cost_exits_with_1_if_a_published_value_is_contradicted(small, show, change):
    change(small)
    status, words = show()
    assert status == 1
    assert words.count("differs") == 2, "of one value, and of the rule below the table"


def test_cost_takes_the_record_until_the_code_of_the_networks_changes(small):
    small.copy.add_code()
    assert small.copy.command("cost", "--record").returncode == 0
    assert "7 networks, from results/cost/networks.json." in small.copy.command("cost").stdout
    with (small.root / "src/identity_mappings/networks/units.py").open("a") as file:
        file.write("# a comment\n")
    answer = small.copy.command("cost")
    assert answer.returncode == 0 and "7 networks, counted now." in answer.stdout


def test_cost_takes_no_record_of_other_networks(small, show):
    counting.record_costs("paper", small.root)
    stride_on_3x3(small)
    status, words = show()
    assert status == 1 and "counted now" in words


def test_cost_does_not_believe_a_record_that_was_edited(small, show):
    counting.record_costs("paper", small.root)
    small.copy.edit(RECORD, "3857973248", "3757973248")
    _, words = show()
    assert "invalid record: " in words and "3,857,973,248" in words
    assert "3,757,973,248" not in words and "counted now" in words


def test_the_record_says_what_it_is_of(cost_record, small):
    """A reader finds each network with the shape of its inputs; the closed form gives the same counts."""
    record = json.loads((cost_record / "networks.json").read_text())
    assert len(record["networks"]) == len({json.dumps(n) for n in record["networks"].values()}) == 65
    uncounted = set()
    for entry in record["networks"].values():
        expected = closed_form(entry["network"], **entry["inputs"])
        if expected is None:
            uncounted.add(entry["experiment"])
        else:
            assert asdict(expected).items() <= entry.items(), entry["experiment"]
    assert uncounted == {"cifar10-resnet110-convolutional-gate"}, "a custom shortcut has no closed form"
    counted = json.loads(counting.record_costs("paper", small.root).read_text())["networks"]
    assert len(counted) == 7 and counted.items() <= record["networks"].items(), "what is counted now is what is there"
    for entry in record["networks"].values():
        assert entry["multiply_adds"] == entry["convolution"] + entry["linear"]
        assert entry["weights"] > entry["weights_without_batch_norm"] or entry["network"]["family"] == "vgg"
        assert entry["inputs"]["size"] == (224 if entry["experiment"].startswith("imagenet") else 32)
