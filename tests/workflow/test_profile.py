"""The default profile: bars where a person looks on, Snakemake's own log elsewhere; and the lock of a killed one."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yte


@pytest.mark.parametrize(
    ("terminal", "term", "words", "bars"),
    [
        (True, "xterm-256color", ["--cores", "2", "demo"], True),
        (True, "screen", ["-c2", "--config", "scale=tiny", "--resources", "gpu=4"], True),
        (False, "xterm", ["--cores", "2", "demo"], False),
        (True, "dumb", ["--cores", "2"], False),
        (True, None, ["--cores", "2"], False),
        (True, "xterm", ["-n"], False),
        (True, "xterm", ["-np"], False),
        (True, "xterm", ["--dry-run", "all"], False),
        (True, "xterm", ["--dryrun"], False),
        (True, "xterm", ["--quiet", "all"], False),
        (True, "xterm", ["-q", "rules"], False),
    ],
)
def test_bars_are_for_a_person_at_a_terminal(root_of_project, monkeypatch, terminal, term, words, bars):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    monkeypatch.delenv("TERM", raising=False)
    if term:
        monkeypatch.setenv("TERM", term)
    found = yte.process_yaml((root_of_project / "profiles/default/profile.yaml").read_text())
    assert found.get("logger") == ("rich" if bars else None)
    assert found["keep-going"] and found["rerun-triggers"] == ["mtime"], "the same either way"


@pytest.mark.slow
def test_only_the_lock_of_a_killed_snakemake_is_removed(copy):
    """So that `make overnight` goes on after a loss of power, and never beside another one."""
    locks, script = copy.root / ".snakemake/locks", ("python", "workflow/scripts/unlock.py")
    assert copy.call(*script).stdout == "", "nothing to do"
    running = subprocess.Popen(
        ("snakemake", "--cores", "1", "--config", "scale=tiny"),
        cwd=copy.root, env=copy.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (locks.is_dir() and any(locks.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert copy.call(*script).stdout == "" and any(locks.iterdir()), "it still runs"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert any(locks.iterdir())
    answer = copy.call(*script)
    assert answer.returncode == 0 and "removed" in answer.stdout, answer.stdout
    assert not locks.is_dir() or not any(locks.iterdir())
