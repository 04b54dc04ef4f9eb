"""A run from its parameters to its record: what it leaves, and that nothing but the run decides its bytes."""

import gc
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from fork_server import find_commands
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records import run as records
from identity_mappings.training import checkpoint, devices, memory
from identity_mappings.training.driver import Device, Driver
from identity_mappings.training.group import Group
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
FINISHED = {"metrics.json", "curve.csv"}
UNFINISHED = {"partial/metrics.json", "partial/curve.csv"}


def command(path: Path, results: Path, *more: str, python: Path | str = sys.executable) -> list[str]:
    words = ["train", str(path), "--device", "cpu", "--results", str(results), *more]
    return [str(python), "-m", "identity_mappings", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}


def test_a_run_leaves_its_record(short, run, tmp_path):
    experiment = short()
    found = run(experiment)
    assert set(found) == FINISHED
    metrics = json.loads(found["metrics.json"])
    assert metrics["status"] == "finished" and metrics["iterations"] == 12
    assert metrics["test"]["images"] == 500 and metrics["test"]["iteration"] == 12
    assert metrics["test_error"] == pytest.approx(100 * metrics["test"]["wrong"] / 500)
    assert metrics["best"]["wrong"] <= metrics["test"]["wrong"]
    assert (metrics["arithmetic"], metrics["cpu_threads"], metrics["device"]) == ("float32", 1, "cpu")
    assert len(metrics["first_losses"]) == 12
    rows = [line.split(",") for line in found["curve.csv"].decode().splitlines()]
    assert [row[0] for row in rows] == ["iteration", "3", "6", "9", "12"]
    assert [bool(row[5]) for row in rows[1:]] == [False, True, False, True]
    assert float(rows[1][2]) == pytest.approx(sum(metrics["first_losses"][:3]) / 3, rel=1e-8)
    assert records.read_record(tmp_path / "results/runs" / experiment.folder / "seed0", experiment, 0)


def test_the_same_run_twice_gives_the_same_bytes_and_another_seed_others(short, run):
    first = run(short(), "a")
    assert run(short(), "b") == first
    assert run(short(), "c", seed=1)["curve.csv"] != first["curve.csv"]


@pytest.mark.parametrize("stops", [[1], [5], [6], [2, 4, 11]])
def test_a_stopped_run_goes_on_to_the_same_bytes(short, run, stops):
    whole = run(short(), "whole")
    for stop in stops:
        assert set(run(short(), "stopped", stop_after=stop)) == UNFINISHED
    assert run(short(), "stopped") == whole


def test_a_partial_record_says_so_and_is_the_same_when_resumed(short, run):
    at_once = run(short(), "a", stop_after=7)
    run(short(), "b", stop_after=2)
    assert run(short(), "b", stop_after=7) == at_once
    metrics = json.loads(at_once["partial/metrics.json"])
    assert metrics["status"] == "unfinished" and (metrics["iterations"], metrics["of_iterations"]) == (7, 12)


def test_several_runs_at_once_are_each_what_they_are_alone(short, run, tmp_path):
    """Also where one of them goes on from further on than the others, and one is finished."""
    alone = {seed: run(short(), "alone", seed=seed) for seed in range(4)}
    run(short(), "together", seed=3)
    run(short(), "together", seed=1, stop_after=7)
    assert train(short(), [0, 1, 2, 3], Options(tmp_path / "together", root=ROOT, device="cpu")) == 0
    for seed in range(4):
        assert run(short(), "together", seed=seed) == alone[seed]
    assert not list((tmp_path / "together").rglob("checkpoint-*.pt"))


def test_several_experiments_at_once_are_each_what_they_are_alone(short, run, tmp_path):
    """Also with rows, tests and lengths of their own."""
    other = {"log_every": 2, "evaluate_every": 4, "iterations": 15, "learning_rate": [[0, 0.05]]}
    experiments = [short(), short("cifar10-resnet110", **other)]
    alone = [run(experiment, "alone", seed=seed) for seed in (0, 1) for experiment in experiments]
    run(experiments[1], "together", seed=1, stop_after=5)
    assert train(experiments, [0, 1], Options(tmp_path / "together", root=ROOT, device="cpu")) == 0
    assert [run(experiment, "together", seed=seed) for seed in (0, 1) for experiment in experiments] == alone


def test_experiments_that_share_no_process_are_refused(short, tmp_path):
    experiments = [short(), short(cpu_threads=2)]
    with pytest.raises(UserError, match=r"differ in arithmetic or cpu_threads.*train them apart"):
        train(experiments, 0, Options(tmp_path, root=ROOT, device="cpu"))


def test_runs_that_do_not_fit_at_once_are_trained_one_after_the_other(short, run, tmp_path, monkeypatch):
    alone = [run(short(), "alone", seed=seed) for seed in range(3)]
    needed = memory.estimate_needed_bytes(short(), ROOT)
    monkeypatch.setattr(memory, "get_total_bytes", lambda device: 2.5 * needed / memory.SHARE)
    groups = [[seed for _, seed in group] for group in memory.group_runs([(short(), s) for s in range(3)], None, ROOT)]
    assert groups == [[0, 1], [2]]
    assert train(short(), range(3), Options(tmp_path / "together", root=ROOT, device="cpu")) == 0
    assert [run(short(), "together", seed=seed) for seed in range(3)] == alone
    paths = sorted((tmp_path / "together/runs").rglob("provenance.json"))
    assert [json.loads(path.read_bytes())["sessions"][0]["runs_at_once"] for path in paths] == [2, 2, 1]
    trainers = weakref.WeakSet()
    make = Trainer.__init__

    def counted(self, *arguments, **more):
        alive.append(len(trainers))
        trainers.add(self)
        make(self, *arguments, **more)

    alive: list[int] = []
    monkeypatch.setattr(Trainer, "__init__", counted)
    monkeypatch.setattr(memory, "get_total_bytes", lambda device: 1.5 * needed / memory.SHARE)
    assert train(short(), range(3), Options(tmp_path / "apart", root=ROOT, device="cpu")) == 0
    gc.collect()
    assert alive == [0, 0, 0], "the memory of one batch is the next one's"
    assert [len(group) for group in memory.group_runs([(short(), s) for s in range(3)], None, ROOT)] == [1, 1, 1]


def test_a_record_says_what_each_session_took(short, tmp_path):
    """Time and memory are a process's; of several runs in one each has its share."""
    folder = tmp_path / "results"
    for seeds, stop in (([1], 7), ([0, 1], None)):
        assert train(short(), seeds, Options(folder, root=ROOT, device="cpu", stop_after=stop)) == 0
    [path] = folder.rglob("seed1/provenance.json")
    sessions = json.loads(path.read_bytes())["sessions"]
    assert [session["runs_at_once"] for session in sessions] == [1, 2]
    assert [(session["from_iteration"], session["to_iteration"]) for session in sessions] == [(0, 7), (7, 12)]
    for session in sessions:
        assert 0 < session["device_seconds"] <= session["seconds"] < 300
        assert session["git"]["commit"] and session["device"] == "cpu"
        assert 50e6 < session["peak_memory_bytes"] < 50e9, "bytes"


def test_of_several_runs_one_that_diverges_hides_no_other(short, run, tmp_path, monkeypatch):
    alone = run(short(), "alone", seed=0)
    step = Trainer.step

    def broken(self, iteration):
        loss, wrong, size = step(self, iteration)
        return (loss * float("nan") if self.seed == 1 and iteration == 5 else loss), wrong, size

    monkeypatch.setattr(Trainer, "step", broken)
    assert train(short(), [0, 1], Options(tmp_path / "together", root=ROOT, device="cpu")) == 0
    assert run(short(), "together", seed=0) == alone
    [path] = (tmp_path / "together").rglob("seed1/metrics.json")
    assert json.loads(path.read_text())["diverged_at"] == 5


def test_checkpoints_change_nothing(short, run):
    assert run(short(), "often", checkpoint_seconds=0) == run(short(), "never", checkpoint_seconds=1e9)


def test_the_momentum_is_resumed_too(short, run, tmp_path):
    """A check of the checks above: without the optimizer's state they would fail."""
    whole = run(short(), "whole")
    run(short(), "forgetful", stop_after=5)
    [folder] = (tmp_path / "forgetful/checkpoints").glob("*/seed0")
    state = checkpoint.load_checkpoint(folder, torch.device("cpu"))
    for buffer in state["optimizer"]["momentum"]:
        buffer.zero_()
    checkpoint.write_checkpoint(folder, 5, state)
    for path in sorted(folder.glob("checkpoint-*.pt"), key=lambda path: path.stat().st_mtime)[:-1]:
        path.unlink()
    assert run(short(), "forgetful")["curve.csv"] != whole["curve.csv"]


def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_the_same(short, run, tmp_path, capsys):
    whole = run(short(), "whole")
    run(short(), "damaged", stop_after=4)
    run(short(), "damaged", stop_after=8)
    [folder] = (tmp_path / "damaged/checkpoints").glob("*/seed0")
    newest = max(folder.glob("checkpoint-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert run(short(), "damaged") == whole
    assert "set aside" in capsys.readouterr().err


@pytest.mark.slow
def test_kill_9_in_the_middle_gives_the_same_bytes(short, run, tmp_path):
    experiment = short(iterations=60)
    whole = run(experiment, "whole")
    experiment.save(tmp_path / "run.json")
    words = command(tmp_path / "run.json", tmp_path / "killed", "--checkpoint-seconds", "0")
    process = subprocess.Popen(words, env=environment(), cwd=ROOT)
    while not list(tmp_path.glob("killed/checkpoints/*/seed0/checkpoint-0000[0-9]*")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not list(tmp_path.glob("killed/runs/*/seed0/metrics.json"))
    assert run(experiment, "killed") == whole


@pytest.mark.slow
def test_sigterm_ends_with_a_checkpoint_and_a_partial_record(short, run, tmp_path):
    experiment = short(iterations=400)
    experiment.save(tmp_path / "run.json")
    process = subprocess.Popen(
        command(tmp_path / "run.json", tmp_path / "t", "--checkpoint-seconds", "0"), env=environment(), cwd=ROOT
    )
    while not list(tmp_path.glob("t/checkpoints/*/seed0/checkpoint-*.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    [partial] = tmp_path.glob("t/runs/*/seed0/partial/metrics.json")
    metrics = json.loads(partial.read_text())
    assert metrics["status"] == "unfinished" and 0 < metrics["iterations"] < 400
    assert not list(tmp_path.glob("t/runs/*/seed0/metrics.json"))


@pytest.mark.parametrize("stop", [None, 5])
def test_a_loss_that_is_not_finite_is_a_record(short, run, stop):
    """Diverges within an interval of the curve; where the run was interrupted makes no difference."""
    experiment = short(learning_rate=[[0, 0.01], [4, 1e30]])
    if stop:
        run(experiment, "b", stop_after=stop)
    found = run(experiment, "b")
    assert set(found) == FINISHED
    metrics = json.loads(found["metrics.json"])
    assert metrics["status"] == "diverged" and metrics["test_error"] is None
    assert metrics["diverged_at"] == metrics["iterations"] == len(metrics["first_losses"]) == 5
    assert found == run(experiment, "a")


def test_the_threads_are_the_runs_and_not_the_machines(short, tmp_path):
    experiment = short()
    experiment.save(tmp_path / "run.json")
    for threads in ("1", "2"):
        words = command(tmp_path / "run.json", tmp_path / threads)
        more = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        subprocess.run(words, env=environment(**more), cwd=ROOT, check=True, capture_output=True)
    one, two = (next(tmp_path.glob(f"{n}/runs/*/seed0/metrics.json")).read_bytes() for n in ("1", "2"))
    assert one == two
    assert experiment.digest != short(cpu_threads=2).digest, "more threads are another run"


def test_it_is_quiet_unless_on_a_terminal(short, tmp_path):
    experiment = short()
    experiment.save(tmp_path / "run.json")
    python = find_commands() / "python"
    words = command(tmp_path / "run.json", tmp_path / "quiet", python=python)
    done = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1

    main, terminal = pty.openpty()
    words = command(tmp_path / "run.json", tmp_path / "shown", python=python)
    process = subprocess.Popen(words, env=environment(TERM="xterm", COLUMNS="160"), cwd=ROOT, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            if not (part := os.read(main, 65536)):
                break
        except OSError:
            break
        shown += part
    assert process.wait() == 0
    text = shown.decode()
    for words in ("12/12", "loss", "test error", "images/s"):
        assert words in text


def test_a_training_does_not_import_the_compiler(short, tmp_path):
    """It takes as long as the rest of a run's start; optimizers' classes and tensors without content import it."""
    short().save(tmp_path / "run.json")
    code = "import sys; from identity_mappings.cli import main; main(); assert 'torch._dynamo' not in sys.modules"
    words = command(tmp_path / "run.json", tmp_path / "results")[3:]
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0


def test_a_second_process_on_the_same_run_is_refused(short, run, tmp_path):
    import fcntl

    experiment = short()
    folder = records.get_checkpoint_folder(tmp_path / "results", experiment, 0)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training this run"):
            run(experiment)
    assert set(run(experiment)) == FINISHED


def test_a_finished_run_is_not_trained_again_and_a_forged_one_not_overwritten(short, run, tmp_path, capsys):
    experiment = short()
    first = run(experiment)
    assert run(experiment) == first
    assert "nothing to do" in capsys.readouterr().err
    path = tmp_path / "results/runs" / experiment.folder / "seed0/metrics.json"
    path.write_bytes(path.read_bytes().replace(b'"wrong"', b'"wrung"'))
    with pytest.raises(UserError, match="move the folder away"):
        run(experiment)


def test_without_a_gpu_the_cpu_must_be_chosen(short, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"How long it takes on a CPU is not known.*--device cpu"):
        train(short(), 0, Options(tmp_path, root=tmp_path))
    experiment = load(ROOT).resolve("cifar10-resnet20")
    with pytest.raises(UserError, match=r"A run takes about 6\.9 h on CPU AMD EPYC, measured.*--device cpu"):
        train(experiment, 0, Options(tmp_path, root=ROOT))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("version", "visible", "cause"),
    [
        ("535.104.05", None, "the driver 535.104.05 is too old, install 580 or newer"),
        ("580.65.06", "7", "CUDA_VISIBLE_DEVICES='7' hides them or names others: unset it, or correct it"),
        ("580.65.06", None, "though the driver is 580.65.06: see what `nvidia-smi`"),
    ],
)
def test_gpus_that_torch_does_not_see_are_explained(short, tmp_path, monkeypatch, version, visible, cause):
    """By the driver and what it needs, not by "no GPU"."""
    monkeypatch.setattr(devices, "query_driver", lambda: Driver(version, [Device(0, "GPU-a", "GPU-a")]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"the driver lists 1, torch .* sees none.*{re.escape(cause)}"):
        train(short(), 0, Options(tmp_path, root=ROOT))


def test_fewer_gpus_than_processes_are_refused(short, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"3 processes, but 2 GPU\(s\)"):
        devices.choose("gpu", short(), ROOT, Group(0, 6, 0, 3))
    assert devices.choose("gpu", short(), ROOT, Group(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert devices.choose("gpu", short(), ROOT) == torch.device("cuda")


def test_dropout_masks_are_a_function_of_the_iteration(short, tmp_path):
    devices.prepare("float32", 1)
    trainers = [Trainer(short(), 0, torch.device("cpu"), Options(tmp_path, root=ROOT)) for _ in range(2)]
    trainers[0].step(0)
    trainers[1].masks.manual_seed(1)  # whatever was drawn before
    trainers[1].restore(Trainer(short(), 0, torch.device("cpu"), Options(tmp_path, root=ROOT)).state())
    trainers[0].restore(trainers[1].state())
    first, second = (trainer.step(7)[0] for trainer in trainers)
    assert torch.equal(first, second)


def test_evaluate_finds_other_weights_than_the_records(short, run, tmp_path):
    from identity_mappings.training.evaluate import evaluate

    experiment = short()
    run(experiment)
    options = Options(tmp_path / "results", root=ROOT, device="cpu")
    [path] = tmp_path.glob("results/checkpoints/*/seed0/weights.pt")
    state = torch.load(path, weights_only=True)
    state["linear.bias"] += 1
    torch.save(state, path)
    with pytest.raises(UserError, match="not the weights of the record"):
        evaluate(experiment, 0, ["single-view"], options)
    path.unlink()
    with pytest.raises(UserError, match="not here"):
        evaluate(experiment, 0, ["single-view"], options)


def test_recomputed_statistics_are_the_headline_only_where_the_recipe_says_so(short, run):
    moving = json.loads(run(short(), "a")["metrics.json"])
    recomputed = json.loads(run(short(test_statistics="recomputed"), "b")["metrics.json"])
    assert moving["first_losses"] == recomputed["first_losses"]
    assert moving["test"] != recomputed["test"]


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_repeatable(short, tmp_path):
    for folder in ("a", "b"):
        assert train(short(), 0, Options(tmp_path / folder, root=ROOT, device="gpu")) == 0
    first, second = (next(tmp_path.glob(f"{folder}/runs/*/seed0/metrics.json")).read_bytes() for folder in "ab")
    assert first == second


def test_a_checkpoint_that_another_process_sets_aside_is_passed_over(short, run, tmp_path, monkeypatch):
    from identity_mappings.training import checkpoint

    checkpoint.write_checkpoint(tmp_path, 1, {"a": torch.ones(1)})
    gone = tmp_path / ("checkpoint-00000002-" + "0" * 16 + ".pt")
    listed = checkpoint._listed
    monkeypatch.setattr(checkpoint, "_listed", lambda folder: [(2, "0" * 16, gone), *listed(folder)])
    assert checkpoint.load_checkpoint(tmp_path, torch.device("cpu"))["a"] == 1
