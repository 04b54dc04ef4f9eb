"""Every number of both papers' tables stands in params/tables, on the network and the test that the paper names.

The numbers below were copied from the papers, not from params/. A network is named by what will be trained, not by what
its experiment is called: dataset, layers, option A, B or C of he2015, shortcut, place of activation as in he2016,
Figure 4, if not (a), and "†" for the released code.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from identity_mappings.parameters import load
from identity_mappings.parameters.reports import Cell

PROJECT = load(Path(__file__).parents[2])
TOP_1, TOP_5, PLAIN, BEST = "top-1 error %", "top-5 error %", "test error %", "test error %, best run"
MEAN = "test error %, mean ± standard deviation"
PLACES = {"bn-after-addition": "(b)", "relu-before-addition": "(c)", "relu-only-pre-activation": "(d)"}
PLACES["full-pre-activation"] = "(e)"

# {(paper, table, protocol): {network: top-1 and top-5 error}}; "-": the paper has none.
IMAGENET = {
    ("he2015", "Table 2", "10-crop"): {
        "plain-18": "27.94 -", "ResNet-18 A": "27.88 -", "plain-34": "28.54 -", "ResNet-34 A": "25.03 -",
    },
    ("he2015", "Table 3", "10-crop"): {
        "quoted VGG-16": "28.07 9.33", "quoted GoogLeNet": "- 9.15", "quoted PReLU-net": "24.27 7.38",
        "plain-34": "28.54 10.02", "ResNet-34 A": "25.03 7.76", "ResNet-34 B": "24.52 7.46",
        "ResNet-34 C": "24.19 7.40", "ResNet-50 B": "22.85 6.71", "ResNet-101 B": "21.75 6.05",
        "ResNet-152 B": "21.43 5.71",
    },
    ("he2015", "Table 4", "multi-scale"): {
        "quoted VGG (ILSVRC'14)": "- 8.43", "quoted GoogLeNet (ILSVRC'14)": "- 7.89", "quoted VGG (v5)": "24.4 7.1",
        "quoted PReLU-net": "21.59 5.71", "quoted BN-inception": "21.99 5.81", "ResNet-34 B": "21.84 5.71",
        "ResNet-34 C": "21.53 5.60", "ResNet-50 B": "20.74 5.25", "ResNet-101 B": "19.87 4.60",
        "ResNet-152 B": "19.38 4.49",
    },
    ("he2015", "Table 5", "multi-scale"): {
        "quoted VGG (ILSVRC'14)": "- 7.32", "quoted GoogLeNet (ILSVRC'14)": "- 6.66", "quoted VGG (v5)": "- 6.8",
        "quoted PReLU-net": "- 4.94", "quoted BN-inception": "- 4.82", "not rebuilt ResNet (ILSVRC'15)": "- 3.57",
    },
    ("he2016", "Table 5", "centre-224"): {"ResNet-152 B": "23.0 6.7"},
    ("he2016", "Table 5", "centre-320"): {
        "ResNet-152 B": "21.3 5.5", "ResNet-152 B (e)": "21.1 5.5", "ResNet-200 B": "21.8 6.0",
        "ResNet-200 B (e)": "20.7 5.3", "ResNet-200 B (e) †": "20.1 4.8",
    },
    ("he2016", "Table 5", None): {"quoted Inception v3": "21.2 5.6"},  # at 299x299
    ("he2016", "Section 5", "centre-224"): {
        "ResNet-101 B": "23.6 7.1", "ResNet-101 B (b)": "24.6 7.5",
    },
    ("he2016", "Section 5", None): {"quoted Inception-ResNet-v2": "19.9 4.9"},
}  # fmt: skip

# {(paper, table, protocol): {backbone: (metric, mAP) pairs}}
HALF, WHOLE = "mAP %", "mAP@[.5, .95] %"
DETECTIONS = {
    ("he2015", "Table 7", "voc-11-point"): {
        "voc-0712 vgg 16": ((HALF, "73.2"),), "voc-0712 imagenet 101": ((HALF, "76.4"),),
        "VOC 2012 not rebuilt VGG-16": ((HALF, "70.4"),), "VOC 2012 not rebuilt ResNet-101": ((HALF, "73.8"),),
    },
    ("he2015", "Table 8", "coco"): {
        "coco-2014 vgg 16": ((HALF, "41.5"), (WHOLE, "21.2")),
        "coco-2014 imagenet 101": ((HALF, "48.4"), (WHOLE, "27.2")),
    },
}  # fmt: skip

# {(paper, table): {network: its error, or (metric, error) pairs}}
CIFAR = {
    ("he2015", "Table 6"): {
        "cifar10 quoted Maxout": "9.38", "cifar10 quoted NIN": "8.81", "cifar10 quoted DSN": "8.22",
        "cifar10 quoted FitNet": "8.39", "cifar10 quoted Highway, 19 layers": ((BEST, "7.54"), (MEAN, "7.72±0.16")),
        "cifar10 quoted Highway, 32 layers": "8.80", "cifar10 ResNet-20": "8.75", "cifar10 ResNet-32": "7.51",
        "cifar10 ResNet-44": "7.17", "cifar10 ResNet-56": "6.97",
        "cifar10 ResNet-110": ((BEST, "6.43"), (MEAN, "6.61±0.16")), "cifar10 ResNet-1202": "7.93",
    },
    ("he2016", "Table 1"): {
        "cifar10 ResNet-110": "6.61", "cifar10 ResNet-110 scaled 0 1": "fail",
        "cifar10 ResNet-110 scaled 0.5 1": "fail", "cifar10 ResNet-110 scaled 0.5 0.5": "12.35",
        "; ".join(f"cifar10 ResNet-110 exclusive-gate {bias}" for bias in (0, -1, -2, -3, -4, -5)): "fail",
        "cifar10 ResNet-110 exclusive-gate -6": "8.70", "cifar10 ResNet-110 exclusive-gate -7": "9.81",
        "cifar10 ResNet-110 shortcut-only-gate 0": "12.86", "cifar10 ResNet-110 shortcut-only-gate -6": "6.91",
        "cifar10 ResNet-110 convolution": "12.22",
        "cifar10 ResNet-110 dropout 0.5; cifar10 ResNet-110 dropout 0.5 not inverted": "fail",
    },
    ("he2016", "Table 2"): {
        "cifar10 ResNet-110": "6.61", "cifar10 ResNet-110 (b)": "8.17", "cifar10 ResNet-110 (c)": "7.84",
        "cifar10 ResNet-110 (d)": "6.71", "cifar10 ResNet-110 (e)": "6.37", "cifar10 ResNet-164": "5.93",
        "cifar10 ResNet-164 (b)": "6.50", "cifar10 ResNet-164 (c)": "6.14", "cifar10 ResNet-164 (d)": "5.91",
        "cifar10 ResNet-164 (e)": "5.46",
    },
    ("he2016", "Table 3"): {
        "cifar10 ResNet-110 1-layer": "9.90", "cifar10 ResNet-110 1-layer (e)": "8.91", "cifar10 ResNet-110": "6.61",
        "cifar10 ResNet-110 (e)": "6.37", "cifar10 ResNet-164": "5.93", "cifar10 ResNet-164 (e)": "5.46",
        "cifar10 ResNet-1001": "7.61", "cifar10 ResNet-1001 (e)": "4.92", "cifar100 ResNet-164": "25.16",
        "cifar100 ResNet-164 (e)": "24.33", "cifar100 ResNet-1001": "27.82", "cifar100 ResNet-1001 (e)": "22.71",
    },
    ("he2016", "Table 4"): {
        "cifar10 quoted NIN": "8.81", "cifar10 quoted DSN": "8.22", "cifar10 quoted FitNet": "8.39",
        "cifar10 quoted Highway": "7.72", "cifar10 quoted All-CNN": "7.25", "cifar10 quoted ELU": "6.55",
        "cifar10 quoted FitResNet, LSUV": "5.84", "cifar10 ResNet-110": "6.61", "cifar10 ResNet-1202": "7.93",
        "cifar10 ResNet-164 (e)": "5.46", "cifar10 ResNet-1001 (e)": ((PLAIN, "4.92"), (MEAN, "4.89±0.14")),
        "cifar10 ResNet-1001 (e) †": ((PLAIN, "4.62"), (MEAN, "4.69±0.20")),
        "cifar100 quoted NIN": "35.68", "cifar100 quoted DSN": "34.57", "cifar100 quoted FitNet": "35.04",
        "cifar100 quoted Highway": "32.39", "cifar100 quoted All-CNN": "33.71", "cifar100 quoted ELU": "24.28",
        "cifar100 quoted FitNet, LSUV": "27.66", "cifar100 ResNet-164": "25.16", "cifar100 ResNet-1001": "27.82",
        "cifar100 ResNet-164 (e)": "24.33", "cifar100 ResNet-1001 (e)": ((PLAIN, "22.71"), (MEAN, "22.68±0.22")),
    },
}  # fmt: skip

# {(paper, table, metric): {network: count}}
COUNTS = {
    ("he2015", "Table 1", "multiply-adds"): {
        "ResNet-18 A": "1.8×10^9", "ResNet-34 A": "3.6×10^9", "ResNet-50 B": "3.8×10^9", "ResNet-101 B": "7.6×10^9",
        "ResNet-152 B": "11.3×10^9", "VGG-19": "19.6×10^9", "VGG-16": "15.3×10^9", "ResNet-34 A of VGG-19": "18%",
    },
    ("he2015", "Table 6", "parameters"): {
        "cifar10 quoted FitNet": "2.5M", "cifar10 quoted Highway, 19 layers": "2.3M",
        "cifar10 quoted Highway, 32 layers": "1.25M", "cifar10 ResNet-20": "0.27M", "cifar10 ResNet-32": "0.46M",
        "cifar10 ResNet-44": "0.66M", "cifar10 ResNet-56": "0.85M", "cifar10 ResNet-110": "1.7M",
        "cifar10 ResNet-1202": "19.4M",
    },
    ("he2016", "Table 4", "parameters"): {
        "cifar10 ResNet-110": "1.7M", "cifar10 ResNet-1202": "19.4M", "cifar10 ResNet-164 (e)": "1.7M",
        "cifar10 ResNet-1001 (e)": "10.2M", "cifar100 ResNet-164": "1.7M", "cifar100 ResNet-1001": "10.2M",
        "cifar100 ResNet-164 (e)": "1.7M", "cifar100 ResNet-1001 (e)": "10.2M",
    },
}  # fmt: skip

FIGURES = {
    ("he2015", "Figure 6"): [
        ["plain-20", "plain-32", "plain-44", "plain-56", "plain-110"],
        ["ResNet-20", "ResNet-32", "ResNet-44", "ResNet-56", "ResNet-110"],
        ["ResNet-110", "ResNet-1202"],
    ],
    ("he2015", "Figure 7"): [["plain-20", "plain-56", "ResNet-20", "ResNet-56", "ResNet-110"]],
    ("he2016", "Figure 1"): [["ResNet-1001", "ResNet-1001 (e)"]],
    ("he2016", "Figure 2"): [
        ["ResNet-110"], ["ResNet-110 scaled 0.5 0.5"], ["ResNet-110 exclusive-gate -6"],
        ["ResNet-110 shortcut-only-gate -6"], ["ResNet-110 convolution"], ["ResNet-110 dropout 0.5"],
    ],
    ("he2016", "Figure 3"): [
        ["ResNet-110", "ResNet-110 scaled 0.5 0.5"], ["ResNet-110", "ResNet-110 exclusive-gate -6"],
        ["ResNet-110", "ResNet-110 shortcut-only-gate 0"], ["ResNet-110", "ResNet-110 convolution"],
    ],
    ("he2016", "Figure 4"): [
        ["ResNet-110"], ["ResNet-110 (b)"], ["ResNet-110 (c)"], ["ResNet-110 (d)"], ["ResNet-110 (e)"],
    ],
    ("he2016", "Figure 5"): [["ResNet-110"], ["ResNet-110 (e)"], ["ResNet-110 (e)"]],
    ("he2016", "Figure 6"): [["ResNet-110", "ResNet-110 (b)"], ["ResNet-164", "ResNet-164 (e)"]],
}  # fmt: skip


def describe_network(name: str) -> str:
    parameters = PROJECT.resolve(name).parameters
    network, recipe, dataset = (parameters[key] for key in ("network", "recipe", "dataset"))
    shortcut, depth = network["shortcut"], network["depth"]
    if "backbone" in parameters:
        return f"{dataset['name']} {network['family']} {depth}"
    if network["family"] == "vgg":
        return f"VGG-{depth}"
    of_imagenet = dataset["name"] == "imagenet"
    assert network["family"] == ("imagenet" if of_imagenet else None), name
    words = [] if of_imagenet else [dataset["name"]]
    if shortcut["kind"] == "none":
        words.append(f"plain-{depth}")
    elif of_imagenet:
        option = "C" if shortcut["kind"] == "convolution" else network["shape_change"]
        assert network["shape_change"] == "A" or option in "BC", name
        words.append(f"ResNet-{depth} {option}")
    else:
        words += [f"ResNet-{depth}", *(["1-layer"] if network["unit"] == "single" else [])]
        if shortcut["kind"] != "identity":
            numbers = [value for value in shortcut.values() if isinstance(value, float)]
            words += [shortcut["kind"], *(f"{value:g}" for value in numbers)]
            words += ["not inverted"] if shortcut.get("inverted") is False else []
    words += [PLACES[network["activation"]]] if network["activation"] != "original" else []
    assert not network["stem_activation"], name
    assert network["bottleneck_stride"] == ("3x3" if of_imagenet and recipe["nesterov"] else None), name
    return " ".join([*words, *(["†"] if recipe["nesterov"] else [])])


def made_by(row: str, cell: Cell) -> str:
    """The network of a cell as the lists above name it."""
    if cell.experiments:
        share = f" of {describe_network(cell.share_of)}" if cell.share_of else ""
        return "; ".join(map(describe_network, cell.experiments)) + share
    dataset = {"VOC 2012 test": "VOC 2012 ", "ImageNet": "", "CIFAR-10": "cifar10 ", "CIFAR-100": "cifar100 "}[
        cell.dataset
    ]
    kind = "quoted" if cell.quoted else "not rebuilt"
    return f"{dataset}{kind} {re.sub('^CIFAR-100?, ', '', row).removesuffix(', 299x299')}"


SPLIT = "cifar10 ResNet-110 exclusive-gate -6"
BIASES = "; ".join(f"cifar10 ResNet-110 exclusive-gate {-bias}" for bias in range(11))
FACTS = [  # of the text: he2015, Section 4.2 and Figure 6; he2016, Sections 3.1 and 5
    ("he2015", "In the text", "cifar10 plain-110", "test error %, bound", "single-view", ">60"),
    ("he2015", "In the text", "cifar10 ResNet-1202", "training error %, bound", "single-view", "<0.1"),
    ("he2015", "In the text", SPLIT, "training and validation images", "single-view", "45k/5k"),
    ("he2016", "In the text", SPLIT, "training and validation images", "single-view", None),
    ("he2016", "In the text", BIASES, "gate bias of the lowest validation error", "single-view", "-6"),
    ("he2016", "In the text", "cifar10 ResNet-1001 (e)", "training time", "single-view", "27 hours"),
    ("he2016", "In the text", "ResNet-200 B (e)", "training time", "single-view", "3 weeks"),
]


def expected() -> Counter:
    """(paper, table, network, metric, protocol, value) of every number."""
    found = Counter()
    for (paper, table, protocol), networks in IMAGENET.items():
        for network, values in networks.items():
            for metric, value in zip((TOP_1, TOP_5), values.split(), strict=True):
                found[paper, table, network, metric, protocol, value] += value != "-"
    for (paper, table), networks in CIFAR.items():
        for network, values in networks.items():
            for metric, value in ((PLAIN, values),) if isinstance(values, str) else values:
                found[paper, table, network, metric, None if "quoted" in network else "single-view", value] += 1
    for (paper, table, protocol), networks in DETECTIONS.items():
        for network, values in networks.items():
            for metric, value in values:
                found[paper, table, network, metric, protocol, value] += 1
    for (paper, table, metric), networks in COUNTS.items():
        for network, value in networks.items():
            found[paper, table, network, metric, None, value] += 1
    found.update(FACTS)
    return +found


def test_every_number_of_both_papers_stands_in_its_place_and_no_other_does():
    found = Counter()
    for table in (table for table in PROJECT.tables.values() if table.paper != "own"):
        for row in table.rows:
            for cell in row.cells.values():
                numeric = isinstance(cell.published, float)
                value = f"{cell.published:.{cell.decimals}f}" if numeric else cell.published
                place = (table.paper, table.table, made_by(row.name, cell), cell.metric, cell.tested_by, value)
                found[place] += 1
    assert sorted(map(str, (expected() - found).elements())) == [], "published, and not in params/tables"
    assert sorted(map(str, (found - expected()).elements())) == [], "in params/tables, and not published"
    assert found.total() == 173 + len(FACTS)


def test_a_cell_stands_in_the_row_and_the_column_of_its_network_and_metric():
    """Else the number would be printed as another network's, or as another error."""
    for table in PROJECT.tables.values():
        for row in table.rows:
            for name, cell in row.cells.items():
                [heading] = [c for c, text in zip(table.columns, row.texts, strict=True) if f"{{{name}}}" in text]
                place = (table.paper, table.table, row.name, name)
                depth = re.search(r"\d+", cell.network)
                if cell.experiments and depth and (table.paper, table.table) not in {("he2016", "Table 1")}:
                    assert depth[0] in f"{row.name} {heading}", place
                if cell.metric in (TOP_1, TOP_5):
                    shown = heading if heading.startswith("top") else table.title
                    assert shown.lower().startswith(cell.metric[:5]), place
                if cell.is_cost:
                    assert heading == cell.metric, place
                if cell.metric == MEAN:
                    assert "mean" in heading or "mean" in table.title, place


def test_runs_behind_a_number():
    """he2015 says of ResNet-110 alone that it was run five times; nobody says it of ImageNet."""
    for table in PROJECT.tables.values():
        for row in table.rows:
            for cell in row.cells.values():
                if table.paper == "he2015" and not cell.is_cost:
                    several = row.name in ("ResNet-110", "Highway, 19 layers")
                    assert cell.published_runs == (5 if several else 1), (table.table, row.name)
                if cell.metric in (TOP_1, TOP_5):
                    assert cell.published_runs == 1, (table.table, row.name)


@pytest.mark.parametrize(("paper", "name"), FIGURES)
def test_a_figure_shows_the_networks_that_the_papers_does(paper, name):
    [figure] = [f for f in PROJECT.figures.values() if (f.paper, f.figure) == (paper, name)]
    panels = [getattr(panel, "curves", [panel]) for panel in figure.panels]
    shown = [[describe_network(curve.experiment).removeprefix("cifar10 ") for curve in panel] for panel in panels]
    assert shown == FIGURES[paper, name]
    if paper == "he2015":
        assert [[curve.label for curve in panel] for panel in panels] == shown, "no curve under another's name"


def test_the_kinds_of_the_figures():
    """he2015, Figure 6, draws training error where he2016 draws training loss; its Figure 7 draws no training."""
    kinds = {(figure.paper, figure.figure): figure.kind for figure in PROJECT.figures.values()}
    units = {("he2016", f"Figure {number}"): "units" for number in (2, 4, 5)}
    curves = {key: "curves" for key in FIGURES if key not in units}
    own = {("own", "Signal propagation"): "signals"}
    assert kinds == {**curves, **units, **own, ("he2015", "Figure 7"): "responses"}
    dashed = {(f.paper, f.dashed) for f in PROJECT.figures.values() if f.kind == "curves"}
    assert dashed == {("he2015", "training error"), ("he2016", "training loss")}
