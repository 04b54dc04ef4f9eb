"""Records that no training made, in a copy of the project."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from identity_mappings.parameters import Project, load
from identity_mappings.records import measurement, run
from identity_mappings.reporting import cost, figures, tables

ROOT = Path(__file__).parents[2]
Grid = dict[str, list[list[str]]]


def curve_of(iterations: int, error: float | None) -> bytes:
    """Four rows; every second one has a test."""
    rows = ["iteration,learning_rate,training_loss,training_error,test_loss,test_error"]
    for quarter in (1, 2, 3, 4):
        tested = f"0.5,{(error or 90) + 4 - quarter:.9g}" if quarter % 2 == 0 else ","
        rows.append(f"{iterations * quarter // 4},0.1,{2 / quarter:.9g},{50 / quarter:.9g},{tested}")
    return "\n".join([*rows, ""]).encode()


class Bench:
    """A copy of the project in which records are laid down by hand."""

    def __init__(self, copy):
        self.copy, self.root = copy, copy.root
        self._contents, self._project = None, None

    @property
    def project(self) -> Project:
        """Read again only where a parameter changed."""
        files = [self.root / "data.dvc", *sorted((self.root / "params").rglob("*.yaml"))]
        contents = {path: path.read_bytes() for path in files}
        if contents != self._contents:
            self._contents, self._project = contents, load(self.root)
        return self._project

    def folder(self, name: str, seed: int = 0, scale: str = "paper", arithmetic: str = "float32") -> Path:
        results = self.root / self.project.scale(scale).results
        return run.get_folder(results, self.project.resolve(name, scale).in_arithmetic(arithmetic), seed)

    def record(
        self,
        name: str,
        error: float | None,
        seed: int = 0,
        scale: str = "paper",
        *,
        best: float | None = None,
        status: str = "finished",
        arithmetic: str = "float32",
        curve: bytes | None = None,
        provenance: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Write the record of a run that would be believed.

        Args:
            error: at the last iteration, in %; None: the run diverged.
            best: lowest test error of the run (default: `error`).
            provenance, changes: entries that take the place of the record's own.
        """
        experiment = self.project.resolve(name, scale).in_arithmetic(arithmetic)
        status = "diverged" if error is None else status
        length = experiment.parameters["recipe"]["iterations"]
        done = length if status == "finished" else length // 2
        best = error if best is None else best
        metrics = {
            "format": run.FORMAT,
            "experiment": name,
            "digest": experiment.digest,
            "scale": scale,
            "seed": seed,
            "status": status,
            "iterations": done,
            "of_iterations": length,
            "test_error": error,
            "training_error": 1.0,
            "training_loss": 0.1,
            "test": None if error is None else {"iteration": done, "test_error": error},
            "best": None if best is None else {"iteration": done, "test_error": best},
            "arithmetic": arithmetic,
            **changes,
        }
        origin = {"params": {"resolved": experiment.parameters}, "seed": {"seed": seed}, **(provenance or {})}
        folder = self.folder(name, seed, scale, arithmetic)
        run.write_record(folder, metrics, curve_of(done, error) if curve is None else curve, origin)
        return folder

    def tables(self, scale: str = "paper") -> Path:
        """Make the tables; returns their folder."""
        tables.write_tables(scale, self.root)
        return self.root / self.project.scale(scale).results

    def cell(
        self, table: str, row: str, column: str = "error", scale: str = "paper", paper: str = "he2016"
    ) -> dict[str, Any]:
        """A cell of tables.json as `tables` last made it."""
        data = json.loads((self.root / self.project.scale(scale).results / "tables.json").read_text())
        place = {"paper": paper, "table": table, "row": row, "column": column}
        [found] = [cell for cell in data["cells"] if place.items() <= cell.items()]
        return found


@pytest.fixture
def bench(copy) -> Bench:
    return Bench(copy)


@pytest.fixture(scope="session")
def bench_type() -> type[Bench]:
    return Bench


@pytest.fixture(scope="session")
def cost_record(tmp_path_factory) -> Path:
    """Folder of the cost record of all networks of the papers: the committed one if it has them. Only to be copied."""
    wanted = {experiment.network_digest for experiment in load(ROOT).list_one_per_network("paper")}
    if wanted <= measurement.read_costs(ROOT / "results").keys():
        return ROOT / "results" / measurement.COST
    root = tmp_path_factory.mktemp("counted")
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copytree(ROOT / "examples", root / "examples")
    return cost.record_costs("paper", root).parent


@pytest.fixture
def counted(bench, cost_record) -> Bench:
    """A bench with the cost record."""
    shutil.copytree(cost_record, bench.root / "results" / "cost")
    return bench


@pytest.fixture
def blank_figures(monkeypatch):
    """Makes figures without drawing them, which takes most of the time: for tests of what is said about them."""
    monkeypatch.setattr(figures, "to_files", lambda drawing, name: {f"{name}.{form}": b"" for form in ("svg", "png")})


@pytest.fixture
def grids():
    """Reads the tables of a Markdown page: {"he2016, Table 1": rows of texts, the column names first}."""

    def read(text: str) -> Grid:
        found: Grid = {}
        paper = ""  # comparison.md has it in each heading
        for line in text.splitlines():
            if line.startswith("# "):
                year = re.search(r"He et al. (\d+)", line)
                paper = f"he{year[1]}, " if year else ""
            elif line.startswith("## "):
                heading = paper + line.removeprefix("## ")
                assert heading not in found, "two tables of one name"
                rows = found[heading] = []
            elif line.startswith("| "):
                rows.append([part.strip() for part in line.strip("|").split("|")])
        return found

    return read
