"""What a failed recording of a CUDA graph leads to: the command starts again, in a new process, without recording."""

import os
import sys

import pytest

from identity_mappings.arguments import RESTART_EAGER, make_options
from identity_mappings.cli import main, parser
from identity_mappings.errors import RecordingFailed, UserError
from identity_mappings.graph import Graph
from identity_mappings.training import verify


def test_the_command_starts_again_without_recording(monkeypatch, capsys):
    def fail(*_):
        raise RecordingFailed("the step cannot be recorded as a CUDA graph (out of luck)")

    def start(program, words):
        assert (program, words) == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
        raise SystemExit(7)

    monkeypatch.setenv(RESTART_EAGER, "")
    monkeypatch.setattr(verify, "verify_record", fail)
    monkeypatch.setattr(os, "execv", start)
    with pytest.raises(SystemExit):
        main(["verify", "results/runs/x/seed0"])
    assert os.environ[RESTART_EAGER] == "the step cannot be recorded as a CUDA graph (out of luck)"
    assert "(out of luck): starts again without recording" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "verify", "evaluate", "signals", "responses", "import-weights"])
def test_every_command_that_trains_or_tests_can_be_eager(command, monkeypatch, tmp_path):
    words = {"import-weights": ["file", "--name", "a", "--source", "b"]}.get(command, ["cifar10-resnet20"])
    assert make_options(parser.parse_args([command, *words, "--eager"]), tmp_path).eager is True
    assert make_options(parser.parse_args([command, *words]), tmp_path).eager is False
    monkeypatch.setenv(RESTART_EAGER, "no graph")
    assert make_options(parser.parse_args([command, *words]), tmp_path).eager == "no graph"


def test_snakemake_can_be_told(copy):
    assert Graph(copy.root, {"eager": True}).eager and not Graph(copy.root, {}).eager
    with pytest.raises(UserError, match="--config eager=maybe: give true or false"):
        Graph(copy.root, {"eager": "maybe"})
    done = copy.call("snakemake", "--config", "scale=tiny", "eager=true", "-n", "-p", "--cores", "1", "tables")
    assert done.returncode == 0, done.stdout
