"""Faults of the place where a run is trained: nothing that was computed is lost, and each is said in one line."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from identity_mappings import cli
from identity_mappings.records import files, git, provenance
from identity_mappings.records import run as records
from identity_mappings.training import checkpoint, loop
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture
def no_step(monkeypatch):
    """From now on no iteration may be computed."""

    def forbid() -> None:
        monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))

    return forbid


def place_of(tmp_path: Path, folder: str) -> Path:
    [place] = (tmp_path / folder / "checkpoints").glob("*/seed0")
    return place


def partial_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.is_file()]


def call(capsys, tmp_path: Path, experiment, folder: str, *more: str) -> tuple[int, str]:
    """Exit status and last line of `train` as a person calls it."""
    experiment.save(tmp_path / "run.json")
    capsys.readouterr()
    words = ["train", str(tmp_path / "run.json"), "--device", "cpu", "--results", str(tmp_path / folder), *more]
    status = cli.main(words)
    return status, (capsys.readouterr().err.splitlines() or [""])[-1]


# Provenance.


@pytest.mark.parametrize("recipe", [{}, {"learning_rate": [[0, 0.01], [4, 1e30]]}, {"test_statistics": "recomputed"}])
def test_a_run_is_saved_before_its_provenance_is_gathered(short, run, tmp_path, monkeypatch, no_step, recipe):
    """Whatever fails there, the next call only writes the record, with the bytes of an undisturbed run.

    Also of a run that diverged, and of one that ended with recomputed statistics.
    """
    experiment = short("cifar10-resnet110", **recipe)
    whole = run(experiment, "whole")
    with monkeypatch.context() as broken:
        broken.setattr(provenance, "describe_run", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(experiment, "broken")
    assert checkpoint.find_newest(place_of(tmp_path, "broken")) == json.loads(whole["metrics.json"])["iterations"]
    no_step()
    assert run(experiment, "broken") == whole
    kept = [sorted(place_of(tmp_path, name).glob("*.pt")) for name in ("whole", "broken")]
    whole_files, broken_files = ([(path.name, path.read_bytes()) for path in paths] for paths in kept)
    assert whole_files == broken_files and len(whole_files) == (2 if "test_statistics" in recipe else 1)


def test_of_several_stopped_runs_all_have_a_checkpoint_before_git_is_asked(short, tmp_path, monkeypatch):
    """A machine that is being switched off waits half a minute, and git may not answer in that time."""
    describe, seen = git.describe, []

    def noted(root: Path) -> dict:
        seen.append(len(list(tmp_path.rglob("checkpoint-*.pt"))))
        return describe(root)

    monkeypatch.setattr(git, "describe", noted)
    assert train(short(), [0, 1, 2], Options(tmp_path, root=ROOT, device="cpu", stop_after=4)) == 0
    assert seen[3:] == [3, 3, 3], "the first three are of the beginnings"


@pytest.mark.parametrize("beside", ["fifo", "nothing"])
def test_what_lies_beside_the_sources_costs_no_run_its_record(short, tmp_path, beside, capsys):
    """Made while the run is under way. The record names what cannot be told."""
    root = tmp_path / "project"
    for folder in ("src", "params"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a").touch()
    if beside != "nothing":
        words = ("git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
        for more in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
            subprocess.run([*words, *more], cwd=root, check=True)
    results = tmp_path / "results"
    assert train(short(), 0, Options(results, root=root, device="cpu", stop_after=4)) == 0
    if beside == "fifo":
        (root / "src/a").unlink()
        os.mkfifo(root / "src/a")
        os.mkfifo(root / "requirements.lock")
    assert train(short(), 0, Options(results, root=root, device="cpu")) == 0
    record = records.read_record(records.get_folder(results, short(), 0), short(), 0)
    assert record.metrics["status"] == "finished"
    unknown = record.provenance.get("unknown", [])
    if beside == "fifo":
        assert any(reason.startswith("requirements.lock: ") for reason in unknown)
    else:
        assert any("in no git repository" in reason for reason in unknown)
        assert "the record cannot describe all sources: " in capsys.readouterr().err, "before it trains"


# No room, no right.


def refusing(kind: int, times: int, suffix: str):
    """A file system that refuses the first so many files of a name."""
    left = [times]
    make = files.tempfile.mkstemp

    def mkstemp(dir: Path, prefix: str):
        if suffix in prefix and left[0]:
            left[0] -= 1
            raise OSError(kind, os.strerror(kind))
        return make(dir=dir, prefix=prefix)

    return mkstemp


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO])
def test_a_run_goes_on_where_a_checkpoint_cannot_be_written(short, run, tmp_path, monkeypatch, capsys, kind):
    whole = run(short(), "whole")
    monkeypatch.setattr(files.tempfile, "mkstemp", refusing(kind, 2, "checkpoint-"))
    assert run(short(), "full", checkpoint_seconds=0) == whole
    said = capsys.readouterr().err
    assert said.count(f"no checkpoint of iteration 0: {os.strerror(kind)} (there is none yet): free some room") == 1


@pytest.mark.parametrize("file", ["weights.pt", "metrics.json"])
def test_where_a_record_cannot_be_written_the_run_is_kept(short, run, tmp_path, monkeypatch, capsys, no_step, file):
    whole = run(short(), "whole")
    with monkeypatch.context() as full:
        full.setattr(files.tempfile, "mkstemp", refusing(errno.ENOSPC, 1, f".{file}."))
        status, line = call(capsys, tmp_path, short(), "full")
    assert status == 2
    assert line.startswith("identity-mappings: ") and f"{file}: No space left on device: free disk space" in line
    assert not partial_files(tmp_path / "full")
    no_step()
    assert run(short(), "full") == whole


LIMITED = """
import resource, sys
from identity_mappings.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_a_real_limit_of_the_file_system(short, run, tmp_path):
    """Every checkpoint breaks off in the middle of its bytes; what was there stays, and nothing half written."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    whole = run(short(), "whole")
    run(short(), "full", stop_after=5)
    short().save(tmp_path / "run.json")
    words = ["train", str(tmp_path / "run.json"), "--device", "cpu", "--results", str(tmp_path / "full")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    call = [sys.executable, "-c", LIMITED.format(bytes=20_000), *words]
    answer = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    lines = answer.stderr.splitlines()
    assert any(
        "no checkpoint of iteration 12: File too large (the last one, of iteration 5, is kept)" in s for s in lines
    )
    assert lines[-1].startswith("identity-mappings: ") and "weights.pt: File too large: raise the limit" in lines[-1]
    assert checkpoint.find_newest(place_of(tmp_path, "full")) == 5 and not partial_files(tmp_path / "full")
    assert run(short(), "full") == whole


def test_results_that_are_no_folder(short, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for folder in ("file", "file/below", "loop"):
        status, line = call(capsys, tmp_path, short(), folder)
        assert status == 2, folder
        assert line.startswith("identity-mappings: ") and str(tmp_path) in line, line
        assert re.search("rerun|move the folder away", line), line


def test_results_that_may_not_be_written(short, tmp_path, capsys, monkeypatch):
    for kind in (errno.EACCES, errno.EROFS, errno.EPERM):

        def refuse(path: Path, *_, kind=kind, **__) -> None:
            raise OSError(kind, os.strerror(kind), str(path))

        with monkeypatch.context() as denied:
            denied.setattr(Path, "mkdir", refuse)
            experiment = short()
            (tmp_path / "run.json").write_bytes(files.json_bytes(experiment.as_json()))
            words = ["train", str(tmp_path / "run.json"), "--device", "cpu", "--results", str(tmp_path / "denied")]
            assert cli.main(words) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert os.strerror(kind) in line and "the right to write there" in line


def test_results_may_be_a_link_to_another_disk(short, run, tmp_path):
    whole = run(short(), "whole")
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").symlink_to("disk")
    run(short(), "linked", stop_after=5)
    assert run(short(), "linked") == whole
    assert (tmp_path / "linked").is_symlink()


def test_a_file_system_without_locks_is_said(short, run, monkeypatch, capsys):
    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("identity_mappings.training.checkpoint.fcntl.flock", flock)
    run(short())
    assert "no lock (No locks available): start no second process" in capsys.readouterr().err


def test_a_run_that_another_process_finished_meanwhile_is_kept(short, run, tmp_path, monkeypatch, no_step):
    """Between the look for a record and the lock."""
    whole = run(short())
    before = (tmp_path / "results/runs" / short().folder / "seed0/provenance.json").read_bytes()
    look, looks = loop._has_record, []

    def late(*arguments) -> bool:
        looks.append(arguments)
        return len(looks) > 1 and look(*arguments)

    monkeypatch.setattr(loop, "_has_record", late)
    no_step()
    assert run(short()) == whole and len(looks) == 2
    assert (tmp_path / "results/runs" / short().folder / "seed0/provenance.json").read_bytes() == before


# Checkpoints that are none, and what a killed process leaves.

RUINED = {
    "random bytes": lambda _: os.urandom(1000),
    "the first half": lambda content: content[: len(content) // 2],
    "a list": lambda _: saved([1, 2]),
    "no run": lambda _: saved({"network": {}, "optimizer": {}, "progress": {}}),
    "a pickle": lambda _: pickle.dumps({"a": 1}),
}


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def put(place: Path, iteration: int, content: bytes) -> Path:
    """A file under the name that a checkpoint with this content has."""
    path = place / f"checkpoint-{iteration:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("ruin", RUINED.values(), ids=RUINED)
def test_what_is_no_checkpoint_is_set_aside_though_its_hash_is_right(short, run, tmp_path, capsys, ruin):
    experiment = short()
    run(experiment, "results", stop_after=4)
    place = place_of(tmp_path, "results")
    [good] = place.glob("checkpoint-*.pt")
    bad = put(place, 8, ruin(good.read_bytes()))
    assert (
        checkpoint.load_checkpoint(place, CPU, {"digest": experiment.digest, "seed": 0})["progress"]["iteration"] == 4
    )
    assert bad.with_suffix(".damaged").exists() and f"set aside as {bad.stem}.damaged" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_set_aside(short, run, tmp_path, capsys):
    whole = run(short(), "whole")
    run(short(), "other", seed=1, stop_after=8)
    run(short(), "mixed", stop_after=4)
    [other] = (tmp_path / "other/checkpoints").glob("*/seed1/checkpoint-*.pt")
    (place_of(tmp_path, "mixed") / other.name).write_bytes(other.read_bytes())
    assert run(short(), "mixed") == whole
    assert "of another run, not read" in capsys.readouterr().err


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_executed(short, run, tmp_path):
    whole = run(short(), "whole")
    run(short(), "evil", stop_after=4)
    executed = tmp_path / "executed"
    for number, content in enumerate((saved({"run": Code(executed)}), pickle.dumps(Code(executed)))):
        put(place_of(tmp_path, "evil"), 8 + number, content)
    assert run(short(), "evil") == whole
    assert not executed.exists()


KILLED = """
import os, signal, sys
from identity_mappings.cli import main
from identity_mappings.records import files
fsync = os.fsync
def killed(handle):
    path = os.readlink(f"/proc/self/fd/{{handle}}")
    if os.path.basename(path).startswith({name!r}) and "00000000" not in path:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
files.os.fsync = killed
sys.exit(main(sys.argv[1:]))
"""


def test_kill_9_in_the_middle_of_a_write_leaves_nothing_behind(short, run, tmp_path):
    """Of a checkpoint, of the kept weights and of the last file of the record; each is what an undisturbed run is."""
    experiment = short()
    whole = run(experiment, "whole")
    experiment.save(tmp_path / "run.json")
    for name in (".checkpoint-", ".weights.pt.", ".metrics.json."):
        words = ["train", str(tmp_path / "run.json"), "--device", "cpu", "--results", str(tmp_path / name)]
        call = [sys.executable, "-c", KILLED.format(name=name), *words, "--checkpoint-seconds", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert [left[: len(name)] for left in partial_files(tmp_path / name)] == [name]
        assert run(experiment, name) == whole
        assert not partial_files(tmp_path / name)


def test_of_another_file_nothing_is_removed(tmp_path):
    names = (
        ".#metrics.json",
        ".metrics.json.swp",
        ".hidden.abcdefgh",
        ".metrics.json.ABCDEFGH",
        "metrics.json.abcdefgh",
    )
    for name in (*names, ".metrics.json.abcd_123"):
        (tmp_path / name).touch()
    files.remove_partial_files(tmp_path, (records.METRICS,))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert json.loads(files.json_bytes({"a": "\udcff"})) == {"a": "\udcff"}
