"""The RO-Crate: what it holds, and that what it says of itself is so."""

import json
import subprocess
import zipfile

import pytest

from identity_mappings.errors import UserError
from identity_mappings.reporting import rocrate

pytest.importorskip("rocrate", reason="the extra `archive` is not installed")
NAME = "cifar10-resnet110"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
ORIGIN = {
    "command": f"identity-mappings train {NAME}",
    "started": "2026-11-21T00:00:00+00:00",
    "finished": "2026-11-22T00:00:00+00:00",
    "data": {"name": "cifar10", "dvc_md5": "15fc275e5cae3db098ab0f217a684a1f.dir"},
    "git": {"commit": "0" * 40, "dirty": False},
}


@pytest.fixture
def committed(bench):
    bench.record(NAME, 6.6, provenance=ORIGIN)
    bench.tables()
    (bench.root / "README.md").write_text("A project.\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run([*GIT, *words], cwd=bench.root, check=True)
    return bench


def test_the_crate_has_workflow_results_and_the_way_of_each_run(committed, tmp_path):
    rocrate.write_crate("paper", tmp_path / "crate", committed.root)
    graph = json.loads((tmp_path / "crate/ro-crate-metadata.json").read_bytes())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    root = entities["./"]
    assert {one["@id"] for one in root["conformsTo"]} == set(rocrate.PROFILES)
    assert root["license"]["@id"] == rocrate.LICENCE and root["mainEntity"]["@id"] == "Snakefile"
    assert set(entities["Snakefile"]["@type"]) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    files = {one["@id"] for one in root["hasPart"]}
    assert all((tmp_path / "crate" / name).is_file() for name in files)
    assert {"results/tables.md", "results/tables.json", "params/claims.yaml", "requirements.lock"} <= files
    [training] = [one for one in graph if one["@id"].startswith("#train-")]
    assert training["startTime"] == ORIGIN["started"] and ORIGIN["command"] in training["description"]
    assert {one["@id"].rpartition("/")[2] for one in training["result"]} == {
        "metrics.json",
        "curve.csv",
        "provenance.json",
    }
    data = next(entities[one["@id"]] for one in training["object"] if one["@id"].startswith("#data"))
    assert data["identifier"] == ORIGIN["data"]["dvc_md5"]
    tables = entities["#tables"]
    assert tables["instrument"]["@id"] == "Snakefile"
    assert {"@id": "results/tables.md"} in tables["result"]
    named = [one["@id"] for entity in graph for key in ("object", "result") for one in entity.get(key, [])]
    assert set(named) <= set(entities), "nothing is named that is not described"


def test_a_zip_is_one_file_to_upload(committed, tmp_path):
    rocrate.write_crate("paper", tmp_path / "crate.zip", committed.root)
    names = zipfile.ZipFile(tmp_path / "crate.zip").namelist()
    assert {"ro-crate-metadata.json", "Snakefile", "results/tables.md"} <= set(names)
    assert not [name for name in names if "checkpoints" in name or name.startswith(".git/")]


def test_what_is_missing_is_said(committed, bench, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        rocrate.write_crate("paper", tmp_path / "there", committed.root)
    with pytest.raises(UserError, match="identity-mappings tables --scale tiny"):
        rocrate.write_crate("tiny", tmp_path / "crate", committed.root)
