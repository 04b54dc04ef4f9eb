"""DVC on top of the graph: `dvc repro`, diffs and experiments."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import fork_server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


class Repository:
    """A copy of the project as a clone: a git and DVC repository."""

    def __init__(self, copy, ready: Path):
        self.copy, self.root = copy, copy.root
        ready.touch()
        os.utime(ready, (2e9, 2e9))  # make must not build another environment
        (ready.parent / "environment").mkdir()
        (ready.parent / "environment/bin").symlink_to(fork_server.find_commands())
        self.variables = {
            "VENV": str(ready.parent / "environment"),
            "READY": str(ready),
            "SNAKEMAKE_ARGS": "--cores 2",
            "DVC_NO_ANALYTICS": "1",
            "DVC_STUDIO_OFFLINE": "1",
        }

    def commit(self) -> None:
        """Make the tables, and commit all but data."""
        for path in (".gitignore", ".dvcignore"):
            shutil.copy2(ROOT / path, self.root)
        assert self.copy.command("tables").returncode == self.copy.command("figures").returncode == 0
        (self.root / "results/runs").mkdir(exist_ok=True)
        (self.root / "results/runs/.keep").touch()
        self.git("init", "-q")
        self.git("config", "user.email", "tests@example.org")
        self.git("config", "user.name", "Tests")
        self.dvc("init", "-q")
        self.git("add", ".")
        self.git("commit", "-qm", "as cloned")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout

    def dvc(self, *words: str, status: int = 0, **more: str) -> str:
        done = self.copy.call("dvc", *words, **self.variables, **more)
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def reproduced(project_copy, tmp_path_factory) -> Repository:
    """After `dvc repro`, with the tests' tiny scale as scale `paper`. Only to be read, or copied by `repository`."""
    folder = tmp_path_factory.mktemp("dvc")
    repository = Repository(project_copy(folder / "project", few_figures=True), folder / "ready")
    tiny = repository.root / "params/scales/tiny.yaml"
    (repository.root / "params/scales/paper.yaml").write_text(tiny.read_text().replace("results/tiny", "results"))
    tiny.unlink()
    assert repository.copy.command("cost", "--record").returncode == 0
    repository.commit()
    repository.said = repository.dvc("repro")
    return repository


@pytest.fixture
def repository(reproduced, project_copy, tmp_path) -> Repository:
    shutil.copytree(reproduced.root, tmp_path / "project")
    return Repository(project_copy.at(tmp_path / "project"), tmp_path / "ready")


def test_repro_runs_the_graph_without_any_dataset_of_data_dvc(reproduced):
    assert "rule train" in reproduced.said
    tables = json.loads((reproduced.root / "results/tables.json").read_text())
    assert any(cell["measured"] is not None for cell in tables["cells"])
    again = reproduced.dvc("repro")
    assert "Nothing to be done" in again and "rule train" not in again


def test_repro_says_what_is_missing_where_a_run_needs_a_dataset(copy, tmp_path):
    """The paper's scale, with no CIFAR and no network: two clear messages, no training, and the tables stay."""
    repository = Repository(copy, tmp_path / "ready")
    shutil.copytree(ROOT / "results/cost", repository.root / "results/cost")
    repository.commit()
    before = (repository.root / "results/tables.md").read_bytes()
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "CUDA_VISIBLE_DEVICES": ""}
    repository.variables["SNAKEMAKE_ARGS"] = "--cores 2 --config device=cpu"
    said = repository.dvc("repro", status=255, **offline)
    assert "could not be fetched" in said and "rule train" not in said
    assert (repository.root / "results/tables.md").read_bytes() == before


def test_params_diff_and_a_new_file_are_seen(repository):
    repository.copy.edit("params/recipes/he2016-cifar.yaml", "momentum: 0.9", "momentum: 0.8")
    assert "0.8" in repository.dvc("params", "diff")
    repository.copy.edit("params/recipes/he2016-cifar.yaml", "momentum: 0.8", "momentum: 0.9")
    assert "modified:" not in repository.dvc("status", "reproduce")
    (repository.root / "params/experiments/new.yaml").write_text("{}\n")
    assert "modified:           params" in repository.dvc("status", "reproduce")


def test_metrics_diff_and_plots_show(repository):
    path = repository.root / "results/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["he2016"] = {"Table 1": {"original": {"error": {"runs": 1, "test_error": 6.5}}}}
    path.write_text(json.dumps(metrics))
    assert "test_error" in repository.dvc("metrics", "diff")
    assert "plots" in repository.dvc("plots", "show")
    assert (repository.root / "dvc_plots/index.html").is_file()


def test_an_experiment_of_dvc_records_what_was_trained(repository):
    """A changed parameter in a temporary workspace, where all files are new at once and have no metadata."""
    repository.git("add", ".")
    repository.git("commit", "-qm", "with records")
    repository.dvc("exp", "run", "--temp", "-S", "params/recipes/he2016-cifar.yaml:momentum=0.5", "--name", "half")
    [half] = [ref for ref in repository.git("for-each-ref", "--format=%(refname)").split() if ref.endswith("/half")]
    made = json.loads(repository.git("show", f"{half}:results/tables.json"))
    cell = next(cell for cell in made["cells"] if cell["row"] == "original" and cell["records"])
    provenance = cell["records"][0].replace("metrics.json", "provenance.json")
    resolved = json.loads(repository.git("show", f"{half}:{provenance}"))["params"]["resolved"]
    assert resolved["recipe"]["momentum"] == 0.5
