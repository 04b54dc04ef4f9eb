"""Whether a report is made of what is there now. Imports little: every call of Snakemake asks."""

from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records import measurement, run
from ..records.files import canonical, hash_file, json_bytes, parse_json, sha256, write_atomically
from ..records.measurement import RESPONSES, SIGNALS

PACKAGE = Path(__file__).parent
NETWORKS = PACKAGE.parent / "networks"


def _hash_files(folder: Path, *patterns: str) -> dict[str, str]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}


def hash_cost_inputs(project: Project, scale: str) -> str:
    """Hash of all that the cost record is made of: the networks of a scale and the code that builds and counts them."""
    digests = [experiment.network_digest for experiment in project.list_one_per_network(scale)]
    return sha256(canonical([digests, _hash_files(NETWORKS, "*.py")]))[:16]


def hash_signal_inputs(project: Project, scale: str) -> str:
    """Hash of what is to be in the signal records of a scale: which experiments, and how long they train."""
    digests = [experiment.folder for experiment in project.list_for_signals(scale)]
    return sha256(canonical([digests, project.scale(scale).signal_iterations]))[:16]


def fingerprint(project: Project, scale: str, report: str) -> str:
    """Hash of all that a report is made of: parameters, records, and the code and templates that render them.

    Args:
        report: "tables", "figures" or "report".
    """
    settings = project.scale(scale)
    results = project.root / settings.results
    parts: list[Any] = [
        {name: table.model_dump() for name, table in project.tables.items()},
        {name: figure.model_dump() for name, figure in project.figures.items()},
        *(part.model_dump() for part in (project.reporting, project.claims, settings)),
        _hash_files(PACKAGE, "*.py", *(() if report == "figures" else ("templates/*",))),
        _hash_files(results / SIGNALS, "*/*"),
    ]
    record = (run.METRICS, run.CURVE, run.PROVENANCE)
    patterns = [f"seed*/{name}" for name in record]
    patterns += [f"seed*/{run.get_evaluation_path(Path(), protocol)}" for protocol in run.IMAGENET_PROTOCOLS]
    if report == "figures":
        patterns.append(f"seed*/{RESPONSES}/*")
        parts.append(_hash_files(NETWORKS, "*.py"))
    else:
        patterns += [f"seed*/{run.PARTIAL}/{name}" for name in record]
        parts.append(_hash_files(results / measurement.COST, "*.json"))
        parts.append(_hash_files(results / run.IMPORTED, "*/*.json", "runs/*/*/*.json"))
    if report == "report":
        parts.append(_hash_files(results / "figures", "*.svg"))
    for experiment in project.list_in_report(scale):
        folders = [alternative.folder for alternative in experiment.alternatives]
        parts += [[folder, _hash_files(results / "runs" / folder, *patterns)] for folder in folders]
    return sha256(canonical(parts))[:16]


def write(folder: Path, files: dict[str, bytes], origin: str, facts: dict[str, Any]) -> None:
    """Write the files of a report, and last `origin`: JSON of `facts` (what it is made of) and of their hashes."""
    for name, content in files.items():
        write_atomically(folder / name, content)
    hashes = {name: sha256(content) for name, content in sorted(files.items())}
    write_atomically(folder / origin, json_bytes({**facts, "files": hashes}))


def is_current(project: Project, scale: str, origin: Path) -> bool:
    """Whether the report or measurement whose `origin` this is was made of what is there now, and not edited since."""
    try:
        facts = parse_json(origin.read_bytes())
        if origin.name == measurement.COST_JSON:
            return facts["fingerprint"] == hash_cost_inputs(project, scale)
        whole = all(hash_file(origin.parent / name) == digest for name, digest in facts["files"].items())
        if origin.name == measurement.SIGNALS_DONE:
            return whole and facts["fingerprint"] == hash_signal_inputs(project, scale)
        return whole and facts["fingerprint"] == fingerprint(project, scale, origin.stem)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
