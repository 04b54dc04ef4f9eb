"""What a failed recording of a CUDA graph leads to: the command starts again, in a new process, without recording."""

import os
import sys

import pytest

from identity_mappings import commands
from identity_mappings.cli import main
from identity_mappings.errors import RecordingFailed, UserError
from identity_mappings.graph import Graph


def test_the_command_starts_again_without_recording(monkeypatch, capsys):
    def fail(arguments):
        raise RecordingFailed("the step cannot be recorded as a CUDA graph (out of luck)")

    def start(program, words):
        assert (program, words) == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
        raise SystemExit(7)

    monkeypatch.setenv(commands.EAGER, "")
    monkeypatch.setattr(commands, "verify", fail)
    monkeypatch.setattr(os, "execv", start)
    with pytest.raises(SystemExit):
        main(["verify", "results/runs/x/seed0"])
    assert os.environ[commands.EAGER] == "the step cannot be recorded as a CUDA graph (out of luck)"
    assert "(out of luck): starts again without recording" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "verify", "evaluate", "signals", "responses", "import-weights"])
def test_every_command_that_trains_or_tests_can_be_eager(command, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(commands, command.replace("-", "_"), lambda arguments: seen.append(arguments))
    words = {"import-weights": ["file", "--name", "a", "--source", "b"]}.get(command, ["cifar10-resnet20"])
    main([command, *words, "--eager"])
    seen[0].device, seen[0].data = "gpu", tmp_path
    assert commands._options(seen[0], tmp_path).eager is True
    seen[0].eager = False
    assert commands._options(seen[0], tmp_path).eager is False
    monkeypatch.setenv(commands.EAGER, "no graph")
    assert commands._options(seen[0], tmp_path).eager == "no graph"


def test_snakemake_can_be_told(copy):
    assert Graph(copy.root, {"eager": True}).eager and not Graph(copy.root, {}).eager
    with pytest.raises(UserError, match="--config eager=maybe: give true or false"):
        Graph(copy.root, {"eager": "maybe"})
    done = copy.call("snakemake", "--config", "scale=tiny", "eager=true", "-n", "-p", "--cores", "1", "tables")
    assert done.returncode == 0, done.stdout
