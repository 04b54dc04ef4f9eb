"""Where a record comes from: everything that a reviewer would ask, and nothing that names a person or a host."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .experiment import ARITHMETICS, Experiment
from .files import canonical, sha256, sha256_of

PACKAGE = Path(__file__).parents[1]
RUNS_ON = ("src", "params")
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout if answer.returncode == 0 else None


def git(root: Path) -> dict[str, Any]:
    """Commit, and the hash of what differs from it; nulls outside a repository."""
    commit, difference = _git(root, "rev-parse", "HEAD"), _git(root, "diff", "HEAD", "--", *RUNS_ON)
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "--", *RUNS_ON)
    if difference is not None and unknown:
        difference += "".join(f"{sha256_of(root / path)} {path}\n" for path in unknown.splitlines())
    return {
        "commit": commit and commit.strip(),
        "dirty": None if difference is None else bool(difference),
        "diff_sha256": sha256(difference.encode()) if difference else None,
    }


def sources() -> dict[str, str]:
    """{file: sha256} of the project's modules that this process has imported."""
    prefix = __name__.partition(".")[0]
    mine = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == prefix]
    paths = sorted({Path(module.__file__).resolve() for module in mine if getattr(module, "__file__", None)})
    return {f"src/{PACKAGE.name}/{path.relative_to(PACKAGE.resolve()).as_posix()}": sha256_of(path) for path in paths}


def environment(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    lock = root / "requirements.lock"
    found["lock_sha256"] = sha256_of(lock) if lock.is_file() else None
    return found


def of_measurement(
    rule: str, command: str, root: Path, *, parents: dict[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The provenance of a measurement that trains no run of its own, without the hash of its data.

    Args:
        rule: of the graph.
        command: that makes it again.
        root: the project's root.
        parents: {file or what else it is made from: sha256}.
        settings: what else it depends on.
    """
    return {
        "schema_version": 1,
        "rule": rule,
        "command": command,
        "git": git(root),
        "source": sources(),
        "env": environment(root),
        "settings": settings,
        "parents": parents,
    }


def gather(
    experiment: Experiment,
    seed: int,
    *,
    root: Path,
    sessions: list[dict[str, Any]],
    hardware: dict[str, Any],
    settings: dict[str, Any],
    data: dict[str, Any],
    weights_sha256: str | None,
    log: Path | None,
) -> dict[str, Any]:
    """The provenance of a run, without its outputs' hashes, which `run.write` adds.

    Args:
        root: the project's root.
        sessions: start, end and iterations of each process that worked on the run.
        hardware, settings: what the trainer knows of its device and of determinism.
        data: counts of what was read.
        weights_sha256: of the trained weights.
        log: file that took the trainer's messages.
    """
    dataset, settings = experiment.parameters["dataset"], dict(settings)
    arithmetic = experiment.parameters["recipe"]["arithmetic"]
    return {
        "schema_version": 1,
        "rule": "train",
        "wildcards": {"experiment": experiment.name, "digest": experiment.digest, "seed": seed},
        "command": f"identity-mappings train {experiment.name} --scale {experiment.scale} --seed {seed}"
        + (f" --arithmetic {arithmetic}" if arithmetic != ARITHMETICS[0] else ""),
        "started": sessions[0]["started"],
        "finished": sessions[-1]["finished"],
        "sessions": sessions,
        "log": {"path": log.name, "sha256": sha256_of(log)} if log and log.is_file() else None,
        "git": git(root),
        "source": sources(),
        "params": {"resolved": experiment.parameters, "sha256": sha256(canonical(experiment.parameters))},
        "data": {"name": dataset["name"], "dvc_md5": dataset["md5"], **data},
        "env": {**environment(root), **settings.pop("env", {})},
        "hardware": {
            **hardware,
            "gpus_requested": experiment.gpus,
            "leased": os.environ.get("IDENTITY_MAPPINGS_LEASE"),
        },
        "seed": {"seed": seed, **settings},
        "weights_sha256": weights_sha256,
        "parents": {},
    }
