"""Where the records of `bench` lie: results/bench/DEVICE/EXPERIMENT/bench.json."""

import re
from pathlib import Path
from typing import Any

from . import measurement
from .files import parse_json

FOLDER, NAME = "bench", "bench.json"


def folder_of(results: Path, hardware: dict[str, Any], experiment: str) -> Path:
    """The folder of an experiment on a device, by what the device is called."""
    gpu = hardware.get("gpu")
    name = f"gpu-{gpu['model']}" if gpu else f"cpu-{hardware['cpu']}"
    return results / FOLDER / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") / experiment


def read(results: Path) -> dict[str, list[dict[str, Any]]]:
    """{device: entries, the shallow networks first}.

    Raises:
        BadRecord: one of them is not what its provenance says.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((results / FOLDER).glob(f"*/*/{NAME}")):
        content, origin = measurement.read(path.parent, NAME)
        found.setdefault(path.parts[-3], []).append({**parse_json(content), "provenance": origin})
    return {device: sorted(entries, key=lambda e: (e["layers"], e["experiment"])) for device, entries in found.items()}
