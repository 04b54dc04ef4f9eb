"""The records of benchmarks and docs/speed.md, which shows them: what is forged is found."""

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.pages import write_pages
from identity_mappings.records.files import json_bytes, sha256
from identity_mappings.records.run import BadRecord
from identity_mappings.reporting import benchmarks
from identity_mappings.reporting.audit import audit
from identity_mappings.reporting.evidence import Gap, History

ROOT = Path(__file__).parents[2]
RECORD = "bench/cpu-amd-epyc/cifar10-resnet20/bench.json"


@pytest.fixture
def root(tmp_path) -> Path:
    """The committed records and pages."""
    shutil.copytree(ROOT / "results/bench", tmp_path / "results/bench")
    (tmp_path / "docs").mkdir()
    shutil.copy2(ROOT / benchmarks.PAGE, tmp_path / benchmarks.PAGE)
    return tmp_path


def check(root: Path) -> None:
    for path in benchmarks.list_records(root / "results"):
        benchmarks.check_record(path, History(ROOT))
    benchmarks.check_pages(root, root / "results")


def test_the_committed_records_are_walked(root):
    """If not: `make bench BENCH_ARGS=--show`, and commit what it made."""
    check(root)
    assert benchmarks.check_record(root / "results" / RECORD, History(ROOT)).startswith("commit ")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def forge_record(root: Path) -> None:
    path = root / "results" / RECORD
    entry = json.loads(path.read_bytes())
    entry["rows"][0]["seconds"] = [0.1] * len(entry["rows"][0]["seconds"])
    path.write_bytes(json_bytes(entry))


def forge_record_and_its_hash(root: Path) -> None:
    forge_record(root)
    path = root / "results" / RECORD
    origin = json.loads((path.parent / "provenance.json").read_bytes())
    origin["outputs"]["bench.json"] = sha256(path.read_bytes())
    (path.parent / "provenance.json").write_bytes(json_bytes(origin))


def forge_record_and_the_manifest(root: Path) -> None:
    forge_record_and_its_hash(root)
    (root / "results/bench/manifest.json").write_bytes(json_bytes(benchmarks.hash_files(root / "results/bench")))


def forge_sources(root: Path) -> None:
    edit(
        root / "results" / RECORD.replace("bench.json", "provenance.json"),
        '"src/identity_mappings/cli.py": "',
        '"src/identity_mappings/cli.py": "0',
    )


FORGED = {
    "a record": (forge_record, BadRecord, "was changed after it was made"),
    "a record with its hash": (forge_record_and_its_hash, Gap, "bench.json: not the file of manifest.json"),
    "a record with all hashes": (forge_record_and_the_manifest, Gap, "tables are not what the records give"),
    "a record's sources": (forge_sources, Gap, "is another file in commit"),
    "a record that is gone": (
        lambda root: shutil.rmtree((root / "results" / RECORD).parent), Gap, "not the file of manifest.json",
    ),
    "a ratio on the page": (lambda root: edit(root / benchmarks.PAGE, "| 1.33 ", "| 3.33 "), Gap, "its tables are not"),
    "a table without its frame": (lambda root: edit(root / benchmarks.PAGE, benchmarks.BEGIN, ""), Gap, "comments"),
    "a time in bench.md": (lambda root: edit(root / "results/bench/bench.md", "201.0", "101.0"), Gap, "bench.md: not"),
    "a picture": (
        lambda root: (root / "results/bench/time-by-depth.svg").write_text("<svg/>"), Gap, "time-by-depth.svg: not",
    ),
    "no manifest": (lambda root: (root / "results/bench/manifest.json").unlink(), Gap, "bench.md: not the file"),
}  # fmt: skip


@pytest.mark.parametrize("forge, error, reason", FORGED.values(), ids=FORGED)
def test_what_is_forged_is_found(root, forge, error, reason):
    forge(root)
    with pytest.raises(error, match=reason):
        check(root)


def test_audit_walks_the_records(bench, capsys):
    """`bench` is a project without records: only what is laid down here can be wrong."""
    bench.tables()
    assert audit("paper", bench.root) == 0
    shutil.copytree(ROOT / "results/bench", bench.root / "results/bench")
    for path in benchmarks.list_records(bench.root / "results"):
        if path != bench.root / "results" / RECORD:
            shutil.rmtree(path.parent)
    forge_record(bench.root)
    assert audit("paper", bench.root) == 1
    assert "bench.json: was changed after it was made" in capsys.readouterr().out


def test_audit_reads_the_page(bench, capsys):
    (bench.root / "docs").mkdir()
    shutil.copy2(ROOT / benchmarks.PAGE, bench.root / benchmarks.PAGE)  # of records that are not here
    bench.tables()
    assert audit("paper", bench.root) == 1
    assert "docs/speed.md: its tables are not what the records give" in capsys.readouterr().out


def test_pages_that_are_made_again_are_right(root):
    forge_record_and_its_hash(root)
    write_pages(root, root / "results")
    benchmarks.check_pages(root, root / "results")
    assert "| 100.0 " in (page := (root / benchmarks.PAGE).read_text()) and "| 2.68 " in page
    assert (
        benchmarks.render_tables(benchmarks.read_records(root / "results"))
        in (root / "results/bench/bench.md").read_text()
    )


def test_a_ratio_is_of_the_step_that_was_measured_with_it():
    def row(implementation: str, *seconds: float, runs: int = 1, arithmetic: str = "float32") -> dict:
        return {
            "implementation": implementation, "arithmetic": arithmetic, "runs_at_once": runs,
            "seconds": list(seconds), "peak_memory_bytes": 2**30,
        }  # fmt: skip

    rows = [
        row("ours", 1.0, 2.0, 1.0),
        row("eager", 3.0, 3.0, 3.0),
        row("ours", 2.0, 2.0, 2.0),
        row("pytorchcv", 2.0, 2.0, 2.5),
        row("ours", 0.5, 0.5, 0.5, runs=5),
    ]
    entry = {"experiment": "a", "layers": 20, "batch_size": 128, "rows": rows, "settings": {"cpu_threads": 2}}
    lines = [line for line in benchmarks.render_tables({"gpu-x": [entry]}).splitlines() if line.startswith("| a ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[3:7] for line in cells] == [
        ["ours", "1,000.0", "128", ""],
        ["eager", "3,000.0", "43", "3.00"],
        ["ours", "2,000.0", "64", ""],
        ["pytorchcv", "2,000.0", "64", "1.00"],
        ["ours, 5 at once", "500.0", "256", ""],
    ]


def test_nothing_measured_stands_outside_of_the_tables():
    before, _, rest = (ROOT / benchmarks.PAGE).read_text().partition(benchmarks.BEGIN)
    prose = before + rest.partition(benchmarks.END)[2]
    assert not re.findall(r"\d[\d.,]*\s*(?:x|%|ms|s|h|min|MB|GB|GiB|seconds|minutes|hours|images)\b", prose)
