"""What pages and `audit` need of detections beyond other runs: their backbone, and those on imported weights."""

import json
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records import run
from ..records.experiment import Experiment
from ..records.files import sha256


def read_backbone(project: Project, record: run.Record) -> run.Record:
    """The record of the run that a detection began from.

    Raises:
        BadRecord: it is missing, or the detection began from another.
    """
    chosen = record.provenance["params"]["resolved"]["backbone"]
    runs = record.path.parents[3 if record.metrics["status"] in run.FINAL else 4] / "runs"
    folder = runs / f"{chosen['experiment']}-{chosen['digest']}" / f"seed{chosen['seed']}"
    experiment = project.resolve(chosen["experiment"], record.metrics["scale"])
    backbone = experiment and run.read_record(folder, experiment, chosen["seed"])
    if not backbone:
        raise run.BadRecord(f"{record.path.parent}: its backbone's record {folder} is missing")
    expected = {"weights": backbone.metrics["weights_sha256"], run.METRICS: sha256(backbone.path.read_bytes())}
    if record.provenance.get("parents") != expected:
        raise run.BadRecord(f"{record.path.parent}: began from other weights than those of {folder}")
    return backbone


def read_imported_detection(folder: Path) -> run.Record:
    """A detection on imported weights, with the parameters that it states itself.

    Raises:
        BadRecord: it is none.
    """
    try:
        metrics, origin = (json.loads((folder / name).read_bytes()) for name in (run.METRICS, run.PROVENANCE))
        parameters: dict[str, Any] = origin["params"]["resolved"]
        _ = parameters["backbone"]["imported"], parameters["backbone"]["source"], metrics["test"]["map_50"]
        record = run.read_record(
            folder, Experiment(metrics["experiment"], metrics["scale"], parameters), metrics["seed"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise run.BadRecord(f"{folder}: not a record of a detection ({type(error).__name__}: {error})") from None
    if record is None:
        raise run.BadRecord(f"{folder}: no record of a detection")
    return record


def imported_folders(results: Path) -> list[Path]:
    """The folders of detections on imported weights."""
    return sorted(path.parent for path in (results / run.IMPORTED / "runs").glob(f"*/seed*/{run.METRICS}"))
