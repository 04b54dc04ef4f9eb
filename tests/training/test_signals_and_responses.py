"""`signals` and `responses` from an experiment to their records, on digits."""

import io
import json
import os
import platform
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records import measurement
from identity_mappings.records import run as records
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.files import hash_file, sha256
from identity_mappings.records.measurement import get_responses_folder, get_signals_folder
from identity_mappings.training import checkpoint, devices, responses, signals
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
PLAIN = "cifar10-resnet110"


def options(folder):
    return Options(folder, root=ROOT, device="cpu")


def trainer_of(experiment, folder, seed=0):
    devices.prepare("float32", 1)
    return Trainer(experiment, seed, torch.device("cpu"), options(folder))


def provenance_of(folder):
    return json.loads((folder / "provenance.json").read_bytes())


def assert_refused(caught, *words):
    """In one line that says what, for a person."""
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


# --- signals


@pytest.mark.parametrize("name", [PLAIN, f"{PLAIN}-dropout"])
def test_signals_twice_from_scratch_are_the_same_bytes(short, tmp_path, name):
    """With dropout, too: its masks are a function of the seed. What lies in the global generator is of no account."""
    contents = []
    for folder in ("a", "b"):
        torch.manual_seed(len(contents))
        found = signals.measure_signals(short(name), 2, options(tmp_path / folder))
        assert found == get_signals_folder(tmp_path / folder, short(name), 2)
        contents.append((found / "signals.csv").read_bytes())
    assert contents[0] == contents[1]


def test_signals_are_those_of_the_trainers_steps(short, tmp_path):
    """Rows of iteration 0 and N: stem and three units; the batch is the first both times, and the training that lies
    between is the recipe's own, of which the measurement at its begin changes nothing."""
    folder = signals.measure_signals(short(PLAIN), 3, options(tmp_path))
    header, *lines = (folder / "signals.csv").read_text().splitlines()
    assert header == "iteration,unit,channels,size,forward_norm,gradient_norm"
    rows = [line.split(",") for line in lines]
    place = [["16", "8"], ["16", "8"], ["32", "4"], ["64", "2"]]
    assert [row[:4] for row in rows] == [[n, str(unit), *place[unit]] for n in "03" for unit in range(4)]

    trainer = trainer_of(short(PLAIN), tmp_path)
    view = trainer.feed.sampler.view(0)
    x, y = trainer.feed.augmentation.view(view), trainer.feed.labels[view.image]
    losses, expected = [], []
    for step in range(4):
        if step in (0, 3):
            loss, found = signals.compute_signals(deepcopy(trainer.network), x, y)
            losses.append(format(loss, ".9g"))
            expected += (
                signals.format_csv({"iteration": step, **row._asdict()} for row in found).decode().splitlines()[1:]
            )
        loss = trainer.step(step)[0]
        if step == 0:
            assert float(losses[0]) == pytest.approx(float(loss), rel=1e-6)
    assert lines == expected
    settings = provenance_of(folder)["settings"]
    assert settings["losses"] == dict(zip("03", losses, strict=True))
    assert (settings["iterations"], settings["images"], settings["seed"]) == (3, 16, 0)


def test_signals_at_initialization_only(short, tmp_path):
    folder = signals.measure_signals(short(PLAIN), 0, options(tmp_path))
    more = signals.measure_signals(short(PLAIN), 1, options(tmp_path))
    assert folder != more
    lines = (folder / "signals.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert (more / "signals.csv").read_text().splitlines()[:5] == lines
    assert list(provenance_of(folder)["settings"]["losses"]) == ["0"]


def made_before(experiment, folder):
    """A record of signals that no training made."""
    target = get_signals_folder(folder, experiment, 2)
    measurement.write_measurement(target, "signals.csv", b"of before\n", {})
    return target


def test_a_record_that_is_there_is_kept_and_nothing_trained(short, tmp_path, monkeypatch):
    experiment = short(PLAIN)
    target = made_before(experiment, tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()}
    monkeypatch.setattr(signals, "Trainer", lambda *arguments: pytest.fail("something is trained"))
    assert signals.measure_signals(experiment, 2, options(tmp_path)) == target
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()} == before
    with pytest.raises(pytest.fail.Exception):
        signals.measure_signals(experiment, 3, options(tmp_path))  # another measurement


def test_a_damaged_record_of_signals_is_refused_and_left(short, tmp_path):
    experiment = short(PLAIN)
    target = made_before(experiment, tmp_path)
    (target / "signals.csv").write_bytes(b"{}")
    before = {path: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(UserError) as caught:
        signals.measure_signals(experiment, 2, options(tmp_path))
    assert_refused(caught, target)
    assert {path: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.parametrize(
    "name, words", [("imagenet-resnet18", ("imagenet", "CIFAR")), ("imagenet-vgg16", ("imagenet-vgg16", "recipe"))]
)
def test_of_what_cannot_be_trained_nothing_is_measured(tmp_path, name, words):
    experiment = load(ROOT).resolve(name, "paper")
    calls = [lambda: signals.measure_signals(experiment, 2, options(tmp_path))]
    if experiment.untrainable:
        calls.append(lambda: responses.measure_responses(experiment, 0, options(tmp_path)))
    for call in calls:
        with pytest.raises(UserError) as caught:
            call()
        assert_refused(caught, *words)
    assert not list(tmp_path.iterdir())


# --- responses


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run, seed 0, and an unfinished one, seed 1; only to be read."""
    resolved = load(ROOT).resolve(PLAIN, "demo")
    parameters = deepcopy(resolved.parameters)
    parameters["recipe"] |= {"batch_size": 16, "batch_norm_samples": 8, "iterations": 12}
    parameters["recipe"] |= {"learning_rate": [[0, 0.01], [2, 0.1]], "evaluate_every": 6, "log_every": 3}
    parameters["network"]["depth"] = 8
    experiment, folder = Experiment(resolved.name, resolved.scale, parameters), tmp_path_factory.mktemp("trained")
    for seed, stop in ((0, None), (1, 7)):
        assert train(experiment, seed, Options(folder, root=ROOT, device="cpu", stop_after=stop)) == 0
    return experiment, folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of `trained` that may be changed."""
    experiment, folder = trained
    shutil.copytree(folder, tmp_path / "results")
    return experiment, tmp_path / "results"


def expected_responses(experiment, folder, weights):
    trainer = trainer_of(experiment, folder)
    trainer.network.load_state_dict(weights)
    feed = trainer.feed
    return signals.format_csv(
        responses.compute_responses(trainer.network, feed.test_images, feed.augmentation.normalize)
    )


def only(folder, pattern):
    [found] = folder.rglob(pattern)
    return found


def test_responses_of_a_finished_run(runs):
    """From the weights it ended with, on the test images; its parents are those weights and the run's record."""
    experiment, folder = runs
    target = responses.measure_responses(experiment, 0, options(folder))
    assert (
        target
        == get_responses_folder(folder, experiment, 0)
        == folder / "runs" / experiment.folder / "seed0" / "responses"
    )
    weights = torch.load(only(folder, "weights.pt"), weights_only=True)
    content, origin = measurement.read_measurement(target, "responses.csv")
    assert content == expected_responses(experiment, folder, weights)
    header, *lines = content.decode().splitlines()
    assert header == "layer,name,standard_deviation"
    assert [line.split(",")[0] for line in lines] == [str(layer) for layer in range(1, 8)]
    metrics = folder / "runs" / experiment.folder / "seed0" / "metrics.json"
    assert origin["parents"] == {
        "weights": json.loads(metrics.read_bytes())["weights_sha256"],
        "metrics.json": hash_file(metrics),
    }
    assert (origin["settings"]["iteration"], origin["settings"]["seed"]) == (12, 0)
    assert origin["settings"]["images"] == 500
    before = content
    assert responses.measure_responses(experiment, 0, options(folder)) == target
    assert measurement.read_measurement(target, "responses.csv")[0] == before
    assert records.read_record(metrics.parent, experiment, 0) is not None  # the run's record is as it was


def test_responses_of_an_unfinished_run_are_partial(runs):
    """From its last checkpoint, of which they say the iteration; there is no metrics.json to be a parent."""
    experiment, folder = runs
    target = responses.measure_responses(experiment, 1, options(folder))
    seed1 = folder / "runs" / experiment.folder / "seed1"
    assert target == get_responses_folder(folder, experiment, 1, finished=False) == seed1 / "partial" / "responses"
    assert not (seed1 / "responses").exists()
    saved = torch.load(only(folder, "checkpoint-*.pt"), weights_only=True)
    content, origin = measurement.read_measurement(target, "responses.csv")
    assert content == expected_responses(experiment, folder, saved["network"])
    digest = json.loads((seed1 / "partial/metrics.json").read_bytes())["weights_sha256"]
    assert origin["parents"] == {"weights": digest}
    assert (origin["settings"]["iteration"], origin["settings"]["seed"]) == (7, 1)


def test_a_file_is_measured_that_is_named(runs, tmp_path):
    """Weights that were fetched to another place, and a checkpoint: the same as where they were."""
    experiment, folder = runs
    for seed, pattern in ((0, "weights.pt"), (1, "checkpoint-*.pt")):
        target = responses.measure_responses(experiment, seed, options(folder))
        content = (target / "responses.csv").read_bytes()
        (target / "responses.csv").unlink()
        moved = only(folder, pattern).rename(tmp_path / f"moved{seed}.pt")
        assert responses.measure_responses(experiment, seed, options(folder), moved) == target
        assert (target / "responses.csv").read_bytes() == content


def test_responses_without_weights_say_where_they_are_sought(runs):
    experiment, folder = runs
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 2, options(folder))
    assert_refused(caught, records.get_checkpoint_folder(folder, experiment, 2), "fetch them")
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 0, options(folder), folder / "none.pt")
    assert_refused(caught, folder / "none.pt", "No such file")


def test_a_damaged_checkpoint_is_not_measured(runs, capsys):
    experiment, folder = runs
    path = only(folder, "checkpoint-*.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 1, options(folder))
    assert_refused(caught, path.parent)
    assert "set aside" in capsys.readouterr().err


OTHERS = {
    "the first half": lambda whole: whole[: len(whole) // 2],
    "a text": lambda _: b"weights",
    "no tensors": lambda _: saved({"a": 1}),
    "no iteration": lambda _: saved({"network": {"a": torch.zeros(2)}, "progress": {}}),
    "other names": lambda _: saved({"network": {"a": torch.zeros(2)}, "progress": {"iteration": 4}}),
}


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_is_no_networks_weights_is_refused_by_name(runs, tmp_path, other):
    experiment, folder = runs
    path = tmp_path / "given.pt"
    path.write_bytes(other(only(folder, "weights.pt").read_bytes()))
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 0, options(folder), path)
    assert_refused(caught, path)
    assert not list(folder.rglob("responses.csv"))


def test_other_weights_than_the_records_are_refused(runs):
    experiment, folder = runs
    path = only(folder, "weights.pt")
    weights = torch.load(path, weights_only=True)
    weights["linear.bias"] += 1
    torch.save(weights, path)
    with pytest.raises(UserError, match="not the weights of") as caught:
        responses.measure_responses(experiment, 0, options(folder))
    assert_refused(caught, path)
    assert not list(folder.rglob("responses.csv"))


def test_a_checkpoint_of_another_seed_is_refused(runs):
    """Of the same network: only a hash could tell. Else the provenance would say seed 0 of what is seed 1."""
    experiment, folder = runs
    path = only(folder, "checkpoint-*.pt")
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 0, options(folder), path)
    assert_refused(caught, path)


def test_a_checkpoint_of_another_network_is_refused(runs, short):
    _, folder = runs
    other = short("cifar10-resnet110-exclusive-gate-b6")
    path = only(folder, "checkpoint-*.pt")
    with pytest.raises(UserError) as caught:
        responses.measure_responses(other, 1, options(folder), path)
    assert_refused(caught, path, other.name)


def test_weights_without_a_record_or_of_a_forged_one_are_refused(runs):
    experiment, folder = runs
    path = only(folder, "weights.pt")
    metrics = folder / "runs" / experiment.folder / "seed0" / "metrics.json"
    content = metrics.read_bytes()
    metrics.write_bytes(content.replace(b'"wrong"', b'"wrung"'))
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 0, options(folder))
    assert_refused(caught, metrics.parent, "metrics.json does not match")
    metrics.unlink()
    with pytest.raises(UserError) as caught:
        responses.measure_responses(experiment, 0, options(folder))
    assert_refused(caught, path)
    assert not list(folder.rglob("responses.csv"))


# --- the provenance of both


@pytest.fixture(params=["signals", "responses"])
def measure(request, runs):
    """(folder of the record, name of its data, a function that makes it)."""
    experiment, folder = runs

    def make():
        if request.param == "signals":
            return signals.measure_signals(experiment, 1, options(folder))
        return responses.measure_responses(experiment, 0, options(folder))

    return make, f"{request.param}.csv", experiment


def test_provenance_says_what_made_it(measure):
    make, name, experiment = measure
    folder = make()
    origin = provenance_of(folder)
    rule = name.removesuffix(".csv")
    assert origin["rule"] == rule
    assert origin["command"].startswith(f"identity-mappings {rule} {experiment.name} --scale {experiment.scale} --")
    assert origin["outputs"] == {name: sha256((folder / name).read_bytes())}
    settings = origin["settings"]
    assert settings["digest"] == experiment.digest
    assert Experiment(experiment.name, experiment.scale, settings["params"]["resolved"]).digest == experiment.digest
    assert settings["data"] == {"name": "digits", "md5": experiment.parameters["dataset"]["md5"]}
    assert (settings["device"], settings["cpu_threads"]) == ("cpu", 1)
    assert origin["env"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert origin["env"]["lock_sha256"] == hash_file(ROOT / "requirements.lock")
    assert set(origin["git"]) == {"commit", "dirty", "diff_sha256"}
    for name in ("training/signals", "networks/residual", "data/sampling"):
        file = f"src/identity_mappings/{name}.py"
        assert origin["source"][file] == hash_file(ROOT / file)


def strings(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def test_provenance_names_no_clock_no_host_and_no_place(measure, tmp_path):
    found = list(strings(provenance_of(measure[0]())))
    assert "identity-mappings" in " ".join(found)
    host, place = platform.node(), re.compile(r"^~|(^|[\s=:'\"])/|[A-Z]:\\")
    for text in found:
        assert not place.search(text), text
        assert str(tmp_path) not in text and str(Path.home()) + os.sep not in text, text
        assert not re.search(r"\d{4}-\d\d-\d\d|\d\d:\d\d", text), text
        assert not (len(host) > 3 and host in text), text


def test_checkpoints_stay_as_they_are(runs):
    """A run can go on after it was measured."""
    experiment, folder = runs
    place = records.get_checkpoint_folder(folder, experiment, 1)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    responses.measure_responses(experiment, 1, options(folder))
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert checkpoint.load_checkpoint(place, torch.device("cpu"))["progress"]["iteration"] == 7
