"""`identity-mappings rocrate`: results, parameters, workflow and provenance as an RO-Crate, for an archive like Zenodo.

By the Workflow Run Crate profile 0.5 (https://w3id.org/ro/wfrun/workflow/0.5): the workflow, one action that made the
tables of a scale with it, and one action for each training behind them.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..parameters import Project, load
from ..records import run
from .cells import Records
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
LEFT_OUT = {"checkpoints"}


def write(scale: str, output: Path, root: Path = Path()) -> None:
    """Write the crate of a scale to a folder, or to a .zip.

    Raises:
        UserError: the package rocrate is missing, no git repository, no pages, or the output is there already.
    """
    try:
        from rocrate.model.contextentity import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UserError("rocrate: the package is not installed: pip install 'identity-mappings[archive]'") from None
    if output.exists():
        raise UserError(f"{output}: is there already: remove it, or name another")
    project = load(root)
    results = root / project.scale(scale).results
    if not (results / "tables.md").is_file():
        raise UserError(f"{results}/tables.md: missing: make it first: identity-mappings tables --scale {scale}")
    made = make_report(project, scale)
    commit, date = _git(root, "log", "-1", "--format=%H %cI").split()
    crate = ROCrate(version="1.1")

    def entity(name: str, /, **properties: Any) -> ContextEntity:
        return crate.add(ContextEntity(crate, name, properties=properties))

    licence = entity(LICENCE, **{"@type": "CreativeWork", "name": "MIT License", "identifier": LICENCE})
    authors = entity("#authors", **{"@type": "Organization", "name": "The identity-mappings authors"})
    crate.name = "Identity mappings, rebuilt" + ("" if scale == "paper" else f" (scale {scale})")
    crate.description = (
        "Tables and figures of two papers on deep residual networks, rebuilt from records; with the workflow, its "
        f"parameters and the provenance of each run. Scale {scale}: {project.scale(scale).description}"
    )
    crate.datePublished, crate.license, crate.creator = date, licence, authors
    crate.root_dataset["author"] = authors
    crate.publisher, crate.root_dataset["version"] = authors, commit
    profiles = [
        entity(identifier, **{"@type": "CreativeWork", "name": name, "version": version})
        for identifier, (name, version) in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles
    crate.root_dataset["citation"] = [
        entity(identifier, **{"@type": "ScholarlyArticle", "name": name}) for identifier, name in PAPERS.items()
    ]
    files = {path: crate.add_file(root / path, path, properties=_described(path)) for path in _files(root, results)}
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
    pages = [entry for path, entry in files.items() if (root / path).parent in (results, results / "figures")]
    records = _trainings(crate, entity, project, made.records, files, authors, commit)
    parameters = [entry for path, entry in files.items() if path.startswith("params/")]
    crate.add_action(
        workflow,
        identifier="#tables",
        object=[*parameters, *records],
        result=pages,
        properties={
            "name": f"Tables and figures of scale {scale}",
            "description": f"snakemake tables figures page --config scale={scale}",
            "endTime": date,
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "agent": authors,
        },
    )
    crate.root_dataset.append_to("mentions", [crate.get("#tables"), *_actions(crate)])
    if output.suffix == ".zip":
        crate.write_zip(output)
    else:
        crate.write(output)
    print(f"{output}: {len(files)} files, {len(_actions(crate))} trainings; upload it as it is (Zenodo: Dataset)")


def _actions(crate: Any) -> list[Any]:
    return [one for one in crate.contextual_entities if one.type == "CreateAction" and one.id.startswith("#train")]


def _trainings(
    crate: Any, entity: Any, project: Project, records: Records, files: dict, agent: Any, version: str
) -> list[Any]:
    """An action for each finished run, from its provenance; returns the files of their metrics."""
    found = []
    trainer = None
    for path, record in sorted(records.runs.items()):
        folder = path.parent.relative_to(project.root).as_posix()
        if record.metrics["status"] not in run.FINAL or f"{folder}/{run.METRICS}" not in files:
            continue
        origin = record.provenance
        trainer = trainer or entity(
            "#identity-mappings-train",
            **{
                "@type": "SoftwareApplication",
                "name": "identity-mappings train",
                "description": "trains a run to its record",
                "softwareVersion": version,
                "url": "https://schema.org/SoftwareApplication",
            },
        )
        data, name = origin.get("data") or {}, f"{record.metrics['experiment']}, seed {record.metrics['seed']}"
        dataset = crate.get(f"#data-{data.get('name')}") or entity(
            f"#data-{data.get('name')}",
            **{"@type": "Dataset", "name": data.get("name") or "data", "identifier": data.get("dvc_md5") or "unknown"},
        )
        settings = entity(
            f"#parameters-{folder}",
            **{
                "@type": "PropertyValue",
                "name": f"parameters of {name}",
                "value": json.dumps(origin["params"]["resolved"], sort_keys=True),
            },
        )
        outputs = [files[one] for one in sorted(files) if one.startswith(f"{folder}/")]
        commit = (origin.get("git") or {}).get("commit") or "unknown"
        properties = {
            "name": f"Training of {name}",
            "description": f"{origin.get('command', '')} (commit {commit}, device {record.metrics.get('device')})",
            "startTime": origin.get("started"),
            "endTime": origin.get("finished"),
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "agent": agent,
        }
        crate.add_action(
            trainer,
            identifier=f"#train-{folder}",
            object=[dataset, settings],
            result=outputs,
            properties={key: value for key, value in properties.items() if value},
        )
        found.append(files[f"{folder}/{run.METRICS}"])
    return found


def _described(path: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    return {"name": NAMES.get(name, path), "encodingFormat": FORMATS.get(Path(path).suffix, "text/plain")}


def _files(root: Path, results: Path) -> list[str]:
    """What is committed, but other scales' results, and this scale's results, committed or not."""
    committed = [path for path in _git(root, "ls-files").splitlines() if (root / path).is_file()]
    here = [path for path in sorted(results.rglob("*")) if path.is_file() and not LEFT_OUT & set(path.parts)]
    made = [path.relative_to(root).as_posix() for path in here if not path.name.startswith(".")]
    if results.name == "results":  # the others lie below it
        made = [path for path in made if path.split("/")[1] not in {p.name for p in results.iterdir() if _is_scale(p)}]
    kept = [path for path in committed if not path.startswith("results/") and path != "Snakefile"]
    return list(dict.fromkeys([*kept, *made]))


def _is_scale(folder: Path) -> bool:
    return (folder / "tables.json").is_file()


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{root.absolute()}: no git repository with a commit: a crate says from which commit it is")
    return done.stdout
