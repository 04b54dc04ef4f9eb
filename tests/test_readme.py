"""The README's example of a shortcut of one's own, done as it is written."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_a_shortcut_of_ones_own_becomes_a_row(copy):
    section = README.split("## A shortcut of your own")[1].split("\n## ")[0]
    files = re.findall(r"`(params/[\w/.-]+)`", section)
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert len(files) == len(blocks) == 2
    for file, block in zip(files, blocks, strict=True):
        (copy.root / file).write_text(block)
    copy.edit("params/scales/tiny.yaml", "experiments: [", "experiments: [cifar10-resnet110-skip-init, ")
    answer = copy.snakemake("--config", "scale=tiny")
    assert answer.returncode == 0, answer.stdout

    cells = json.loads((copy.root / "results/tiny/tables.json").read_text())["cells"]
    [cell] = [cell for cell in cells if cell["table"] == "Shortcuts of our own"]
    [path] = cell["records"]
    assert cell["measured"] is not None and (copy.root / path).is_file()
    tables = (copy.root / "results/tiny/tables.md").read_text()
    assert "## Shortcuts of our own" in tables and "| SkipInit" in tables

    source = copy.root / "examples/skip_init.py"
    source.write_text(source.read_text().replace("self.alpha * f", "2 * self.alpha * f"))
    answer = copy.snakemake("--dry-run", "--config", "scale=tiny")
    assert len(set(re.findall(r"experiment=(\S+),", answer.stdout))) == 1, "the changed file is another run"


def test_its_files_and_commands_exist():
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], link
    from identity_mappings.cli import parser

    commands = parser()._subparsers._group_actions[0].choices
    for command in re.findall(r"identity-mappings ([a-z-]+)", README):
        assert command in commands, command
