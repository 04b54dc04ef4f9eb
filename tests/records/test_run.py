"""The record of a run: what is written, in which order, and what is not believed when it is read."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from identity_mappings.records import files, run
from identity_mappings.records.experiment import Experiment

PARAMETERS = {
    "dataset": {"name": "digits", "md5": "f5"},
    "network": {"depth": 20, "projection_batch_norm": None},
    "recipe": {"iterations": 40},
}
EXPERIMENT = Experiment("digits-resnet20", "demo", PARAMETERS)
CURVE = b"iteration,test_error\n40,6.5\n"


def metrics(**changes: Any) -> dict[str, Any]:
    found = {
        "format": run.FORMAT,
        "experiment": EXPERIMENT.name,
        "digest": EXPERIMENT.digest,
        "scale": "demo",
        "seed": 3,
        "status": "finished",
        "iterations": 40,
        "of_iterations": 40,
        "test_error": 6.5,
        "training_error": 1.2,
        "training_loss": 0.03,
        "best": {"iteration": 20, "test_error": 6.0},
        "arithmetic": "float32",
    }
    return {**found, **changes}


def provenance(**changes: Any) -> dict[str, Any]:
    return {"params": {"resolved": PARAMETERS}, "seed": {"seed": 3}, **changes}


def write(folder: Path, **changes: Any) -> None:
    run.write_record(folder, metrics(**changes), CURVE, provenance())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run.get_folder(tmp_path / "results", EXPERIMENT, 3)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_run_has_a_folder_of_its_experiment_digest_and_seed(folder, tmp_path):
    place = f"digits-resnet20-{EXPERIMENT.digest}/seed3"
    assert folder == tmp_path / "results" / "runs" / place
    assert (
        run.get_checkpoint_folder(tmp_path / "results", EXPERIMENT, 3) == tmp_path / "results" / "checkpoints" / place
    )


def test_a_record_comes_back_as_it_was_written(folder):
    write(folder)
    record = run.read_record(folder, EXPERIMENT, 3)
    assert record.metrics == metrics()
    assert record.path == folder / "metrics.json"
    assert record.test_error == 6.5
    assert (folder / "curve.csv").read_bytes() == CURVE
    outputs = {name: files.sha256((folder / name).read_bytes()) for name in ("metrics.json", "curve.csv")}
    assert record.provenance == {**provenance(), "outputs": outputs}
    assert names(folder) == {"metrics.json", "curve.csv", "provenance.json"}


def test_a_diverged_run_is_a_record_without_a_test_error(folder):
    write(folder, status="diverged", test_error=None, iterations=17)
    assert run.read_record(folder, EXPERIMENT, 3).test_error is None


def test_there_is_no_record_where_none_was_written(folder):
    assert run.read_record(folder, EXPERIMENT, 3) is None
    folder.mkdir(parents=True)
    assert run.read_record(folder, EXPERIMENT, 3) is None


def test_metrics_come_last(folder, monkeypatch):
    """Snakemake and the tables take a run with a metrics.json for finished."""
    order = []
    monkeypatch.setattr(run, "write_atomically", lambda path, content: order.append(path.name))
    write(folder)
    assert sorted(order) == ["curve.csv", "metrics.json", "provenance.json"]
    assert order[-1] == "metrics.json"


def test_an_unfinished_run_leaves_a_partial_record_that_is_not_read(folder):
    write(folder, status="unfinished", iterations=20)
    assert names(folder) == {"partial"} | {
        f"partial/{name}" for name in ("metrics.json", "curve.csv", "provenance.json")
    }
    assert run.read_record(folder, EXPERIMENT, 3) is None


def test_the_partial_record_goes_when_the_run_finishes(folder):
    write(folder, status="unfinished", iterations=20)
    write(folder)
    assert names(folder) == {"metrics.json", "curve.csv", "provenance.json"}


def test_what_else_lies_with_the_partial_record_stays(folder):
    write(folder, status="unfinished", iterations=20)
    (folder / "partial" / "notes.txt").write_text("mine")
    write(folder)
    assert names(folder) == {"metrics.json", "curve.csv", "provenance.json", "partial", "partial/notes.txt"}


def test_a_key_that_is_null_makes_no_other_record(folder):
    """A key that the project has learnt since, and that this experiment does not use."""
    write(folder)
    newer = Experiment(EXPERIMENT.name, "demo", {**PARAMETERS, "network": {"depth": 20, "new": None}})
    assert newer.digest == EXPERIMENT.digest
    assert run.read_record(folder, newer, 3).test_error == 6.5


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def rewritten(**of_provenance: Any):
    return lambda folder: run.write_record(folder, metrics(), CURVE, provenance(**of_provenance))


OTHER = {**PARAMETERS, "recipe": {"iterations": 41}}
REASONS = {
    "format": (lambda folder: write(folder, format=run.FORMAT + 1), "format does not match: 2, expected 1"),
    "digest": (
        lambda folder: write(folder, digest="0" * 12),
        f"digest does not match: 000000000000, expected {EXPERIMENT.digest}",
    ),
    "seed": (lambda folder: write(folder, seed=4), "seed does not match: 4, expected 3"),
    "provenance's seed": (rewritten(seed={"seed": 4}), "seed of the provenance does not match: 4, expected 3"),
    "parameters": (rewritten(params={"resolved": OTHER}), "parameters does not match|parameters do not match"),
    "status": (
        lambda folder: (write(folder, status="unfinished"), (folder / "partial").rename(folder / "x"),
                        [path.rename(folder / path.name) for path in (folder / "x").iterdir()]),
        "status",
    ),
    "edited metrics": (
        lambda folder: edit(folder / "metrics.json", "6.5", "5.5"), r"hash of metrics\.json does not match"
    ),
    "edited curve": (lambda folder: edit(folder / "curve.csv", "6.5", "5.5"), r"hash of curve\.csv does not match"),
    "finished without an error": (lambda folder: write(folder, test_error=None), "diverged"),
    "diverged with an error": (lambda folder: write(folder, status="diverged"), "diverged"),
    "no curve": (lambda folder: (folder / "curve.csv").unlink(), r"curve\.csv is missing"),
    "no provenance": (lambda folder: (folder / "provenance.json").unlink(), r"provenance\.json is missing"),
    "garbage": (lambda folder: (folder / "metrics.json").write_text("{"), "not a record of a run"),
    "no text": (lambda folder: (folder / "metrics.json").write_bytes(b"\xff"), "not a record of a run"),
    "a list": (lambda folder: (folder / "metrics.json").write_text("[]"), "not a record of a run"),
    "an empty object": (lambda folder: (folder / "metrics.json").write_text("{}"), "not a record of a run"),
    "garbage as provenance": (
        lambda folder: (folder / "provenance.json").write_text("{"), "not a record of a run"
    ),
    "provenance without outputs": (
        lambda folder: (folder / "provenance.json").write_text(json.dumps(provenance())), "not a record of a run"
    ),
    "a folder for metrics": (
        lambda folder: ((folder / "metrics.json").unlink(), (folder / "metrics.json").mkdir()), r"metrics\.json"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "reason"), REASONS.values(), ids=REASONS)
def test_a_record_that_is_not_what_its_place_says_is_not_believed(folder, spoil, reason):
    write(folder)
    spoil(folder)
    with pytest.raises(run.BadRecord, match=reason) as caught:
        run.read_record(folder, EXPERIMENT, 3)
    assert str(caught.value).startswith(f"{folder}: ") and "\n" not in str(caught.value)


def test_a_record_is_not_one_of_another_experiment_or_seed(folder):
    write(folder)
    with pytest.raises(run.BadRecord, match="digest"):
        run.read_record(folder, Experiment("digits-resnet20", "demo", OTHER), 3)
    with pytest.raises(run.BadRecord, match="seed"):
        run.read_record(folder, EXPERIMENT, 2)


def test_a_file_is_written_as_a_whole_and_readable_by_all(tmp_path):
    files.write_atomically(tmp_path / "new" / "file", b"content")
    files.write_atomically(tmp_path / "new" / "file", b"other")
    assert (tmp_path / "new" / "file").read_bytes() == b"other"
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == {"new", "new/file"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch, step, failure):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(type(failure)):
        files.write_atomically(path, b"new")
    assert names(tmp_path) == {"file"}
    assert path.read_bytes() == b"old"


def test_a_failure_in_the_middle_of_a_record_leaves_no_metrics(folder, monkeypatch):
    written = files.write_atomically

    def fail_at_provenance(path: Path, content: bytes) -> None:
        if path.name == "provenance.json":
            raise OSError("no space left")
        written(path, content)

    monkeypatch.setattr(run, "write_atomically", fail_at_provenance)
    with pytest.raises(OSError, match="no space left"):
        write(folder)
    monkeypatch.undo()
    assert run.read_record(folder, EXPERIMENT, 3) is None
    write(folder)
    assert run.read_record(folder, EXPERIMENT, 3).test_error == 6.5


def test_a_number_that_is_none_is_not_written(folder):
    with pytest.raises(ValueError, match="JSON"):
        write(folder, test_error=float("nan"))
    assert not folder.exists()


@pytest.mark.parametrize("content", ["NaN", "[Infinity]", "", "{", b"\xff", "{'a': 1}"], ids=repr)
def test_what_is_no_json_is_a_value_error(content):
    with pytest.raises(ValueError):
        files.parse_json(content)


def test_a_record_that_is_gone_comes_back_from_its_copy(folder, tmp_path):
    write(folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    run.copy_record(folder, tmp_path / "checkpoints")
    for name in before:
        (folder / name).unlink()
    assert run.restore_record(folder, tmp_path / "checkpoints", EXPERIMENT, 3)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_copy_that_is_not_of_this_run_or_damaged_is_left(folder, tmp_path):
    write(folder)
    run.copy_record(folder, tmp_path / "checkpoints")
    assert not run.restore_record(tmp_path / "other", tmp_path / "checkpoints", EXPERIMENT, 1), "another seed"
    edit(tmp_path / "checkpoints/record/curve.csv", "6.5", "6.4")
    assert not run.restore_record(tmp_path / "other", tmp_path / "checkpoints", EXPERIMENT, 3)
    assert not run.restore_record(tmp_path / "other", tmp_path / "nothing", EXPERIMENT, 3)
    assert not (tmp_path / "other").exists()
