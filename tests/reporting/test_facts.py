"""Facts of the papers' text: bounds, times and the split, rebuilt from records."""

import pytest

SPLIT = "cifar10-resnet110-exclusive-gate-b6-split"


def cell(bench, row: str, column: str = "error", paper: str = "he2015") -> dict:
    bench.tables()
    return bench.cell("In the text", row, column, paper=paper)


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([90.0], "agrees"),
        ([60.1], "agrees"),
        ([59.9], "undecided"),
        ([20.0], "differs"),
        ([None], "agrees"),
        ([22.0, 20.0, 19.0], "differs"),
        ([90.0, 20.0, 19.0], "undecided"),
    ],
)
def test_a_bound_of_the_test_error(bench, errors, verdict):
    for seed, error in enumerate(errors):
        bench.record("cifar10-plain110", error, seed)
    found = cell(bench, "plain-110")
    assert (found["verdict"], found["published"], found["runs"]) == (verdict, ">60", len(errors))


@pytest.mark.parametrize(("training_error", "verdict"), [(0.05, "agrees"), (0.1, "differs"), (0.3, "differs")])
def test_a_bound_of_the_training_error(bench, training_error, verdict):
    bench.record("cifar10-resnet1202", 7.9, training_error=training_error)
    found = cell(bench, "ResNet-1202")
    assert (found["verdict"], found["measured"]) == (verdict, training_error)


def test_a_training_time_stands_in_the_section_on_time_alone(bench):
    """The same runs on a busier machine give the same tables."""
    pages = []
    for hours in (20, 50):
        session = {"device_seconds": 3600.0 * hours, "seconds": 3600.0 * hours}
        origin = {"hardware": {"gpu": {"model": "NVIDIA H100"}}, "sessions": [session]}
        bench.record("cifar10-resnet1001-full-pre-activation", 4.9, provenance=origin)
        found = cell(bench, "ResNet-1001", "time", "he2016")
        assert (found["measured"], found["verdict"]) == ("README.md, Time", "not judged")
        findings, time = (bench.root / "results/README.md").read_text().split("## Time\n")
        assert f" {hours}.00 " in time
        names = ("tables.md", "paper.md", "comparison.md", "tables.json", "metrics.json")
        pages.append([findings, *((bench.root / "results" / name).read_text() for name in names)])
    assert pages[0] == pages[1]


def test_the_split_is_that_of_the_record(bench):
    assert cell(bench, "the split for choices", "images")["verdict"] == "not run"
    bench.record(SPLIT, 8.9, provenance={"data": {"training_images": 45_000, "test_images": 5_000}})
    found = cell(bench, "the split for choices", "images")
    assert (found["published"], found["measured"], found["verdict"]) == ("45k/5k", "45k/5k", "agrees")


@pytest.mark.parametrize(
    ("errors", "measured", "verdict"),
    [
        ({bias: 9.0 + (bias - 6) ** 2 / 10 for bias in range(11)}, "-6", "agrees"),
        ({bias: None if bias < 6 else float(bias) for bias in range(11)}, "-6", "agrees"),
        ({bias: float(9 + bias) for bias in range(11)}, "0", "differs"),
        (dict.fromkeys(range(11)), "fail", "differs"),
        ({5: 9.2, 6: 9.0}, "-6", "undecided"),
    ],
)
def test_the_bias_is_chosen_by_the_held_out_images(bench, errors, measured, verdict):
    for bias, error in errors.items():
        bench.record(f"cifar10-resnet110-exclusive-gate-b{bias}-split", error)
    found = cell(bench, "the chosen bias", "bias", "he2016")
    assert (found["published"], found["measured"], found["verdict"]) == ("-6", measured, verdict)
    bias_of = {"-6": 6, "0": 0, "fail": 0}
    assert len(found["records"]) == len(errors), "it stands on all of them, the chosen first"
    chosen = f"cifar10-resnet110-exclusive-gate-b{bias_of[measured]}-split"
    assert found["experiment"] == chosen and f"/{chosen}-" in found["records"][0]
    assert found["mean"] == errors[bias_of[measured]], "not of all biases together"


def test_the_bias_is_chosen_in_any_arithmetic(bench):
    name = "cifar10-resnet110-exclusive-gate-b6-split"
    bench.record(name, 9.0, arithmetic="tf32")
    assert cell(bench, "the chosen bias", "bias", "he2016")["measured"] == "-6"


def test_no_record_no_fact(bench):
    assert cell(bench, "plain-110")["verdict"] == cell(bench, "ResNet-1202")["verdict"] == "not run"
    assert cell(bench, "the chosen bias", "bias", "he2016")["verdict"] == "not run"
