"""The CUDA path on a simulated GPU, whose streams run as late or as early as they may: the bits of a CPU, always.

In commit 81c30c0, before the path was mended, the same comparisons find: weights that were rewound at a batch of
another size (short batches, policy "default"), losses read before they were there (policies "late" and "default"), the
first dropout mask after a recording (dropout, all policies), and a host that runs ahead (steps that are queued).
"""

import inspect
import itertools
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest
import torch

from identity_mappings import doctor
from identity_mappings.errors import RecordingFailed, UserError
from identity_mappings.parameters import load
from identity_mappings.records.files import parse_json
from identity_mappings.records.run import get_folder
from identity_mappings.training import captured, devices, evaluate, feeds, loop, trained_run, trainer, verify
from identity_mappings.training.loop import train
from identity_mappings.training.signals import measure_signals
from identity_mappings.training.trainer import MOST_QUEUED, Options, Trainer
from simulated_cuda import simulated_cuda

ROOT = Path(__file__).parents[2]
POLICIES = ["late", "default", "side", 1]
SHORT_BATCHES = {"batch_size": 512, "batch_norm_samples": 256, "epoch_end": "short-batch"}  # 1,297 digits: the third
KINDS = {experiment.name: experiment for experiment in doctor.list_kinds(load(ROOT), "float32")}


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    devices.prepare("float32", 1)
    monkeypatch.setattr(feeds, "STATISTICS_BATCHES", 3)


def compute_steps(experiment, device, steps, first=0, images=None, **options):
    """Losses, weights and states behind some steps, and the trainer."""
    made = Trainer(experiment, 0, torch.device(device), Options(Path(), root=ROOT, **options), images)
    losses = [made.step(iteration)[0] for iteration in range(first, first + steps)]
    state = [tensor.cpu() for tensor in made._state()]
    made.close()
    return torch.stack(losses).tolist(), state, made


def is_same(first, second) -> bool:
    return first[0] == second[0] and all(map(torch.equal, first[1], second[1]))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_step_gives_the_bits_of_a_cpu(name):
    plain = compute_steps(KINDS[name], "cpu", 3, images=doctor.make_images())
    with simulated_cuda(POLICIES[list(KINDS).index(name) % len(POLICIES)]) as gpu:
        replayed = compute_steps(KINDS[name], "cuda", 3, images=doctor.make_images())
    assert is_same(plain, replayed) and replayed[2].why_eager is None and gpu.replays == 3


@pytest.mark.parametrize(
    ("recipe", "policy"), [*(({}, policy) for policy in POLICIES), (SHORT_BATCHES, "default"), (SHORT_BATCHES, 1)]
)
def test_dropout_and_short_batches(short, policy, recipe):
    plain = compute_steps(short(**recipe), "cpu", 7)
    with simulated_cuda(policy) as gpu:
        replayed = compute_steps(short(**recipe), "cuda", 7)
    assert is_same(plain, replayed) and replayed[2].why_eager is None
    assert gpu.replays == 7 and gpu.most_queued <= MOST_QUEUED + 1


def read(results, experiment, seed=0):
    """What a record says of numbers."""
    metrics = parse_json((get_folder(results, experiment, seed) / "metrics.json").read_bytes())
    return {key: metrics[key] for key in ("first_losses", "test", "best", "training_loss", "weights_sha256", "status")}


def train_here(experiments, results, policy, module=loop, **options):
    with simulated_cuda(policy) as gpu:
        return module.train(experiments, [0], Options(results, root=ROOT, device="gpu", **options)), gpu


def train_two(short, tmp_path, **recipe):
    """Two experiments, and what their records on a CPU say."""
    experiments = [short(**recipe), short("cifar10-resnet110", test_statistics="recomputed", **recipe)]
    assert train(experiments, [0], Options(tmp_path / "cpu", root=ROOT, device="cpu")) == 0
    return experiments, [read(tmp_path / "cpu", experiment) for experiment in experiments]


@pytest.fixture
def two(short, tmp_path):
    return train_two(short, tmp_path)


LONG: list = []  # is trained once for all


@pytest.fixture
def long(short, tmp_path):
    """Nothing is read for eight steps."""
    if not LONG:
        LONG.extend(train_two(short, tmp_path, iterations=8, evaluate_every=8, log_every=8))
    return LONG


@pytest.mark.parametrize("policy", ["late", 1])
def test_runs_at_once_with_tests_and_a_resume_between(two, tmp_path, policy):
    experiments, plain = two
    assert train_here(experiments, tmp_path / "gpu", policy, stop_after=7)[0] == 0
    assert train_here(experiments, tmp_path / "gpu", policy)[0] == 0
    assert [read(tmp_path / "gpu", experiment) for experiment in experiments] == plain
    provenance = parse_json((get_folder(tmp_path / "gpu", experiments[0], 0) / "provenance.json").read_bytes())
    assert all("eager" not in session for session in provenance["sessions"])


def test_a_signal_waits_for_few_steps(short, tmp_path, monkeypatch):
    """The checkpoint that it leaves goes on to the bits of an undisturbed run."""
    experiment, step = short(log_every=6), Trainer.step
    assert train(experiment, 0, Options(tmp_path / "cpu", root=ROOT, device="cpu")) == 0

    def stopped(self, iteration):
        if iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, iteration)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", stopped)
        status, gpu = train_here([experiment], tmp_path / "gpu", "late")
    assert status == 128 + signal.SIGTERM and gpu.most_queued <= MOST_QUEUED + 1
    assert train_here([experiment], tmp_path / "gpu", "late")[0] == 0
    assert read(tmp_path / "gpu", experiment) == read(tmp_path / "cpu", experiment)


def test_what_tests_and_measures(short, tmp_path, capsys):
    """verify, doctor, evaluate and signals."""
    experiment, policy = short(), "default"
    on_cpu, on_gpu = (Options(tmp_path / name, root=ROOT, device=name) for name in ("cpu", "gpu"))
    assert train(experiment, 0, on_cpu) == 0 and train_here([experiment], on_gpu.results, policy)[0] == 0
    folders = [get_folder(options.results, experiment, 0) for options in (on_cpu, on_gpu)]
    measured = [measure_signals(experiment, 3, on_cpu)]
    evaluate.evaluate(experiment, 0, ["single-view", "single-view-recomputed"], on_cpu)
    with simulated_cuda(policy):
        assert verify.verify_twice(experiment, 0, on_gpu, 8) == 0
        assert verify.verify_record(folders[0], on_gpu, 8) == 0
        assert doctor.find_problem(KINDS["cifar10-resnet110-dropout"], torch.device("cuda"), ROOT) is None
        evaluate.evaluate(experiment, 0, ["single-view", "single-view-recomputed"], on_gpu)
        measured.append(measure_signals(experiment, 3, on_gpu))
    assert "the recorded losses, bit by bit" in capsys.readouterr().out
    for protocol in ("single-view", "single-view-recomputed"):
        cpu, gpu = (parse_json((folder / f"evaluation-{protocol}.json").read_bytes()) for folder in folders)
        assert (cpu["wrong"], cpu["test_loss"]) == (gpu["wrong"], gpu["test_loss"])
    assert len({(folder / "signals.csv").read_bytes() for folder in measured}) == 1


def test_a_step_that_differs_from_its_recording_stands_and_nothing_is_replayed_any_more(short, tmp_path, monkeypatch):
    plain = compute_steps(short(), "cpu", 5)
    replay = captured.Graph.replay

    def wrong(self, inputs):
        loss, *others = replay(self, inputs)
        return [loss + 1, *others]

    monkeypatch.setattr(captured.Graph, "replay", wrong)
    with simulated_cuda("default") as gpu:
        found = compute_steps(short(), "cuda", 5)
    assert is_same(plain, found) and "gives other bits" in found[2].why_eager and gpu.replays == 1
    status, _ = train_here([short()], tmp_path, "default")
    provenance = parse_json((get_folder(tmp_path, short(), 0) / "provenance.json").read_bytes())
    assert status == 0 and "gives other bits" in provenance["sessions"][0]["eager"]


def test_a_recording_that_fails_tells_the_first_cause_and_leaves_the_state(short, tmp_path, monkeypatch):
    """The command then starts again in another process, which goes on eagerly: tests/test_eager.py."""
    seek = feeds.Resident.replica

    def reads(self, size, replica):
        x, y = seek(self, size, replica)
        if captured.torch.cuda.recording():
            y.sum().item()
        return x, y

    monkeypatch.setattr(feeds.Resident, "replica", reads)
    with simulated_cuda("late") as gpu:
        monkeypatch.setattr(torch.cuda, "recording", lambda: gpu.recording, raising=False)
        with pytest.raises(RecordingFailed, match="not permitted when stream is capturing"):
            loop.train(short(), 0, Options(tmp_path, root=ROOT, device="gpu"))
    monkeypatch.undo()
    assert not list(tmp_path.glob("runs/*/seed0/metrics.json"))
    with simulated_cuda("late"):
        options = Options(tmp_path, root=ROOT, device="gpu", eager="the step cannot be recorded")
        assert loop.train(short(), 0, options) == 0
    assert train(short(), 0, Options(tmp_path / "cpu", root=ROOT, device="cpu")) == 0
    assert read(tmp_path, short()) == read(tmp_path / "cpu", short())


def test_a_step_that_cannot_be_computed_is_no_failed_recording(short, monkeypatch):
    def broken(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer.Trainer, "_step", broken)
    with simulated_cuda("late"), pytest.raises(UserError, match=r"CUDA out of memory.*runs_per_gpu=1"):
        compute_steps(short(), "cuda", 1)


def mutate(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module with a change of its source."""
    source, copy = inspect.getsource(module), ModuleType(module.__name__)
    assert source.count(old) == 1, old
    copy.__dict__.update(__package__=module.__package__, __file__=module.__file__)
    exec(compile(source.replace(old, new), module.__file__, "exec"), copy.__dict__)
    return copy


STREAM = "with self.on_stream():\n            self.trainer ="
MISSING = {  # what orders the work: each is taken away, one at a time
    "the recording stream does not wait": (captured, "self.stream.wait_stream(current)", "pass"),
    "nobody waits for the recording stream": (captured, "current.wait_stream(self.stream)", "pass"),
    "generators are not put back": (captured, "generator.set_state(old)", "pass"),
    "tensors are not put back": (captured, "tensor.copy_(old)", "pass"),
    "outputs of a graph are not copied": (captured, "[output.clone() for output in self.outputs]", "self.outputs"),
    "generators are not registered": (captured, "graph.register_generator_state(generator)", "pass"),
    "the queue has no end": (trainer, "self.wait(MOST_QUEUED)", "pass"),
    "an event is not recorded": (trainer, "self.queued[-1].record()", "pass"),
    "a run is made on another stream": (trained_run, STREAM, STREAM.replace("with self.on_stream()", "if True")),
    "a run trains on another stream": (
        loop, "with run.on_stream():\n                        run.steps", "if True:\n                        run.steps",
    ),
    "losses are read on another stream": (
        loop, "with run.on_stream():\n                    run.finish", "if True:\n                    run.finish",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MISSING)
def test_what_is_taken_away_is_found(long, tmp_path, monkeypatch, what):
    """Or the simulation would find nothing: numbers, the number of queued steps, or the check of a run tell."""
    module, old, new = MISSING[what]
    changed, (experiments, plain) = mutate(module, old, new), long
    if module is captured:
        monkeypatch.setattr(trainer, "Captured", changed.Captured)
    elif module is trainer:
        monkeypatch.setattr(trained_run, "Trainer", changed.Trainer)
    elif module is trained_run:
        monkeypatch.setattr(loop, "Run", changed.Run)
    changed = changed if module is loop else loop
    eager = "is made" in what  # a recording waits for all streams
    for number, (count, policy) in enumerate(itertools.product((1, 2), ("late", "side"))):
        results, trained = tmp_path / str(number), experiments[:count]
        try:
            _, gpu = train_here(trained, results, policy, changed, eager=eager)
        except UserError:
            return
        differs = [b"gives other bits" in path.read_bytes() for path in results.glob("runs/*/seed0/provenance.json")]
        found = [read(results, experiment) for experiment in trained]
        if found != plain[:count] or any(differs) or gpu.most_queued > count * (MOST_QUEUED + 1):
            return
    pytest.fail("not found")
