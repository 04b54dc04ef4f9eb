"""`identity-mappings doctor`: a line for each finding, and 1 where something is wrong."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from identity_mappings import doctor
from identity_mappings.cli import main
from identity_mappings.networks.shortcuts import SHORTCUTS
from identity_mappings.parameters import load
from identity_mappings.training.driver import Device, Driver

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def test_every_kind_of_step_of_the_papers_is_looked_at():
    networks = [network for network, _ in doctor.list_kinds().values()]
    experiments = [experiment for experiment in load(ROOT).experiments.values() if experiment.recipe]
    assert {network["shortcut"]["kind"] for network in networks} == set(SHORTCUTS)
    assert {network["activation"] for network in networks} == {each.network.activation for each in experiments}
    assert {network["unit"] for network in networks} == {each.network.unit for each in experiments}
    assert {network.get("family") for network in networks} == {None, "imagenet"}
    assert doctor.RECIPE.keys() | {"arithmetic"} <= set(load(ROOT).recipes["he2016-cifar"].model_fields_set) | {
        "channel_mean", "channel_deviation", "crop",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["dropout shortcut", "bottleneck, full-pre-activation", "ImageNet, basic"])
def test_a_step_that_repeats_is_ok(name, monkeypatch):
    monkeypatch.setattr(doctor, "STEPS", 2)
    line = doctor.check_step(name, *doctor.list_kinds()[name], "float32", CPU)
    assert (line.status, line.text) == (doctor.OK, "2 steps twice, bit by bit")


GOOD = ([1.0, 0.5], "abc")


@pytest.mark.parametrize(
    ("device", "answers", "status", "text"),
    [
        ("cpu", [GOOD, ([1.0, 0.6], "abc")], doctor.WRONG, "cannot be repeated"),
        ("cpu", [GOOD, ([1.0, 0.5], "abd")], doctor.WRONG, "cannot be repeated"),
        ("cpu", [([1.0, float("nan")], "abc")] * 2, doctor.WRONG, "not a number"),
        ("cuda", [GOOD, GOOD, ([1.0, 0.5], "abd")], doctor.WRONG, "CUDA graph gives other bits"),
        ("cuda", [GOOD, GOOD, GOOD], doctor.OK, "and as a CUDA graph"),
        ("cuda", [RuntimeError("CUDA error: no kernel image\nmore")], doctor.WRONG, r"(CUDA error: no kernel image)"),
    ],
)
def test_what_is_wrong_with_a_step_is_said(monkeypatch, device, answers, status, text):
    answers = iter(answers)

    def answer(*_):
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(doctor, "train_steps", answer)
    network, size = doctor.list_kinds()["identity shortcut"]
    line = doctor.check_step("identity shortcut", network, size, "float32", torch.device(device))
    assert line.status == status and text in line.text


def test_versions_room_devices_and_data_are_looked_at(tmp_path, monkeypatch):
    [line] = [line for line in doctor.check_versions(tmp_path) if line.name == "requirements.lock"]
    assert line.status == doctor.WRONG and "project's root" in line.text
    (tmp_path / "requirements.lock").write_text("torch==1.0.0 \\\n    --hash=sha256:1\n")
    lines = {line.name: line for line in doctor.check_versions(tmp_path)}
    assert lines["torch"].status == doctor.NOTE and "make env" in lines["torch"].text
    assert all(line.status == doctor.OK for line in doctor.check_versions(ROOT) if line.name == "torch")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2**29))
    disk, *shared = doctor.check_room(tmp_path)
    assert disk.status == doctor.WRONG and "make room" in disk.text
    assert all(line.status == doctor.NOTE and "--shm-size" in line.text for line in shared)
    data = {line.name: line for line in doctor.check_data(tmp_path / "data")}
    assert "identity-mappings data fetch cifar10" in data["data: cifar10"].text
    (tmp_path / "data/cifar10/cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "data/cifar10/cifar-10-batches-py/data_batch_1").write_text("damaged")
    data = {line.name: line for line in doctor.check_data(tmp_path / "data")}
    assert data["data: cifar10"].status == doctor.WRONG and "data_batch_1" in data["data: cifar10"].text


def test_a_gpu_that_torch_does_not_see_is_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.driver, "query_driver", lambda: Driver("580.1", [Device(0, "GPU-a", "GPU-a")]))
    _, line = doctor.check_devices()
    assert line.status == doctor.WRONG and "torch" in line.text and "CUDA_VISIBLE_DEVICES" in line.text
    monkeypatch.setattr(doctor.driver, "query_driver", lambda: Driver(problem="NVML Shared Library Not Found"))
    [line] = doctor.check_devices()
    assert line.status == doctor.NOTE and "NVML Shared Library Not Found" in line.text


def test_the_time_of_a_step_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "measure_step", lambda _: 0.5)
    [line] = doctor.check_speed(CPU)
    assert (line.name, line.text) == ("speed", "a step of ResNet-110 on CIFAR-10 takes 0.5 s in float32")


def test_the_exit_status_says_whether_something_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([doctor.Line("a", doctor.OK, "b")]))
    assert main(["doctor"]) == 0
    assert "this machine will do" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([doctor.Line("a", doctor.WRONG, "b")]))
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "status": "wrong", "text": "b"}]
