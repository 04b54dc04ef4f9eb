"""What others need to reuse the project: licence, citation, attributes, the workflow catalog's file."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from identity_mappings.cli import main, parser

ROOT = Path(__file__).parents[1]


def test_the_citation_names_the_project_and_both_papers():
    """By the fields that the schema of CFF 1.2.0 asks for."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["license"] == "MIT"
    assert {"message", "title", "authors", "version"} <= citation.keys()
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    identifiers = [entry["value"] for paper in citation["references"] for entry in paper["identifiers"]]
    assert identifiers == ["arXiv:1512.03385", "arXiv:1603.05027"]
    for paper in citation["references"]:
        assert paper["type"] == "conference-paper" and paper["title"] and paper["year"] and paper["authors"]
        assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
        assert re.fullmatch(r"10\.\d{4,}/\S+", paper["doi"])


def test_the_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License") and "The identity-mappings authors" in text


def test_the_workflow_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True and usage["software-stack-deployment"]["conda"] is True
    assert (ROOT / "config/README.md").is_file()
    assert 'include: "../Snakefile"' in (ROOT / "workflow/Snakefile").read_text()


def test_no_file_has_other_line_endings_and_git_changes_none():
    assert "* -text" in (ROOT / ".gitattributes").read_text().splitlines()
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "i/crlf" not in listed.stdout and "i/mixed" not in listed.stdout


def test_no_link_is_tracked():
    """A link of another machine would stand where a run puts its files."""
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


def test_the_commands_that_contributors_are_told_exist():
    commands = parser._subparsers._group_actions[0].choices
    changes = re.sub(
        r"### Removed\n.*?(?=^##|\Z)", "", (ROOT / "CHANGELOG.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    text = (ROOT / "CONTRIBUTING.md").read_text() + changes
    assert set(re.findall(r"`identity-mappings ([a-z][a-z-]+)", text)) <= commands.keys()


def test_the_version_names_package_and_commit(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    found = re.fullmatch(
        r"identity-mappings (\S+)( \(commit [0-9a-f]{40}(, with changes)?\))?\n", capsys.readouterr().out
    )
    assert not ended.value.code and found and f'version = "{found[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert bool(found[2]) == (ROOT / ".git").exists()
