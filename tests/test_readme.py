"""What the README and docs/ tell a reader to do, done as it is written; and that what they name exists."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from identity_mappings.cli import parser
from identity_mappings.parameters import load
from identity_mappings.reporting import readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
def test_a_shortcut_of_ones_own_becomes_a_row(clone):
    section = (ROOT / "docs/own-shortcut.md").read_text()
    files = re.findall(r"in `(params/[\w/.-]+)`:", section)
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert len(files) == len(blocks) == 2
    for file, block in zip(files, blocks, strict=True):
        (clone.root / file).write_text(block)
    clone.edit("params/scales/tiny.yaml", "experiments: [", "experiments: [cifar10-resnet110-skip-init, ")
    answer = clone.snakemake("--config", "scale=tiny")
    assert answer.returncode == 0, answer.stdout

    cells = json.loads((clone.root / "results/tiny/tables.json").read_text())["cells"]
    [cell] = [cell for cell in cells if cell["table"] == "Shortcuts of our own"]
    [path] = cell["records"]
    assert cell["measured"] is not None and (clone.root / path).is_file()
    tables = (clone.root / "results/tiny/tables.md").read_text()
    assert "## Shortcuts of our own" in tables and "| SkipInit" in tables

    source = clone.root / "examples/skip_init.py"
    source.write_text(source.read_text().replace("self.alpha * f", "2 * self.alpha * f"))
    answer = clone.snakemake("--dry-run", "--config", "scale=tiny")
    assert len(set(re.findall(r"experiment=(\S+),", answer.stdout))) == 1, "the changed file is another run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_files_and_commands_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], link
    commands = parser._subparsers._group_actions[0].choices
    for command in re.findall(r"identity-mappings ([a-z-]+)", text):
        assert command in commands, command


def test_the_readme_is_short():
    written = README.replace(README.split(readme.BEGIN)[1].split(readme.END)[0], "")
    assert len(written.splitlines()) <= 125


def test_its_first_screen_has_a_picture_and_what_each_says_of_the_claims():
    first, _, made = README.partition(readme.BEGIN)
    assert len(first.splitlines()) < 25 and "results/weekend/figures/" in first
    table = made.partition("<details>")[0].strip().split("\n\n")[0].splitlines()
    headers = [text.strip() for text in table[0].strip("|").split("|")]
    assert headers == ["claim", "paper", "others", "scale paper", "scale weekend", "scale overnight"]
    assert 10 <= len(table) - 2 <= 12


def test_what_is_rebuilt_today_is_made_from_the_records():
    project = load(ROOT)
    assert readme.is_current(project), "identity-mappings tables"
    made = README.split(readme.BEGIN)[1].split(readme.END)[0]
    [line] = [line for line in made.splitlines() if "`cifar10-resnet20`" in line and "| cifar10 " in line]
    cells = json.loads((ROOT / "results/tables.json").read_text())["cells"]
    [cell] = [
        cell for cell in cells if (cell["paper"], cell["row"], cell["column"]) == ("he2015", "ResNet-20", "error")
    ]
    assert f"| {cell['measured']} " in line and f"| {cell['published']} " in line


def test_an_edited_number_is_found_and_mended(tmp_path):
    for name in ("results", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    project = replace(load(ROOT), root=tmp_path)
    text = README.replace("| 8.55 ", "| 8.45 ")
    assert text != README
    (tmp_path / "README.md").write_text(text)
    assert not readme.is_current(project)
    readme.write_readme(project)
    assert (tmp_path / "README.md").read_text() == README
