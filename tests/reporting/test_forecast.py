"""How long the rest would take: what it rests on, how it is dealt out to devices, and what nobody knows."""

import json

import pytest

from identity_mappings import cli
from identity_mappings.networks.closed_form import closed_form
from identity_mappings.parameters.claims import Order
from identity_mappings.records import machine
from identity_mappings.reporting.forecast import Devices, _simulate_queue, devices_here, parse_devices

RESNET20, PLAIN20, RESNET110 = "cifar10-resnet20", "cifar10-plain20", "cifar10-resnet110"
H200, H100 = ({"cpu": "a cpu", "gpu": {"model": f"NVIDIA {name}"}} for name in ("H200", "H100"))


def timed(seconds: float, hardware: dict = H200) -> dict:
    return {"hardware": hardware, "sessions": [{"seconds": seconds, "device_seconds": seconds}]}


@pytest.fixture
def what_if(bench, capsys, monkeypatch):
    """The forecast of --json, and the lines of the text, for a scale that wants these experiments alone."""
    monkeypatch.chdir(bench.root)

    def call(devices: str | None, *names: str, runs: int = 1) -> tuple[dict, list[str]]:
        scale = bench.root / "params/scales/paper.yaml"
        head = scale.read_text().partition("\nexperiments:")[0].rstrip()
        head = "\n".join(f"runs: {runs}" if line.startswith("runs:") else line for line in head.splitlines())
        scale.write_text(f"{head}\nexperiments: [{', '.join(names)}]\n")
        words = ["status", "--what-if", *([devices] if devices else [])]
        capsys.readouterr()
        assert cli.main([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["what_if"]
        assert cli.main(words) == 0
        return found, capsys.readouterr().out.splitlines()

    return call


def test_runs_are_dealt_out_to_devices_that_are_free(bench, what_if):
    bench.record(RESNET20, 8.7, provenance=timed(3600))
    found, lines = what_if("gpu=4", RESNET20, runs=5)
    assert (found["devices"], found["model"], found["runs"]) == ("gpu=4", "GPU NVIDIA H200", 4)
    assert found["seconds"] == pytest.approx(3600) and found["device_seconds"] == pytest.approx(4 * 3600)
    found, lines = what_if("gpu=3", RESNET20, runs=5)
    assert found["seconds"] == pytest.approx(2 * 3600)
    assert lines[0] == "gpu=3 (NVIDIA H200): about 2.0 h for 4 runs"
    assert lines[1] == "  ResNet-20, cifar10: 4 runs, 0.0563 s an iteration, measured in 1 run"
    [kind] = found["kinds"]
    assert (kind["kind"], kind["basis"], kind["records"]) == ("ResNet-20, cifar10", "measured", 1)


def test_a_network_without_a_record_is_estimated_and_says_so(bench, what_if):
    bench.record(RESNET20, 8.7, provenance=timed(64000))
    found, lines = what_if("gpu=1", RESNET20, RESNET110)
    cost = {
        name: closed_form(bench.project.resolve(name).parameters["network"], 10, 3, 32).multiply_adds
        for name in (RESNET20, RESNET110)
    }
    assert found["seconds"] == pytest.approx(64000 * cost[RESNET110] / cost[RESNET20])
    [kind] = found["kinds"]
    assert (kind["basis"], kind["estimated_from"], kind["records"]) == ("estimated", "ResNet-20, cifar10", 1)
    assert "1 of them estimated by multiply-adds" in lines[0]
    bench.record("cifar10-resnet56", 7.0, provenance=timed(128000))
    found, _ = what_if("gpu=1", RESNET20, RESNET110, "cifar10-resnet56")
    assert found["kinds"][0]["estimated_from"] == "ResNet-56, cifar10", "the nearest in multiply-adds"


def test_what_is_unknown_is_named_and_never_guessed(bench, what_if):
    bench.record(RESNET20, 8.7, provenance=timed(3600))
    custom = "cifar10-resnet110-convolutional-gate"  # neither a closed form nor, here, the cost record knows it
    found, lines = what_if("gpu=2", RESNET20, custom, runs=2)
    assert found["runs_of_unknown_time"] == 2 and found["runs"] == 3
    assert found["seconds"] == pytest.approx(3600), "of the one that is known"
    assert lines[0] == "gpu=2 (NVIDIA H200): at least 60 min for 1 run, without 2 of unknown time"
    assert "  ResNet-110, cifar10: 2 runs, unknown: no similar run" in lines


def test_no_record_at_all(what_if):
    found, lines = what_if("gpu=4", RESNET20, PLAIN20)
    assert (found["model"], found["seconds"], found["runs_of_unknown_time"]) == (None, None, 2)
    assert lines[0].startswith("gpu=4: unknown: ") and len(lines) == 3


def test_a_cpu_says_nothing_of_gpus_nor_one_arithmetic_of_another(bench, what_if):
    bench.record(RESNET20, 8.7, provenance=timed(3600, {"cpu": "AMD EPYC", "gpu": None}))
    bench.record(PLAIN20, 9.0, provenance=timed(36, H100), arithmetic="bfloat16")
    found, _ = what_if("gpu=1", RESNET20, PLAIN20, RESNET110)
    assert found["seconds"] is None and found["runs_of_unknown_time"] == 1
    found, _ = what_if("cpu=1", RESNET20, PLAIN20, RESNET110)
    assert found["model"] == "CPU AMD EPYC" and found["seconds"] > 3600


def test_nothing_is_left(bench, what_if):
    bench.record(RESNET20, 8.7)
    found, lines = what_if("gpu=1", RESNET20)
    assert (found["runs"], found["seconds"], lines) == (0, 0.0, ["gpu=1: nothing is left to train"])


def test_this_machine_is_the_default_and_its_cpu_goes_first(bench, what_if):
    bench.record(RESNET20, 8.7, seed=0, provenance=timed(3600, {"cpu": "Other", "gpu": None}))
    bench.record(RESNET20, 8.7, seed=1, provenance=timed(3600, {"cpu": "Other", "gpu": None}))
    bench.record(RESNET20, 8.7, seed=2, provenance=timed(7200, {"cpu": machine.find_cpu_model(), "gpu": None}))
    found, _ = what_if("cpu=2", RESNET20, runs=4)
    assert found["model"] == f"CPU {machine.find_cpu_model()}" and found["seconds"] == pytest.approx(7200)
    found, _ = what_if(None, RESNET20, runs=4)
    assert found["devices"] == str(devices_here("gpu"))


def test_an_extra_seed_tells_how_fast_too(bench, what_if):
    """A pilot with a seed that no table wants."""
    bench.record(RESNET20, 8.7, seed=9, provenance=timed(3600))
    found, _ = what_if("gpu=1", RESNET20)
    assert found["seconds"] == pytest.approx(3600) and found["runs"] == 1


def test_the_order_is_that_of_the_work(bench):
    """A long run that comes last is alone in the end."""
    assert _simulate_queue([(1, 1), (1, 1), (10, 1)], Devices("CPU", 2)) == 11
    assert _simulate_queue([(10, 1), (1, 1), (1, 1)], Devices("CPU", 2)) == 10
    assert _simulate_queue([(8, 2), (8, 1)], Devices("GPU", 2)) == 12, "two GPUs for 4 s each, then one for 8 s"
    assert _simulate_queue([(8, 2), (8, 1)], Devices("CPU", 2)) == 16, "both cores for 8 s"
    assert isinstance(bench.project.order, Order)


def test_devices_are_read_as_people_write_them():
    assert parse_devices("gpu=4") == Devices("GPU", 4) and parse_devices("CPU=16") == Devices("CPU", 16)
    assert parse_devices("here") is None
