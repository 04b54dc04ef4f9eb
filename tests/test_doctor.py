"""`identity-mappings doctor`: a line for each finding, and 1 where something is wrong."""

import json
import re
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


PROJECT = load(ROOT)
KINDS = {experiment.name: experiment for experiment in doctor.list_kinds(PROJECT, "float32")}


def test_every_kind_of_step_of_params_is_looked_at():
    networks = [experiment.parameters["network"] for experiment in KINDS.values()]
    stated = [each.network for each in PROJECT.experiments.values() if each.network.family != "vgg"]
    assert {network["shortcut"]["kind"] for network in networks} == {*SHORTCUTS, "custom"}
    for key in ("activation", "unit", "family"):
        assert {network[key] for network in networks} == {getattr(each, key) for each in stated}
    assert len(networks) == len({str(experiment.digest) for experiment in KINDS.values()})


@pytest.mark.parametrize("name", ["cifar10-resnet110-dropout", "cifar10-resnet164-full-pre-activation"])
def test_a_step_that_is_right_has_no_problem(name):
    assert doctor.find_problem(KINDS[name], CPU, ROOT) is None


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"step": lambda *_: (torch.tensor(float("nan")), 0, 1)}, "its loss is not a number"),
        ({"why_eager": "the CUDA graph of a step gives other bits"}, "the CUDA graph of a step gives other bits"),
        ({"step": lambda *_: raise_error(RuntimeError("CUDA error: no kernel image\nmore"))}, "no kernel image)"),
    ],
)
def test_what_is_wrong_with_steps_is_one_line(monkeypatch, broken, problem):
    monkeypatch.setattr(doctor, "list_kinds", lambda *_: [next(iter(KINDS.values()))])
    with monkeypatch.context() as changed:
        for name, value in broken.items():
            changed.setattr(doctor.Trainer, name, value)
        line = doctor.check_steps(PROJECT, "float32", CPU)
    assert line.status == doctor.WRONG and line.text.startswith(f"{next(iter(KINDS))}: ") and problem in line.text
    assert "\n" not in line.text
    assert doctor.check_steps(PROJECT, "float32", CPU).status == doctor.OK


def raise_error(error: Exception) -> None:
    raise error


def test_versions_room_and_data_are_looked_at(tmp_path, monkeypatch):
    line = doctor.check_versions(tmp_path)
    assert line.status == doctor.WRONG and "project's root" in line.text
    (tmp_path / "requirements.lock").write_text("torch==1.0.0 \\\n    --hash=sha256:1\n")
    line = doctor.check_versions(tmp_path)
    assert (
        line.status == doctor.NOTE
        and "make env" in line.text
        and f"torch {torch.__version__.partition('+')[0]}" in line.text
    )
    assert doctor.check_versions(ROOT).status == doctor.OK
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 2**29 if path == Path("/dev/shm") else 2**40))
    line = doctor.check_room(tmp_path)
    assert line.status == doctor.NOTE and "--shm-size" in line.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2**29))
    line = doctor.check_room(tmp_path)
    assert line.status == doctor.WRONG and "make room" in line.text
    line = doctor.check_data(PROJECT, tmp_path / "data")
    assert line.status == doctor.NOTE and "cifar10, cifar100, imagenet: identity-mappings data fetch" in line.text
    (tmp_path / "data/cifar10/cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "data/cifar10/cifar-10-batches-py/data_batch_1").write_text("damaged")
    line = doctor.check_data(PROJECT, tmp_path / "data")
    assert line.status == doctor.WRONG and "data_batch_" in line.text and "data fetch cifar10" in line.text


def test_a_gpu_that_torch_does_not_see_is_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpus = [Device(0, "GPU-a", "GPU-a")]
    for answer, status, text in (
        (Driver("580.1", gpus), doctor.WRONG, "CUDA_VISIBLE_DEVICES"),
        (Driver("535.104.05", gpus), doctor.WRONG, "the driver 535.104.05 is too old, install 580 or newer"),
        (Driver(problem="NVML Shared Library Not Found"), doctor.NOTE, "NVML Shared Library Not Found"),
    ):
        monkeypatch.setattr(doctor.driver, "query_driver", lambda answer=answer: answer)
        line = doctor.check_devices()
        assert line.status == status and text in line.text


def test_the_hours_of_the_graph_follow_from_the_time_of_a_step(monkeypatch):
    def tell(seconds):
        monkeypatch.setattr(doctor, "measure_step", lambda *_: seconds)
        line = doctor.check_speed(PROJECT, CPU)
        assert line.text.startswith(f"a step of ResNet-110 on CIFAR-10 takes {seconds:g} s in float32; ")
        return float(re.search(r"([0-9.]+) days on", line.text)[1])

    assert tell(0.02) == pytest.approx(2 * tell(0.01), rel=0.03)


def test_the_exit_status_says_whether_something_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([doctor.Line("a", doctor.OK, "b")]))
    assert main(["doctor"]) == 0
    assert "this machine will do" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([doctor.Line("a", doctor.WRONG, "b")]))
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "status": "wrong", "text": "b"}]
