"""What git tells of a checkout, and that nothing beside the sources keeps it from telling, or a run from its record."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from identity_mappings.records import files, provenance
from identity_mappings.records import git as asking
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.git import describe

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
NOTHING = {"commit": None, "dirty": None, "diff_sha256": None}


def call(root: Path, *words: str) -> str:
    return subprocess.run([*GIT, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("src/a.py", "params/a.yaml", "README.md"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text("1\n2\n")
    call(root, "init", "-q")
    call(root, "add", ".")
    call(root, "commit", "-qm", "first")
    return root


def unknown(root: Path) -> str:
    """What could not be told, which is nothing that names the folder; the rest is nulls."""
    found = describe(root)
    [reason] = found.pop("unknown")
    assert found == NOTHING
    assert str(root) not in reason and "\n" not in reason
    return reason


@pytest.mark.parametrize("name", ["src/a.py", "params/a.yaml", "src/new.py", "params/new.yaml"])
def test_what_differs_from_the_commit_is_hashed(repository, name):
    assert describe(repository) == {
        "commit": call(repository, "rev-parse", "HEAD"),
        "dirty": False,
        "diff_sha256": None,
    }
    (repository / "README.md").write_text("which no run uses\n")
    assert describe(repository)["dirty"] is False
    found = []
    for content in ("2\n", "3\n"):
        (repository / name).write_text(content)
        found.append(describe(repository))
    assert all(each["dirty"] is True and len(each["diff_sha256"]) == 64 for each in found) and found[0] != found[1]


# What git says or cannot say.


def test_an_archive_without_git(repository, tmp_path):
    shutil.rmtree(repository / ".git")
    assert "in no git repository" in unknown(repository)


def test_a_shallow_clone(repository, tmp_path):
    call(repository, "commit", "-q", "--allow-empty", "-m", "second")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{repository}", tmp_path / "shallow"], check=True)
    head = call(repository, "rev-parse", "HEAD")
    assert describe(tmp_path / "shallow") == {"commit": head, "dirty": False, "diff_sha256": None}


@pytest.mark.parametrize("ignored", [False, True])
def test_an_archive_inside_another_repository(repository, tmp_path, ignored):
    """The commit of that one is not the sources'."""
    shutil.rmtree(repository / ".git")
    (tmp_path / "other.txt").touch()
    (tmp_path / ".gitignore").write_text("project/\n" if ignored else "nothing\n")
    call(tmp_path, "init", "-q")
    call(tmp_path, "add", "other.txt", ".gitignore")
    call(tmp_path, "commit", "-qm", "of something else")
    assert "does not hold its sources" in unknown(repository)


def test_a_folder_of_a_repository_that_holds_it(repository, tmp_path):
    shutil.rmtree(repository / ".git")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        call(tmp_path, *words)
    assert describe(repository) == {"commit": call(tmp_path, "rev-parse", "HEAD"), "dirty": False, "diff_sha256": None}
    (repository / "src/new.py").touch()
    assert describe(repository)["dirty"] is True


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_another_owner(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SUDO_UID", "GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345)
    assert "another owner: git config --global --add safe.directory" in unknown(repository)


@pytest.mark.parametrize("head", [b"", b"nonsense\n", b"ref: refs/heads/none\n", b"0" * 40 + b"\n", b"\xff\n"])
def test_a_broken_head(repository, head):
    (repository / ".git/HEAD").write_bytes(head)
    assert unknown(repository)


def test_a_repository_without_a_commit(tmp_path):
    call(tmp_path, "init", "-q")
    assert "HEAD names no commit" in unknown(tmp_path)


@pytest.mark.parametrize("damage", ["index", "objects"])
def test_a_damaged_repository_still_tells_its_commit_or_says_why_not(repository, damage):
    if damage == "index":
        (repository / ".git/index").write_bytes(b"nonsense")
    else:
        shutil.rmtree(repository / ".git/objects")
    assert describe(repository)["unknown"]


def test_no_git_is_installed(repository, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "git is not installed" in unknown(repository)


SCRIPTS = {
    "fails": "exit 3",
    "is killed": "kill -9 $$",
    "says nonsense": "echo nonsense",
    "says nothing": "exit 0",
    "says no text": "printf '\\377\\376'",
    "hangs": "exec sleep 60",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_git_that_is_something_else(repository, tmp_path, monkeypatch, script):
    monkeypatch.setattr(asking, "PATIENCE", 1)
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin/git"
    git.write_text(f"#!/bin/sh\n{script}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    begun = time.monotonic()
    assert unknown(repository)
    assert time.monotonic() - begun < 10


def test_the_settings_of_a_user_and_of_a_hook_change_nothing(repository, tmp_path, monkeypatch):
    (repository / "src/a.py").write_text("3\n")
    before = describe(repository)
    config = "[color]\nui = always\n[diff]\nexternal = false\n[core]\nfsmonitor = false\nquotePath = true\n"
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert describe(repository) == before and before["dirty"] is True and "unknown" not in before


def test_other_line_endings(repository, tmp_path):
    """A checkout that git itself made with CR LF is no change."""
    clone = tmp_path / "crlf"
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", repository, clone], check=True)
    assert b"\r\n" in (clone / "src/a.py").read_bytes()
    assert describe(clone) == {**describe(repository), "dirty": False}


# What lies beside the sources.


@pytest.mark.parametrize("name", ["a b.py", 'quo"te.txt', "new\nline", "日本.yaml", b"\xff\xfe.py"], ids=ascii)
def test_a_file_of_any_name(repository, name):
    path = repository / "params" / os.fsdecode(name)
    path.write_bytes(b"1")
    first = describe(repository)
    assert first["dirty"] is True and "unknown" not in first
    path.write_bytes(b"2")
    assert describe(repository)["diff_sha256"] != first["diff_sha256"]
    files.json_bytes(first)


def test_an_editors_lock_is_named_and_is_no_change(repository):
    """Emacs' is a symbolic link to nothing, while a file is being edited."""
    (repository / "src/.#x").symlink_to("nobody@nowhere.1:2")
    found = describe(repository)
    assert found["commit"] and found["dirty"] is False
    assert found["unknown"] == ["src/.#x: No such file or directory"]


def fifo(path: Path) -> None:
    os.mkfifo(path)


BESIDE = {
    "a FIFO": fifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to(".."),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a repository": lambda path: (path.mkdir(), call(path, "init", "-q"), (path / "b.py").touch()),
}


@pytest.mark.parametrize("make", BESIDE.values(), ids=BESIDE)
def test_whatever_lies_beside_the_sources_is_not_read_for_ever(repository, make):
    make(repository / "src/x.py")
    begun = time.monotonic()
    found = describe(repository)
    assert time.monotonic() - begun < 10
    assert found["commit"]
    files.json_bytes(found)


@pytest.mark.parametrize("make", [fifo, lambda path: path.mkdir()], ids=["FIFO", "folder"])
def test_a_source_that_became_something_else(repository, make):
    (repository / "src/a.py").unlink()
    make(repository / "src/a.py")
    found = describe(repository)
    assert found["commit"] and (found["dirty"] is True or found["unknown"])


def test_a_file_that_cannot_be_read_is_a_change_and_named(repository, monkeypatch):
    (repository / "params/secret.yaml").touch()

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(asking, "hash_file", refuse)
    found = describe(repository)
    assert found["dirty"] is True and found["unknown"] == ["params/secret.yaml: Permission denied"]


# The sources of the process, the lock and the log.


def test_a_source_that_is_gone_or_has_changed_since_it_was_imported_is_named(tmp_path, monkeypatch):
    before = provenance.sources()
    name = "src/identity_mappings/records/files.py"
    real = provenance.hash_file
    for answer, said in ((lambda: "0" * 64, "has changed since it was imported"), (None, "No such file")):

        def hashed(path: Path, answer=answer) -> str:
            if path.name == "files.py" and answer is None:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return answer() if path.name == "files.py" else real(path)

        monkeypatch.setattr(provenance, "hash_file", hashed)
        problems: list[str] = []
        assert provenance.sources(problems) == before, "of what runs, not of what is there now"
        assert len(problems) == 1 and problems[0].startswith(f"{name}: {said}")


@pytest.mark.parametrize("make", [fifo, lambda path: path.mkdir()], ids=["FIFO", "folder"])
def test_a_lock_that_cannot_be_read_is_named(repository, make):
    make(repository / "requirements.lock")
    found = provenance.code(repository)
    assert found["env"]["lock_sha256"] is None
    assert [reason.partition(":")[0] for reason in found["unknown"]] == ["requirements.lock"]
    json.loads(files.json_bytes(found))


def test_somebody_who_goes_on_with_the_sources_while_a_run_trains_costs_it_nothing(repository):
    """What ran is what was there at the last beginning."""
    begun = describe(repository)
    session = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00", "git": begun}
    dataset = {"name": "digits", "md5": "0"}
    experiment = Experiment("a", "demo", {"dataset": dataset, "network": {}, "recipe": {"arithmetic": "float32"}})

    def gathered() -> dict:
        more = {"hardware": {}, "settings": {}, "data": {}, "weights_sha256": None, "log": None}
        return provenance.describe_run(experiment, 0, root=repository, sessions=[session], **more)

    assert gathered()["git"] == begun and "unknown" not in gathered()
    (repository / "src/a.py").write_text("3\n")
    for words in (("status",), ("commit", "-qam", "later")):
        call(repository, *words)
        found = gathered()
        assert found["git"] == begun and found["git"]["dirty"] is False
        assert found["unknown"] == ["the checkout has changed since the last beginning, of which the commit is"]
    session["git"] = {**begun, "dirty": True}
    assert gathered()["git"] == describe(repository), "a beginning with changes is none to go by"
