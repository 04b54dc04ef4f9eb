"""Records of networks that were trained elsewhere and tested here."""

from pathlib import Path
from typing import Any

from .files import parse_json
from .run import BadRecord

FORMAT, FOLDER = 1, "imported"
KIND = "imported weights, other recipe"


def path_of(results: Path, name: str, protocol: str) -> Path:
    return results / FOLDER / name / f"evaluation-{protocol}.json"


def read(path: Path) -> dict[str, Any]:
    """One record.

    Raises:
        BadRecord: it is none, or its numbers contradict each other.
    """
    try:
        found = parse_json(path.read_bytes())
        facts = {
            "format": (found["format"], FORMAT),
            "kind": (found["kind"], KIND),
            "place": (
                path.relative_to(path.parents[1]),
                path_of(Path(), found["name"], found["protocol"]).relative_to(FOLDER),
            ),
            "test_error": (found["test_error"], round(100 * found["wrong"] / found["images"], 6)),
            "top_5_error": (found["top_5_error"], round(100 * found["wrong_top_5"] / found["images"], 6)),
        }
        _ = found["source"], found["network"]["depth"], found["weights_sha256"], found["arithmetic"]
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BadRecord(f"{path}: not a record of imported weights ({type(error).__name__}: {error})") from None
    for name, (value, expected) in facts.items():
        if value != expected:
            raise BadRecord(f"{path}: {name} does not match: {value}, expected {expected}")
    return found
