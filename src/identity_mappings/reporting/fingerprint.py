"""Whether a report is made of what is there now. Imports little: every call of Snakemake asks."""

import json
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records import run
from ..records.files import canonical, json_bytes, sha256, sha256_of, write_atomically

PACKAGE = Path(__file__).parent


def fingerprint(project: Project, scale: str) -> str:
    """Hash of all that tables and figures are made of: parameters, records and the code that renders them."""
    settings = project.scale(scale)
    parts: list[Any] = [
        {name: table.model_dump() for name, table in project.tables.items()},
        {name: figure.model_dump() for name, figure in project.figures.items()},
        project.reporting.model_dump(),
        settings.model_dump(),
        {path.name: sha256_of(path) for path in sorted(PACKAGE.glob("*.py"))},
    ]
    for experiment in project.shown(scale):
        folder = project.root / settings.results / "runs" / experiment.folder
        files = sorted(
            path for name in (run.METRICS, run.CURVE, run.PROVENANCE) for path in folder.glob(f"seed*/{name}")
        )
        parts.append([experiment.folder, {str(path.relative_to(folder)): sha256_of(path) for path in files}])
    return sha256(canonical(parts))[:16]


def write(folder: Path, files: dict[str, bytes], origin: str, facts: dict[str, Any]) -> None:
    """Write the files of a report, and last `origin`: JSON of `facts` (what it is made of) and of their hashes."""
    for name, content in files.items():
        write_atomically(folder / name, content)
    hashes = {name: sha256(content) for name, content in sorted(files.items())}
    write_atomically(folder / origin, json_bytes({**facts, "files": hashes}))


def is_current(project: Project, scale: str, origin: Path) -> bool:
    """Whether the report that `origin` belongs to was made of what is there now, and has not been edited since."""
    try:
        facts = json.loads(origin.read_text("utf-8"))
        whole = all(sha256_of(origin.parent / name) == digest for name, digest in facts["files"].items())
        return whole and facts["fingerprint"] == fingerprint(project, scale)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
