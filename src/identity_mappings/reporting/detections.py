"""What reports and `audit` ask of detections beyond other runs: their backbone, and those on imported weights."""

import json
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records import run
from ..records.experiment import Experiment
from ..records.files import sha256
from .markdown import grid


def backbone_of(project: Project, record: run.Record) -> run.Record:
    """The record of the run that a detection began from.

    Raises:
        BadRecord: it is not there, or the detection began from another.
    """
    chosen = record.provenance["params"]["resolved"]["backbone"]
    place = record.path.parents[3 if record.metrics["status"] in run.FINAL else 4] / "runs"
    folder = place / f"{chosen['experiment']}-{chosen['digest']}" / f"seed{chosen['seed']}"
    experiment = project.resolve(chosen["experiment"], record.metrics["scale"])
    found = experiment and run.read(folder, experiment, chosen["seed"])
    if not found:
        raise run.BadRecord(f"{record.path.parent}: its backbone's record {folder} is missing")
    stated = {"weights": found.metrics["weights_sha256"], run.METRICS: sha256(found.path.read_bytes())}
    if record.provenance.get("parents") != stated:
        raise run.BadRecord(f"{record.path.parent}: began from other weights than those of {folder}")
    return found


def read_imported(folder: Path) -> run.Record:
    """A detection on imported weights, by the parameters that it states.

    Raises:
        BadRecord: it is none.
    """
    try:
        metrics, origin = (json.loads((folder / name).read_bytes()) for name in (run.METRICS, run.PROVENANCE))
        parameters: dict[str, Any] = origin["params"]["resolved"]
        _ = parameters["backbone"]["imported"], parameters["backbone"]["source"], metrics["test"]["map_50"]
        found = run.read(folder, Experiment(metrics["experiment"], metrics["scale"], parameters), metrics["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise run.BadRecord(f"{folder}: not a record of a detection ({type(error).__name__}: {error})") from None
    return found


def imported_folders(results: Path) -> list[Path]:
    """Of the detections on imported weights."""
    return sorted(path.parent for path in (results / run.IMPORTED / "runs").glob(f"*/seed*/{run.METRICS}"))


def imported_table(results: Path, bad: list[str]) -> str:
    """The detections on imported weights: a table of their own, whose numbers rebuild no cell."""
    rows = []
    for folder in imported_folders(results):
        try:
            record = read_imported(folder)
        except run.BadRecord as error:
            bad.append(str(error))
            continue
        test, chosen = record.metrics["test"], record.provenance["params"]["resolved"]["backbone"]
        name = f"{record.metrics['experiment']} ({run.IMPORTED_KIND})"
        whole = f"{test['map']:.1f}" if "map" in test else ""
        rows.append([name, chosen["source"], record.metrics["protocol"], f"{test['map_50']:.1f}", whole])
    if not rows:
        return ""
    text = "Faster R-CNN trained here on backbones that were trained elsewhere: no cell above is filled by them."
    headers = ["detection", "source of the backbone", "protocol", "mAP@.5 (%)", "mAP@[.5, .95] (%)"]
    return "\n".join([f"# Detections: {run.IMPORTED_KIND}", "", text, "", grid(headers, rows), ""])
