"""Records of what is measured or counted without training: one file of data, its provenance, and where they lie."""

from pathlib import Path
from typing import Any

from .experiment import Experiment
from .files import json_bytes, parse_json, sha256, write_atomically
from .run import PARTIAL, PROVENANCE, BadRecord, get_folder, reading

SIGNALS, SIGNALS_CSV = "signals", "signals.csv"
RESPONSES, RESPONSES_CSV = "responses", "responses.csv"
COST, COST_JSON, COST_FORMAT = "cost", "networks.json", 1


def get_signals_folder(results: Path, experiment: Experiment, iterations: int) -> Path:
    """Folder of an experiment's signals at initialization and after a number of iterations, with seed 0."""
    return results / SIGNALS / f"{experiment.folder}-{iterations}"


def get_responses_folder(results: Path, experiment: Experiment, seed: int, finished: bool = True) -> Path:
    """Folder of the layer responses of a run; those of an unfinished one are in its partial/."""
    run = get_folder(results, experiment, seed)
    return (run if finished else run / PARTIAL) / RESPONSES


def write_measurement(folder: Path, name: str, content: bytes, provenance: dict[str, Any]) -> None:
    """Write the record's data to folder/name, behind provenance.json, which holds its hash."""
    write_atomically(folder / PROVENANCE, json_bytes({**provenance, "outputs": {name: sha256(content)}}))
    write_atomically(folder / name, content)


def read_measurement(folder: Path, name: str) -> tuple[bytes, dict[str, Any]] | None:
    """The data and the provenance of a record, or None if there is none.

    Raises:
        BadRecord: it is there, but its provenance is not, or states other bytes.
    """
    path, origin, cure = folder / name, folder / PROVENANCE, "restore it, or remove the folder to have it made again"
    with reading(path, "a record"):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
    if not origin.is_file():
        raise BadRecord(f"{folder}: {PROVENANCE} is missing: {cure}")
    with reading(origin, "a provenance"):
        provenance = parse_json(origin.read_bytes())
        stated = provenance["outputs"][name]
    if stated != sha256(content):
        raise BadRecord(f"{path}: was changed after it was made (its provenance states another hash): {cure}")
    return content, provenance


def read_required(folder: Path, name: str) -> tuple[bytes, dict[str, Any]]:
    """The same of a record that must be there.

    Raises:
        BadRecord: as `read_measurement`; or it is missing.
    """
    if (found := read_measurement(folder, name)) is None:
        raise BadRecord(f"{folder / name}: missing")
    return found


def read_experiment(folder: Path, name: str, experiment: Experiment) -> bytes | None:
    """The data of a record of one experiment, or None if there is none.

    Raises:
        BadRecord: as `read_measurement`; or it is of another experiment.
    """
    if (found := read_measurement(folder, name)) is None:
        return None
    content, provenance = found
    settings = provenance.get("settings")
    if not isinstance(settings, dict) or settings.get("digest") != experiment.digest:
        again = "remove the folder to have it made again"
        raise BadRecord(f"{folder / PROVENANCE}: is not of {experiment.name} as params/ has it: {again}")
    return content


def describe_cost(experiment: Experiment, **counts: Any) -> dict[str, Any]:
    """What the cost record holds of a network."""
    dataset = experiment.parameters["dataset"]
    return {
        "experiment": experiment.name,
        "inputs": {key: dataset[key] for key in ("classes", "channels", "size")},
        "network": {key: value for key, value in experiment.parameters["network"].items() if value is not None},
        **counts,
    }


def read_costs(results: Path) -> dict[str, dict[str, Any]] | None:
    """The cost record, {network digest: entry with "weights", "convolution" and so on}; None if nothing is counted yet.

    Raises:
        BadRecord: it is there, but is not what its provenance states.
    """
    path = results / COST / COST_JSON
    if (found := read_measurement(path.parent, path.name)) is None:
        return None
    with reading(path, "a cost record"):
        record = parse_json(found[0])
        if record["format"] != COST_FORMAT:
            raise BadRecord(f"{path}: format {record['format']}, expected {COST_FORMAT}")
        return {digest: dict(entry) for digest, entry in record["networks"].items()}
