"""`bench`: what is compared, and how it is shown; times themselves are not tested."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from identity_mappings.bench import measure, worker
from identity_mappings.errors import UserError
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.parameters import load
from identity_mappings.records import measurement
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.run import BadRecord
from identity_mappings.reporting import bench as report
from identity_mappings.training import memory
from identity_mappings.training.assembly import build

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PROJECT = load(ROOT)


@pytest.fixture
def small() -> Experiment:
    """ResNet-8 on 8x8 images in batches of 16."""
    resolved = PROJECT.resolve("cifar10-resnet110", "demo")
    parameters = copy.deepcopy(resolved.parameters)
    parameters["network"]["depth"] = 8
    parameters["recipe"] |= {"batch_size": 16, "batch_norm_samples": 8}
    return Experiment(resolved.name, resolved.scale, parameters)


def test_the_eager_network_is_the_same_with_torchs_batch_norm(small):
    theirs = worker.build_eager_network(small)
    ours = build(small)
    assert not any(isinstance(m, BatchNorm2d) for m in theirs.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in theirs.modules()) == 7
    state = {key: value[0] if "running" in key else value for key, value in ours.state_dict().items()}
    assert theirs.load_state_dict(state, strict=False).unexpected_keys == []
    x = torch.randn(6, 1, 8, 8)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", measure.PYTORCHCV)
def test_the_packages_networks_are_of_our_depth_and_width(name):
    """Its shortcuts where widths change are projections, ours are not: it has a little more to do, and weights."""
    if "1001" in name or "1202" in name:
        pytest.skip("takes seconds to build; the shallower ones are of the same code")
    experiment = PROJECT.resolve(name)
    theirs = worker.build_published_network(experiment, "pytorchcv", measure.PYTORCHCV[name])
    ours = build(experiment)
    counts = [sum(p.numel() for p in network.parameters()) for network in (theirs, ours)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    assert theirs(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_comparison_has_all_that_is_shown(small, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.2)
    monkeypatch.setattr(measure, "measure_rates", lambda *_: (1e10, 1e11))  # has a test of its own
    wanted = [("float32", "ours", 1), ("float32", "eager", 1)]
    entry = measure.compare(small, CPU, wanted, rounds=2)
    ours, eager = entry["rows"]
    assert (ours["implementation"], eager["implementation"]) == ("ours", "eager")
    assert len(ours["seconds"]) == 2 and min(ours["seconds"]) > 0
    assert ours["images_per_second"] == pytest.approx(16 / ours["median_seconds"], rel=0.01)
    assert list(ours["ratios"]) == ["float32"] and eager["ratios"] == {}
    assert ours["peak_memory_bytes"] > 50e6
    assert set(entry["profiles"]) == {"ours, float32", "eager, float32"}
    assert {o["name"] for o in entry["profiles"]["ours, float32"]} & {"aten.convolution", "aten.mkldnn_convolution"}
    assert entry["kept_for_backward_bytes"] == memory.count_kept_bytes(build(small), 8, (1, 8, 8))
    found = entry["bounds"]["float32"]
    of_both = (
        found["operations"] / found["operations_per_second"],
        found["traffic_bytes"] / found["copy_bytes_per_second"],
    )
    assert found["seconds"] == pytest.approx(max(of_both), rel=0.01, abs=1e-6)


def test_a_worker_that_fails_is_named(small):
    small.parameters["network"]["depth"] = 9
    with pytest.raises(UserError, match="bench: ours in float32 ended with an error, which stands above"):
        measure.Worker(small, CPU, "ours")


def row(implementation, arithmetic, *seconds, runs=1):
    median = sorted(seconds)[len(seconds) // 2]
    return {
        "implementation": implementation, "arithmetic": arithmetic, "runs_at_once": runs, "seconds": list(seconds),
        "median_seconds": median, "images_per_second": 128 / median, "peak_memory_bytes": 2**30,
    }  # fmt: skip


def test_ratios_are_against_the_faster_peer_round_by_round():
    rows = [
        row("ours", "float32", 1.0, 2.0, 1.0),
        row("eager", "float32", 3.0, 3.0, 3.0),
        row("pytorchcv", "float32", 2.0, 2.0, 2.5),
        row("ours", "bfloat16", 0.5, 0.5, 0.5),
        row("eager", "bfloat16", 1.0, 1.0, 1.0),
    ]
    assert measure.compute_ratios(rows[0], rows) == {"float32": 2.0}
    assert measure.compute_ratios(rows[3], rows) == {"bfloat16": 2.0, "float32": 4.0}
    assert measure.compute_ratios(rows[1], rows) == {}
    assert measure.compute_ratios(rows[0], rows[:1]) == {}


def test_on_a_gpu_several_runs_at_once_are_measured_too():
    found = measure.list_implementations("cifar10-resnet110", torch.device("cuda"), ["tf32"], True)
    assert found == [
        *(("tf32", "ours", runs) for runs in measure.AT_ONCE),
        ("tf32", "eager", 1),
        ("tf32", "pytorchcv", 1),
    ]
    assert measure.list_implementations("cifar10-plain20", CPU, ["float32"], True) == [
        ("float32", "ours", 1),
        ("float32", "eager", 1),
    ]
    assert measure.list_implementations("cifar10-resnet20", CPU, ["float32"], False) == [("float32", "ours", 1)]


def test_the_work_of_a_step_is_three_forward_passes_and_five_of_what_is_kept():
    experiment = PROJECT.resolve("cifar10-resnet110")
    operations, traffic = measure.count_work(experiment)
    assert operations == 3 * 2 * 252_887_680 * 128  # multiply-adds: `identity-mappings cost`
    assert traffic == 5 * 2 * memory.count_kept_bytes(build(experiment), 64, (3, 32, 32))
    # 12.4 PFLOP a run of 64,000 iterations
    assert 64_000 * operations == pytest.approx(12.4e15, rel=0.005)


@pytest.mark.parametrize("copied, seconds", [(1.0, 10), (5.0, 5)])
def test_the_bound_is_the_longer_of_two(small, monkeypatch, copied, seconds):
    monkeypatch.setattr(measure, "measure_rates", lambda *_: (copied, 20.0))
    monkeypatch.setattr(measure, "count_work", lambda _: (100.0, 10.0))
    assert measure.bound(small, CPU)["seconds"] == seconds


def test_rates_are_measured():
    copied, computed = measure.measure_rates(CPU, "float32", 1)
    assert 1e8 < copied < 1e13 and 1e8 < computed < 1e14


def test_a_profile_adds_the_small_ones_up():
    x = torch.randn(64, 64)

    def step():
        for function in (torch.relu, torch.tanh, torch.exp, torch.sin, torch.cos, torch.abs, torch.neg, torch.sign):
            function(x)
        for function in (torch.floor, torch.ceil, torch.sigmoid, torch.sqrt, torch.square, torch.round, torch.erf):
            function(x)
        x @ x

    rows = worker.profile(step, CPU)
    assert len(rows) == worker.OPERATIONS + 1 and rows[-1]["name"] == "others"
    assert sum(row["calls"] for row in rows) >= 16 and "aten.exp" in [row["name"] for row in rows]
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.01)
    seconds = [row["seconds"] for row in rows[:-1]]
    assert seconds == sorted(seconds, reverse=True)


# Records and the page


def lay_down(root: Path, model: str | None, name: str = "cifar10-resnet110", layers: int = 110) -> Path:
    hardware = {"cpu": "AMD EPYC", "gpu": model and {"model": model}}
    rows = [row("ours", "float32", 1.0, runs=1), row("eager", "float32", 3.0)]
    for one in rows:
        one["ratios"] = measure.compute_ratios(one, rows)
    operations = [{"name": "aten.convolution", "calls": 3, "seconds": 0.5, "share": 0.5}]
    entry = {
        "experiment": name, "layers": layers, "batch_size": 128, "rounds": 1, "rows": rows,
        "bounds": {"float32": {"copy_bytes_per_second": 1e10, "operations_per_second": 2e11, "seconds": 0.5}},
        "profiles": {"ours, float32": operations, "eager, float32": operations}, "kept_for_backward_bytes": 5e8,
    }  # fmt: skip
    folder = measurement.get_bench_folder(root / "results", hardware, name)
    measurement.write(folder, measurement.BENCH_JSON, json.dumps(entry).encode(), {"settings": {"cpu_threads": 2}})
    return folder


def test_a_device_has_a_folder_of_its_own(tmp_path):
    assert lay_down(tmp_path, None).parts[-3:] == ("bench", "cpu-amd-epyc", "cifar10-resnet110")
    assert lay_down(tmp_path, "NVIDIA H200").parts[-2] == "gpu-nvidia-h200"


def test_the_page_shows_what_is_there_and_says_what_is_not(tmp_path):
    lay_down(tmp_path, None)
    lay_down(tmp_path, None, "cifar10-resnet20", 20)
    page = report.document(measurement.read_bench(tmp_path / "results"))
    lines = [line for line in page.splitlines() if line.startswith("| cifar10")]
    assert [line.split()[1] for line in lines] == ["cifar10-resnet20"] * 2 + ["cifar10-resnet110"] * 2
    assert "3.00 x" in lines[0] and "50%" in lines[0] and "3.00 x" not in lines[1]
    assert "Not measured: no record of a GPU yet" in page and "cifar10-resnet110 0.50 GB." in page
    assert "before (eager) and after (ours)" in page and "aten.convolution" in page
    lay_down(tmp_path, "NVIDIA H200")
    page = report.document(measurement.read_bench(tmp_path / "results"))
    assert "Not measured" not in page and "## gpu-nvidia-h200\n" in page and "## cpu-amd-epyc, 2 threads\n" in page


def test_an_edited_record_is_refused(tmp_path):
    path = lay_down(tmp_path, None) / measurement.BENCH_JSON
    path.write_text(path.read_text().replace("1.0", "0.1"))
    with pytest.raises(BadRecord, match="was changed after it was made"):
        measurement.read_bench(tmp_path / "results")


def test_the_plot_has_a_line_for_each_implementation(tmp_path):
    lay_down(tmp_path, None)
    lay_down(tmp_path, None, "cifar10-resnet20", 20)
    [axes] = report.draw(measurement.read_bench(tmp_path / "results")).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {
        "ours, basic units, cpu-amd-epyc": [[20, 1], [110, 1]],
        "eager, basic units, cpu-amd-epyc": [[20, 3], [110, 3]],
    }


def test_the_committed_page_is_made_of_the_committed_records():
    """If not: `identity-mappings bench --show`, and commit what it made."""
    page = (ROOT / "results/bench/bench.md").read_text()
    assert page == report.document(measurement.read_bench(ROOT / "results"))
