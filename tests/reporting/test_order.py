"""The order of work, the next command, and the time that runs took."""

from collections import Counter

import pytest

from identity_mappings import cli
from identity_mappings.parameters import load
from identity_mappings.parameters.claims import Order, Step
from identity_mappings.reporting import order, times
from identity_mappings.reporting.cells import Records

RESNET20, PLAIN20, RESNET110 = "cifar10-resnet20", "cifar10-plain20", "cifar10-resnet110"
H200, H100 = ({"cpu": "a cpu", "gpu": {"model": f"NVIDIA {name}"}} for name in ("H200", "H100"))
EPYC = {"cpu": "AMD EPYC", "gpu": None}


def runs_of(bench, scale: str = "paper") -> list[order.PlannedRun]:
    project = bench.project
    return list(order.plan_runs(Records(project, scale)))


def order_of(bench, *names: str, runs: int) -> None:
    (bench.root / "params/order.yaml").write_text(
        f"steps: [{{name: all, why: so, experiments: [{', '.join(names)}], runs: {runs}}}]\n"
    )


def timed(hardware: dict, *seconds: float) -> dict:
    """A provenance with the seconds of the device of each session."""
    sessions = [
        {"seconds": 5 * time, "device_seconds": time, "peak_memory_bytes": 2**30 * (1 + number)}
        for number, time in enumerate(seconds)
    ]
    return {"hardware": hardware, "sessions": sessions}


def next_of(bench, capsys, monkeypatch, *arguments: str) -> tuple[int, list[str]]:
    monkeypatch.chdir(bench.root)
    capsys.readouterr()
    status = cli.main(["next", *arguments])
    return status, capsys.readouterr().out.splitlines()


def said_by(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def test_every_run_on_cifar_that_is_wanted_has_its_place_once(root_of_project):
    project = load(root_of_project)
    expected = Counter(
        (experiment.name, seed)
        for experiment in project.wanted("paper")
        if experiment.parameters["dataset"]["name"].startswith("cifar")
        for seed in project.seeds(experiment)
    )
    expected.update((name, 0) for name in project.experiments if project.holds_out(name))  # choices, one run each
    found = order.plan_runs(Records(project, "paper"))
    assert Counter((one.experiment.name, one.seed) for one in found) == expected
    assert set(expected.values()) == {1}


def test_table_1_comes_first_on_a_gpu_and_small_networks_on_a_cpu(bench):
    """Published, unpublished elsewhere and cheap first: Table 1, then 2, then 3 with a run each, before second runs."""
    project, runs = bench.project, runs_of(bench)
    assert not any(one.done for one in runs), "of no record: those of this repository grow"
    firsts = [job[0].experiment.name for job, _ in order.plan_jobs(runs, "paper", "gpu")]
    rows = project.tables["he2016-table1"].rows
    assert all({*row.cells["error"].experiments} & {*firsts[:11]} for row in rows), "a run of each of the eleven rows"
    ten = {
        name for row in project.tables["he2016-table2"].rows for cell in row.cells.values() for name in cell.experiments
    }
    assert ten <= {*firsts[:20]}
    assert [job[0].experiment.name for job, _ in order.plan_jobs(runs, "paper", "cpu")][:2] == [RESNET20, PLAIN20]


def test_a_run_is_finished_diverged_unfinished_or_to_do(bench):
    bench.record(RESNET20, 8.7)
    bench.record(PLAIN20, None)
    bench.record("cifar10-resnet32", 30.0, status="unfinished")
    states = {one.experiment.name: one for one in runs_of(bench) if one.seed == 0}
    whole = 64_000
    for name, state, left in (
        (RESNET20, "finished", 0),
        (PLAIN20, "diverged", 0),
        ("cifar10-resnet32", "unfinished", whole // 2),
        ("cifar10-plain32", "to do", whole),
    ):
        assert (states[name].state, states[name].iterations_left) == (state, left), name
        assert states[name].done == (left == 0)


def test_an_unfinished_run_in_another_arithmetic_goes_on_in_it(bench, capsys, monkeypatch):
    bench.record(RESNET20, 30.0, status="unfinished", arithmetic="bfloat16")
    status, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu", "--count", "1")
    assert status == 0
    assert lines[2] == f"# {RESNET20}, seed 0: 32,000 iterations; goes on where its checkpoints are"
    assert said_by(lines) == [f"identity-mappings train {RESNET20} --seed 0 --device cpu --arithmetic bfloat16"]


def test_all_runs_of_an_experiment_are_of_the_arithmetic_of_those_that_are_finished(bench, capsys, monkeypatch):
    """Tables show one arithmetic: an unfinished run in another would be finished for nothing."""
    order_of(bench, RESNET110, runs=3)
    bench.record(RESNET110, 6.6, 0, arithmetic="tf32")
    bench.record(RESNET110, 30.0, 1, status="unfinished", arithmetic="bfloat16")
    _, lines = next_of(bench, capsys, monkeypatch)
    assert said_by(lines) == [f"identity-mappings train {RESNET110} --seed 1 2 --device gpu --arithmetic tf32"]
    bench.record(RESNET110, 6.6, 0)
    _, lines = next_of(bench, capsys, monkeypatch)
    assert said_by(lines) == [f"identity-mappings train {RESNET110} --seed 1 2 --device gpu"]


def test_unfinished_runs_of_two_arithmetics_are_two_jobs(bench, capsys, monkeypatch):
    order_of(bench, RESNET110, runs=3)
    bench.record(RESNET110, 30.0, 1, status="unfinished", arithmetic="tf32")
    _, lines = next_of(bench, capsys, monkeypatch)
    assert said_by(lines) == [
        f"identity-mappings verify {RESNET110} --twice --device gpu",
        f"identity-mappings train {RESNET110} --seed 0 2 --device gpu",
        f"identity-mappings train {RESNET110} --seed 1 --device gpu --arithmetic tf32",
    ]


def test_next_says_what_to_type(bench, capsys, monkeypatch):
    """First the first iterations twice, then the run; what is done is not said again."""
    _, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu", "--count", "1")
    assert lines[0] == "# 0 of 236 runs are done"
    assert lines[2:] == [
        f"identity-mappings verify {RESNET20} --twice --device cpu",
        f"identity-mappings train {RESNET20} --seed 0 --device cpu",
    ]
    bench.record(RESNET20, 8.7)
    _, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu", "--count", "1")
    assert lines[0] == "# 1 of 236 runs are done"
    assert lines[-1] == f"identity-mappings train {PLAIN20} --seed 0 --device cpu"
    _, lines = next_of(bench, capsys, monkeypatch)
    assert said_by(lines)[:2] == [
        f"identity-mappings verify {RESNET110} --twice --device gpu",
        f"identity-mappings train {RESNET110} --seed 0 --device gpu",
    ]
    # What it says are commands.
    for line in lines:
        if not line.startswith("#"):
            cli.parser().parse_args(line.split()[1:])


def test_the_runs_of_a_step_are_one_job(bench, capsys, monkeypatch):
    order_of(bench, RESNET110, runs=9)
    bench.record(RESNET110, 6.6, 1)
    _, lines = next_of(bench, capsys, monkeypatch)
    assert lines[0] == "# 1 of 5 runs are done", "no more than the scale wants"
    assert lines[-1] == f"identity-mappings train {RESNET110} --seed 0 2 3 4 --device gpu"
    for seed in (0, 2, 3, 4):
        bench.record(RESNET110, 6.6, seed)
    assert next_of(bench, capsys, monkeypatch) == (1, ["# 5 of 5 runs are done", "# nothing is left to do"])


def test_where_only_a_gpu_helps_it_says_so(bench, capsys, monkeypatch):
    order_of(bench, RESNET110, runs=1)
    status, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu")
    assert (status, lines) == (1, ["# 0 of 1 runs are done", "# the other 1 are for a GPU: --device gpu"])


def test_several_experiments_are_one_job_where_that_is_asked_for(bench, capsys, monkeypatch):
    """Of one step, and of the same seeds; what was begun is not verified again."""
    names = [RESNET110, f"{RESNET110}-dropout", f"{RESNET110}-convolution"]
    order_of(bench, *names, runs=1)
    bench.record(names[0], 30.0, status="unfinished")
    _, lines = next_of(bench, capsys, monkeypatch, "--at-once", "2")
    assert said_by(lines) == [
        f"identity-mappings verify {names[1]} --twice --device gpu",
        f"identity-mappings train {names[0]} {names[1]} --seed 0 --device gpu",
        f"identity-mappings verify {names[2]} --twice --device gpu",
        f"identity-mappings train {names[2]} --seed 0 --device gpu",
    ]
    for line in lines:
        if not line.startswith("#"):
            cli.parser().parse_args(line.split()[1:])


def test_next_names_a_scale_that_is_not_the_papers(bench, capsys, monkeypatch):
    _, lines = next_of(bench, capsys, monkeypatch, "--scale", "tiny", "--count", "1")
    assert lines[0] == "# 0 of 3 runs are done"
    assert lines[-1] == f"identity-mappings train {RESNET110} --seed 0 --device gpu --scale tiny"


@pytest.mark.parametrize("step", [{"runs": 0}, {"experiments": []}, {"device": "tpu"}])
def test_a_step_is_checked(step):
    good = {"name": "a", "why": "b", "experiments": [RESNET20], "runs": 1}
    Order(steps=[Step(**good)])
    with pytest.raises(ValueError, match=next(iter(step))):
        Step(**{**good, **step})


# Times


def rows_of(bench) -> dict[tuple[str, str], times.Times]:
    return {
        (row.name, row.device): row for row in times.tabulate_times(Records(bench.project, "paper"), runs_of(bench))
    }


def test_a_run_took_the_seconds_of_its_device(bench):
    """Its share, where several were trained at once; of older records, which do not say, the seconds of the process."""
    bench.record(RESNET110, 6.6, provenance=timed(H200, 1000.0, 800.0))
    bench.record(RESNET110, 6.6, 1, provenance={"hardware": EPYC, "sessions": [{"seconds": 70.0}, {"seconds": 5.0}]})
    first, second = (times.read_spent(one.record) for one in runs_of(bench) if one.record)
    assert first == times.Spent("GPU NVIDIA H200", 1800.0, 64_000, 2 * 2**30)
    assert second == times.Spent("CPU AMD EPYC", 75.0, 64_000, None)


def test_several_processes_count_each_with_its_gpu(bench):
    changes = timed(H200, 1000.0) | {"seed": {"seed": 0, "world_size": 4}}
    bench.record(RESNET110, 6.6, provenance=changes)
    [run] = [one for one in runs_of(bench) if one.record]
    assert times.read_spent(run.record).seconds == 4000


def test_a_record_that_says_nothing_of_its_time_is_no_mistake(bench):
    bench.record(RESNET110, 6.6)
    [run] = [one for one in runs_of(bench) if one.record]
    assert times.read_spent(run.record) == times.Spent("CPU", 0, 64_000, None)
    assert rows_of(bench)["ResNet-110, cifar10", "CPU"].seconds_an_iteration is None


def test_what_is_left_is_what_the_same_kind_took(bench):
    """Two of ResNet-20's five runs on a GPU, 3,200 s on average, one of them half done."""
    bench.record(RESNET20, 8.7, provenance=timed(H200, 3200.0))
    bench.record(RESNET20, 30.0, 1, status="unfinished", provenance=timed(H200, 1600.0))
    rows = rows_of(bench)
    row = rows["ResNet-20, cifar10", "GPU NVIDIA H200"]
    assert (row.wanted, row.done, row.iterations) == (5, 1, 64_000)
    assert row.seconds_an_iteration == pytest.approx(4800 / 96_000)
    assert row.seconds == 4800
    assert row.left == times.Left(4, pytest.approx(3.5 * 3200), 0, 0)
    assert row.operations_left is None, "nothing was counted"
    total = rows["all", "GPU"]
    assert (total.done, total.seconds, total.left.seconds) == (1, 4800, pytest.approx(3.5 * 3200))
    assert (total.left.unknown_runs, total.left.unknown_kinds) == (231, 16)
    assert rows["all of he2016's CIFAR tables", "GPU"].seconds == 0


def test_a_network_counts_by_its_own_time_before_that_of_its_kind(bench):
    """A 1x1 convolution on each shortcut costs more; what was not run yet takes the mean of the kind."""
    order_of(bench, RESNET110, f"{RESNET110}-convolution", f"{RESNET110}-dropout", runs=2)
    bench.record(RESNET110, 6.6, provenance=timed(H200, 1000.0))
    bench.record(f"{RESNET110}-convolution", 12.0, provenance=timed(H200, 2000.0))
    row = rows_of(bench)["ResNet-110, cifar10", "GPU NVIDIA H200"]
    assert row.left == times.Left(4, pytest.approx(1000 + 2000 + 2 * 1500), 0, 0)


def test_devices_and_arithmetics_are_told_apart(bench):
    order_of(bench, RESNET20, runs=4)
    for seed, (hardware, seconds) in enumerate(((H200, 100.0), (H200, 100.0), (H100, 300.0))):
        bench.record(RESNET20, 8.7, seed, provenance=timed(hardware, seconds))
    rows = rows_of(bench)
    for device, done, each in (("GPU NVIDIA H200", 2, 100), ("GPU NVIDIA H100", 1, 300)):
        row = rows["ResNet-20, cifar10", device]
        assert (row.done, row.left.seconds) == (done, pytest.approx(each))
    assert rows["all", "GPU"].left.seconds == pytest.approx(100), "on the GPU with the most iterations"
    assert rows["all", "GPU"].seconds == 500
    bench.record(RESNET110, 6.6, arithmetic="tf32", provenance=timed(H200, 50.0))
    order_of(bench, RESNET110, runs=2)
    assert {name for _, name in rows_of(bench)} == {"GPU NVIDIA H200, tf32", "GPU"}


def test_times_on_a_cpu_are_no_gpu_hours(bench):
    bench.record(RESNET110, 6.6, provenance=timed(EPYC, 9000.0))
    rows = rows_of(bench)
    assert rows["ResNet-110, cifar10", "CPU AMD EPYC"].seconds == 9000
    for name in ("all", "all of he2016's CIFAR tables"):
        assert (rows[name, "GPU"].seconds, rows[name, "GPU"].done) == (0, 0)


def test_all_gpu_hours_are_summed_where_each_kind_is_known(bench):
    order_of(bench, RESNET110, RESNET20, runs=2)
    for name, seconds in ((RESNET110, 6000.0), (RESNET20, 1000.0)):
        bench.record(name, 6.6, provenance=timed(H200, seconds))
    rows = rows_of(bench)
    assert (rows["all", "GPU"].seconds, rows["all", "GPU"].left) == (7000, times.Left(2, pytest.approx(7000), 0, 0))
    half = rows["all of he2016's CIFAR tables", "GPU"]
    assert (half.wanted, half.done, half.seconds, half.left.seconds) == (2, 1, 6000, pytest.approx(6000))


def test_operations_are_those_of_the_cost_record(counted):
    """ResNet-20: 40.8 M multiply-adds an image (cost), three times for a step, 128 images, 64,000 iterations."""
    project = counted.project
    costs = Records(project, "paper").costs
    image = costs[project.resolve(RESNET20).network_digest]["multiply_adds"]
    assert 40e6 < image < 42e6
    assert rows_of(counted)["ResNet-20, cifar10", ""].operations_left == 5 * 3 * image * 128 * 64_000


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
