"""The time that runs took, and what those that are left will take: measured, or scaled by multiply-adds."""

import shutil

import pytest

from identity_mappings.records.speed import CPU, GPU, Speeds, Spent, read_speeds, read_spent
from identity_mappings.reporting import times
from identity_mappings.reporting.findings import time_runs
from identity_mappings.reporting.run_states import RunState, list_runs
from identity_mappings.reporting.store import Records

RESNET20, PLAIN20, RESNET110 = "cifar10-resnet20", "cifar10-plain20", "cifar10-resnet110"
H200, H100 = ({"cpu": "a cpu", "gpu": {"model": f"NVIDIA {name}"}} for name in ("H200", "H100"))
EPYC = {"cpu": "AMD EPYC", "gpu": None}


def timed(hardware: dict, *seconds: float) -> dict:
    """A provenance with the seconds of the device of each session."""
    sessions = [
        {"seconds": 5 * time, "device_seconds": time, "peak_memory_bytes": 2**30 * (1 + number)}
        for number, time in enumerate(seconds)
    ]
    return {"hardware": hardware, "sessions": sessions}


def want(bench, *names: str, runs: int = 5) -> None:
    """Let the papers' scale want these experiments alone."""
    scale = bench.root / "params/scales/paper.yaml"
    head = scale.read_text().partition("\nexperiments:")[0].partition("\norder:")[0]
    lines = [f"runs: {runs}" if line.startswith("runs:") else line for line in head.splitlines()]
    scale.write_text("\n".join([*lines, f"experiments: [{', '.join(names)}]", ""]))


def runs_of(bench) -> list[RunState]:
    return list_runs(Records(bench.project, "paper"))


def rows_of(bench) -> dict[tuple[str, str], times.Times]:
    records = Records(bench.project, "paper")
    return {(row.name, row.device): row for row in time_runs(records, list_runs(records))}


# How far a run is by its record.


def test_a_run_is_finished_diverged_interrupted_or_waiting(bench):
    bench.record(RESNET20, 8.7)
    bench.record(PLAIN20, None)
    bench.record("cifar10-resnet32", 30.0, status="unfinished")
    found = {each.experiment.name: each for each in runs_of(bench) if each.seed == 0}
    whole = 64_000
    for name, state, left in (
        (RESNET20, "finished", 0),
        (PLAIN20, "diverged", 0),
        ("cifar10-resnet32", "interrupted", whole // 2),
        ("cifar10-plain32", "waiting", whole),
    ):
        assert (found[name].state, found[name].iterations_left) == (state, left), name
        assert found[name].is_done == (left == 0)


def test_an_unfinished_run_in_another_arithmetic_is_resumed_in_it(bench):
    bench.record(RESNET20, 30.0, status="unfinished", arithmetic="bfloat16")
    arithmetics = {each.seed: each.experiment.parameters["recipe"]["arithmetic"] for each in runs_of(bench)[:1]}
    assert runs_of(bench)[0].experiment.name == RESNET20 and arithmetics == {0: "bfloat16"}


def test_all_runs_of_an_experiment_are_of_the_arithmetic_of_those_that_are_finished(bench):
    """Tables show one arithmetic: an unfinished run in another would be finished for nothing."""
    want(bench, RESNET110, runs=3)

    def arithmetics() -> list[str]:
        return [each.experiment.parameters["recipe"]["arithmetic"] for each in runs_of(bench)]

    bench.record(RESNET110, 30.0, 1, status="unfinished", arithmetic="bfloat16")
    assert arithmetics() == ["float32", "bfloat16", "float32"]
    bench.record(RESNET110, 6.6, 0, arithmetic="tf32")
    assert arithmetics() == ["tf32"] * 3
    bench.record(RESNET110, 6.6, 0)
    assert arithmetics() == ["float32"] * 3


# Time spent.


def test_a_run_took_the_seconds_of_its_device(bench):
    """Its share, where several were trained at once; of older records, which do not say, the seconds of the process."""
    bench.record(RESNET110, 6.6, provenance=timed(H200, 1000.0, 800.0))
    bench.record(RESNET110, 6.6, 1, provenance={"hardware": EPYC, "sessions": [{"seconds": 70.0}, {"seconds": 5.0}]})
    first, second = (read_spent(each.record) for each in runs_of(bench) if each.record)
    assert first == Spent("GPU NVIDIA H200", 1800.0, 64_000, 2 * 2**30)
    assert second == Spent("CPU AMD EPYC", 75.0, 64_000, None)


def test_several_processes_count_each_with_its_gpu(bench):
    bench.record(RESNET110, 6.6, provenance=timed(H200, 1000.0) | {"seed": {"seed": 0, "world_size": 4}})
    [found] = [each for each in runs_of(bench) if each.record]
    assert read_spent(found.record).seconds == 4000


def test_a_record_that_says_nothing_of_its_time_is_no_mistake(bench):
    bench.record(RESNET110, 6.6)
    [found] = [each for each in runs_of(bench) if each.record]
    assert read_spent(found.record) == Spent("CPU", 0, 64_000, None)
    assert rows_of(bench)["ResNet-110, cifar10", "CPU"].seconds_an_iteration is None


# Time to go.


def test_what_is_left_takes_the_time_of_the_same_network(bench):
    """Two of ResNet-20's five runs on a GPU, 3,200 s on average, one of them half done."""
    bench.record(RESNET20, 8.7, provenance=timed(H200, 3200.0))
    bench.record(RESNET20, 30.0, 1, status="unfinished", provenance=timed(H200, 1600.0))
    rows = rows_of(bench)
    row = rows["ResNet-20, cifar10", "GPU NVIDIA H200"]
    assert (row.wanted, row.done, row.iterations, row.seconds) == (5, 1, 64_000, 4800)
    assert row.seconds_an_iteration == pytest.approx(4800 / 96_000)
    assert (row.left.runs, row.left.seconds, row.left.scaled, row.left.unknown) == (4, pytest.approx(3.5 * 3200), 0, 0)
    assert row.left.in_words == "about 3.1 h on GPU NVIDIA H200"
    total = rows["all", ""]
    assert (total.done, total.seconds, total.left.seconds) == (1, 4800, pytest.approx(3.5 * 3200))
    assert total.left.unknown == total.left.runs - 4, "nothing was counted"
    assert total.left.in_words.startswith("at least 3.1 h") and "without" in total.left.in_words


def test_another_network_is_scaled_from_the_nearest_in_multiply_adds(counted):
    want(counted, RESNET20, RESNET110, "cifar10-resnet56", runs=1)
    counted.record(RESNET20, 8.7, provenance=timed(H200, 64_000.0))
    costs = Records(counted.project, "paper").costs
    cost = {
        name: costs[counted.project.resolve(name).network_digest]["multiply_adds"] for name in (RESNET20, RESNET110)
    }
    row = rows_of(counted)["ResNet-110, cifar10", ""]
    assert row.left.seconds == pytest.approx(64_000 * cost[RESNET110] / cost[RESNET20])
    assert (row.left.runs, row.left.scaled) == (1, 1) and "estimated by multiply-adds" in row.left.in_words
    counted.record("cifar10-resnet56", 7.0, provenance=timed(H200, 128_000.0))
    speeds = times.gather_speeds(runs_of(counted), Speeds(costs))
    assert speeds.find(counted.project.resolve(RESNET110), ["GPU NVIDIA H200"]).scaled_from == "cifar10-resnet56"


def test_a_batch_counts_by_its_images(counted):
    released = "cifar10-resnet1001-full-pre-activation-released-code"  # a batch of 64
    usual = counted.project.resolve("cifar10-resnet1001-full-pre-activation")
    speeds = Speeds(Records(counted.project, "paper").costs)
    speeds.add(usual, Spent("GPU a", 100.0, 100, None))
    assert speeds.find(counted.project.resolve(released), ["GPU a"]).seconds == pytest.approx(0.5)


def test_a_cpu_says_nothing_of_gpus_nor_one_arithmetic_or_number_of_threads_of_another(counted):
    experiment, costs = counted.project.resolve(RESNET20), Records(counted.project, "paper").costs
    other = counted.project.resolve(RESNET110)
    speeds = Speeds(costs)
    speeds.add(experiment, Spent("CPU a", 100.0, 100, None))
    speeds.add(experiment.in_arithmetic("tf32"), Spent("GPU a", 100.0, 100, None))
    assert (speeds.list_devices(GPU), speeds.list_devices(CPU)) == (["GPU a"], ["CPU a"])
    assert speeds.find(experiment, ["GPU a"]) is None and speeds.find(other, ["GPU a"]) is None
    assert speeds.find(other.in_arithmetic("tf32"), ["GPU a"]).scaled_from == RESNET20
    assert speeds.find(experiment, ["GPU a", "CPU a"]).device == "CPU a"
    other.parameters["recipe"]["cpu_threads"] += 1
    assert speeds.find(other, ["CPU a"]) is None
    assert speeds.find(other.in_arithmetic("tf32"), ["GPU a"]) is not None, "on a GPU they do not matter"


def test_the_device_that_is_named_comes_first_then_that_with_the_most_iterations(bench):
    speeds = Speeds({})
    for device, iterations in (("CPU a", 10), ("CPU b", 30), ("CPU c", 20)):
        speeds.add(bench.project.resolve(RESNET20), Spent(device, 1.0, iterations, None))
    assert speeds.list_devices(CPU) == ["CPU b", "CPU c", "CPU a"]
    assert speeds.list_devices(CPU, "CPU a") == ["CPU a", "CPU b", "CPU c"]


def test_devices_are_told_apart(bench):
    want(bench, RESNET20, runs=4)
    for seed, (hardware, seconds) in enumerate(((H200, 100.0), (H200, 100.0), (H100, 300.0))):
        bench.record(RESNET20, 8.7, seed, provenance=timed(hardware, seconds))
    rows = rows_of(bench)
    for device, done, seconds in (("GPU NVIDIA H200", 2, 200), ("GPU NVIDIA H100", 1, 300)):
        row = rows["ResNet-20, cifar10", device]
        assert (row.done, row.seconds) == (done, seconds)
    assert rows["ResNet-20, cifar10", "GPU NVIDIA H100"].left is None, "it stands in the first row"
    assert rows["all", ""].left.seconds == pytest.approx(100), "on the GPU with the most iterations"
    assert rows["all", ""].seconds == 500


def test_where_no_gpu_was_used_the_time_is_that_of_a_cpu_and_says_so(bench):
    want(bench, RESNET110, runs=2)
    bench.record(RESNET110, 6.6, provenance=timed(EPYC, 9000.0))
    assert rows_of(bench)["all", ""].left.in_words == "about 2.5 h on CPU AMD EPYC"
    bench.record(RESNET110, 6.6, 1, provenance=timed(H200, 100.0))
    assert rows_of(bench)["all", ""].left.in_words == ""


def test_the_records_of_all_scales_tell_and_bad_ones_do_not(counted):
    bench = counted
    experiment = bench.project.resolve(RESNET110)
    assert read_speeds(bench.root).list_devices(GPU) == []
    bench.record(RESNET110, 6.6, provenance=timed(H200, 6400.0))
    bench.record(RESNET110, 12.0, scale="tiny", provenance=timed(EPYC, 4.0))
    speeds = read_speeds(bench.root)
    assert speeds.find(experiment, ["GPU NVIDIA H200"]).seconds == pytest.approx(0.1)
    assert speeds.find(bench.project.resolve(RESNET110, "tiny"), ["CPU AMD EPYC"]).seconds == pytest.approx(0.5)
    assert speeds.count_multiply_adds(experiment) > 128 * 200e6
    assert read_speeds(bench.root, leave_out=bench.root / "results/tiny").list_devices(CPU) == []
    path = bench.folder(RESNET110) / "metrics.json"
    path.write_bytes(path.read_bytes().replace(b"64000", b"32000"))
    shutil.rmtree(bench.root / "results/cost")
    speeds = read_speeds(bench.root)
    assert speeds.list_devices(GPU) == [] and speeds.count_multiply_adds(experiment) is None


def test_kinds_are_told_apart(bench):
    project = bench.project
    names = {
        RESNET110: "ResNet-110, cifar10",
        PLAIN20: "plain-20, cifar10",
        "cifar10-resnet110-1layer": "ResNet-110, 1-layer skip, cifar10",
        "cifar100-resnet164": "ResNet-164, cifar100",
        "cifar10-resnet1001-full-pre-activation-released-code": "ResNet-1001, cifar10, batch 64",
    }
    assert {name: times.name_kind(project.resolve(name)) for name in names} == names
    tf32 = project.resolve(RESNET110).in_arithmetic("tf32")
    assert times.name_kind(tf32) == "ResNet-110, cifar10, tf32"
