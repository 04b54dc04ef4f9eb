"""What a training says while it runs: read from outside, and without effect on it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity_mappings.records import heartbeat, provenance
from identity_mappings.training import progress
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def every_moment(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_HEARTBEATS", 0.0)


def get_folder(tmp_path: Path, experiment, seed: int = 0) -> Path:
    return tmp_path / "results/checkpoints" / experiment.folder / f"seed{seed}"


def watched(monkeypatch) -> list[heartbeat.Heartbeat]:
    """Collects what is written, and writes it."""
    seen, write = [], heartbeat.write_heartbeat
    monkeypatch.setattr(heartbeat, "write_heartbeat", lambda folder, beat: (seen.append(beat), write(folder, beat)))
    return seen


def test_a_training_says_how_far_it_is_and_takes_it_back_when_it_has_its_record(
    short, run, tmp_path, monkeypatch, every_moment
):
    plain = run(short(), "plain")
    seen = watched(monkeypatch)
    assert run(short()) == plain, "a record's bytes do not depend on it"
    assert [beat.iteration for beat in seen] == sorted(beat.iteration for beat in seen)
    assert {beat.iteration for beat in seen} >= {0, 1, 2, 12}
    first, last = seen[0], seen[-1]
    assert (first.state, first.training_loss, first.of_iterations) == ("running", None, 12)
    assert last.test_error is not None and last.training_loss > 0 and last.images_per_second > 0
    assert last.device_seconds <= last.seconds + 0.1 and last.gpu is None and last.cpu == provenance.find_cpu_model()
    assert last.is_alive(1e9), "this process is there"
    assert not list(get_folder(tmp_path, short()).glob("*heartbeat*"))


def test_a_training_that_is_stopped_says_so_and_goes_on(short, run, tmp_path):
    run(short(), stop_after=5)
    beat, _ = heartbeat.read_heartbeat(get_folder(tmp_path, short()))
    assert (beat.state, beat.iteration) == ("stopped", 5) and not beat.is_alive(0)
    run(short())
    assert heartbeat.read_heartbeat(get_folder(tmp_path, short())) is None


def test_a_training_that_fails_says_why(short, tmp_path, monkeypatch):
    step = Trainer.step

    def broken(self, iteration):
        if iteration == 4:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore")
        return step(self, iteration)

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError):
        train(short(), 0, Options(tmp_path / "results", root=ROOT, device="cpu"))
    beat, _ = heartbeat.read_heartbeat(get_folder(tmp_path, short()))
    assert (beat.state, beat.message) == ("failed", "CUDA error: unspecified launch failure")
    assert beat.iteration == 4


def test_several_seeds_of_one_process_each_say_it(short, tmp_path, monkeypatch, every_moment):
    seen = watched(monkeypatch)
    assert train(short(), [0, 1], Options(tmp_path / "results", root=ROOT, device="cpu", stop_after=6)) == 0
    assert {beat.runs_at_once for beat in seen} == {2}
    for seed in (0, 1):
        beat, _ = heartbeat.read_heartbeat(get_folder(tmp_path, short(), seed))
        assert (beat.state, beat.iteration) == ("stopped", 6)
        assert beat.device_seconds < beat.seconds


def test_where_it_cannot_be_written_the_training_goes_on(short, run, tmp_path, every_moment):
    whole = run(short(), "whole")
    folder = get_folder(tmp_path, short())
    (folder / heartbeat.PARTIAL).mkdir(parents=True)  # no file can be opened there, whoever calls this
    assert run(short()) == whole
    assert not (folder / heartbeat.NAME).exists()


def test_a_training_that_is_killed_is_not_running(short, tmp_path):
    experiment = short(iterations=100000, learning_rate=[[0, 0.1]], evaluate_every=100000, log_every=1000)
    experiment.save(tmp_path / "experiment.json")
    words = [sys.executable, "-m", "identity_mappings", "train", str(tmp_path / "experiment.json"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    folder = get_folder(tmp_path, experiment)
    with subprocess.Popen([*words, "--results", str(tmp_path / "results")], cwd=ROOT, env=environment) as training:
        limit = time.monotonic() + 90
        while (found := heartbeat.read_heartbeat(folder)) is None and time.monotonic() < limit:
            time.sleep(0.1)
        beat, _ = found
        assert beat.is_alive(1e9)
        training.kill()
        training.wait()
    beat, written = heartbeat.read_heartbeat(folder)
    assert beat.state == "running" and not beat.is_alive(0)
    assert written > 0 and str(os.uname().nodename) not in (folder / heartbeat.NAME).read_text()


def test_a_process_that_cannot_be_seen_is_judged_by_its_silence(short, run, tmp_path):
    run(short(), stop_after=3)
    content = json.loads((get_folder(tmp_path, short()) / heartbeat.NAME).read_text())
    there = {**content["process"], "machine": "another"}
    beat = heartbeat.Heartbeat(**{**content, "state": "running", "process": there})
    assert beat.silence >= 120
    assert beat.is_alive(beat.silence - 1) and not beat.is_alive(beat.silence + 1)
