"""`verify`: the same bits again, or the first place where they are not."""

import json
import shutil

import pytest
import torch

from identity_mappings.cli import main
from identity_mappings.errors import UserError
from identity_mappings.records.files import sha256
from identity_mappings.training import verify
from identity_mappings.training.trainer import Options, Trainer


@pytest.fixture
def options(tmp_path):
    return Options(tmp_path / "results", device="cpu")


@pytest.fixture
def folder(short, run, tmp_path):
    run(short())
    [found] = (tmp_path / "results/runs").glob("*/seed0")
    return found


def provenance(folder, **changes):
    path = folder / "provenance.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key].update(value)
    path.write_text(json.dumps(content))


def test_a_record_is_repeated_bit_by_bit(folder, options, capsys):
    assert verify.verify_record(folder, options) == 0
    assert capsys.readouterr().out == f"{folder}: 12 iterations again: the recorded losses, bit by bit\n"
    assert verify.verify_record(folder, options, iterations=3) == 0
    assert "3 iterations again" in capsys.readouterr().out


def test_an_unfinished_record_is_repeated_too(short, run, options, tmp_path, capsys):
    run(short(), stop_after=5)
    [folder] = (tmp_path / "results/runs").glob("*/seed0")
    assert verify.verify_record(folder, options) == 0
    assert "5 iterations again: the recorded losses" in capsys.readouterr().out


def test_other_losses_on_the_same_machine_are_found(folder, options, capsys, monkeypatch):
    step = Trainer.step

    def other(self, iteration):
        loss, *rest = step(self, iteration)
        return (torch.nextafter(loss, loss + 1) if iteration == 4 else loss), *rest

    monkeypatch.setattr(Trainer, "step", other)
    assert verify.verify_record(folder, options) == 1
    assert "12 iterations again: NOT the same from iteration 4 on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "word"), [(1e-3, 0, "0.001 of their size, within"), (0.1, 1, "0.1 of their size, BEYOND")]
)
def test_elsewhere_there_is_a_tolerance_and_it_says_so(folder, options, capsys, monkeypatch, error, status, word):
    provenance(folder, hardware={"cpu": "Another CPU"}, env={"torch": "2.0.0"})
    step = Trainer.step

    def other(self, iteration):
        loss, *rest = step(self, iteration)
        return loss + error * max(float(loss), 1), *rest

    monkeypatch.setattr(Trainer, "step", other)
    assert verify.verify_record(folder, options) == status
    said = capsys.readouterr().out
    assert f"the losses differ by {word} the tolerance 0.05" in said
    assert "in another environment (device Another CPU, here " in said and "torch 2.0.0, here" in said


def test_a_record_of_several_processes_is_not_held_to_the_bits_of_one(folder, options, capsys):
    provenance(folder, seed={"world_size": 2})
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["first_losses"][2] *= 1 + 1e-6  # sums that two processes round otherwise
    path.write_text(json.dumps(metrics))
    provenance(folder, outputs={"metrics.json": sha256(path.read_bytes())})
    assert verify.verify_record(folder, options) == 0
    assert (
        "in another environment (processes 2, here 1): the losses differ by 1e-06 of their size, within"
        in capsys.readouterr().out
    )


def test_a_forged_record_is_not_verified(folder, options):
    """Losses that were written in by hand do not match the hash that the provenance states."""
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace('"test_error": ', '"test_error": 1'))
    with pytest.raises(UserError, match=r"hash of metrics\.json does not match.*not verified"):
        verify.verify_record(folder, options)


def test_a_swapped_seed_is_found(folder, options):
    shutil.copytree(folder, folder.with_name("seed1"))
    with pytest.raises(UserError, match="seed does not match: 0, expected 1: not verified"):
        verify.verify_record(folder.with_name("seed1"), options)


def test_no_record_says_what_to_name(tmp_path, options):
    with pytest.raises(UserError, match="no record of a run here: name a folder"):
        verify.verify_record(tmp_path, options)


def test_twice_is_the_same(short, options, capsys):
    assert verify.verify_twice(short(), 0, options, 5) == 0
    assert "seed 0, float32: 5 iterations twice: the same losses and weights, bit by bit" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["losses", "weights"])
def test_twice_finds_what_is_not(short, options, capsys, monkeypatch, what):
    step, calls = Trainer.step, []

    def other(self, iteration):
        loss, *rest = step(self, iteration)
        calls.append(iteration)
        if len(calls) == 8:  # iteration 2 of the second training
            if what == "losses":
                return loss + 1, *rest
            self.parameters[0].data += 1e-6
        return loss, *rest

    monkeypatch.setattr(Trainer, "step", other)
    # The eighth step is the third of five, whose losses go on from it, or the last of four, whose losses do not.
    assert verify.verify_twice(short(), 0, options, 5 if what == "losses" else 4) == 1
    words = {"losses": "NOT the same from iteration 2 on", "weights": "the losses are the same, the weights are NOT"}
    assert words[what] in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["cifar10-resnet110", "cifar10-resnet110-dropout"])
@pytest.mark.parametrize("arithmetic", ["float32", "tf32", "bfloat16"])
def test_on_a_gpu_50_iterations_twice(short, tmp_path, name, arithmetic):
    assert verify.verify_twice(short(name, arithmetic=arithmetic), 0, Options(tmp_path, device="gpu")) == 0


def test_several_records_are_compared_and_the_worst_counts(monkeypatch, capsys):
    asked = []

    def compared(path, options, iterations):
        asked.append((path.name, options.device, iterations))
        if path.name == "no-record":
            raise UserError("no record of a run here")
        return int(path.name == "b")

    monkeypatch.setattr(verify, "verify_record", compared)
    words = ["--device", "cpu", "--iterations", "7"]
    assert main(["verify", "a", "c", *words]) == 0
    assert main(["verify", "b", "a", *words]) == 1
    assert main(["verify", "no-record", "b", *words]) == 2
    assert "no record of a run here" in capsys.readouterr().err
    assert [name for name, *_ in asked] == ["a", "c", "b", "a", "no-record", "b"]
    assert {(device, iterations) for _, device, iterations in asked} == {("cpu", 7)}


@pytest.mark.parametrize("option", [("--digest", "0"), ("--arithmetic", "tf32")])
def test_what_a_record_has_of_its_own_is_not_chosen(option, capsys):
    assert main(["verify", "results/runs/a/seed0", "--device", "cpu", *option]) == 2
    assert "leave these options out" in capsys.readouterr().err
