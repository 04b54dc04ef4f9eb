"""The default profile: bars where a person looks on, Snakemake's own log elsewhere."""

import sys
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
