"""`identity-mappings rocrate`: results, parameters, workflow and provenance as an RO-Crate, for an archive like Zenodo.

By the Workflow Run Crate profile 0.5 (https://w3id.org/ro/wfrun/workflow/0.5): the workflow, one action that made the
tables of a scale with it, and one action for each training behind them.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..parameters import load
from ..records import run
from .store import Records
from .tables import make_report

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
LICENCE = "https://spdx.org/licenses/MIT"
PAPERS = {
    "https://arxiv.org/abs/1512.03385": "Deep Residual Learning for Image Recognition",
    "https://arxiv.org/abs/1603.05027": "Identity Mappings in Deep Residual Networks",
}
FORMATS = {
    ".html": "text/html", ".md": "text/markdown", ".json": "application/json", ".csv": "text/csv", ".yaml": "text/yaml",
    ".svg": "image/svg+xml", ".png": "image/png", ".py": "text/x-python", ".txt": "text/plain", ".rst": "text/x-rst",
}  # fmt: skip
NAMES = {"report.html": "Tables, figures and claims, to open in a browser", "tables.md": "Tables, rebuilt"}
COMPLETED = "http://schema.org/CompletedActionStatus"


def write_crate(scale: str, output: Path, root: Path = Path()) -> None:
    """Write the crate of a scale to a folder, or to a .zip.

    Raises:
        UserError: the package rocrate is missing, no git repository, no pages, or the output exists.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UserError("rocrate: the package is not installed: pip install 'identity-mappings[archive]'") from None
    if output.exists():
        raise UserError(f"{output}: is there already: remove it, or name another")
    project = load(root)
    results = root / project.scale(scale).results
    if not (results / "tables.md").is_file():
        raise UserError(f"{results}/tables.md: missing: make it first: identity-mappings tables --scale {scale}")
    records = make_report(project, scale).records
    commit, date = _git(root, "log", "-1", "--format=%H %cI").split()
    crate = ROCrate(version="1.1")
    licence = _add(crate, LICENCE, "CreativeWork", "MIT License", identifier=LICENCE)
    authors = _add(crate, "#authors", "Organization", "The identity-mappings authors")
    crate.name = "Identity mappings, rebuilt" + ("" if scale == "paper" else f" (scale {scale})")
    crate.description = (
        "Tables and figures of two papers on deep residual networks, rebuilt from records; with the workflow, its "
        f"parameters and the provenance of each run. Scale {scale}: {project.scale(scale).description}"
    )
    crate.datePublished, crate.license, crate.creator, crate.publisher = date, licence, authors, authors
    crate.root_dataset["author"], crate.root_dataset["version"] = authors, commit
    crate.root_dataset["conformsTo"] = [
        _add(crate, url, "CreativeWork", name, version=version) for url, (name, version) in PROFILES.items()
    ]
    crate.root_dataset["citation"] = [_add(crate, url, "ScholarlyArticle", name) for url, name in PAPERS.items()]
    files = {}
    for path in _list_files(root, results):
        name, form = NAMES.get(path.rpartition("/")[2], path), FORMATS.get(Path(path).suffix, "text/plain")
        files[path] = crate.add_file(root / path, path, properties={"name": name, "encodingFormat": form})
    files["README.md"]["about"] = crate.root_dataset
    about = {
        "name": "Identity mappings, rebuilt: workflow",
        "license": licence,
        "creator": authors,
        "version": commit,
        "encodingFormat": "text/plain",
        "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
    }
    workflow = crate.add_workflow(root / "Snakefile", "Snakefile", main=True, lang="snakemake", properties=about)
    trainings = _add_trainings(crate, records, files, {"agent": authors}, commit)
    making = crate.add_action(
        workflow,
        identifier="#tables",
        object=[entry for path, entry in files.items() if path.startswith("params/")] + list(trainings),
        result=[entry for path, entry in files.items() if (root / path).parent in (results, results / "figures")],
        properties={
            "name": f"Tables and figures of scale {scale}",
            "description": f"snakemake tables figures page --config scale={scale}",
            "endTime": date,
            "actionStatus": COMPLETED,
            "agent": authors,
        },
    )
    crate.root_dataset.append_to("mentions", [making, *trainings.values()])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        (crate.write_zip if output.suffix == ".zip" else crate.write)(output)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}: name a file or folder that can be written") from None
    print(f"{output}: {len(files)} files, {len(trainings)} trainings; upload it as it is (Zenodo: Dataset)")


def _add(crate: Any, identifier: str, kind: str, name: str, /, **properties: Any) -> Any:
    from rocrate.model.contextentity import ContextEntity

    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, "name": name, **properties}))


def _add_trainings(crate: Any, records: Records, files: dict, agent: dict[str, Any], version: str) -> dict[Any, Any]:
    """An action for each finished run, from its provenance, by the file of its metrics."""
    trainings: dict[Any, Any] = {}
    url, trainer = "https://schema.org/SoftwareApplication", None
    for path, record in sorted(records.runs.items()):
        folder, metrics = path.parent.relative_to(records.project.root).as_posix(), record.metrics
        if metrics["status"] not in run.FINAL or f"{folder}/{run.METRICS}" not in files:
            continue
        trainer = trainer or _add(
            crate, "#identity-mappings-train", "SoftwareApplication", "identity-mappings train",
            description="trains a run to its record", softwareVersion=version, url=url,
        )  # fmt: skip
        origin = record.provenance
        data, name = origin.get("data") or {}, f"{metrics['experiment']}, seed {metrics['seed']}"
        identifier = f"#data-{data.get('name')}"
        dataset = crate.get(identifier) or _add(
            crate, identifier, "Dataset", data.get("name") or "data", identifier=data.get("dvc_md5") or "unknown"
        )
        resolved = json.dumps(origin["params"]["resolved"], sort_keys=True)
        parameters = _add(crate, f"#parameters-{folder}", "PropertyValue", f"parameters of {name}", value=resolved)
        commit = (origin.get("git") or {}).get("commit") or "unknown"
        properties = {
            "name": f"Training of {name}",
            "description": f"{origin.get('command', '')} (commit {commit}, device {metrics.get('device')})",
            "startTime": origin.get("started"),
            "endTime": origin.get("finished"),
            "actionStatus": COMPLETED,
            **agent,
        }
        trainings[files[f"{folder}/{run.METRICS}"]] = crate.add_action(
            trainer,
            identifier=f"#train-{folder}",
            object=[dataset, parameters],
            result=[files[file] for file in sorted(files) if file.startswith(f"{folder}/")],
            properties={key: value for key, value in properties.items() if value},
        )
    return trainings


def _list_files(root: Path, results: Path) -> list[str]:
    """What is committed but other scales' results, and this scale's results, committed or not."""
    committed = [path for path in _git(root, "ls-files").splitlines() if (root / path).is_file()]
    kept = [path for path in committed if not path.startswith("results/") and path != "Snakefile"]
    others = {path.parent for path in results.glob("*/tables.json")}  # of other scales lie below results/
    made = [
        path.relative_to(root).as_posix()
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and "checkpoints" not in path.parts
        and not others & set(path.parents)
    ]  # fmt: skip
    return list(dict.fromkeys([*kept, *made]))


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{root.absolute()}: no git repository with a commit: a crate says from which commit it is")
    return done.stdout
