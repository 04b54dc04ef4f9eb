"""The ImageNet half of the graph on the small set: archives in, tables out, with two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.training import imported
from identity_mappings.training.trainer import Options

pytestmark = pytest.mark.slow
NAME = "imagenet-resnet34-b"
SMALL = """
description: For tests of the ImageNet half.
results: results/small
runs: 1
device: cpu
published: false
experiments: [imagenet-resnet34-b]
leave_out: [imagenet-vgg16, imagenet-vgg19, cifar10-resnet1001-full-pre-activation-released-code]
overlay:
  datasets: {cifar10: null, cifar100: null, imagenet: imagenet-small}
  depths: {basic: {18: 10, 34: 10}, bottleneck: {50: 14, 101: 14, 152: 14, 200: 14}}
  recipes:
    he2015-imagenet:
      batch_size: 16
      batch_norm_samples: 4
      iterations: 12
      learning_rate: {0: 0.02}
      crop_size: 32
      shorter_side: [37, 69]
      shuffle_shards: 2
      evaluate_every: 6
      log_every: 3
      cpu_threads: 1
"""
CONFIG = ("--config", "scale=small", "processes=2")


def folder(root: Path, results: str = "results/small") -> Path:
    return run.get_folder(root / results, load(root).resolve(NAME, "small"), 0)


def outputs(record: Path) -> dict[str, object]:
    """What must be the same each time: of evaluations all but commit, sources and environment."""
    found: dict[str, object] = {name: (record / name).read_bytes() for name in (run.METRICS, run.CURVE)}
    for path in sorted(record.glob("evaluation-*.json")):
        found[path.name] = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "made_by"}
    return found


def second_worker(root: Path) -> int | None:
    """The process of rank 1 that trains in a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
            if (place / "cwd").resolve() != root.resolve():
                continue
        except OSError:
            continue
        if {b"train", NAME.encode()} <= set(words.split(b"\0")) and b"\0RANK=1\0" in b"\0" + environment:
            return int(place.name)
    return None


@pytest.fixture(scope="module")
def made(project_copy, tmp_path_factory):
    """A call of Snakemake that loses a worker in the middle, and another that finishes."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc here, by which the worker is found")
    project = project_copy(tmp_path_factory.mktemp("imagenet") / "project", few_figures=True)
    (project.root / "params/scales/small.yaml").write_text(SMALL)
    project.edit(
        "workflow/rules/train.smk", "identity-mappings train ", "identity-mappings train --checkpoint-seconds 0 "
    )
    words = ["snakemake", "--cores", "2", *CONFIG]
    log = (project.root / "first.log").open("w")
    with subprocess.Popen(words, cwd=project.root, env=project.forking_environment, stdout=log, stderr=log) as started:
        deadline, there = time.monotonic() + 300, False
        while not there:
            assert time.monotonic() < deadline and started.poll() is None, (project.root / "first.log").read_text()
            there = any((project.root / "results/small/checkpoints").glob("*/seed0/checkpoint-*[3-9]-*.pt"))
            time.sleep(0.02)
        os.kill(second_worker(project.root), signal.SIGKILL)
        assert started.wait(timeout=120) != 0
    [train_log] = (project.root / "logs/results/small").glob(f"{NAME}-*/seed0.log")
    project.first_log = train_log.read_text()
    again = project.snakemake(*CONFIG)
    assert again.returncode == 0, again.stdout
    return project


def test_a_lost_worker_is_said_and_leaves_a_checkpoint(made):
    assert "another process of this run is gone" in made.first_log
    assert "there is a checkpoint of iteration" in made.first_log


def test_a_run_that_lost_a_worker_is_byte_for_byte_the_one_that_did_not(made):
    common = (NAME, "--scale", "small", "--device", "cpu", "--results", "results/whole")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    whole = made.call(sys.executable, *launcher, "-m", "identity_mappings", "train", *common)
    assert whole.returncode == 0, whole.stdout
    tested = made.command("evaluate", *common, "--protocol", "10-crop", "multi-scale")
    assert tested.returncode == 0, tested.stdout
    assert outputs(folder(made.root, "results/whole")) == outputs(folder(made.root))

    # Two processes share the images of a test; together they find what the training found.
    shared = made.call(
        sys.executable, *launcher, "-m", "identity_mappings", "evaluate", *common, "--protocol", "centre-224"
    )
    assert shared.returncode == 0, shared.stdout
    record = folder(made.root, "results/whole")
    evaluation = json.loads(run.get_evaluation_path(record, "centre-224").read_bytes())
    metrics = json.loads((record / run.METRICS).read_bytes())
    assert evaluation["world_size"] == 2 and evaluation["images"] == 100
    assert {key: evaluation[key] for key in ("wrong", "wrong_top_5")}.items() <= metrics["test"].items()


def test_any_checkpoint_is_tested_by_any_protocol(made):
    common = (NAME, "--scale", "small", "--device", "cpu", "--results", "results/part")
    assert made.command("train", *common, "--stop-after", "2").returncode == 0
    record = folder(made.root, "results/part")
    [checkpoint] = (made.root / "results/part/checkpoints").glob("*/seed0/checkpoint-*.pt")
    words = ("--checkpoint", str(checkpoint), "--protocol", "centre-320", "multi-scale")
    done = made.command("evaluate", *common, *words)
    assert done.returncode == 0, done.stdout
    for protocol in ("centre-320", "multi-scale"):
        found = json.loads((record / run.PARTIAL / f"evaluation-{protocol}-2.json").read_bytes())
        assert (found["iteration"], found["images"], found["statistics"]) == (2, 100, "moving")
        assert found["other_statistics"]["statistics"] == "recomputed"
    wrong = made.command("evaluate", *common, "--seed", "1", *words)
    assert wrong.returncode == 2 and f"no checkpoint of {record.parent.name}, seed 1" in wrong.stdout


def test_tables_hold_the_tests_by_their_protocols(made):
    cells = json.loads((made.root / "results/small/tables.json").read_bytes())["cells"]
    filled = {
        (cell["paper"], cell["table"], cell["metric"]): cell
        for cell in cells
        if cell["experiment"] == NAME and cell["metric"].startswith("top-")
    }
    assert {key[1] for key in filled} == {"Table 3", "Table 4"}
    for (_, table, metric), cell in filled.items():
        protocol = {"Table 3": "10-crop", "Table 4": "multi-scale"}[table]
        path = run.get_evaluation_path(folder(made.root), protocol)
        evaluation = json.loads(path.read_bytes())
        assert cell["protocol"] == protocol
        assert cell["measured"] == evaluation["top_5_error" if metric.startswith("top-5") else "test_error"]
        assert cell["records"] == [path.relative_to(made.root).as_posix()]
        assert evaluation["other_statistics"]["statistics"] == "moving"
    text = (made.root / "results/small/tables.md").read_text()
    value = filled["he2015", "Table 3", "top-1 error %"]["measured"]
    assert f"| {value:.2f} " in next(line for line in text.splitlines() if line.startswith("| ResNet-34 B"))


def test_a_second_call_has_nothing_to_do(made):
    answer = made.snakemake("--dry-run", *CONFIG)
    assert "Nothing to be done" in answer.stdout, answer.stdout


def test_a_forged_test_fills_no_cell(made):
    path = run.get_evaluation_path(folder(made.root), "10-crop")
    honest = path.read_bytes()
    evaluation = json.loads(honest)
    try:
        for key, value in (
            ("test_error", 1.0),
            ("seed", 1),
            ("protocol", "centre-224"),
            ("parents", {run.METRICS: "0"}),
        ):
            path.write_text(json.dumps({**evaluation, key: value}))
            done = made.command("tables", "--scale", "small")
            assert "invalid record" in done.stdout and path.name in done.stdout, (key, done.stdout)
            text = (made.root / "results/small/tables.md").read_text()
            assert "not run" in next(line for line in text.splitlines() if line.startswith("| ResNet-34 B"))
    finally:
        path.write_bytes(honest)
    assert "invalid record" not in made.command("tables", "--scale", "small").stdout


def test_imported_weights_stand_in_a_table_of_their_own(made, tmp_path):
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18(num_classes=10).state_dict(), tmp_path / "weights.pth")
    words = ("import-weights", str(tmp_path / "weights.pth"), "--name", "untrained", "--source", "a test's own")
    done = made.command(*words, "--scale", "small", "--device", "cpu", "--protocol", "centre-224")
    assert done.returncode == 0, done.stdout
    dataset = load(made.root).resolve(NAME, "small").parameters["dataset"]
    options = Options(made.root / "results/small", made.root / "data", made.root, "cpu")
    described = ("untrained", "a test's own", dataset, options)
    imported.test_imported(tmp_path / "weights.pth", *described, wanted=["10-crop"], crop_size=32)  # fast: small crops
    before = json.loads((made.root / "results/small/tables.json").read_bytes())["cells"]
    answer = made.snakemake("tables", *CONFIG)  # it sees by itself that the page is old
    assert answer.returncode == 0, answer.stdout
    text = (made.root / "results/small/tables.md").read_text()
    rows = [
        line for line in text.splitlines() if line.startswith("| untrained (ResNet-18, imported weights, other recipe)")
    ]
    assert len(rows) == 2 and all("a test's own" in row for row in rows)
    assert json.loads((made.root / "results/small/tables.json").read_bytes())["cells"] == before, "no cell is filled"
