"""The graph from end to end, on embedded data: what it makes, what it makes again, and what it never makes again."""

import json
import re
import shutil
import subprocess
from collections import Counter

import pytest

from identity_mappings.parameters import load

pytestmark = pytest.mark.slow
TINY = ("--config", "scale=tiny")
REPORTS = ("tables.md", "paper.md", "comparison.md", "metrics.json", "curve.csv", "*.svg", "*.png")


def jobs(answer: subprocess.CompletedProcess) -> Counter:
    """Jobs by rule, from a dry run's statistics."""
    assert answer.returncode == 0, answer.stdout
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", answer.stdout, re.MULTILINE)})


def planned(project, *arguments: str) -> Counter:
    return jobs(project.snakemake("--dry-run", *arguments))


def records(project) -> dict[str, dict]:
    found = sorted((project.root / "results/tiny/runs").glob("*/seed0/metrics.json"))
    return {path.parts[-3].rsplit("-", 1)[0]: json.loads(path.read_text()) for path in found}


def test_records_tables_and_figures_are_made(trained):
    made = records(trained)
    assert set(made) == {
        "cifar10-resnet110",
        "cifar10-resnet110-dropout",
        "cifar10-resnet110-exclusive-gate-b6",
    }
    for name, metrics in made.items():
        assert metrics["status"] == "finished", name
    folder = trained.root / "results/tiny"
    error = made["cifar10-resnet110"]["test_error"]
    shown = "fail" if error > 20 else f"{error:.2f}"
    original = next(line for line in (folder / "tables.md").read_text().splitlines() if line.startswith("| original "))
    assert shown in original
    assert (folder / "figures/he2016-figure3.svg").is_file()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["he2016"]["Table 1"]["original"]["error"]["test_error"] == error


def test_a_second_call_has_nothing_to_do(trained):
    answer = trained.snakemake("--dry-run", *TINY)
    assert "Nothing to be done" in answer.stdout, answer.stdout


def test_all_asks_for_every_wanted_run_once(copy):
    """Tables and figures share experiments: 46 on CIFAR with 5 seeds, 11 choices with one. ImageNet has no data yet."""
    answer = copy.snakemake("--dry-run", "--resources", "gpu=4", "--config", "runs_per_gpu=1", cores=8)
    assert jobs(answer)["train"] == 46 * 5 + 11
    outputs = re.findall(r"output: (results/runs/\S+/metrics.json)", answer.stdout)
    assert len(outputs) == len(set(outputs)) == 46 * 5 + 11
    assert jobs(answer)["responses"] == 5 and jobs(answer)["signals_paper"] == 1


def test_seed_0_of_all_experiments_is_trained_first_in_the_order_of_the_scale(copy):
    copy.edit("params/scales/tiny.yaml", "runs: 1", "runs: 2\norder: [cifar10-resnet110-dropout]")
    answer = copy.snakemake("--dry-run", *TINY)
    job = r"output: results/tiny/runs/(\S+)-[0-9a-f]{12}/seed(\d)/metrics.json.*\n(?:.+\n)*? +priority: (\d+)"
    found = sorted(re.findall(job, answer.stdout), key=lambda match: -int(match[2]))
    names = ["cifar10-resnet110-dropout", "cifar10-resnet110", "cifar10-resnet110-exclusive-gate-b6"]
    assert [match[:2] for match in found] == [(name, seed) for seed in "01" for name in names], answer.stdout


def lay_down(project, experiment, *seeds: int) -> dict:
    """Files in the places of finished records; returns their times."""
    paths = [
        project.root / "results/runs" / experiment.folder / f"seed{seed}" / name
        for seed in seeds
        for name in ("metrics.json", "curve.csv", "provenance.json")
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_on_a_gpu_the_runs_of_an_experiment_share_a_job(copy):
    """Each run still has its own folder. The rules are the same whatever exists: those of params/ and the config."""
    call = ("--dry-run", "--printshellcmds", "--resources", "gpu=4")
    answer = copy.snakemake(*call, cores=8)
    assert jobs(answer)["train_paper_seeds_0_to_4"] == 46 and jobs(answer)["train"] == 11, "choices have one seed"
    experiment = load(copy.root).resolve("cifar10-resnet110")
    command = next(line for line in answer.stdout.splitlines() if f"--digest {experiment.digest} " in line)
    assert "--seed 0 1 2 3 4 --results results --device gpu" in command and "lease --gpus 1 --granted 1" in command
    outputs = re.findall(rf"results/runs/{experiment.folder}/seed(\d)/metrics.json", answer.stdout)
    assert set(outputs) == set("01234")

    rules = copy.snakemake("--list-rules", cores=8).stdout
    lay_down(copy, experiment, 0, 3)
    assert copy.snakemake("--list-rules", cores=8).stdout == rules
    partly = copy.snakemake(*call, cores=8)
    assert jobs(partly)["train_paper_seeds_0_to_4"] == 46
    command = next(line for line in partly.stdout.splitlines() if f"--digest {experiment.digest} " in line)
    assert "--seed 0 1 2 3 4" in command, "the command itself leaves finished seeds alone"
    pairs = jobs(copy.snakemake(*call, "--config", "runs_per_gpu=2", cores=8))
    assert pairs["train_paper_seeds_0_to_1"] == pairs["train_paper_seeds_2_to_3"] == pairs["train"] - 11 == 46
    alone = ("--config", "runs_per_gpu=1")
    named = copy.snakemake(f"results/runs/{experiment.folder}/seed2/metrics.json", *call, *alone, cores=8)
    assert jobs(named)["train"] == 1
    lay_down(copy, experiment, *range(5))
    assert jobs(copy.snakemake(*call, cores=8))["train_paper_seeds_0_to_4"] == 45
    assert "seeds" not in copy.snakemake("--list-rules", "--config", "device=cpu", cores=8).stdout


@pytest.fixture
def group(copy):
    """Three seeds of an experiment in one job, as on a GPU, whose device and leases are stand-ins on the CPU."""
    copy.edit("params/scales/tiny.yaml", "runs: 1", "runs: 3")
    copy.edit("params/scales/tiny.yaml", "device: cpu", "device: gpu")
    copy.edit(
        "workflow/rules/train.smk", "--results {wildcards.root} --device gpu", "--results {wildcards.root} --device cpu"
    )
    copy.edit("workflow/rules/train.smk", "identity-mappings device {params.experiment}", "true {params.experiment}")
    copy.edit("workflow/rules/common.smk", "    if not HERE:\n", "    if True:\n")
    for file in ("train", "evaluate", "measure"):
        path = copy.root / f"workflow/rules/{file}.smk"
        path.write_text(path.read_text().replace("--gpus {params.gpus} --granted {resources.gpu}", "--gpus 0"))
    return copy


def test_a_partly_finished_group_goes_on(group):
    """Where seeds were finished meanwhile, the job that was submitted before still has its rule, and keeps them."""
    folder = group.root / "results/tiny/runs" / load(group.root).resolve("cifar10-resnet110", "tiny").folder
    done = group.command("train", "cifar10-resnet110", "--scale", "tiny", "--seed", "1", "--device", "cpu")
    assert done.returncode == 0, done.stdout
    kept = {path: path.read_bytes() for path in (folder / "seed1").glob("*.*")}
    assert len(kept) == 3
    target = (folder / "seed2/metrics.json").relative_to(group.root).as_posix()
    answer = group.snakemake(
        target, *TINY, "--resources", "gpu=1", "--allowed-rules", "train_tiny_seeds_0_to_2", "device"
    )
    assert answer.returncode == 0, answer.stdout
    assert {path: path.read_bytes() for path in kept} == kept
    assert [(folder / f"seed{seed}/metrics.json").is_file() for seed in (0, 1, 2)] == [True] * 3


def test_another_arithmetic_is_asked_for_by_name(copy):
    experiment = load(copy.root).resolve("cifar10-resnet110").in_arithmetic("tf32")
    call = ("--dry-run", "--printshellcmds", "--resources", "gpu=4")
    answer = copy.snakemake(*call, "--config", "arithmetic=tf32", "runs_per_gpu=1", cores=8)
    assert jobs(answer)["train"] == 46 * 5 + 11
    assert f"--arithmetic tf32 --digest {experiment.digest} " in answer.stdout
    assert "--arithmetic float32" not in answer.stdout
    path = f"results/runs/{experiment.folder}/seed0/metrics.json"
    named = copy.snakemake(path, *call, cores=8)
    assert f"--arithmetic tf32 --digest {experiment.digest} " in named.stdout, "the digest says which it is"


def test_the_rest_of_a_clone_is_built_without_the_datasets(copy):
    """No dataset is there: the demo's graph has no job that gets one, but the one that makes the small ImageNet."""
    measured = {"cost", "signals_demo", "responses"}
    plan = planned(copy, "demo")
    tests = {rule for rule in plan if rule.startswith("evaluate_")}
    assert set(plan) - tests == {"train", "detect", "small_dataset", "update_reports", "demo", "total"} | measured
    assert plan["small_dataset"] == 3 and sum(plan[rule] for rule in tests) == 5
    assert planned(copy)["dataset"] == 2, "CIFAR-10 and 100; of ImageNet nothing is wanted before a person has got it"
    (copy.root / "data/imagenet").mkdir(parents=True)
    there = planned(copy)
    assert there["dataset"] == 3 and there["train"] == planned(copy, "--config", "processes=4")["train"]


def test_what_changes_a_number_is_trained_again_and_nothing_else(clone):
    """In a clone; one change is taken back before the next."""
    momentum, gate = (
        ("momentum: 0.9", "momentum: 0.8"),
        ("exclusive-gate, gate_bias: -6", "exclusive-gate, gate_bias: -7"),
    )
    md5 = re.search(r"digits:.*?md5: (\w+)", (clone.root / "params/datasets.yaml").read_text(), re.DOTALL)[1]
    for file, (old, new), count in (
        ("experiments/cifar10.yaml", gate, 1),
        ("recipes/he2016-cifar.yaml", momentum, 3),
        ("recipes/released-code.yaml", momentum, 0),
        ("datasets.yaml", (md5, "f" * 32), 3),
    ):
        clone.edit(f"params/{file}", old, new)
        answer = clone.snakemake("--dry-run", *TINY)
        assert jobs(answer)["train"] == count, file
        assert (f"{count} of 3 records of scale tiny are of other parameters" in answer.stdout) == (count > 0)
        clone.edit(f"params/{file}", new, old)
    clone.edit("params/recipes/he2016-cifar.yaml", "momentum: 0.9", "momentum: 0.9 # as ever")
    clone.edit("workflow/rules/train.smk", "--seed {wildcards.seed} ", "--seed {wildcards.seed}  ")
    for path in [*(clone.root / "params").rglob("*.yaml"), *(clone.root / "src").rglob("*.py")]:
        path.touch()
    assert planned(clone, *TINY)["train"] == 0, "comments, commands and times"


def test_a_changed_parameter_is_trained_and_shown(clone):
    """The number that a table shows after the change is that of a run with the changed parameter."""
    clone.edit("params/scales/tiny.yaml", "2: 0.1", "2: 0.2")
    before = records(clone)["cifar10-resnet110"]["digest"]
    assert clone.snakemake("tables", *TINY).returncode == 0
    cells = json.loads((clone.root / "results/tiny/tables.json").read_text())["cells"]
    assert all(cell["measured"] is None for cell in cells if not cell["counted"]), "nothing is trained for a table"
    answer = clone.snakemake(*TINY)
    assert answer.returncode == 0, answer.stdout
    cells = json.loads((clone.root / "results/tiny/tables.json").read_text())["cells"]
    mine = [cell for cell in cells if cell["experiment"] == "cifar10-resnet110" and cell["metric"] == "test error %"]
    cell = next(cell for cell in mine if cell["records"])
    [path] = cell["records"]
    metrics = json.loads((clone.root / path).read_text())
    assert metrics["digest"] != before and metrics["digest"] in path
    provenance = json.loads((clone.root / path).with_name("provenance.json").read_text())
    assert [2, 0.2] in provenance["params"]["resolved"]["recipe"]["learning_rate"]


# What Snakemake's switches do, by its manual; none of them may cost a record.


def everything(project) -> dict[str, tuple[int, bytes]]:
    """All records and reports of scale tiny, with their times."""
    root = project.root / "results/tiny"
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts
    }


def contents(files: dict[str, tuple[int, bytes]], *folders: str) -> dict[str, bytes]:
    return {name: content for name, (_, content) in files.items() if name.startswith(folders)}


RECORDS = ("runs/", "signals/", "cost/")


@pytest.mark.parametrize(
    ("force", "targets"),
    [
        ("--forceall", ["tables", "figures"]),
        ("--forcerun", ["tables", "figures"]),
    ],
)
def test_a_report_that_is_forced_trains_nothing_and_removes_no_record(clone, force, targets):
    before = everything(clone)
    words = (force, "make_tables", "make_figures") if force == "--forcerun" else (force,)
    answer = clone.snakemake(*targets, *TINY, *words)
    assert set(jobs(answer)) <= {"make_tables", "make_figures", "tables", "figures", "total"}, answer.stdout
    after = everything(clone)
    assert {name: file for name, file in after.items() if name.startswith(RECORDS)} == {
        name: file for name, file in before.items() if name.startswith(RECORDS)
    }, "not even touched"
    assert contents(after, "") == contents(before, "")


def test_all_that_is_forced_keeps_every_finished_run(clone):
    """They are no part of the graph."""
    before = everything(clone)
    answer = clone.snakemake(*TINY, "--forceall")
    assert answer.returncode == 0, answer.stdout
    assert "rule train" not in answer.stdout
    assert contents(everything(clone), "runs/") == contents(before, "runs/")


def test_touch_makes_up_no_record(clone):
    for path in (clone.root / "results/tiny/runs").glob("cifar10-resnet110-dropout-*/seed0/metrics.json"):
        path.unlink()
    before = everything(clone)
    answer = clone.snakemake(*TINY, "--touch")
    assert answer.returncode == 0, answer.stdout
    assert contents(everything(clone), "") == contents(before, "")
    assert planned(clone, *TINY)["train"] == 1, "the missing one is still wanted"


def test_until_and_omit_from(copy):
    until = planned(copy, *TINY, "--until", "train")
    assert set(until) == {"train", "total"} and until["train"] == 3
    omitted = planned(copy, *TINY, "--omit-from", "signals_tiny")
    assert omitted["train"] == 3 and not {"signals_tiny", "update_reports"} & set(omitted)


def test_one_core_and_another_directory_give_the_same_bytes(trained, copy, tmp_path):
    """Parameters and sources are the checkout's; records and logs go to the directory."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(copy.root / "params", elsewhere / "params")
    shutil.copytree(copy.root / "examples", elsewhere / "examples")
    shutil.copy(copy.root / "requirements.lock", elsewhere)
    answer = copy.snakemake(*TINY, "--directory", str(elsewhere), cores=1)
    assert answer.returncode == 0, answer.stdout
    assert not (copy.root / "results/tiny").exists()
    made = type(copy).at(elsewhere)
    assert made.bytes_of("results/tiny", *REPORTS) == trained.bytes_of("results/tiny", *REPORTS)
    assert len(made.bytes_of("results/tiny/runs", "metrics.json")) == 3


def test_with_all_triggers_nothing_that_is_finished_is_lost(trained, tmp_path):
    """An edited rule is a reason to execute it by these triggers; the command finds the record and leaves it."""
    place = tmp_path / "moved"
    shutil.copytree(trained.root, place)
    moved = type(trained).at(place)
    before = everything(moved)
    triggers = ("--rerun-triggers", "mtime", "code", "input", "params", "software-env")
    moved.edit("workflow/rules/train.smk", "--seed {wildcards.seed} ", "--seed {wildcards.seed}  ")
    for change in ("code", "input", "params"):
        answer = moved.snakemake(*TINY, "--list-changes", change, "--quiet")
        assert answer.returncode == 0, answer.stdout
    assert everything(moved) == before
    answer = moved.snakemake(*TINY, *triggers)
    assert answer.returncode == 0, answer.stdout
    assert contents(everything(moved), "runs/") == contents(before, "runs/")


def test_committed_records_make_the_reports_of_a_clone(trained, clone):
    """By processes that are started as a user starts them, each with another seed of Python's hashes; nothing else."""
    pages = (*REPORTS, "report.html")  # which tells of the times of these very runs
    expected = clone.bytes_of("results/tiny", *pages)
    for name in ("tables.md", "tables.json", "figures", "report.html"):
        target = clone.root / "results/tiny" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    answer = clone.snakemake(*TINY, PATH=clone.environment["PATH"])
    assert set(jobs(answer)) == {"make_tables", "make_figures", "make_page", "all", "total"}, answer.stdout
    assert clone.bytes_of("results/tiny", *pages) == expected == trained.bytes_of("results/tiny", *pages)
    assert "Nothing to be done" in clone.snakemake("--dry-run", *TINY).stdout


def test_a_record_of_a_folder_makes_the_reports_again(clone):
    """One that was trained by hand, or brought from another machine."""
    assert clone.snakemake("tables", "figures", "page", *TINY).returncode == 0
    assert not planned(clone, "tables", "figures", "page", *TINY)
    [path] = (clone.root / "results/tiny/runs").glob("cifar10-resnet110-dropout-*/seed0/metrics.json")
    path.unlink()
    assert {"make_tables", "make_figures"} < set(planned(clone, "tables", "figures", *TINY))


def test_a_crashed_run_hides_no_other(copy):
    """One of three crashes: the call fails, the other two are in the tables all the same, and nothing else trains."""
    copy.edit(
        "src/identity_mappings/networks/shortcuts.py",
        "        keep = torch.empty_like(x)",
        '        raise RuntimeError("crash of a test")\n        keep = torch.empty_like(x)',
    )
    answer = copy.snakemake(*TINY)
    assert answer.returncode != 0 and "crash of a test" in answer.stdout
    assert set(records(copy)) == {"cifar10-resnet110", "cifar10-resnet110-exclusive-gate-b6"}
    tables = (copy.root / "results/tiny/tables.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in tables.splitlines() if line.startswith("| ")}
    assert "not run" in lines["dropout shortcut"] and "not run" not in lines["original"]
    answer = copy.snakemake("tables", "figures", *TINY)
    assert answer.returncode == 0 and "rule train" not in answer.stdout, answer.stdout


def test_without_a_gpu_one_message_says_so_and_no_job_starts(copy):
    answer = copy.snakemake(*TINY, "device=gpu", "--resources", "gpu=1", CUDA_VISIBLE_DEVICES="")
    assert answer.returncode != 0
    assert answer.stdout.count("no GPU") == 1 and "3 runs of scale tiny" in answer.stdout, answer.stdout
    assert "identity-mappings train cifar10-resnet110 --scale tiny --device cpu" in answer.stdout
    assert "rule " not in answer.stdout and "Traceback" not in answer.stdout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("scale=tyny", "did you mean 'tiny'?"),
        ("skale=tiny", "did you mean 'scale'?"),
        ("device=tpu", "give gpu or cpu"),
        ("arithmetic=fp32", "identity-mappings: --config arithmetic=fp32: give "),
        ("runs_per_gpu=0", "identity-mappings: --config runs_per_gpu=0: give "),
        ("runs_per_gpu=some", "identity-mappings: --config runs_per_gpu=some: give "),
    ],
)
def test_a_wrong_config_is_one_line(copy, config, message):
    answer = copy.snakemake("--dry-run", "--config", config)
    assert answer.returncode != 0
    assert message in answer.stdout and "Traceback" not in answer.stdout


def test_the_report_is_made(trained):
    answer = trained.snakemake("--report", "report.zip", *TINY)
    assert answer.returncode == 0, answer.stdout
    assert (trained.root / "report.zip").stat().st_size > 10_000
