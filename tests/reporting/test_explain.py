"""`identity-mappings explain`: the way back from a cell, on the terminal."""

import re

import pytest

from identity_mappings.errors import UserError
from identity_mappings.reporting import explain
from identity_mappings.reporting.pictures import draw_curve
from identity_mappings.reporting.trace import read_curve

RESNET = "cifar10-resnet110"
ORIGIN = {
    "command": f"identity-mappings train {RESNET} --scale paper --seed 2",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "data": {"name": "cifar10", "dvc_md5": "15fc275e5cae3db098ab0f217a684a1f.dir"},
    "hardware": {"gpu": {"model": "NVIDIA H100"}},
    "sessions": [{"device_seconds": 5400.0, "seconds": 5400.0}],
}


@pytest.fixture
def told(bench, capsys):
    """What is printed for some words."""

    def call(table: str, row: str | None = None, column: str | None = None, scale: str = "paper") -> str:
        assert explain.print_traces(scale, table, row, column, bench.root) == 0
        return capsys.readouterr().out

    return call


def facts(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ +([^:\n]+?): +(.+)$", text, re.MULTILINE))


def test_a_number_is_walked_back(bench, told):
    bench.record(RESNET, 6.5, 2, provenance=ORIGIN)
    text = told("he2016, Table 1", "original")
    found = facts(text)
    assert (found["published"], found["rebuilt"], found["difference"]) == ("6.61", "6.50", "−0.11")
    assert "seed 2: 6.50 %" in text
    assert found["commit"].startswith(ORIGIN["git"]["commit"]) and "uncommitted" in found["commit"]
    assert found["device"] == "GPU NVIDIA H100" and found["time"] == "90 min"
    assert found["data hash"] == ORIGIN["data"]["dvc_md5"]
    assert found["verify its first iterations"].startswith("identity-mappings verify results/runs/cifar10-resnet110-")
    assert found["train it again"] == f"{ORIGIN['command']} --results again"
    assert "4 run(s) to go" in text and found["time to go"] == "about 6.0 h on GPU NVIDIA H100"
    assert found["train"] == f"identity-mappings train {RESNET} --seed 0 1 3 4 --device gpu"
    assert "depth: 110" in found["network"]


def test_other_scales_and_others_stand_beside_it(bench, told):
    bench.record(RESNET, 20.5, 0, scale="weekend")
    text = told("he2016, Table 1", "original")
    found = facts(text)
    assert found["rebuilt"] == "not run"
    assert (found["scale weekend"], found["scale overnight"]) == ("20.50 (n = 1)", "not run")
    [sources] = re.findall(r"others: (\d+) source", text)
    assert int(sources) > 15 and re.fullmatch(r"\d\.\d\d \(.*, \d+ sources\)", found["last epoch"])
    assert "hysts/pytorch_image_classification; https://github.com/hysts/" in found["6.52"]
    assert "not counted: " in text
    assert "others" not in told("he2016, Table 1", "dropout shortcut"), "nobody has a number for it"
    assert "scale overnight" in told("he2016, Table 1", "original", scale="weekend")


def test_a_row_of_several_experiments_says_that_it_waits_for_all(bench, told):
    """One of six fails, as in the paper: it agrees once the others were run."""
    bench.record(f"{RESNET}-exclusive-gate-b0", 80.0)
    waiting = "agrees only when all of them were run"
    assert waiting in " ".join(told("he2016, Table 1", "exclusive gating, b_g = 0 to -5").split())
    for bias in range(1, 6):
        bench.record(f"{RESNET}-exclusive-gate-b{bias}", 80.0)
    text = " ".join(told("he2016, Table 1", "exclusive gating, b_g = 0 to -5").split())
    assert waiting not in text and "is “fail”" in text


def test_several_matches_are_listed_and_walked(told):
    text = told("Table 1", "exclusive gating")
    assert text.startswith("3 cells:\n")
    assert len(re.findall(r"^he2016, Table 1 · exclusive gating, b_g = [^·]+ · error$", text, re.MULTILINE)) == 3
    assert "30 run(s) to go" in text, "b_g = 0 to -5: six experiments of five runs each"


def test_many_matches_are_only_listed(told):
    text = told("Table 1")
    assert re.match(r"\d+ cells:", text) and "to go" not in text and "Name a row" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Tabel 1",), "no table 'Tabel 1'"),
        (("Table 1", "exclusive gatting"), "did you mean 'exclusive gating, b_g = "),
        (("Table 6", "ResNet-20", "eror"), "did you mean 'error'"),
    ],
)
def test_a_wrong_name_says_the_nearest(told, words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        told(*words)


def test_a_count_is_walked_back_to_its_record(counted, told):
    found = facts(told("Table 6", "ResNet-20", "parameters"))
    assert found["exactly"] == "269,722" and found["record"] == "results/cost/networks.json"
    assert found["counted again by"] == "identity-mappings cost"


def test_a_quoted_number_says_so(told):
    assert "quotes" in facts(told("he2015, Table 3", "GoogLeNet", "top-5"))["why"]


def test_a_diverged_run_is_told(bench, told):
    bench.record(RESNET, None)
    assert "seed 0: diverged" in told("he2016, Table 1", "original")


def test_a_curve_may_lack_training_errors():
    """As an RPN's steps do, which sort nothing into classes."""
    points = read_curve(b"iteration,training_error,test_error\n10,,\n20,19.5,\n30,,100\n")
    assert points == [(10, None, None), (20, 19.5, None), (30, None, 100.0)]
    assert 'points="107,47"' in draw_curve(points) and "<svg" in draw_curve(points[:1]) and not draw_curve([])
