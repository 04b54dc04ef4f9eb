"""The cost record: what every network of a scale costs, by the digest of its parameters."""

from pathlib import Path
from typing import Any

from .experiment import Experiment
from .files import parse_json
from .measurement import read
from .run import BadRecord

FOLDER, NAME = "cost", "networks.json"
FORMAT = 1


def of(results: Path) -> dict[str, dict[str, Any]] | None:
    """{network digest: entry with "weights", "convolution" and so on}, or None if nothing is counted yet.

    Raises:
        BadRecord: it is there, but is not what its provenance states.
    """
    found = read(results / FOLDER, NAME)
    if found is None:
        return None
    try:
        record = parse_json(found[0])
        if record["format"] != FORMAT:
            raise BadRecord(f"{results / FOLDER / NAME}: format {record['format']}, expected {FORMAT}")
        return {digest: dict(entry) for digest, entry in record["networks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecord(f"{results / FOLDER / NAME}: not a cost record ({type(error).__name__}: {error})") from None


def entry(experiment: Experiment, **counts: Any) -> dict[str, Any]:
    """What the record holds of a network."""
    dataset = experiment.parameters["dataset"]
    return {
        "experiment": experiment.name,
        "inputs": {key: dataset[key] for key in ("classes", "channels", "size")},
        "network": {key: value for key, value in experiment.parameters["network"].items() if value is not None},
        **counts,
    }
