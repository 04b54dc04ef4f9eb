"""The default profile: bars where a person looks on, Snakemake's own log elsewhere; and the lock of a killed one."""

import os
import re
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


@pytest.mark.parametrize(
    ("words", "cores"),
    [
        ([], "all"),
        (["--cores", "2"], "all"),
        (["--profile", "profiles/slurm"], None),
        (["--profile=mine"], None),
        (["--executor", "slurm"], None),
        (["-e", "slurm"], None),
    ],
)
def test_on_this_machine_snakemake_needs_no_number_of_cores(root_of_project, monkeypatch, words, cores):
    """It goes before a cluster's profile, where it would be the limit of all jobs."""
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    found = yte.process_yaml((root_of_project / "profiles/default/profile.yaml").read_text())
    assert found.get("cores") == cores


@pytest.mark.parametrize("home", [None, "/nonexistent", "", "here"])
def test_make_and_the_environment_set_what_a_user_without_a_name_lacks(root_of_project, tmp_path, home):
    known = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    if home is not None:
        known["HOME"] = str(tmp_path) if home == "here" else home
    expected = str(tmp_path if home == "here" else root_of_project / ".snakemake/home")
    show = ["make", "--no-print-directory", "--eval", 'show: ; @echo "$$HOME $$USER"', "show"]
    script = "import os, site, sys; site.addsitedir(sys.argv[1]); print(os.environ['HOME'], os.environ['USER'])"
    start = [sys.executable, "-c", script, "workflow/scripts"]
    for command in (show, start):
        made = subprocess.run(command, cwd=root_of_project, env=known, capture_output=True, text=True, check=True)
        assert made.stdout == f"{expected} user\n", command


def test_jobs_share_the_memory_and_the_cores_that_there_are(copy):
    """Also where --cores all counts the host's; a limit of the user's own stays."""
    counted = "available_cpu_count, count_cores, count_free_memory = lambda: 8, lambda: 2, lambda: 3700"
    copy.edit("workflow/rules/common.smk", "HERE = ", f"{counted}\nHERE = ")
    copy.edit(
        "workflow/rules/common.smk",
        "def check_machine",
        "print('limits', workflow.global_resources)\n\n\ndef check_machine",
    )
    for cores, words, expected in ((8, (), (2, 3700)), (3, ("--resources", "mem_mb=99"), (3, 99))):
        answer = copy.snakemake("--dry-run", "--quiet", "all", *words, "--config", "scale=tiny", cores=cores)
        limits = re.search("limits .*", answer.stdout)[0]
        found = [int(re.search(rf'"{name}", (\d+)', limits)[1]) for name in ("_cores", "mem_mb")]
        assert tuple(found) == expected, answer.stdout


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
