"""The order of work, the next command, and the time that runs took."""

from collections import Counter

import pytest

from identity_mappings import cli
from identity_mappings.parameters import load
from identity_mappings.parameters.work import Order, Step
from identity_mappings.reporting import order, times
from identity_mappings.reporting.cells import Records

RESNET20, PLAIN20, RESNET110 = "cifar10-resnet20", "cifar10-plain20", "cifar10-resnet110"
H200, EPYC = {"cpu": "a cpu", "gpu": {"model": "NVIDIA H200"}}, {"cpu": "AMD EPYC", "gpu": None}


def runs_of(bench, scale: str = "paper") -> list[order.Wanted]:
    project = bench.project
    return list(order.wanted(project, scale, Records(project, scale)))


def timed(hardware: dict, *sessions: tuple[float, int], **more) -> dict:
    """A provenance: hardware, and (seconds, runs at once) of each session."""
    return {
        "hardware": hardware,
        "sessions": [
            {"seconds": seconds, "runs_at_once": at_once, "peak_memory_bytes": 2**30 * (1 + number), **more}
            for number, (seconds, at_once) in enumerate(sessions)
        ],
    }


def next_of(bench, capsys, monkeypatch, *arguments: str) -> tuple[int, list[str]]:
    monkeypatch.chdir(bench.root)
    capsys.readouterr()
    status = cli.main(["next", *arguments])
    return status, capsys.readouterr().out.splitlines()


def test_every_run_on_cifar_that_is_wanted_has_its_place_once(root_of_project):
    project = load(root_of_project)
    expected = Counter(
        (experiment.name, seed)
        for experiment in project.wanted("paper")
        if experiment.parameters["dataset"]["name"].startswith("cifar")
        for seed in project.seeds(experiment)
    )
    found = order.wanted(project, "paper", Records(project, "paper"))
    assert Counter((one.experiment.name, one.seed) for one in found) == expected
    assert set(expected.values()) == {1}


def test_table_1_comes_first_on_a_gpu_and_small_networks_on_a_cpu(root_of_project):
    """Published, unpublished elsewhere and cheap first: Table 1, then 2, then 3 with a run each, before second runs."""
    project = load(root_of_project)
    runs = list(order.wanted(project, "paper", Records(project, "paper")))
    firsts = [job[0].experiment.name for job, _ in order.commands(runs, "paper", "gpu")]
    rows = project.tables["he2016-table1"].rows
    assert all({*row.cells["error"].experiments} & {*firsts[:11]} for row in rows), "a run of each of the eleven rows"
    ten = {
        name for row in project.tables["he2016-table2"].rows for cell in row.cells.values() for name in cell.experiments
    }
    assert ten <= {*firsts[:20]}
    assert [job[0].experiment.name for job, _ in order.commands(runs, "paper", "cpu")][:2] == [RESNET20, PLAIN20]


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
    assert lines[2] == f"# {RESNET20}, seed 0, goes on from its last checkpoint, about 32,000"
    assert lines[3:] == [f"identity-mappings train {RESNET20} --seed 0 --device cpu --arithmetic bfloat16"]


def test_next_says_what_to_type(bench, capsys, monkeypatch):
    """First the first iterations twice, then the run; what is done is not said again."""
    _, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu", "--count", "1")
    assert lines[0] == "# 0 of 220 runs are done"
    assert lines[2:] == [
        f"identity-mappings verify {RESNET20} --twice --device cpu",
        f"identity-mappings train {RESNET20} --seed 0 --device cpu",
    ]
    bench.record(RESNET20, 8.7)
    _, lines = next_of(bench, capsys, monkeypatch, "--device", "cpu", "--count", "1")
    assert lines[0] == "# 1 of 220 runs are done"
    assert lines[-1] == f"identity-mappings train {PLAIN20} --seed 0 --device cpu"
    _, lines = next_of(bench, capsys, monkeypatch)
    assert [line for line in lines if not line.startswith("#")][:2] == [
        f"identity-mappings verify {RESNET110} --twice --device gpu",
        f"identity-mappings train {RESNET110} --seed 0 --device gpu",
    ]
    # What it says are commands.
    for line in lines:
        if not line.startswith("#"):
            cli.parser().parse_args(line.split()[1:])


def test_the_runs_of_a_step_are_one_job(bench, capsys, monkeypatch):
    (bench.root / "params/order.yaml").write_text(
        f"steps: [{{name: all, why: so, experiments: [{RESNET110}], runs: 9}}]\n"
    )
    bench.record(RESNET110, 6.6, 1)
    _, lines = next_of(bench, capsys, monkeypatch)
    assert lines[0] == "# 1 of 5 runs are done", "no more than the scale wants"
    assert lines[-1] == f"identity-mappings train {RESNET110} --seed 0 2 3 4 --device gpu"
    for seed in (0, 2, 3, 4):
        bench.record(RESNET110, 6.6, seed)
    assert next_of(bench, capsys, monkeypatch) == (1, ["# 5 of 5 runs are done"])


def test_several_experiments_are_one_job_where_that_is_asked_for(bench, capsys, monkeypatch):
    """Of one step, and of the same seeds; what was begun is not verified again."""
    names = [RESNET110, f"{RESNET110}-dropout", f"{RESNET110}-convolution"]
    (bench.root / "params/order.yaml").write_text(
        f"steps: [{{name: all, why: so, experiments: [{', '.join(names)}], runs: 1}}]\n"
    )
    bench.record(names[0], 30.0, status="unfinished")
    _, lines = next_of(bench, capsys, monkeypatch, "--at-once", "2")
    assert [line for line in lines if not line.startswith("#")] == [
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


def test_several_runs_at_once_share_the_time_of_their_process(bench):
    bench.record(RESNET110, 6.6, provenance=timed(H200, (1000.0, 1), (4000.0, 5)))
    [run] = [one for one in runs_of(bench) if one.record]
    found = times.spent(run.record)
    assert (found.device, found.seconds, found.peak_memory) == ("GPU NVIDIA H200", 1800.0, 2 * 2**30)


def test_several_processes_count_each_with_its_gpu(bench):
    changes = timed(H200, (1000.0, 1)) | {"seed": {"seed": 0, "world_size": 4}}
    bench.record(RESNET110, 6.6, provenance=changes)
    [run] = [one for one in runs_of(bench) if one.record]
    assert times.spent(run.record).seconds == 4000


def test_a_record_that_says_nothing_of_its_time_is_no_mistake(bench):
    bench.record(RESNET110, 6.6)
    [run] = [one for one in runs_of(bench) if one.record]
    assert times.spent(run.record) == times.Spent("CPU", 0, 64_000, None)


def test_what_is_left_is_what_the_same_kind_took(bench):
    """Two of ResNet-20's five runs on a GPU, 3,200 s on average, one of them half done."""
    bench.record(RESNET20, 8.7, provenance=timed(H200, (3200.0, 1)))
    bench.record(RESNET20, 30.0, 1, status="unfinished", provenance=timed(H200, (1600.0, 1)))
    runs = runs_of(bench)
    rows = {row.name: row for row in times.times(bench.project, runs, {})}
    row = rows["ResNet-20, cifar10"]
    assert (row.wanted, row.done, row.device, row.iterations) == (5, 1, "GPU NVIDIA H200", 64_000)
    assert row.seconds_an_iteration == pytest.approx(4800 / 96_000)
    assert row.seconds == 4800
    assert row.seconds_left == pytest.approx(3.5 * 3200)
    assert row.operations_left is None, "nothing was counted"
    total = rows["all"]
    assert (total.seconds, total.seconds_left) == (4800, None), "of most kinds nothing is known"
    assert rows["he2016's CIFAR half"].seconds == 0


def test_times_on_a_cpu_are_no_gpu_hours(bench):
    bench.record(RESNET110, 6.6, provenance=timed(EPYC, (9000.0, 1)))
    rows = {row.name: row for row in times.times(bench.project, runs_of(bench), {})}
    assert (rows["ResNet-110, cifar10"].device, rows["ResNet-110, cifar10"].seconds) == ("CPU AMD EPYC", 9000)
    assert rows["he2016's CIFAR half"].seconds == 0


def test_all_gpu_hours_are_summed_where_each_kind_is_known(bench):
    (bench.root / "params/order.yaml").write_text(
        f"steps: [{{name: all, why: so, experiments: [{RESNET110}, {RESNET20}], runs: 2}}]\n"
    )
    for name, seconds in ((RESNET110, 6000.0), (RESNET20, 1000.0)):
        bench.record(name, 6.6, provenance=timed(H200, (seconds, 1)))
    rows = {row.name: row for row in times.times(bench.project, runs_of(bench), {})}
    assert (rows["all"].seconds, rows["all"].seconds_left) == (7000, pytest.approx(7000))
    half = rows["he2016's CIFAR half"]
    assert (half.wanted, half.done, half.seconds, half.seconds_left) == (2, 1, 6000, pytest.approx(6000))


def test_operations_are_those_of_the_cost_record(counted):
    """ResNet-20: 40.8 M multiply-adds an image (cost), three times for a step, 128 images, 64,000 iterations."""
    project = counted.project
    costs = Records(project, "paper").costs()
    rows = {row.name: row for row in times.times(project, runs_of(counted), costs)}
    image = costs[project.resolve(RESNET20).network_digest]["multiply_adds"]
    assert 40e6 < image < 42e6
    assert rows["ResNet-20, cifar10"].operations_left == 5 * 3 * image * 128 * 64_000


def test_kinds_are_told_apart(bench):
    project = bench.project
    names = {
        RESNET110: "ResNet-110, cifar10",
        PLAIN20: "plain-20, cifar10",
        "cifar10-resnet110-1layer": "ResNet-110, 1-layer skip, cifar10",
        "cifar100-resnet164": "ResNet-164, cifar100",
        "cifar10-resnet1001-full-pre-activation-released-code": "ResNet-1001, cifar10, batch 64",
    }
    assert {name: times.kind(project.resolve(name)) for name in names} == names
