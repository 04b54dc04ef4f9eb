"""Whether a report is made of what is there now. Imports little: every call of Snakemake asks."""

from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records.files import canonical, sha256, sha256_of

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
    for experiment in project.wanted(scale):
        folder = project.root / settings.results / "runs" / experiment.folder
        files = sorted(path for path in folder.glob("seed*/*") if path.is_file() and path.name[0] != ".")
        parts.append([experiment.folder, {str(path.relative_to(folder)): sha256_of(path) for path in files}])
    return sha256(canonical(parts))[:16]
