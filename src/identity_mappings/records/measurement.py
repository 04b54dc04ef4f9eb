"""The record of what is measured or counted without training: one file of data, and its provenance."""

from pathlib import Path
from typing import Any

from .experiment import Experiment
from .files import json_bytes, parse_json, sha256, write_atomically
from .run import PROVENANCE, BadRecord


def write(folder: Path, name: str, content: bytes, provenance: dict[str, Any]) -> None:
    """Write the record's data to folder/name, behind provenance.json, which holds its hash."""
    write_atomically(folder / PROVENANCE, json_bytes({**provenance, "outputs": {name: sha256(content)}}))
    write_atomically(folder / name, content)


def read(folder: Path, name: str) -> tuple[bytes, dict[str, Any]] | None:
    """The data and the provenance of a record, or None if there is none.

    Raises:
        BadRecord: it is there, but its provenance is not, or states other bytes.
    """
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRecord(f"{folder / name}: {error.strerror}") from None
    try:
        provenance = parse_json((folder / PROVENANCE).read_bytes())
        stated = provenance["outputs"][name]
    except OSError:
        raise BadRecord(
            f"{folder}: {PROVENANCE} is missing: restore it, or remove the folder to have it made again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecord(f"{folder / PROVENANCE}: not a provenance ({type(error).__name__}: {error})") from None
    if stated != sha256(content):
        raise BadRecord(
            f"{folder / name}: was changed after it was made (its provenance states another hash): restore it, or "
            "remove the folder to have it made again"
        )
    return content, provenance


def read_of(folder: Path, name: str, experiment: Experiment) -> bytes | None:
    """The data of a record of one experiment, or None if there is none.

    Raises:
        BadRecord: as `read`; or it is of another experiment.
    """
    found = read(folder, name)
    if found is None:
        return None
    settings = found[1].get("settings")
    if not isinstance(settings, dict) or settings.get("digest") != experiment.digest:
        raise BadRecord(
            f"{folder / PROVENANCE}: is not of {experiment.name} as params/ has it: remove the folder to have it made "
            "again"
        )
    return found[0]
